"""Kills a run with kill -9 at random moments, lets it finish, and compares it with one that was not killed.

    python -m lab.benchmarks.kills --kills=50
    python -m lab.benchmarks.kills --kills=100 --processes=parts --csv=kills_parts.csv

Each attempt resumes the run and is killed after a random time, from the start of the process to well into its
training. With `--processes=parts` or `workers` the run has two processes: one is killed, then the other, and
so on; the run must then end by itself and name the process that is lost. The last attempt runs to the end.
Both runs must have the same numbers in history.csv and the same weights.
"""

import csv
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.history import reproducible
from lab.benchmarks.rows import added_to

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
PROGRAMS = {
    "one": ("train/main.py",),
    "parts": ("train/launch.py", "--parts", "--"),
    "workers": ("train/launch.py", "--workers=2", "--"),
}
PATIENCE = 100.0  # seconds in which a run that lost a process must end

COLUMNS = ("processes", "kill", "role", "seconds", "epochs_before", "epochs_after", "ended_after")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("kills", 50, "How often the run is killed.", flag_values=values)
    flags.DEFINE_enum(
        "processes", "one", list(PROGRAMS), "Of the run: one, or two of a kind.", flag_values=values
    )
    flags.DEFINE_float("longest", 12.0, "Seconds until a kill, at most.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments.", flag_values=values)
    flags.DEFINE_string("csv", "kills.csv", "To add to: one row per kill.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Kills, resumes, compares, and prints the counts."""
    moments = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder, added_to(given.csv, COLUMNS) as add:
        cut, whole = pathlib.Path(folder, "cut"), pathlib.Path(folder, "whole")
        for kill in range(1, given.kills + 1):
            role = 0 if given.processes == "one" else kill % 2
            before, seconds = finished(cut), moments.uniform(0, given.longest)
            ended_after = start_and_kill(
                command(cut, given.processes, EPOCHS), given.processes, role, seconds
            )
            if finished(cut) < before:
                sys.exit(f"kill {kill}: the run had {before} epochs and has {finished(cut)}")
            row = [given.processes, kill, role, f"{seconds:.2f}", before, finished(cut), f"{ended_after:.1f}"]
            add(row)
            print(*row, flush=True)
        epochs = finished(cut) + 2
        for workdir in (cut, whole):
            subprocess.run(command(workdir, given.processes, epochs), check=True, stdout=subprocess.DEVNULL)
        weights = [glow_tf.load(workdir).get_weights() for workdir in (cut, whole)]
        largest = max(float(np.abs(a - b).max()) for a, b in zip(*weights, strict=True))
        same = numbers(cut) == numbers(whole)
        print(
            f"{given.kills} kills, {epochs} epochs: largest difference of a weight: {largest:.1g}; "
            f"same history: {same}"
        )
        if largest or not same:
            sys.exit(1)


def command(workdir: pathlib.Path, processes: str, epochs: int) -> list[str]:
    """Returns the command of the run, which trains end to end for most of its epochs."""
    program, *arguments = PROGRAMS[processes]
    settings = [*RUN, f"--finetune_epochs={epochs - 2}", f"--workdir={workdir}"]
    return [sys.executable, str(ROOT / program), *arguments, *settings]


def start_and_kill(arguments: list[str], processes: str, role: int, seconds: float) -> float:
    """Starts a run and kills one of its processes some seconds after its start.

    Args:
      arguments: command of the run.
      processes: kind of the run.
      role: which of its processes is killed.
      seconds: how long it lives.

    Returns:
      Seconds from the kill to the end of the run.
    """
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        try:
            victim = run.pid if processes == "one" else child(run, role)
            try:
                said, _ = run.communicate(timeout=seconds)
                sys.exit(f"the run ended by itself, with status {run.returncode}: {said}")
            except subprocess.TimeoutExpired:
                subprocess.run(["kill", "-9", str(victim)], check=True)
            killed = time.monotonic()
            said, _ = run.communicate(timeout=PATIENCE)
            if processes != "one" and (run.returncode != 1 or "Lost the process of " not in said):
                sys.exit(f"role {role} was killed; the run ended with status {run.returncode}: {said}")
            return time.monotonic() - killed
        finally:
            run.kill()


def child(run: subprocess.Popen, role: int) -> int:
    """Waits until a launcher has started its processes; returns the number of one of them."""
    while run.poll() is None:
        own = pathlib.Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        if len(own) == 2:
            return int(own[role])
        time.sleep(0.01)
    return sys.exit(f"the run ended by itself, with status {run.returncode}: {run.communicate()[0]}")


def finished(workdir: pathlib.Path) -> int:
    """Returns how many epochs the newest checkpoint has finished."""
    return checkpoint_files.progress(workdir / "checkpoints")[0]


def numbers(workdir: pathlib.Path) -> list[dict[str, str]]:
    """Returns what history.csv says of every epoch, but for times and memory."""
    with (workdir / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [reproducible(row) for row in rows]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
