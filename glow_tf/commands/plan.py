"""Predicts what every strategy, schedule and partition would take on a cluster, and recommends one.

    python train/plan.py --flagfile=configs/paper_5.cfg --cluster=configs/clusters/eight_v100.cfg

Flags are main.py's, and: what devices and links there are says a file (`glow_tf.planner.read_cluster_file`).
Devices given by their speed relative to this machine need its rates, measured first, on one core, by

    python train/plan.py --flagfile=… --calibrate --calibration=machine.json
"""

import dataclasses
import itertools
import math
import os
import pathlib
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import flags_of_run
from absl import app, flags

from glow_tf.config import ConfigError, RunConfig
from glow_tf.partition import PartPlan
from glow_tf.planner import STRATEGIES, Calibration, Planner, Prediction, read_cluster_file, steps_of_epoch
from glow_tf.schedule import phases
from glow_tf.tables import table
from glow_tf.workdir import write_atomically

CLUSTER = flags.DEFINE_string("cluster", "", "File that describes devices and links.")
CALIBRATION = flags.DEFINE_string("calibration", "", "Rates of this machine, as --calibrate writes them.")
CALIBRATE = flags.DEFINE_boolean(
    "calibrate", False, "Measure this machine's rates, on one core, and write them."
)
IMAGE_SHAPE = flags.DEFINE_list("image_shape", ["32", "32", "3"], "Height, width and channels.")
EXAMPLES = 50_000  # where train_examples does not say: CIFAR-10's
ROUNDS, RUNS = 7, 2
COMPARED = ("end_to_end", "alternating", "simultaneous")

flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to run the whole schedule, on the first `devices` of the cluster."""

    strategy: str
    schedule: str
    parts: str
    devices: int
    hours: float
    steps: tuple[Prediction, ...]

    @property
    def main(self) -> Prediction:
        """The step on which most of the time is spent."""
        return max(self.steps, key=lambda step: step.seconds * self.steps.count(step))

    @property
    def memory(self) -> float:
        """Bytes of the fullest device."""
        return max(step.memory for step in self.steps)

    @property
    def sent(self) -> float:
        """Bytes of the mean step."""
        return sum(step.sent for step in self.steps) / len(self.steps)


def main(argv: list[str]) -> int:
    """Calibrates, or plans; returns the exit status."""
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        config = flags_of_run.run_config()
        shape = tuple(int(side) for side in IMAGE_SHAPE.value)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, image_shape=shape))
        if CALIBRATE.value:
            _calibrate(config)
        else:
            _plan(config)
    except (ConfigError, OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


def _calibrate(config: RunConfig) -> None:
    if not CALIBRATION.value:
        raise ConfigError("--calibrate needs --calibration, a file to write. Received: --calibration=''")
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import benchmark_subjects

    from glow_tf import distribution

    # What recomputation costs follows from the rates.
    train = dataclasses.replace(config.train, reversible=False)
    config = dataclasses.replace(config, strategy="one_device", virtual_devices=0, train=train)
    batch_size = config.train.batch_size
    images = np.random.default_rng(0).integers(0, 256, (4 * batch_size, *config.model.image_shape), np.uint8)
    subjects = benchmark_subjects.step_subjects(config, images, config.model.precision)
    for subject in subjects:
        subject.measure(1)
    times = [[subject.measure(RUNS) / batch_size for subject in subjects] for _ in range(ROUNDS)]
    middle = dict(zip(subjects, map(statistics.median, zip(*times, strict=True)), strict=True))
    rates = ({}, {})  # forward, forward and backward
    for subject, seconds in middle.items():
        if subject.block:
            rates["backward" in subject.name][subject.block] = seconds
    (step,) = [seconds for subject, seconds in middle.items() if not subject.block]
    plans = config.model.plans()
    flow = sum(rates[1][e.block] for plan in plans for e in plan.elements if e.kind == "flow_step")
    found = Calibration(distribution.device_name(), *rates, max(step - flow, 0.0))
    write_atomically(pathlib.Path(CALIBRATION.value), found.to_json().encode())
    print(found.to_json(), end="")


def _plan(config: RunConfig) -> None:
    cluster = read_cluster_file(CLUSTER.value)
    calibration = (
        Calibration.from_json(pathlib.Path(CALIBRATION.value).read_text()) if CALIBRATION.value else None
    )
    train = config.train
    planner = Planner(cluster, train.batch_size, config.model.width, calibration, train.reversible)
    steps = max((config.data.train_examples or EXAMPLES) // train.batch_size, 1)
    partitions = _partitions(config, len(cluster.devices))
    rows = [row for parts, plans in partitions.items() for row in _rows(config, planner, parts, plans, steps)]
    fits = [r for r in rows if r.memory <= min(d.memory for d in cluster.devices[: r.devices])]
    rows.sort(key=lambda row: row.hours)
    print(
        f"{cluster.title}: {len(cluster.devices)} devices, {8 * cluster.rate / 1e6:.0f} Mbit/s and "
        f"{1e3 * cluster.latency:g} ms between any two. Batch {train.batch_size}, {steps} steps an epoch, "
        f"{train.part_epochs} + {train.finetune_epochs} epochs."
    )
    header = [
        "strategy",
        "schedule",
        "parts",
        "flow steps",
        "hours",
        "step, ms",
        "limited by",
        "GB a device",
        "MB sent a step",
    ]
    print(
        table(
            header,
            [
                [
                    row.strategy,
                    row.schedule,
                    row.parts,
                    ",".join(str(plan.flow_steps) for plan in partitions[row.parts]),
                    f"{row.hours:.2f}",
                    f"{1e3 * row.main.seconds:.0f}",
                    row.main.limit,
                    f"{row.memory / 1e9:.2f}{'' if row in fits else ' (too much)'}",
                    f"{row.sent / 1e6:.2f}",
                ]
                for row in rows
            ],
        )
    )
    print("A sequential schedule takes what the alternating one does; mirrored stands for multi_worker, too.")
    for schedule in COMPARED:
        own = [row for row in rows if row.schedule == schedule and row in fits]
        if own:
            best = own[0]
            strategy = best.strategy.replace(", delayed", " --part_delay=1")
            print(f"{schedule}: --strategy={strategy} --parts={best.parts}")
        else:
            print(f"{schedule}: nothing fits into memory; --reversible, or more devices")


def _partitions(config: RunConfig, devices: int) -> dict[str, tuple[PartPlan, ...]]:
    steps = config.model.num_blocks * config.model.flow_steps
    names = ["1", config.model.parts]
    names += [f"balanced:{count}" for count in (2, 4, 8, 16) if count <= min(devices, steps)]
    return {name: dataclasses.replace(config.model, parts=name).plans() for name in names}


def _rows(
    config: RunConfig, planner: Planner, parts: str, plans: tuple[PartPlan, ...], steps: int
) -> list[Row]:
    train, rows = config.train, []
    for schedule, strategy in itertools.product(COMPARED, STRATEGIES):
        # On one device or many replicas only the alternating schedule depends on the cuts.
        placed = strategy.startswith("part_parallel")
        if parts != "1" and schedule == "end_to_end" and not placed:
            continue
        if schedule != "simultaneous" and strategy.endswith("delayed"):
            continue
        if len(plans) == 1 and schedule != "end_to_end":
            continue
        if schedule == "simultaneous" and not placed and parts != config.model.parts:
            continue
        epochs = phases(schedule, len(plans), train.part_epochs, train.finetune_epochs, train.period)
        predicted = {phase: planner.step(plans, phase, strategy) for phase in set(epochs)}
        if None not in predicted.values():
            own = tuple(predicted[phase] for phase in epochs)
            counts = [steps_of_epoch(steps, plans, phase, strategy) for phase in epochs]
            hours = math.fsum(n * step.seconds for n, step in zip(counts, own, strict=True)) / 3600
            devices = {"one_device": 1, "mirrored": len(planner.cluster.devices)}.get(strategy, len(plans))
            rows.append(Row(strategy, schedule, parts, devices, hours, own))
    return rows


if __name__ == "__main__":
    app.run(main)
