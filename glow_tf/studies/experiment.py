"""Runs a study, every variant with every seed, and gathers one table.

    python train/experiment.py --study=configs/studies/table1_small.cfg --data_dir=PATH [--quick]

What a study file says is described in `glow_tf.study.Study`. Each run is train/main.py in a process of its
own, with its own workdir under the output folder. Called again, the same command skips what is finished and
resumes what was cut off; a results.csv and tuning.csv in the output folder stand for runs that were finished
elsewhere. Afterwards `python train/report.py --study=…` makes tables, figures and a page.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flags_of_run
from absl import app, flags
from processes import die_with_parent

from glow_tf.config import ConfigError, RunConfig
from glow_tf.progress import duration
from glow_tf.study import Run, Study, keep, read_study, runs_of, table_of, tuned_values, tuning_runs
from glow_tf.workdir import write_atomically

STUDY = flags.DEFINE_string("study", "", "The study file, such as configs/studies/table1_small.cfg.")
DATA_DIR = flags.DEFINE_string("data_dir", "", "Where TFDS has its data; see main.py.")
QUICK = flags.DEFINE_boolean("quick", False, "One seed, no tuning, with the study's quick flags: a trial.")
OUTPUT = flags.DEFINE_string("output", "", "Folder of the runs and tables; runs/studies/NAME by default.")

FOLDER = pathlib.Path(__file__).parent


def output_folder(study: Study) -> pathlib.Path:
    """Returns the folder in which a study's runs and tables lie."""
    return pathlib.Path(OUTPUT.value or f"runs/studies/{study.name}{'_quick' if QUICK.value else ''}")


def configuration_of(study: Study, run_flags: Mapping[str, str]) -> RunConfig:
    """Returns the configuration that main.py would read from a run's flags; raises ConfigError."""
    try:
        return flags_of_run.config_of(_arguments(study, run_flags))
    except (flags.Error, OSError) as error:
        raise ConfigError(f"study {study.name}: {error}. Received: {dict(run_flags)}") from None


def main(argv: list[str]) -> int:
    """Runs what is left of the study; returns the exit status."""
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        study = read_study(STUDY.value)
        _run(study)
    except (ConfigError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def _run(study: Study) -> None:
    folder = output_folder(study)

    def configure(run_flags: Mapping[str, str]) -> RunConfig:
        return configuration_of(study, run_flags)

    # All runs are made before the first one starts, so that a mistake in any costs no time.
    tables = {"tuning": folder / "tuning.csv", "results": folder / "results.csv"}
    tuning = [] if QUICK.value else keep(tuning_runs(study, folder, configure), tables["tuning"])
    planned = runs_of(study, folder, configure, {}, QUICK.value)
    clock = _Clock(sum(run.cost for run in (*tuning, *planned) if not run.finished))
    folder.mkdir(parents=True, exist_ok=True)
    values = {}
    if tuning:
        print(f"{study.title}: {len(tuning)} runs choose {study.tuned[0]}, {len(planned)} follow", flush=True)
        _run_all(study, tuning, tables["tuning"], clock)
        values = tuned_values(tuning)
        for variant, value in values.items():
            print(f"{variant}: {study.tuned[0]} {value}")
    runs = keep(runs_of(study, folder, configure, values, QUICK.value), tables["results"])
    clock.ahead = sum(run.cost for run in runs if not run.finished)
    _run_all(study, runs, tables["results"], clock)
    print(f"Finished: {len(runs)} runs, {tables['results']}")


def _run_all(study: Study, runs: Sequence[Run], table: pathlib.Path, clock: "_Clock") -> None:
    for run in runs:
        run.check()
    for number, run in enumerate(runs, start=1):
        name = f"[{number}/{len(runs)}] {run.variant.name}, {run.label}"
        if run.finished:
            print(f"{name} · {_result(run)} (finished before)", flush=True)
            continue
        _run_one(study, run, name, clock)
        clock.finish(run)
        print(f"{name} · {_result(run)} · {clock.left()} left", flush=True)
        write_atomically(table, table_of(study, runs).encode())
    write_atomically(table, table_of(study, runs).encode())


def _run_one(study: Study, run: Run, name: str, clock: "_Clock") -> None:
    run.workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(FOLDER / run.variant.program), *_arguments(study, run.flags)]
    with open(run.workdir / "output.txt", "a") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        )
        try:
            epochs = len(run.history())
            while process.poll() is None:
                time.sleep(0.2)
                history = run.history()
                if len(history) > epochs:
                    epochs = len(history)
                    done = sum(run.epoch_costs[:epochs]) / sum(run.epoch_costs)
                    bpd = history[-1]["test_bpd"]
                    print(
                        f"{name} · epoch {epochs}/{len(run.epoch_costs)} · test {float(bpd):.4f} bpd · "
                        f"{clock.left(done * run.cost)} left",
                        flush=True,
                    )
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if process.returncode == 0:
        return
    last = (run.workdir / "output.txt").read_text().strip().splitlines()[-1:]
    reason = last[0] if last else f"exit status {process.returncode}"
    # What training itself did is a result; a killed process or a full disk is not.
    if not reason.startswith("Error: Training stopped"):
        raise OSError(
            f"{name} ended with status {process.returncode}: {reason}; see {run.workdir}/output.txt"
        )
    run.fail(reason.removeprefix("Error: "))


def _arguments(study: Study, run_flags: Mapping[str, str]) -> list[str]:
    own = [f"--{name}={value}" for name, value in run_flags.items()]
    return [f"--flagfile={study.flagfile}", f"--data_dir={DATA_DIR.value}", *own]


def _result(run: Run) -> str:
    if run.failure:
        return run.failure.split(":")[0]
    last = run.history()[-1]
    return f"test {float(last['test_bpd']):.4f} ± {float(last['test_bpd_se']):.4f} bpd"


class _Clock:
    """Estimates the time that is left from the predicted cost of what was run since the start."""

    def __init__(self, cost: float):
        self.ahead = cost
        self.done = 0.0
        self.start = time.monotonic()

    def finish(self, run: Run) -> None:
        self.done += run.cost
        self.ahead -= run.cost

    def left(self, within: float = 0.0) -> str:
        """Returns the time left, with so much of the current run's cost done."""
        rate = (time.monotonic() - self.start) / max(self.done + within, 1e-9)
        return duration(max(self.ahead - within, 0.0) * rate)


if __name__ == "__main__":
    app.run(main)
