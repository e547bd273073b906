"""Gives the commands thousands of hostile inputs, and counts how they end.

    python -m lab.benchmarks.hostile --inputs=10000

An input is fine, or is refused with a sentence that names what was received. All else is a failure: another
exception, more than --seconds, or more than --megabytes of additional memory. Every input follows from
--seed, its kind and its number, so that `--only=KIND --first=NUMBER --inputs=1` repeats one. What would
train, start processes or measure for minutes is left out; all checks before it are made. Then come the
models and servers that an attacker would craft (`hostile_files.py`, `hostile_servers.py`), all of them.
"""

import collections
import functools
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf
from absl import flags

from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from lab.benchmarks import hostile_files, hostile_inputs, hostile_lab, hostile_servers
from lab.benchmarks.rows import added_to

KINDS = {**hostile_inputs.KINDS, **hostile_lab.KINDS}
COLUMNS = ("kind", "inputs", "fine", "refused", "failures", "slowest_seconds")
CRAFTED = "crafted files"
PATIENCE = 60  # seconds after which an input is given up


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("inputs", 10_000, "How many, over all kinds.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the inputs.", flag_values=values)
    flags.DEFINE_integer("first", 0, "Number of the first input of each kind.", flag_values=values)
    flags.DEFINE_string("only", "", f"One kind alone; {CRAFTED!r} are several.", flag_values=values)
    flags.DEFINE_float("seconds", 5.0, "An input that takes longer has failed.", flag_values=values)
    flags.DEFINE_float("megabytes", 500.0, "As well as one that takes more memory.", flag_values=values)
    flags.DEFINE_string("csv", "hostile.csv", "To add to: one row per kind.", flag_values=values)


def memory(field: str) -> float:
    """Returns a field of this process's memory in MB: VmRSS now, VmHWM at most since `forget_peak`."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(f"{field}:"))


def forget_peak() -> None:
    """Starts VmHWM anew."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def tried(deed: hostile_inputs.Deed, seconds: float, megabytes: float) -> tuple[str, float]:
    """Returns the outcome of an input, and how long it took."""
    forget_peak()
    before, start = memory("VmRSS"), time.perf_counter()
    signal.alarm(PATIENCE)
    try:
        outcome = hostile_inputs.outcome_of(deed)
    finally:
        signal.alarm(0)
    took, more = time.perf_counter() - start, memory("VmHWM") - before
    if outcome in ("fine", "refused") and took > seconds:
        outcome = f"{outcome} after {took:.1f} s"
    elif outcome in ("fine", "refused") and more > megabytes:
        outcome = f"{outcome} with {more:.0f} MB more"
    return outcome, took


def give_up(number: int, frame: object) -> None:
    """Ends an input that does not end by itself."""
    raise hostile_inputs.TooLongError


def shares(inputs: int) -> dict[str, int]:
    """Returns how many inputs of each kind there are among so many."""
    weights = {kind: weight for kind, (weight, _) in KINDS.items()}
    counts = {kind: inputs * weight // sum(weights.values()) for kind, weight in weights.items()}
    for kind in list(counts)[: inputs - sum(counts.values())]:
        counts[kind] += 1
    return counts


Inputs = Iterable[tuple[str, Callable[[pathlib.Path], hostile_inputs.Deed]]]


def damaged(kind: str, count: int, seeds: hostile_inputs.Seeds, given: flags.FlagValues) -> Inputs:
    """Yields the name of each damaged input of a kind, and what makes it in an empty folder."""
    make = KINDS[kind][1]
    for k in range(given.first, given.first + count):
        yield f"{kind} {k}", functools.partial(make, seeds, random.Random(f"{given.seed} {kind} {k}"))


def crafted_of_others() -> dict[str, Inputs]:
    """Returns crafted servers; slow servers get less than the thirty seconds."""

    def server(kind: str) -> Callable[[pathlib.Path], hostile_inputs.Deed]:
        return lambda folder: functools.partial(hostile_servers.fetch, kind, folder)

    return {
        "crafted servers": ((kind, server(kind)) for kind in hostile_servers.SERVERS),
    }


def row_of(
    kind: str, inputs: Inputs, seeds: hostile_inputs.Seeds, seconds: float, megabytes: float
) -> dict[str, Any]:
    """Tries inputs of a kind, prints the failures, and returns the kind's row of the table."""
    counts, slowest = collections.Counter(), 0.0
    for name, make in inputs:
        with (
            tempfile.TemporaryDirectory() as folder,
            hostile_inputs.without_long_work(seeds),
            hostile_lab.without_long_work(),
        ):
            os.chdir(folder)  # some values are names of files to write
            outcome, took = tried(make(pathlib.Path(folder)), seconds, megabytes)
        slowest = max(slowest, took)
        if outcome not in ("fine", "refused"):
            print(f"{name}: {outcome}", flush=True)
            outcome = "failures"
        counts[outcome] += 1
    os.chdir(seeds.folder)
    ends = {name: counts[name] for name in ("fine", "refused", "failures")}
    return {"kind": kind, "inputs": counts.total(), **ends, "slowest_seconds": f"{slowest:.2f}"}


def main(given: flags.FlagValues) -> None:
    """Tries all inputs, prints the failures and the counts."""
    kinds = (*KINDS, CRAFTED)
    if given.only and given.only not in kinds:
        raise ConfigError(f"only must be one of {', '.join(kinds)}. Received: {given.only!r}")
    signal.signal(signal.SIGALRM, give_up)
    tf.get_logger().setLevel("ERROR")  # it warns of each checkpoint that is damaged
    path = pathlib.Path(given.csv).absolute()
    with tempfile.TemporaryDirectory() as temporary, added_to(path, COLUMNS) as add:
        seeds = hostile_inputs.Seeds.make(pathlib.Path(temporary))
        counts = {given.only: given.inputs} if given.only else {**shares(given.inputs), CRAFTED: 0}
        found = {
            kind: damaged(kind, count, seeds, given) for kind, count in counts.items() if kind != CRAFTED
        }
        if CRAFTED in counts:
            folder = pathlib.Path(temporary, CRAFTED)
            folder.mkdir()
            found |= hostile_files.crafted(folder) | crafted_of_others()
        rows = []
        for kind, inputs in found.items():
            rows.append(row_of(kind, inputs, seeds, given.seconds, given.megabytes))
            add(rows[-1])
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    failures = sum(row["failures"] for row in rows)
    print(f"{sum(row['inputs'] for row in rows)} inputs: {failures} failures")
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
