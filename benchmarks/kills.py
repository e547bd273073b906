"""Kills a run with kill -9 at random moments, lets it finish, and compares it with one that was not killed.

    python benchmarks/kills.py --kills=50

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
from glow_tf.run import newest

ROOT = pathlib.Path(__file__).parent.parent
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


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("kills", 50, "How often the run is killed.", flag_values=values)
    flags.DEFINE_float("longest", 12.0, "Seconds until a kill, at most.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)
    flags.DEFINE_string("csv", "kills.csv", "To write: one row per kill.", flag_values=values)


def command(workdir: pathlib.Path, epochs: int) -> list[str]:
    """Returns the command of the run, which trains end to end for most of its epochs."""
    settings = [*RUN, f"--finetune_epochs={epochs - 2}", f"--workdir={workdir}"]
    return [sys.executable, str(ROOT / "train" / "main.py"), *settings]


def finished(workdir: pathlib.Path) -> int:
    """Returns how many epochs the newest checkpoint has finished."""
    return newest.finished_epochs(workdir / "checkpoints")


def numbers(workdir: pathlib.Path) -> list[str]:
    """Returns the test bits/dim of every epoch."""
    with (workdir / "history.csv").open(newline="") as file:
        return [row["test_bpd"] for row in csv.DictReader(file)]


def main(given: flags.FlagValues) -> None:
    """Kills, resumes, compares, and prints the counts."""
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder, open(given.csv, "w", newline="") as file:
        cut, whole = pathlib.Path(folder, "cut"), pathlib.Path(folder, "whole")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["kill", "seconds", "epochs_before", "epochs_after"])
        for kill in range(1, given.kills + 1):
            before, seconds = finished(cut), moments.uniform(0, given.longest)
            with subprocess.Popen(
                command(cut, EPOCHS), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            ) as process:
                try:
                    _, error = process.communicate(timeout=seconds)
                    sys.exit(f"the run ended by itself, with status {process.returncode}: {error}")
                except subprocess.TimeoutExpired:
                    process.kill()
            if finished(cut) < before:
                sys.exit(f"kill {kill}: the run had {before} epochs and has {finished(cut)}")
            writer.writerow([kill, f"{seconds:.2f}", before, finished(cut)])
            file.flush()
            print(f"kill {kill} after {seconds:.1f} s: {finished(cut)} epochs", flush=True)
        epochs = finished(cut) + 2
        for workdir in (cut, whole):
            subprocess.run(command(workdir, epochs), check=True, stdout=subprocess.DEVNULL)
        weights = [glow_tf.load(workdir).get_weights() for workdir in (cut, whole)]
        same = all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
        rows = numbers(cut) == numbers(whole)
        print(f"{given.kills} kills, {epochs} epochs: same weights: {same}; same history: {rows}")
        if not (same and rows):
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
