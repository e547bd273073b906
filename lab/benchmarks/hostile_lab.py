"""Hostile inputs of the lab's own commands, for `hostile.py`: made as in `hostile_inputs.py`."""

from __future__ import annotations

import contextlib
import json
import pathlib
import random
from collections.abc import Iterator
from unittest import mock

from lab import CONFIGS, experiment
from lab.benchmarks.hostile_damage import damaged_csv, damaged_json
from lab.benchmarks.hostile_inputs import (
    TINY,
    Deed,
    Make,
    Seeds,
    command,
    module_of,
    text_file,
    wrong_arguments,
)
from lab.planning import calibrate
from lab.planning.rates import Calibration
from lab.studies.runs import runs_of, tuning_runs

BLOCKS = {1: 1e-4, 2: 1e-4, 3: 1e-4}
RATES = Calibration("a machine", BLOCKS, BLOCKS, 1e-3).to_json()
TABLE = pathlib.Path(__file__).parents[2] / "docs" / "results" / "table1_small.csv"
PAGE = "<!-- table table1_small -->\n<!-- end -->\n"


@contextlib.contextmanager
def without_long_work() -> Iterator[None]:
    """Within the context, commands check all that they are given, and then do not train or measure."""
    with (
        mock.patch.object(experiment, "run_study", _runs_of_study),
        mock.patch.object(calibrate, "calibrate", return_value=Calibration("", {}, {}, 0.0)),
    ):
        yield


def _runs_of_study(found: experiment.Experiment) -> None:
    tuning_runs(found.study, found.folder, found.configure)
    runs_of(found.study, found.folder, found.configure, {}, found.quick)


def studies(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A study file."""
    text = rng.choice(sorted((CONFIGS / "studies").glob("*.cfg"))).read_text(encoding="utf-8")
    path = text_file(rng, folder, text)
    return lambda: command("experiment", f"--study={path}", f"--output={folder}/out")


def clusters(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A cluster file."""
    text = rng.choice(sorted((CONFIGS / "clusters").glob("*.cfg"))).read_text(encoding="utf-8")
    text = text.replace("gflops = 5200", rng.choice(("gflops = 5200", "speed = 1")))
    path = text_file(rng, folder, text)
    (folder / "rates.json").write_text(RATES)
    rates = [f"--calibration={folder}/rates.json"] if rng.random() < 0.5 else []
    return lambda: command("plan", *TINY, f"--cluster={path}", *rates, f"--workdir={folder}/run")


def tables_of_studies(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The table of a study, which a report reads and an experiment goes on from."""
    lines = TABLE.read_text().splitlines()
    text = "\n".join([lines[0], *rng.sample(lines[1:], 40)])
    (folder / "page.md").write_text(PAGE)
    (folder / "results.csv").write_bytes(damaged_csv(rng, text))
    study = "--study=table1_small"
    if rng.random() < 0.3:
        return lambda: command("experiment", study, f"--output={folder}")
    return lambda: command("report", study, f"--csv={folder}/results.csv", f"--documents={folder}/page.md")


def rates(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """The rates that `plan --calibrate` wrote."""
    path = folder / "rates.json"
    path.write_bytes(damaged_json(rng, json.loads(RATES)))
    cluster = folder / "cluster.cfg"
    cluster.write_text("[cluster]\nmbit = 100\n[device a]\ncount = 2\nspeed = 1\nmemory_gb = 1\n")
    return lambda: command(
        "plan", *TINY, f"--cluster={cluster}", f"--calibration={path}", f"--workdir={folder}/run"
    )


def wrong_flags(seeds: Seeds, rng: random.Random, folder: pathlib.Path) -> Deed:
    """A command with one flag, or two, of the wrong kind."""
    (folder / "page.md").write_text(PAGE)
    name, fixed = rng.choice(
        (
            ("plan", (*TINY, "--cluster=eight_home", f"--workdir={folder}/run")),
            ("experiment", ("--study=digits_tiny", f"--output={folder}/study")),
            ("report", ("--study=table1_small", f"--csv={TABLE}", f"--documents={folder}/page.md")),
        )
    )
    own = wrong_arguments(rng, module_of(name))
    return lambda: command(name, *fixed, *own)


KINDS: dict[str, tuple[int, Make]] = {  # as in `hostile_inputs.py`
    "flags of the lab": (1, wrong_flags),
    "study files": (2, studies),
    "tables of studies": (2, tables_of_studies),
    "cluster files": (2, clusters),
    "rates of a machine": (2, rates),
}
