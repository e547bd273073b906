"""Runs a study: each variant with each seed in its own process. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import lab
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.progress import duration
from glow_tf.run.tables import bpd_text
from lab import children
from lab.studies.runs import Configure, Run, known_shapes, runs_of, tuned_values, tuning_runs
from lab.studies.study import TRAIN, Study, Variant
from lab.studies.table import table_of, with_saved_rows

POLL = 0.2  # seconds between two looks at a run's history


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A study that is to be run.

    Attributes:
      study: the study.
      folder: the workdirs and tables lie under it.
      configure: makes a configuration from a run's flags.
      arguments: makes the arguments of `glow-tf train` from a run's flags.
      quick: one seed and no tuning, with the flags of the study's section quick.
    """

    study: Study
    folder: pathlib.Path
    configure: Configure
    arguments: Callable[[Mapping[str, str]], list[str]]
    quick: bool = False


def output_folder(study: Study, quick: bool = False) -> pathlib.Path:
    """Returns the folder of a study's workdirs and tables if no other is asked for."""
    return pathlib.Path(f"runs/studies/{study.name}{'_quick' if quick else ''}")


def run_study(experiment: Experiment) -> pathlib.Path:
    """Runs what is left of a study, prints its progress and returns the path of its table.

    Finished runs are skipped and interrupted ones are resumed.

    Raises:
      ConfigError: a run of the study is wrong; nothing was started.
      OSError: a run ended early for another reason than its training.
    """
    study, folder = experiment.study, experiment.folder
    tuning_table, results = folder / "tuning.csv", folder / "results.csv"
    # All runs are made before the first one starts, so that a mistake in any of them costs no time.
    tuning: list[Run] = []
    if not experiment.quick:
        tuning = with_saved_rows(study, tuning_runs(study, folder, experiment.configure), tuning_table)
    untuned = runs_of(study, folder, experiment.configure, {}, experiment.quick)
    tuned = {run.variant.name for run in tuning}  # their runs have a value that is still to be chosen
    _check([*tuning, *(run for run in untuned if run.variant.name not in tuned)])
    clock = _Clock([*tuning, *untuned])
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, str] = {}
    if tuning:
        print(f"{study.title}: {len(tuning)} runs choose {study.tuned[0]}, {len(untuned)} follow", flush=True)
        _run_all(experiment, tuning, tuning_table, clock)
        values = tuned_values(tuning)
        for variant, value in values.items():
            print(f"{variant}: {study.tuned[0]} {value}")
    runs = runs_of(study, folder, experiment.configure, values, experiment.quick)
    runs = with_saved_rows(study, runs, results)
    _check(runs)
    clock.runs = [*tuning, *runs]
    _run_all(experiment, runs, results, clock)
    print(f"Finished: {len(runs)} runs, {results}")
    return results


def _check(runs: Sequence[Run]) -> None:
    """Checks that runs can be started; ConfigError if not."""
    for run in runs:
        run.check()
        if not run.finished:
            command_of(run.variant)  # is there such a program?


def _run_all(experiment: Experiment, runs: Sequence[Run], table: pathlib.Path, clock: _Clock) -> None:
    for number, run in enumerate(runs, start=1):
        name = f"[{number}/{len(runs)}] {run.variant.name}, {run.label}"
        if run.finished:
            print(f"{name} · {_result(run)} (finished before)", flush=True)
            continue
        clock.finish(run, _run_one(experiment, run, name, clock))
        print(f"{name} · {_result(run)} · {clock.left()} left", flush=True)
        write_atomically(table, table_of(experiment.study, runs).encode())
    write_atomically(table, table_of(experiment.study, runs).encode())


def _run_one(experiment: Experiment, run: Run, name: str, clock: _Clock) -> float:
    """Runs what is left of a run; returns the share of it that was over before."""
    run.workdir.mkdir(parents=True, exist_ok=True)
    output = run.workdir / "output.txt"
    with open(output, "a") as file:
        before = output.stat().st_size  # of interrupted attempts
        command = [*command_of(run.variant), *experiment.arguments(run.flags)]
        process = children.start(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            share = _show_epochs(process, run, name, clock)
        except BaseException:
            children.ask_to_end(process)
            raise
    if process.returncode == 0:
        return share
    last = output.read_bytes()[before:].decode(errors="replace").strip().splitlines()[-1:]
    reason = last[0] if last else f"exit status {process.returncode}"
    # A training that diverged is a result. A killed process or a full disk is not.
    if process.returncode != 1 or not reason.startswith("Error: Training stopped"):
        raise OSError(f"{name} ended with status {process.returncode}: {reason}; see {output}")
    run.fail(reason.removeprefix("Error: "))
    return share


def _show_epochs(process: subprocess.Popen, run: Run, name: str, clock: _Clock) -> float:
    """Prints a line for each epoch until the process ends; returns the share that was over before."""
    epochs = len(run.history())
    before = _share(run, epochs)
    while process.poll() is None:
        time.sleep(POLL)
        history = run.history()
        if len(history) > epochs:
            epochs = len(history)
            print(
                f"{name} · epoch {epochs}/{len(run.phases)} · "
                f"test {float(history[-1]['test_bpd']):.4f} bpd · "
                f"{clock.left(run, before, _share(run, epochs))} left",
                flush=True,
            )
    return before


def _share(run: Run, epochs: int) -> float:
    """Returns the share of a run's cost that its first epochs have."""
    costs = run.epoch_costs
    return sum(costs[:epochs]) / sum(costs)


def command_of(variant: Variant) -> list[str]:
    """Returns how a variant's program is started, before its flags; ConfigError if there is none."""
    if variant.program == TRAIN:
        return children.command("train")
    name, *own = variant.program.split() or [""]
    program = pathlib.Path(lab.__file__).parent / name
    if not program.is_file():
        raise ConfigError(
            f"program of variant {variant.name} must be train, or a Python script relative to "
            f"the lab's folder. Received: program={variant.program!r}"
        )
    return [sys.executable, str(program), *own]


def _result(run: Run) -> str:
    if run.failure:
        return run.failure.split(":")[0]
    last = run.history()[-1]
    return f"test {bpd_text(float(last['test_bpd']), float(last['test_bpd_se']))} bpd"


class _Clock:
    """Estimates the remaining time from the predicted cost of what has run since the start.

    Args:
      runs: all runs of the study.
    """

    def __init__(self, runs: Sequence[Run]):
        self.runs = runs
        self.start = time.monotonic()
        self._shares: list[tuple[Run, float]] = []  # of runs that are over, what has run since the start

    def finish(self, run: Run, before: float) -> None:
        """Notes that a run is over, a share of which had been over `before` the start."""
        self._shares.append((run, 1.0 - before))

    def left(self, run: Run | None = None, before: float = 0.0, done: float = 0.0) -> str:
        """Returns the remaining time.

        Args:
          run: the current run, if one is under way.
          before: the share of it that had been over before it was started.
          done: the share of it that is over now.
        """
        shapes = known_shapes(self.runs)
        shares = [*self._shares, *([(run, done - before)] if run else [])]
        cost = sum(share * one.cost(shapes) for one, share in shares)
        ahead = sum(one.cost(shapes) for one in self.runs if not one.finished)
        ahead -= done * run.cost(shapes) if run and not run.finished else 0.0
        return duration(max(ahead, 0.0) * (time.monotonic() - self.start) / max(cost, 1e-9))
