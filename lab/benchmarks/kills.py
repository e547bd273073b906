"""Kills a run with kill -9 at random moments, lets it finish, and compares it with one that was not killed.

    python -m lab.benchmarks.kills --kills=50

Each attempt resumes the run and is killed after a random time, from the start of the process to well into its
training. The last attempt runs to the end. Both runs must have the same numbers in history.csv and the same
weights.
"""

import csv
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.store import checkpoints
from lab.benchmarks.rows import added_to, reproducible

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS = 500  # so many that the run is not over before the last kill
RUN = (
    "--flagfile=quickstart",
    "--train_examples=64",
    "--batch_size=16",
    "--test_examples=16",
    "--width=4",
    "--schedule=simultaneous",
    "--part_epochs=2",
    "--tensorboard=false",
    "--sample_every=0",
    "--export=false",
    "--rate_schedule=constant",
)
COLUMNS = ("seed", "kill", "seconds", "epochs_before", "epochs_after")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("kills", 50, "How often the run is killed.", flag_values=values)
    flags.DEFINE_float("longest", 12.0, "Seconds until a kill, at most.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)
    flags.DEFINE_string("csv", "kills.csv", "To add to: one row per kill.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Kills, resumes, compares, and prints the counts."""
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder, added_to(given.csv, COLUMNS) as add:
        cut, whole = pathlib.Path(folder, "cut"), pathlib.Path(folder, "whole")
        for kill in range(1, given.kills + 1):
            before, seconds = finished(cut), moments.uniform(0, given.longest)
            start_and_kill(command(cut, EPOCHS), seconds)
            if finished(cut) < before:
                sys.exit(f"kill {kill}: the run had {before} epochs and has {finished(cut)}")
            row = [given.seed, kill, f"{seconds:.2f}", before, finished(cut)]
            add(row)
            print(*row, flush=True)
        epochs = finished(cut) + 2
        for workdir in (cut, whole):
            subprocess.run(command(workdir, epochs), check=True, stdout=subprocess.DEVNULL)
        weights = [glow_tf.load(workdir).get_weights() for workdir in (cut, whole)]
        largest = max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True))
        same = numbers(cut) == numbers(whole)
        print(
            f"{given.kills} kills, {epochs} epochs: largest difference of a weight: {largest:.1g}; "
            f"same history: {same}"
        )
        if largest or not same:
            sys.exit(1)


def command(workdir: pathlib.Path, epochs: int) -> list[str]:
    """Returns the command of the run, which trains end to end for most of its epochs."""
    settings = [*RUN, f"--finetune_epochs={epochs - 2}", f"--workdir={workdir}"]
    return [sys.executable, str(ROOT / "train" / "main.py"), *settings]


def start_and_kill(arguments: list[str], seconds: float) -> None:
    """Starts a run by its command, and kills it some seconds after its start."""
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            said, _ = run.communicate(timeout=seconds)
            sys.exit(f"the run ended by itself, with status {run.returncode}: {said}")
        except subprocess.TimeoutExpired:
            run.kill()


def finished(workdir: pathlib.Path) -> int:
    """Returns how many epochs the newest checkpoint has finished."""
    return checkpoints.finished(workdir / "checkpoints")


def numbers(workdir: pathlib.Path) -> list[dict[str, str]]:
    """Returns what history.csv says of every epoch, but for times and memory."""
    with (workdir / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [reproducible(row) for row in rows]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
