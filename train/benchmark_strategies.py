r"""Times strategies on this machine's cores, in turn, beside what the planner predicts of them.

    python train/benchmark_strategies.py --flagfile=configs/cifar10_small_end_to_end.cfg --data_dir=PATH \
        --flow_steps=8 --width=128 --train_examples=640 --test_examples=64 [--rounds=3] [--mbit=20,10]

The flags are those of main.py; schedule, strategy and parts are what is compared, all training all parts
simultaneously. Each run trains `--epochs` epochs in processes of its own, with a core each; the planner
knows the machine by a calibration on one core, made first. `--mbit` adds runs of two processes over links
that are so slow, in network namespaces, which needs root. Two cores at least.
"""

import contextlib
import csv
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flags_of_run
from absl import app, flags
from processes import die_with_parent
from slow_link import ADDRESSES, in_namespace, slow_link

from glow_tf import data
from glow_tf.cluster import JOBS, Cluster
from glow_tf.config import ConfigError, RunConfig
from glow_tf.planner import Calibration, Device, Planner
from glow_tf.planner import Cluster as Machine
from glow_tf.schedule import phases
from glow_tf.tables import table

ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of every subject, taking turns.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of a run.", lower_bound=1)
MBIT = flags.DEFINE_list("mbit", [], "Also over links of so many Mbit/s; needs root.")
ONLY = flags.DEFINE_list("only", [], "Only subjects whose names contain one of these.")
OUTPUT = flags.DEFINE_string("output", "", "File for all epochs' seconds as CSV; empty writes none.")
flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)

FOLDER = pathlib.Path(__file__).parent
PORT = 4711  # in namespaces of one's own any is free
AT_ONCE = 1e6  # Mbit/s of what two processes of one machine have between them


@dataclasses.dataclass(frozen=True)
class Subject:
    """One way to train.

    Attributes:
      name: what the table calls it.
      program: in train/, with what precedes main.py's flags.
      changes: to the flags.
      planned: the planner's name of the strategy.
      devices: how many cores it has.
      mbit: of the link between its processes; 0 is this machine's own.
    """

    name: str
    program: tuple[str, ...]
    changes: Mapping[str, str]
    planned: str
    devices: int = 2
    mbit: float = 0.0


def subjects(links: Sequence[float]) -> list[Subject]:
    """Returns what is compared, the baseline first."""
    main, parts, workers = ("main.py",), ("launch.py", "--parts", "--"), ("launch.py", "--workers=2", "--")
    worker, placed = {"strategy": "multi_worker"}, {"strategy": "part_parallel"}
    mirrored = {"strategy": "mirrored", "virtual_devices": "2"}
    two, three = {**placed, "parts": "balanced:2"}, {**placed, "parts": "balanced:3", "part_delay": "1"}
    delayed, in_turn, at_once = {**two, "part_delay": "1"}, "part_parallel", "part_parallel, delayed"
    found = [
        Subject("one process on one core", main, {}, "one_device", 1),
        Subject("mirrored, 2 replicas", main, mirrored, "mirrored"),
        Subject("2 workers", workers, worker, "mirrored"),
        Subject("2 part processes, no delay", parts, two, in_turn),
        Subject("2 part processes", parts, delayed, at_once),
        Subject("3 part processes", parts, three, at_once, 3),
    ]
    for mbit in links:
        found += [
            Subject(f"2 part processes, {mbit:g} Mbit/s", main, delayed, at_once, mbit=mbit),
            Subject(f"2 workers, {mbit:g} Mbit/s", main, worker, "mirrored", mbit=mbit),
        ]
    return found


def main(argv: list[str]) -> int:
    """Prints the table; returns the exit status."""
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        links = [float(mbit) for mbit in MBIT.value]
        chosen = subjects(links)
        chosen = [s for s in chosen if not ONLY.value or any(part in s.name for part in ONLY.value)]
        if not chosen:
            raise ConfigError(
                f"only must leave one of {', '.join(s.name for s in subjects(links))}. Received: {ONLY.value}"
            )
        config = flags_of_run.run_config()
        if not config.data.train_examples:
            raise ConfigError(
                "train_examples must say how long an epoch is; 20 steps will do. Received: train_examples=0"
            )
        configurations = {s.name: flags_of_run.config_of(_arguments(config, s, "unused")) for s in chosen}
        with tempfile.TemporaryDirectory() as folder:
            calibration = _calibrate(config, pathlib.Path(folder) / "calibration.json")
            seconds: dict[str, list[float]] = {s.name: [] for s in chosen}
            for number in range(ROUNDS.value):
                for subject in chosen:
                    own = _epochs(config, subject, pathlib.Path(folder) / f"{number} {subject.name}")
                    seconds[subject.name] += own
                    print(f"round {number + 1}: {subject.name}: {own} s an epoch", flush=True)
    except (ConfigError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    predicted = {s.name: _predicted(configurations[s.name], s, calibration) for s in chosen}
    print(calibration.machine)
    print(_table(seconds, predicted))
    if OUTPUT.value:
        with open(OUTPUT.value, "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["subject", "predicted", "seconds"])
            writer.writerows([name, f"{predicted[name]:.4f}", s] for name in seconds for s in seconds[name])
    return 0


def _arguments(config: RunConfig, subject: Subject, workdir: str) -> list[str]:
    settings = config.to_settings() | {
        "workdir": workdir,
        "schedule": "simultaneous",
        "part_epochs": EPOCHS.value,
        "finetune_epochs": 0,
        "parts": "1",
        "strategy": "one_device",
        "virtual_devices": 0,
        "tensorboard": False,
        "sample_every": 0,
        "export": False,
        **subject.changes,
    }
    return [f"--{name}={value}" for name, value in settings.items()]


def _on_cores(*cores: int) -> None:
    """In a child: the cores that it may run on, by their place among this process's."""
    die_with_parent()
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {mine[core % len(mine)] for core in cores})


def _calibrate(config: RunConfig, file: pathlib.Path) -> Calibration:
    own = dataclasses.replace(config, workdir="unused").to_settings()
    command = [sys.executable, FOLDER / "plan.py", "--calibrate", f"--calibration={file}"]
    command += [f"--{name}={value}" for name, value in own.items()]
    _check(subprocess.run(command, preexec_fn=lambda: _on_cores(0), capture_output=True, text=True))
    return Calibration.from_json(file.read_text())


def _epochs(config: RunConfig, subject: Subject, workdir: pathlib.Path) -> list[float]:
    """Runs a subject and returns the training seconds of its epochs."""
    command = [str(FOLDER / subject.program[0]), *subject.program[1:]]
    command = [sys.executable, *command, *_arguments(config, subject, str(workdir))]
    if subject.mbit:
        _run_over_link(command, subject)
    else:
        cores = range(subject.devices)
        pinned = subprocess.run(command, preexec_fn=lambda: _on_cores(*cores), capture_output=True, text=True)
        _check(pinned)
    with open(workdir / "history.csv", newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def _run_over_link(command: Sequence[str], subject: Subject) -> None:
    job = JOBS[subject.changes["strategy"]]
    addresses = tuple(f"{address}:{PORT}" for address in ADDRESSES)
    with slow_link(subject.mbit) as namespaces, contextlib.ExitStack() as stack:
        processes = []
        for index, namespace in enumerate(namespaces):
            process = subprocess.Popen(
                [*in_namespace(namespace), *command],
                env={**os.environ, "TF_CONFIG": Cluster(job, addresses, index).tf_config},
                preexec_fn=lambda index=index: _on_cores(index),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.kill)
            processes.append(process)
        _, errors = processes[0].communicate()
        _check(subprocess.CompletedProcess(command, processes[0].returncode, "", errors))


def _check(finished: subprocess.CompletedProcess) -> None:
    if finished.returncode:
        last = finished.stderr.strip().splitlines()[-1:]
        raise OSError(f"a run ended with status {finished.returncode}: {last[0] if last else ''}")


def _predicted(config: RunConfig, subject: Subject, calibration: Calibration) -> float:
    """Returns the seconds of an epoch."""
    device = Device("core", 1.0, 0.0, 0.0)
    link = (subject.mbit or AT_ONCE) * 1e6 / 8
    machine = Machine("this machine", (device,) * subject.devices, link, 0.0)
    planner = Planner(machine, config.train.batch_size, config.model.width, calibration)
    plans = config.model.plans()
    (phase,) = set(phases("simultaneous", len(plans), 1))
    steps = data.steps_per_epoch(config.data.train_examples, config.train.batch_size)
    steps += (len(plans) - 1) * config.train.part_delay  # until the last batch has come to the last part
    return steps * planner.step(plans, phase, subject.planned).seconds


def _table(seconds: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> str:
    return table(
        ["", "seconds an epoch: median, range", "speed-up", "predicted, s", "off by"],
        list(_rows(seconds, predicted)),
    )


def _rows(seconds: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> Iterator[list[str]]:
    baseline = statistics.median(next(iter(seconds.values())))
    for name, own in seconds.items():
        middle = statistics.median(own)
        yield [
            name,
            f"{middle:.2f}, {min(own):.2f}–{max(own):.2f}",
            f"{baseline / middle:.2f}",
            f"{predicted[name]:.2f}",
            f"{predicted[name] / middle - 1:+.0%}",
        ]


if __name__ == "__main__":
    app.run(main)
