"""Compares every strategy, schedule and partition on a cluster, and recommends one. Pure Python."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

from glow_tf.config import RunConfig
from glow_tf.layout.partition import PartLayout, part_layouts
from glow_tf.layout.schedule import phases
from glow_tf.run.tables import table
from lab.planning.cluster_file import Cluster
from lab.planning.planner import DELAYED, PLANNED_STRATEGIES, Forecast, Planner, steps_of_epoch
from lab.planning.rates import Calibration

EXAMPLES = 50_000  # of CIFAR-10; assumed if train_examples does not say
COMPARED = ("end_to_end", "alternating", "simultaneous")  # schedules
HEADER = (
    "strategy",
    "schedule",
    "parts",
    "flow steps",
    "hours",
    "step, ms",
    "limited by",
    "GB per device",
    "MB sent per step",
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to run the whole schedule.

    Attributes:
      strategy: one of `PLANNED_STRATEGIES`.
      schedule: one of `COMPARED`.
      parts: as the flag `--parts` says it.
      flow_steps: of each part.
      hours: of the whole schedule.
      steps: the forecast of a step of every epoch.
    """

    strategy: str
    schedule: str
    parts: str
    flow_steps: tuple[int, ...]
    hours: float
    steps: tuple[Forecast, ...]

    @property
    def main(self) -> Forecast:
        """The step on which most of the time is spent."""
        counts = collections.Counter(self.steps)
        return max(counts, key=lambda step: step.seconds * counts[step])

    @property
    def memory(self) -> float:
        """Bytes of the fullest device."""
        return max(step.memory for step in self.steps)

    @property
    def sent(self) -> float:
        """Bytes sent per step, mean over the epochs."""
        return sum(step.sent for step in self.steps) / len(self.steps)

    def fits(self, cluster: Cluster) -> bool:
        """Whether each device that it uses has the memory for what it would hold."""
        room = [device.memory for device in cluster.devices]
        return all(held <= room[k] for step in dict.fromkeys(self.steps) for k, held in enumerate(step.held))


def candidates(
    config: RunConfig, cluster: Cluster, calibration: Calibration | None = None
) -> list[Candidate]:
    """Returns the forecasts of all ways to run a schedule, the fastest first.

    Args:
      config: model, batch size, epochs and parts; other cuts are tried as well.
      cluster: the devices and links.
      calibration: see `Planner`.

    Raises:
      ConfigError: the calibration is missing, or is of another model.
    """
    train = config.train
    if calibration is not None:
        calibration.check(config.model)
    planner = Planner(cluster, train.batch_size, calibration, train.reversible)
    found = [
        candidate
        for parts, layouts in _partitions(config, len(cluster.devices)).items()
        for schedule, strategy in itertools.product(COMPARED, PLANNED_STRATEGIES)
        if _worth_comparing(config, schedule, strategy, parts, len(layouts))
        and not (strategy == "mirrored" and train.batch_size % len(cluster.devices))  # a run refuses it
        and (candidate := _candidate(config, planner, schedule, strategy, parts, layouts)) is not None
    ]
    return sorted(found, key=lambda candidate: candidate.hours)


def batches_per_epoch(config: RunConfig) -> int:
    """Returns the batches per epoch of a run, at least 1."""
    return max((config.data.train_examples or EXAMPLES) // config.train.batch_size, 1)


def forecast_table(found: Sequence[Candidate], cluster: Cluster) -> str:
    """Returns candidates as a table; those that need too much memory are marked."""
    rows = [
        [
            candidate.strategy,
            candidate.schedule,
            candidate.parts,
            ",".join(map(str, candidate.flow_steps)),
            _digits(candidate.hours),
            _digits(1e3 * candidate.main.seconds, 0),
            candidate.main.limit,
            f"{_digits(candidate.memory / 1e9)}{'' if candidate.fits(cluster) else ' (too much)'}",
            _digits(candidate.sent / 1e6),
        ]
        for candidate in found
    ]
    return table(HEADER, rows)


def _digits(number: float, decimals: int = 2) -> str:
    """Returns a number with that many decimals, or as many as show two digits of it."""
    if 0 < number < math.inf:
        decimals = max(decimals, 1 - math.floor(math.log10(number)))
    return f"{number:.{decimals}f}"


def recommendations(found: Sequence[Candidate], cluster: Cluster) -> list[str]:
    """Returns one line per schedule: the flags of its fastest candidate that fits into memory.

    Args:
      found: candidates, the fastest first.
      cluster: the devices.
    """
    lines = []
    for schedule in COMPARED:
        tried = [c for c in found if c.schedule == schedule]
        own = [c for c in tried if c.fits(cluster)]
        if not tried:
            lines.append(f"{schedule}: needs several parts; --parts=across_block:2 makes two")
        elif own:
            delayed = own[0].strategy == DELAYED
            strategy = "part_parallel --part_delay=1" if delayed else own[0].strategy
            flags = f"--schedule={schedule} --strategy={strategy} --parts={own[0].parts}"
            lines.append(f"{schedule}: {flags}")
        else:
            lines.append(f"{schedule}: nothing fits into memory; try --reversible, or more devices")
    return lines


def _partitions(config: RunConfig, devices: int) -> dict[str, tuple[PartLayout, ...]]:
    steps = config.model.num_blocks * config.model.flow_steps
    names = ["1", config.model.parts]
    names += [f"balanced:{count}" for count in (2, 4, 8, 16) if count <= min(devices, steps)]
    return {name: part_layouts(dataclasses.replace(config.model, parts=name)) for name in names}


def _worth_comparing(config: RunConfig, schedule: str, strategy: str, parts: str, num_parts: int) -> bool:
    """Whether a combination exists and differs from all others.

    On one device and under `mirrored`, only the alternating schedule depends on the cuts.
    """
    own_devices = strategy in ("part_parallel", DELAYED)
    if strategy == DELAYED and schedule != "simultaneous":
        return False
    if schedule == "end_to_end":
        return parts == "1" or own_devices
    if num_parts == 1:
        return False
    return schedule != "simultaneous" or own_devices or parts == config.model.parts


def _candidate(
    config: RunConfig,
    planner: Planner,
    schedule: str,
    strategy: str,
    parts: str,
    layouts: tuple[PartLayout, ...],
) -> Candidate | None:
    train = config.train
    epochs = phases(schedule, len(layouts), train.part_epochs, train.finetune_epochs, train.period)
    forecasts = {phase: planner.step(layouts, phase, strategy) for phase in set(epochs)}
    if None in forecasts.values():
        return None
    steps = tuple(forecasts[phase] for phase in epochs)
    counts = [steps_of_epoch(batches_per_epoch(config), layouts, phase, strategy) for phase in epochs]
    hours = math.fsum(n * step.seconds for n, step in zip(counts, steps, strict=True)) / 3600
    flow_steps = tuple(layout.flow_steps for layout in layouts)
    return Candidate(strategy, schedule, parts, flow_steps, hours, steps)
