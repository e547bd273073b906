"""What does a second device give: parts on both, replicas on both, or one process on the cores of both?

    python -m lab.benchmarks.two_devices --data_dir=PATH --csv=docs/results/two_devices.csv
    python -m lab.benchmarks.two_devices --data_dir=PATH --csv=two_gpus.csv --virtual_devices=0

A Glow of 3 × 4 flow steps, width 32, on CIFAR-10, at a constant rate, so that curves may be read at any time.
Variants take turns, each run in a process of its own that may use two cores. A row is an epoch: its seconds
and CPU seconds without the evaluation, and the test bits/dim after it. Threads are those of `glow-tf train`.
Without virtual devices, parts and replicas are on the GPUs. Rows that are in the CSV stay.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from absl import flags

from glow_tf.commands import cli
from lab.benchmarks.rows import added_to, measured, read

KEY = ("variant", "seed")
COLUMNS = (*KEY, "epoch", "seconds", "cpu_seconds", "test_bpd")
BATCH = 32
PARTS = "across_block:2"
VARIANTS = {  # strategy, parts
    "parts on two devices": ("part_parallel", PARTS),
    "replicas on two devices": ("mirrored", "1"),
    "one process, end to end": ("one_device", "1"),
    "one process, parts": ("one_device", PARTS),
}


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_integer("virtual_devices", 2, "CPU devices to make; 0: the GPUs.", **own)
    flags.DEFINE_integer("runs", 3, "Seeds, from 0.", **own)
    flags.DEFINE_integer("epochs", 6, "Epochs of a run.", **own)
    flags.DEFINE_integer("examples", 3200, "Training images; a fourth as many are tested.", **own)
    flags.DEFINE_string("csv", "two_devices.csv", "To add to.", **own)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    fresh, known = multiprocessing.get_context("spawn"), measured(given.csv, KEY)
    settings = (given.data_dir, given.virtual_devices, given.epochs, given.examples)
    with added_to(given.csv, COLUMNS) as add:
        for seed in range(given.runs):
            for name in VARIANTS:
                if (name, str(seed)) in known:
                    continue
                with concurrent.futures.ProcessPoolExecutor(1, fresh) as pool:
                    for epoch, numbers in enumerate(pool.submit(_measure, name, seed, *settings).result(), 1):
                        add((name, seed, epoch, *(f"{number:.4f}" for number in numbers)))
    for name, seeds in compared(read(given.csv)).items():
        means = map(statistics.mean, zip(*seeds, strict=True))
        print(name, *(f"{mean:.3f}" for mean in means))


def _measure(
    name: str, seed: int, data_dir: str, virtual_devices: int, epochs: int, examples: int
) -> list[tuple[float, ...]]:
    """Trains: returns seconds, CPU seconds and test bits/dim of every epoch."""
    import glow_tf
    from glow_tf.devices import make_strategy, part_devices, set_up_process
    from glow_tf.use import read_images

    strategy, parts = VARIANTS[name]
    set_up_process(BATCH, 1 if strategy == "part_parallel" else 0)  # as `glow-tf train` does
    scope = make_strategy(strategy, virtual_devices if strategy != "one_device" else 0)
    shape = (32, 32, 3)
    images, tests = (
        read_images(shape, "cifar10", data_dir, split, count).images
        for split, count in (("train", examples), ("test", examples // 4))
    )
    config = glow_tf.ModelConfig(shape, flow_steps=4, width=32, parts=parts, seed=seed)
    train = glow_tf.TrainConfig(
        schedule="simultaneous" if parts == PARTS else "end_to_end",
        part_epochs=epochs,
        finetune_epochs=0,
        rate_schedule="constant",
        batch_size=BATCH,
    )
    with scope.scope():
        flow = glow_tf.Flow(config, part_devices(strategy, "", 2))
        trainer = glow_tf.PartsTrainer(flow, seed=seed)
        trainer.compile(train, steps_per_epoch=len(images) // BATCH)
    return list(_epochs(trainer, images, tests, epochs))


def _epochs(trainer, images: np.ndarray, tests: np.ndarray, epochs: int) -> Iterator[tuple[float, ...]]:
    for epoch in range(epochs):
        start, start_cpu = time.monotonic(), time.process_time()
        trainer.fit(images, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
        seconds, cpu = time.monotonic() - start, time.process_time() - start_cpu
        yield seconds, cpu, trainer.evaluate(tests, verbose=0, return_dict=True)["bpd"]


def compared(rows: Sequence[Mapping[str, str]]) -> dict[str, list[tuple[float, float, float]]]:
    """Returns, for each seed of each variant, what a second device gave.

    These are seconds per epoch, the share of two devices' time in which they computed nothing, and the
    bits/dim at the time when the fastest variant of the seed had finished. The first epoch, in which
    TensorFlow traces, is counted as long as the median of the others.
    """
    runs: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        runs.setdefault((row["seed"], row["variant"]), []).append(row)
    seconds = {run: statistics.median(float(row["seconds"]) for row in own[1:]) for run, own in runs.items()}
    found: dict[str, list[tuple[float, float, float]]] = {}
    for (seed, name), own in runs.items():
        end = min(s * len(runs[run]) for run, s in seconds.items() if run[0] == seed)
        cpu = statistics.median(float(row["cpu_seconds"]) / float(row["seconds"]) for row in own[1:])
        times = [seconds[seed, name] * k for k in range(1, len(own) + 1)]
        bits = float(np.interp(end, times, [float(row["test_bpd"]) for row in own]))
        found.setdefault(name, []).append((seconds[seed, name], 1 - cpu / 2, bits))
    return found


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
