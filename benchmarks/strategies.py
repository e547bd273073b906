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
import io
import math
import os
import pathlib
import signal
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
from glow_tf.planner import Calibration, Device, Planner, steps_of_epoch
from glow_tf.planner import Cluster as Machine
from glow_tf.schedule import phases
from glow_tf.tables import table
from glow_tf.workdir import write_atomically

ROUNDS = flags.DEFINE_integer("rounds", 3, "Runs of every subject, taking turns.", lower_bound=1)
EPOCHS = flags.DEFINE_integer("epochs", 3, "Epochs of a run.", lower_bound=1)
MBIT = flags.DEFINE_list("mbit", [], "Also over links of so many Mbit/s; needs root.")
ONLY = flags.DEFINE_list("only", [], "Only subjects whose names contain one of these.")
OUTPUT = flags.DEFINE_string("output", "", "File for all epochs' seconds as CSV; empty writes none.")
flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)

FOLDER = pathlib.Path(__file__).parent
PORT = 4711  # in namespaces of one's own any is free
WITHIN_MACHINE = 1e6  # Mbit/s between two processes of one machine: no limit
ALONE = "one process on one core"


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
    alone, parts, workers = ("main.py",), ("launch.py", "--parts", "--"), ("launch.py", "--workers=2", "--")
    worker, placed = {"strategy": "multi_worker"}, {"strategy": "part_parallel"}
    mirrored = {"strategy": "mirrored", "virtual_devices": "2"}
    two, three = {**placed, "parts": "balanced:2"}, {**placed, "parts": "balanced:3", "part_delay": "1"}
    delayed, in_turn, together = {**two, "part_delay": "1"}, "part_parallel", "part_parallel, delayed"
    found = [
        Subject(ALONE, alone, {}, "one_device", 1),
        Subject("mirrored, 2 replicas", alone, mirrored, "mirrored"),
        Subject("2 workers", workers, worker, "mirrored"),
        Subject("2 part processes, no delay", parts, two, in_turn),
        Subject("2 part processes", parts, delayed, together),
        Subject("3 part processes", parts, three, together, 3),
    ]
    for mbit in links:
        found += [
            Subject(f"2 part processes, {mbit:g} Mbit/s", alone, delayed, together, mbit=mbit),
            Subject(f"2 workers, {mbit:g} Mbit/s", alone, worker, "mirrored", mbit=mbit),
        ]
    return found


def main(argv: list[str]) -> int:
    """Prints the table; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that links are taken down
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        chosen = _chosen()
        config = flags_of_run.run_config()
        if not config.data.train_examples:
            raise ConfigError(
                "train_examples must say how long an epoch is; 20 steps will do. Received: train_examples=0"
            )
        if len(os.sched_getaffinity(0)) < 2:
            raise ConfigError("strategies are compared on two cores at least. Received: one core")
        configurations = {s.name: flags_of_run.config_of(_arguments(config, s, "unused")) for s in chosen}
        shape = data.load(config.data).image_shape
        with tempfile.TemporaryDirectory() as folder:
            calibration = _calibrate(config, shape, pathlib.Path(folder) / "calibration.json")
            predicted = {s.name: _predicted(configurations[s.name], shape, s, calibration) for s in chosen}
            seconds: dict[str, list[float]] = {s.name: [] for s in chosen}
            for number in range(ROUNDS.value):
                for subject in chosen:
                    own = _epochs(config, subject, pathlib.Path(folder) / f"{number} {subject.name}")
                    seconds[subject.name] += own
                    print(f"round {number + 1}: {subject.name}: {own} s an epoch", flush=True)
                    if OUTPUT.value:
                        write_atomically(pathlib.Path(OUTPUT.value), _csv(seconds, predicted).encode())
    except (ConfigError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    print(calibration.machine)
    print(_table(seconds, predicted))
    return 0


def _chosen() -> list[Subject]:
    links = []
    for text in MBIT.value:
        try:
            links.append(float(text))
        except ValueError:
            links.append(math.nan)
        if not 0 < links[-1] < math.inf:
            raise ConfigError(f"mbit must be positive numbers. Received: {text!r}")
        with slow_link(links[-1]):
            pass  # can it be made?
    every = subjects(links)
    chosen = [s for s in every if not ONLY.value or any(part in s.name for part in ONLY.value)]
    if not chosen:
        raise ConfigError(
            f"only must leave one of {', '.join(s.name for s in every)}. Received: {ONLY.value}"
        )
    return chosen


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


def _calibrate(config: RunConfig, shape: Sequence[int], file: pathlib.Path) -> Calibration:
    own = dataclasses.replace(config, workdir="unused").to_settings()
    command = [sys.executable, FOLDER / "plan.py", "--calibrate", f"--calibration={file}"]
    command += [f"--image_shape={','.join(map(str, shape))}"]
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
        processes, errors = [], []
        for index, namespace in enumerate(namespaces):
            errors.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            process = subprocess.Popen(
                [*in_namespace(namespace), *command],
                env={**os.environ, "TF_CONFIG": Cluster(job, addresses, index).tf_config},
                preexec_fn=lambda index=index: _on_cores(index),
                stdout=subprocess.DEVNULL,
                stderr=errors[-1],
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        processes[0].wait()
        # The second ends a little later; if it failed, it is the one to say why.
        for process, said in reversed(list(zip(processes, errors, strict=True))):
            if process.poll():
                said.seek(0)
                _check(subprocess.CompletedProcess(command, process.returncode, "", said.read()))


def _check(finished: subprocess.CompletedProcess) -> None:
    if finished.returncode:
        last = finished.stderr.strip().splitlines()[-1:]
        raise OSError(f"a run ended with status {finished.returncode}: {last[0] if last else ''}")


def _predicted(config: RunConfig, shape: Sequence[int], subject: Subject, calibration: Calibration) -> float:
    """Returns the seconds of an epoch."""
    share = min(len(os.sched_getaffinity(0)) / subject.devices, 1.0)  # of a core, for each process
    device = Device("core", share, 0.0, 0.0)
    link = (subject.mbit or WITHIN_MACHINE) * 1e6 / 8
    machine = Machine("this machine", (device,) * subject.devices, link, 0.0)
    train = config.train
    planner = Planner(machine, train.batch_size, config.model.width, calibration, train.reversible)
    plans = dataclasses.replace(config.model, image_shape=tuple(shape)).plans()
    (phase,) = set(phases("simultaneous", len(plans), 1))
    batches = data.steps_per_epoch(config.data.train_examples, train.batch_size)
    steps = steps_of_epoch(batches, plans, phase, subject.planned, train.part_delay)
    return steps * planner.step(plans, phase, subject.planned).seconds


def _csv(seconds: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "predicted", "seconds"])
    writer.writerows([name, f"{predicted[name]:.4f}", s] for name in seconds for s in seconds[name])
    return text.getvalue()


def _table(seconds: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> str:
    return table(
        ["", "seconds an epoch: median, range", "against one core", "predicted, s", "off by"],
        list(_rows(seconds, predicted)),
    )


def _rows(seconds: Mapping[str, Sequence[float]], predicted: Mapping[str, float]) -> Iterator[list[str]]:
    baseline = statistics.median(seconds[ALONE]) if ALONE in seconds else math.nan
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
