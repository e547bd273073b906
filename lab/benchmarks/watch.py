"""What does the watch on divergence cost? The end-to-end step with it and without, in turns in one process.

    python -m lab.benchmarks.watch --flagfile=cifar10_small_end_to_end --data_dir=PATH

Without the watch, steps that are not finite are skipped all the same. The first step, which is traced, is
timed for --makes new trainers of each kind, in turns, too. The other flags are those of `glow-tf train`.
"""

# TensorFlow is imported inside functions, after the runner has set its log level.
from __future__ import annotations

import dataclasses
import statistics
import sys
import time

from absl import flags

from glow_tf.commands import cli, run_flags
from lab.benchmarks.rows import added_to

COLUMNS = ("what", "round", "watched_seconds", "unwatched_seconds", "ratio")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags and those of a run."""
    own = {"flag_values": values}
    flags.DEFINE_integer("timed_steps", 10, "Steps in each turn.", lower_bound=1, **own)
    flags.DEFINE_integer("rounds", 30, "Turns of both.", lower_bound=1, **own)
    flags.DEFINE_integer("makes", 5, "Trainers of each kind whose first step is timed.", lower_bound=1, **own)
    flags.DEFINE_string("csv", "watch.csv", "To add to: a row per round.", **own)
    run_flags.define(values)
    values.set_default("workdir", "unused")


def main(values: flags.FlagValues) -> None:
    """Times both, prints the medians and writes the CSV."""
    config = run_flags.run_config(values)
    from glow_tf import data
    from glow_tf.devices.streams import set_up_process
    from glow_tf.training.trainer import PartsTrainer
    from lab.planning.calibrate import make_trainer, repeated

    set_up_process(config.train.batch_size, config.streams)
    images = data.load(config.data)
    model = dataclasses.replace(config.model, image_shape=images.image_shape)
    config = dataclasses.replace(config, model=model)

    def make(most: int | None) -> PartsTrainer:
        trainer = make_trainer(config, config.model.precision)
        trainer.compile(
            trainer.optimizers,
            clip_norm=config.train.clip_norm,
            max_skipped_steps=10,
            max_outside_steps=most,
            jit_compile=config.compiles,
        )
        trainer.initialize(images.train[:64])
        trainer.set_phase(trainer.phases[0])
        return trainer

    def first_step(most: int | None) -> tuple[PartsTrainer, float]:
        trainer = make(most)
        start = time.perf_counter()
        trainer.train_function(batches)
        return trainer, time.perf_counter() - start

    def step(trainer: PartsTrainer) -> dict:
        logs = trainer.train_function(batches)
        trainer.training_steps.end_step(trainer.phase, last=False)
        return logs

    batches = iter(data.training_batches(images.train, config.train.batch_size, config.seed))
    seconds = []
    for number in range(values.makes):
        (watched, with_it), (unwatched, without) = first_step(10), first_step(None)
        seconds.append(("first step", number, with_it, without))
    timed = [repeated(lambda t=t: step(t)) for t in (watched, unwatched)]
    for number in range(values.rounds):
        order = (0, 1) if number % 2 else (1, 0)  # neither is always the first
        found = {k: timed[k](values.timed_steps) for k in order}
        seconds.append(("step", number, found[0], found[1]))
    with added_to(values.csv, COLUMNS) as add:
        for what, number, *found in seconds:
            add((what, number, *(f"{s:.6f}" for s in found), f"{found[0] / found[1]:.4f}"))
    for what in ("first step", "step"):
        ratios = sorted(a / b for kind, _, a, b in seconds if kind == what)
        low, high = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
        middle = statistics.median(ratios)
        print(f"{what}: {middle:.4f} of the time without; the middle half {low:.4f} to {high:.4f}")
    state = sum(v.shape.num_elements() * v.dtype.size for v in watched.divergence_monitor.variables.values())
    print(f"The watch keeps {state / 1000:.1f} kB.")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
