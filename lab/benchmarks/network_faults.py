"""Two processes of one run over a link that fails: do they end with the numbers of a sound link, or say why?

    python -m lab.benchmarks.network_faults --trials=3 --csv=network_faults.csv

The two are in network namespaces of this machine (`faulty_link.py`). In each trial a fault begins at
a random moment and lasts for `--seconds`, or until the end. A run that ends with an error must name the
other process, and goes on over a sound link. Its end is compared with a run over a sound link. Needs Linux
and root.
"""

import dataclasses
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.devices import children
from glow_tf.devices.processes import JOBS, ProcessGroup
from lab.benchmarks.faulty_link import Fault, FaultyLink, faulty_link
from lab.benchmarks.rows import added_to
from lab.benchmarks.slow_link import ADDRESSES, in_namespace

PORT = 4711  # every port is free in a new namespace
PATIENCE = 900.0  # seconds after which a run hangs
RUN = (
    "--flagfile=quickstart",
    "--flow_steps=4",
    "--train_examples=256",
    "--batch_size=16",
    "--test_examples=16",
    "--width=8",
    "--schedule=simultaneous",
    "--part_epochs=12",
    "--finetune_epochs=0",
    "--tensorboard=false",
    "--sample_every=0",
    "--export=false",
)
FOR_EVER = "is cut for ever"
SOUND = Fault()
FAULTS = {
    "loses 5 %": Fault(lost=0.05),
    "loses 30 %": Fault(lost=0.3),
    "50 ± 50 ms: packets overtake": Fault(delay_ms=50, jitter_ms=50),
    "doubles 20 %": Fault(doubled=0.2),
    "damages 5 %": Fault(damaged=0.05),
    "all of it": Fault(lost=0.05, doubled=0.05, damaged=0.05, delay_ms=20, jitter_ms=20),
    "stands still": Fault(lost=1.0),
    FOR_EVER: Fault(lost=1.0),
}

COLUMNS = ("processes", "fault", "moment", "packets_hit", "seconds", "outcome", "difference", "said")


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a run of two processes ended.

    Attributes:
      statuses: of the processes; None for one that had to be killed.
      said: by the processes, together.
      seconds: from the start.
    """

    statuses: tuple[int | None, ...]
    said: str
    seconds: float


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("trials", 1, "Of every fault, for parts and for workers.", flag_values=values)
    flags.DEFINE_list("strategies", list(JOBS), "part_parallel and multi_worker.", flag_values=values)
    flags.DEFINE_float("seconds", 10.0, "How long a fault lasts.", flag_values=values)
    flags.DEFINE_list("only", [], "Only faults whose names contain one of these.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the moments and of the packets.", flag_values=values)
    flags.DEFINE_string("csv", "network_faults.csv", "To add to: one row per trial.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Runs all trials, prints and writes how they ended; exits with 1 if one hung or has other numbers."""
    children.ends_by_sigterm()  # so that the link is removed
    chosen = {name: FAULTS[name] for name in FAULTS if any(part in name for part in given.only or [""])}
    moments, failed = random.Random(given.seed), 0
    with (
        tempfile.TemporaryDirectory() as folder,
        added_to(given.csv, COLUMNS) as add,
        faulty_link(given.seed) as (link, names),
    ):
        for strategy in given.strategies:
            sound = pathlib.Path(folder, strategy)
            whole = run_two(strategy, sound, names, link)
            expected = glow_tf.load(sound).get_weights()
            print(f"{strategy}: {whole.seconds:.0f} s over a sound link", flush=True)
            for trial in range(given.trials):
                for name, fault in chosen.items():
                    moment = moments.uniform(0, whole.seconds)
                    lasts = PATIENCE if name == FOR_EVER else given.seconds
                    workdir = pathlib.Path(folder, f"{strategy} {trial} {name}")
                    link.hit = 0
                    ending = run_two(strategy, workdir, names, link, fault, moment, lasts)
                    hit, outcome = link.hit, outcome_of(ending)
                    if outcome == "ended with a sentence":
                        run_two(strategy, workdir, names, link)
                    difference = largest_difference(workdir, expected)
                    failed += outcome in ("hung", "ended without a sentence") or not difference < 1e-3
                    row = [strategy, name, f"{moment:.1f}", hit, f"{ending.seconds:.1f}", outcome]
                    add([*row, f"{difference:.1g}", sentence_of(ending)])
                    print(*row, f"{difference:.1g}", sentence_of(ending), sep=" · ", flush=True)
    print(f"{failed} trials hung, ended without a sentence or with other numbers")
    if failed:
        sys.exit(1)


def run_two(
    strategy: str,
    workdir: pathlib.Path,
    names: Sequence[str],
    link: FaultyLink,
    fault: Fault = SOUND,
    moment: float = 0.0,
    lasts: float = 0.0,
) -> Ending:
    """Runs two processes to their end, with a fault that begins at a moment and lasts for some seconds."""
    group = [ProcessGroup(JOBS[strategy], tuple(f"{a}:{PORT}" for a in ADDRESSES), k) for k in (0, 1)]
    command = [*children.command("train"), *RUN, f"--strategy={strategy}", f"--workdir={workdir}"]
    with tempfile.TemporaryFile("w+") as said:
        began = time.monotonic()
        processes = [
            children.start(
                [*in_namespace(name), *command],
                env={**os.environ, "TF_CONFIG": own.tf_config},
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            for name, own in zip(names, group, strict=True)
        ]
        try:
            while any(process.poll() is None for process in processes):
                passed = time.monotonic() - began
                if passed > PATIENCE:
                    break
                link.fault = fault if moment <= passed < moment + lasts else SOUND
                time.sleep(0.05)
            statuses = tuple(process.poll() for process in processes)
        finally:
            link.fault = SOUND
            for process in processes:
                process.kill()
                process.wait()
        said.seek(0)
        return Ending(statuses, said.read(), time.monotonic() - began)


def outcome_of(ending: Ending) -> str:
    """Says how a run ended, in a few words."""
    if None in ending.statuses:
        return "hung"
    if ending.statuses == (0, 0):
        return "went on"
    said = sentence_of(ending)
    return "ended with a sentence" if said and "Traceback" not in ending.said else "ended without a sentence"


def sentence_of(ending: Ending) -> str:
    """Returns the error with which a run ended, if it names one of the processes."""
    errors = [line for line in ending.said.splitlines() if line.startswith(("Error: ", "Connects to "))]
    found = [line for line in errors if any(address in line for address in ADDRESSES)]
    return "" if ending.statuses == (0, 0) or not found else found[-1]


def largest_difference(workdir: pathlib.Path, expected: Sequence[np.ndarray]) -> float:
    """Returns the largest difference of any weight from those expected; not a number if there is no end."""
    if not (workdir / "summary.json").exists():
        return float("nan")
    weights = glow_tf.load(workdir).get_weights()
    return max(float(np.abs(a - b).max()) for a, b in zip(weights, expected, strict=True))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
