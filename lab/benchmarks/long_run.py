"""Does a process grow? Memory, open files, threads and logs, over a long run and over many trainers.

    python -m lab.benchmarks.long_run --csv=long_run.csv

Each subject has a process of its own. A run trains a small model on the digits for 2,000 steps and enters its
phases again and again: `alternating` is --times × (part 1, part 2, end to end), `simultaneous` is --times ×
(twice simultaneous, end to end), and `sequential` enters each phase once, for --times epochs. Everything that
a run does after an epoch is on: evaluation, samples, TensorBoard, checkpoints. The other subjects make,
train for one step, and drop --times trainers, with one optimizer or with all in turn. After each they call
`keras.utils.clear_session()`: until then TensorFlow keeps the kernels of functions that are gone.
"""

import concurrent.futures
import contextlib
import ctypes
import dataclasses
import gc
import io
import multiprocessing
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.commands.run_flags import config_of
from glow_tf.run import context, lifecycle
from glow_tf.training.optim.optimizers import FusedAdamax
from lab.benchmarks.rows import added_to

STEPS = 34  # per epoch
RUN = (
    "--dataset=digits",
    f"--train_examples={16 * STEPS}",
    "--n_bits=5",
    "--test_examples=64",
    "--num_blocks=2",
    "--flow_steps=1",
    "--width=8",
    "--parts=by_block:2",
    "--part_epochs=60",
    "--finetune_epochs=30",
    "--batch_size=16",
    "--strategy=one_device",
)
RUNS: dict[str, Callable[[int], tuple[glow_tf.Phase, ...]]] = {
    "alternating": lambda times: glow_tf.phases("alternating", 2, 2, 1) * times,
    "simultaneous": lambda times: glow_tf.phases("simultaneous", 2, 2, 1) * times,
    "sequential": lambda times: glow_tf.phases("sequential", 2, 2 * times, times),
}
OPTIMIZERS: dict[str, tuple[Callable[[], keras.optimizers.Optimizer], bool]] = {
    "FusedAdamax": (lambda: FusedAdamax(1e-3), False),
    "FusedAdamax reversible": (lambda: FusedAdamax(1e-3), True),
    "keras Adam": (lambda: keras.optimizers.Adam(1e-3), False),
    "keras AdamW": (lambda: keras.optimizers.AdamW(1e-3), False),
    "keras AdamW reversible": (lambda: keras.optimizers.AdamW(1e-3), True),
}
IN_TURN = "all optimizers in turn"
COLUMNS = (
    "subject",
    "number",
    "steps",
    "memory_mb",
    "open_files",
    "threads",
    "log_bytes",
    "checkpoint_bytes",
)


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("subjects", [*RUNS, *OPTIMIZERS, IN_TURN], "What to watch.", flag_values=values)
    flags.DEFINE_integer("times", 20, "How often phases are entered, and trainers made.", flag_values=values)
    flags.DEFINE_string("csv", "long_run.csv", "To add to: a row per epoch or trainer.", flag_values=values)


def held() -> dict[str, float]:
    """Returns what this process holds, after everything that can be freed is freed."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return {
        "memory_mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1),
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def bytes_in(folder: pathlib.Path) -> int:
    """Returns the size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


class Watch(keras.callbacks.Callback):
    """Notes after every epoch of a run what the process holds and what is on the disk.

    Args:
      workdir: of the run.
    """

    def __init__(self, workdir: pathlib.Path):
        super().__init__()
        self.workdir = workdir
        self.rows: list[dict[str, Any]] = []

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Notes it."""
        sizes = {
            "log_bytes": bytes_in(self.workdir / "logs"),
            "checkpoint_bytes": bytes_in(self.workdir / "checkpoints"),
        }
        self.rows.append({"number": epoch + 1, "steps": STEPS * (epoch + 1), **held(), **sizes})


@contextlib.contextmanager
def with_phases(phases: tuple[glow_tf.Phase, ...]) -> Iterator[None]:
    """Within the context, runs have these phases."""
    before, context.phases_of = context.phases_of, lambda config: phases
    try:
        yield
    finally:
        context.phases_of = before


def long_run(name: str, times: int) -> list[dict[str, Any]]:
    """Returns a row for every epoch of a run."""
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder, "run")
        watch = Watch(workdir)
        with with_phases(RUNS[name](times)), contextlib.redirect_stdout(io.StringIO()):
            lifecycle.train(config_of([*RUN, f"--workdir={workdir}"]), glow_tf.export, [watch])
    return watch.rows


def many_trainers(name: str, times: int) -> list[dict[str, Any]]:
    """Returns a row for every trainer."""
    kinds = list(OPTIMIZERS.values()) if name == IN_TURN else [OPTIMIZERS[name]]
    config = dataclasses.replace(config_of([*RUN, "--workdir=unused"]).model, image_shape=(8, 8, 1))
    images = np.random.default_rng(0).integers(0, 129, (16, 8, 8, 1)).astype(np.uint8)

    def train(make: Callable[[], keras.optimizers.Optimizer], reversible: bool) -> None:
        glow = glow_tf.Glow(config)
        trainer = glow_tf.PartsTrainer(glow, glow_tf.phases("end_to_end", 2, 1))
        trainer.compile([make() for _ in glow.parts], reversible=reversible)
        trainer.fit(images, batch_size=16, validation_data=images, verbose=0)
        glow.sample(1, 0.7, 0)

    rows = []
    for number in range(1, times + 1):
        train(*kinds[(number - 1) % len(kinds)])
        keras.utils.clear_session()
        rows.append({"number": number, "steps": number, **held()})
    return rows


def observed(subject: str, times: int) -> list[dict[str, Any]]:
    """Returns the rows of a subject."""
    return (long_run if subject in RUNS else many_trainers)(subject, times)


def growth(rows: list[dict[str, Any]], name: str) -> float:
    """Returns by how much a column rises per row, over the second half of the rows (least squares)."""
    half = rows[len(rows) // 2 :]
    return float(np.polyfit(range(len(half)), [row[name] for row in half], 1)[0])


def main(given: flags.FlagValues) -> None:
    """Watches all subjects, and prints what grew."""
    known = [*RUNS, *OPTIMIZERS, IN_TURN]
    if unknown := set(given.subjects) - set(known):
        raise glow_tf.ConfigError(
            f"subjects must be among {', '.join(known)}. Received: {', '.join(unknown)}"
        )
    fresh = multiprocessing.get_context("spawn")
    with added_to(given.csv, COLUMNS) as add:
        for subject in given.subjects:
            with concurrent.futures.ProcessPoolExecutor(1, fresh) as pool:
                found = pool.submit(observed, subject, given.times).result()
            for row in found:
                add({"subject": subject, **row})
            memory = [row["memory_mb"] for row in (found[0], found[len(found) // 2], found[-1])]
            grown = {name: f"{growth(found, name):+.3f}" for name in ("memory_mb", "open_files", "threads")}
            print(
                f"{subject}: MB at first, half-way, at the end: {memory}; then per row: {grown}", flush=True
            )


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
