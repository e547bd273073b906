"""What a run would take on a cluster, predicted from arithmetic and a few measured rates. Pure Python."""

from __future__ import annotations

import configparser
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence

from glow_tf.config import ConfigError
from glow_tf.partition import FLOAT_BYTES, Element, PartPlan, traffic
from glow_tf.schedule import Phase

SEGMENT_BYTES = 1460  # of TCP
STATES = 4  # weight, gradient and two moments of every parameter
# Kept of a flow step for its backward pass: two hidden maps, and so many maps as wide as the flow itself.
FLOW_MAPS = 6
STRATEGIES = ("one_device", "mirrored", "part_parallel", "part_parallel, delayed")
DEVICE = "device "


@dataclasses.dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
      name: what it is.
      speed: of its arithmetic, relative to the device that was calibrated.
      flops: sustained floating-point operations a second, where it was not; else 0.
      memory: bytes.
    """

    name: str
    speed: float
    flops: float
    memory: float


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices, and the link that any two of them have.

    Attributes:
      title: what it is.
      devices: all of them, in the order in which parts are placed.
      bandwidth: bytes a second, one way.
      latency: seconds, one way.
      loss: share of packets lost.
    """

    title: str
    devices: tuple[Device, ...]
    bandwidth: float
    latency: float
    loss: float = 0.0

    @property
    def rate(self) -> float:
        """Bytes a second that one TCP connection carries: loss bounds it, the more the longer the way.

        Reference: Mathis et al. 1997, "The macroscopic behavior of the TCP congestion avoidance algorithm".
        """
        if not self.loss:
            return self.bandwidth
        return min(self.bandwidth, 1.22 * SEGMENT_BYTES / (2 * self.latency * math.sqrt(self.loss)))

    def transfer(self, size: float) -> float:
        """Seconds until so many bytes have arrived."""
        return self.latency + size / self.rate if size else 0.0


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Measured on one device: seconds an image.

    Attributes:
      machine: which.
      forward, both: of one flow step of each block (from 1), forward alone, and forward and backward.
      rest: of a training step and all that is not flow steps, seconds an image.
    """

    machine: str
    forward: Mapping[int, float]
    both: Mapping[int, float]
    rest: float

    def to_json(self) -> str:
        """Returns it as text."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Reads what `to_json` wrote."""
        found = json.loads(text)
        for name in ("forward", "both"):
            found[name] = {int(block): seconds for block, seconds in found[name].items()}
        return cls(**found)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a training step of one phase takes.

    Attributes:
      seconds: of a step.
      memory: bytes that the fullest device holds.
      sent: bytes that all devices send together.
      limit: what most of the time is spent on.
    """

    seconds: float
    memory: float
    sent: float
    limit: str


class Planner:
    """Predicts steps of a model on a cluster.

    Args:
      cluster: where.
      batch_size: over all devices.
      width: of the coupling networks, for the memory.
      calibration: of the device of speed 1; not needed where all devices have `flops`.
      reversible: whether activations are recomputed.

    Raises:
      ConfigError: a device has neither.
    """

    def __init__(
        self,
        cluster: Cluster,
        batch_size: int,
        width: int,
        calibration: Calibration | None = None,
        reversible: bool = False,
    ):
        self.cluster = cluster
        self.batch_size = batch_size
        self.width = width
        self.calibration = calibration
        self.reversible = reversible
        uncalibrated = [device.name for device in cluster.devices if not device.flops]
        if uncalibrated and calibration is None:
            raise ConfigError(
                "devices given by their speed need a calibration (--calibrate measures one). "
                f"Received: {', '.join(sorted(set(uncalibrated)))}"
            )

    def step(self, plans: Sequence[PartPlan], phase: Phase, strategy: str) -> Prediction | None:
        """Predicts a training step of a phase; None where the strategy has too few devices for it.

        Args:
          plans: the parts.
          phase: which of them are trained, and how.
          strategy: one of `STRATEGIES`. `mirrored` stands for `multi_worker` as well: what differs is the
            link.

        Raises:
          ValueError: it is another strategy.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {strategy!r}")
        if strategy == "one_device":
            return self._one(plans, phase, self.cluster.devices[0], self.batch_size)
        if strategy == "mirrored":
            return self._mirrored(plans, phase)
        if len(plans) < 2 or len(plans) > len(self.cluster.devices):
            return None
        if strategy == "part_parallel":
            return self._placed(plans, phase)
        return self._delayed(plans, phase) if phase.kind == "simultaneous" else self._placed(plans, phase)

    def _one(self, plans: Sequence[PartPlan], phase: Phase, device: Device, images: float) -> Prediction:
        seconds = images * self._rest(device)
        for k, plan in enumerate(plans[: phase.last + 1]):
            seconds += images * self._compute(plan, device, trained=k in phase.active)
        kept = sum(self._activations(plans[k]) for k in phase.active)
        if self.reversible:
            kept = max(self._activations(plans[k]) / plans[k].flow_steps for k in phase.active)
        return Prediction(seconds, STATES * _weights(plans) + images * kept, 0.0, device.name)

    def _mirrored(self, plans: Sequence[PartPlan], phase: Phase) -> Prediction:
        devices = self.cluster.devices
        share = self.batch_size / len(devices)
        slowest = max((self._one(plans, phase, d, share) for d in devices), key=lambda p: p.seconds)
        gradients = _weights([plans[k] for k in phase.active])
        rounds = 2 * (len(devices) - 1)  # of a ring, in which each sends 1/N of the gradients
        reduce = rounds * self.cluster.transfer(gradients / len(devices))
        limit = slowest.limit if slowest.seconds >= reduce else "all-reduce"
        return Prediction(slowest.seconds + reduce, slowest.memory, rounds * gradients, limit)

    def _placed(self, plans: Sequence[PartPlan], phase: Phase) -> Prediction:
        """A batch goes through all parts before the next one begins."""
        start = end = waiting = 0.0
        for k, plan in enumerate(plans[: phase.last + 1]):
            device = self.cluster.devices[k]
            forward = self._compute(plan, device, trained=False) * self.batch_size
            own = self._compute(plan, device, trained=k in phase.active) * self.batch_size
            rest = self._rest(device) * self.batch_size / len(plans)
            sent = self.cluster.transfer(plan.output_bytes * self.batch_size) if k < phase.last else 0.0
            waiting += sent
            if phase.end_to_end:  # forward through all, then back through all
                end += own + rest + 2 * sent
            else:
                end = max(end, start + own + rest)
            start += forward + sent
        moved = sum(traffic(plans, phase.last, phase.end_to_end)) * self.batch_size
        limit = "link" if (2 if phase.end_to_end else 1) * waiting > end / 2 else "parts in turn"
        return Prediction(end, self._fullest(plans, phase), moved, limit)

    def _delayed(self, plans: Sequence[PartPlan], phase: Phase) -> Prediction:
        """All parts work at the same time; a step is over when all have, and their outputs have arrived."""
        spent = {
            f"part {k + 1}": self.batch_size
            * (
                self._compute(plan, self.cluster.devices[k], True)
                + self._rest(self.cluster.devices[k]) / len(plans)
            )
            for k, plan in enumerate(plans)
        }
        spent["link"] = max(
            self.batch_size * self._compute(plan, self.cluster.devices[k], False)
            + self.cluster.transfer(plan.output_bytes * self.batch_size)
            for k, plan in enumerate(plans[:-1])
        )
        limit = max(spent, key=spent.get)
        moved = traffic(plans, phase.last)[0] * self.batch_size
        return Prediction(spent[limit], self._fullest(plans, phase), moved, limit)

    def _fullest(self, plans: Sequence[PartPlan], phase: Phase) -> float:
        def held(k: int) -> float:
            kept = self._activations(plans[k]) if k in phase.active else 0.0
            if self.reversible:
                kept /= plans[k].flow_steps
            return STATES * _weights([plans[k]]) + self.batch_size * kept

        return max(held(k) for k in range(len(plans)))

    def _compute(self, plan: PartPlan, device: Device, trained: bool) -> float:
        """Seconds an image."""
        if device.flops:
            forward = 2 * plan.forward_macs / device.flops
            both = 3 * forward
        else:
            blocks = [e.block for e in plan.elements if e.kind == "flow_step"]
            if missing := set(blocks) - set(self.calibration.both):
                raise ConfigError(
                    "the calibration must be of a model with as many blocks. "
                    f"Received: one of {sorted(self.calibration.both)}, which lacks {sorted(missing)}"
                )
            forward = sum(self.calibration.forward[block] for block in blocks) / device.speed
            both = sum(self.calibration.both[block] for block in blocks) / device.speed
        if not trained:
            return forward
        return both + forward if self.reversible else both

    def _rest(self, device: Device) -> float:
        return 0.0 if device.flops else self.calibration.rest / device.speed

    def _activations(self, plan: PartPlan) -> float:
        """Bytes an image that are kept for the backward pass."""
        return sum(
            FLOAT_BYTES * e.height * e.width * (2 * self.width + FLOW_MAPS * e.channels)
            for e in plan.elements
            if e.kind == "flow_step"
        )


def steps_of_epoch(
    batches: int, plans: Sequence[PartPlan], phase: Phase, strategy: str, delay: int = 1
) -> int:
    """Returns the steps of an epoch; where batches wait before parts, until the last part has had all."""
    waiting = strategy.endswith("delayed") and phase.kind == "simultaneous"
    return batches + ((len(plans) - 1) * delay if waiting else 0)


def _weights(plans: Sequence[PartPlan]) -> float:
    """Bytes of the parameters: each is used once a pixel."""

    def own(e: Element) -> float:
        return FLOAT_BYTES * e.macs / (e.height * e.width)

    return sum(own(e) for plan in plans for e in plan.elements)


def read_cluster_file(path: str | pathlib.Path) -> Cluster:
    """Reads a description of a cluster.

        [cluster]      title; mbit, latency_ms and loss of the link between any two devices
        [device NAME]  count; memory_gb; and gflops (sustained, billions of operations a second), or speed
                       (relative to the calibrated device)

    Raises:
      ConfigError: it is not there, or says something else.
    """
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    try:
        with open(path) as file:
            parser.read_file(file)
        link = dict(parser["cluster"]) if "cluster" in parser else {}
        devices: list[Device] = []
        for name in parser.sections():
            if name == "cluster":
                continue
            if not name.startswith(DEVICE):
                raise ValueError(f"sections must be cluster and device NAME, not {name}")
            own = dict(parser[name])
            if unknown := set(own) - {"count", "memory_gb", "gflops", "speed"}:
                raise ValueError(
                    f"[{name}] must hold count, memory_gb, gflops or speed, not {sorted(unknown)}"
                )
            if ("gflops" in own) == ("speed" in own):
                raise ValueError(f"[{name}] must hold either gflops or speed")
            flops, speed = 1e9 * float(own.get("gflops", 0)), float(own.get("speed", 1))
            if "gflops" in own and not flops > 0:
                raise ValueError(f"[{name}] must have positive gflops")
            device = Device(name.removeprefix(DEVICE), speed, flops, 1e9 * float(own["memory_gb"]))
            devices += [device] * int(own.get("count", 1))
        if unknown := set(link) - {"title", "mbit", "latency_ms", "loss"}:
            raise ValueError(f"[cluster] must hold title, mbit, latency_ms and loss, not {sorted(unknown)}")
        cluster = Cluster(
            link.get("title", pathlib.Path(path).stem),
            tuple(devices),
            float(link["mbit"]) * 1e6 / 8,
            float(link.get("latency_ms", 0)) / 1e3,
            float(link.get("loss", 0)),
        )
        numbers = [cluster.bandwidth, *(n for d in devices for n in (d.speed, d.flops or 1, d.memory))]
        if not devices or not all(0 < n < math.inf for n in numbers) or not 0 <= cluster.loss < 1:
            raise ValueError("there must be a device, and numbers must be positive")
        if not 0 <= cluster.latency < math.inf or (cluster.loss and not cluster.latency):
            raise ValueError("latency_ms must not be negative, and must be positive where packets are lost")
    except KeyError as error:
        raise ConfigError(f"cluster file: {error} is missing. Received: cluster={str(path)!r}") from None
    except (OSError, configparser.Error, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"cluster file: {reason}. Received: cluster={str(path)!r}") from None
    return cluster
