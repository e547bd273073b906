"""Forecasts training steps on a cluster, from arithmetic and a few measured rates. Pure Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from glow_tf.core.errors import ConfigError
from glow_tf.layout.cost import BOTH_WAYS, crossing_bytes, weight_bytes
from glow_tf.layout.partition import FLOAT_BYTES, PartLayout
from glow_tf.layout.schedule import Phase
from lab.planning.cluster_file import Cluster, Device
from lab.planning.rates import Calibration

STATES = 4  # weight, gradient and two moments of every parameter
# A flow step keeps two hidden maps for its backward pass, and this many maps as wide as the flow itself.
FLOW_MAPS = 6
DELAYED = "part_parallel, delayed"  # with a --part_delay
PLANNED_STRATEGIES = ("one_device", "mirrored", "part_parallel", DELAYED)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The cost of a training step of one phase.

    Attributes:
      seconds: time of a step.
      held: bytes that each device holds that the step uses, in the cluster's order.
      sent: bytes that all devices send together in a step.
      limit: what most of the time is spent on.
    """

    seconds: float
    held: tuple[float, ...]
    sent: float
    limit: str

    @property
    def memory(self) -> float:
        """Bytes that the fullest device holds."""
        return max(self.held)


class Planner:
    """Forecasts steps of a model on a cluster.

    Args:
      cluster: the devices and links.
      batch_size: images per step, over all devices.
      calibration: rates of the device of speed 1; not needed if all devices have `flops`.
      reversible: whether activations are recomputed.

    Raises:
      ConfigError: a device has no `flops`, and there is no calibration.
    """

    def __init__(
        self,
        cluster: Cluster,
        batch_size: int,
        calibration: Calibration | None = None,
        reversible: bool = False,
    ):
        self.cluster = cluster
        self.batch_size = batch_size
        self.calibration = calibration
        self.reversible = reversible
        uncalibrated = [device.name for device in cluster.devices if not device.flops]
        if uncalibrated and calibration is None:
            raise ConfigError(
                "devices given by their speed need a calibration (--calibrate measures one). "
                f"Received: {', '.join(sorted(set(uncalibrated)))}"
            )

    def step(self, layouts: Sequence[PartLayout], phase: Phase, strategy: str) -> Forecast | None:
        """Forecasts a training step of a phase.

        Args:
          layouts: the parts.
          phase: which parts are trained, and how.
          strategy: one of `PLANNED_STRATEGIES`. `mirrored` stands for `multi_worker` as well: they differ in
            the link only.

        Returns:
          The forecast; None if the strategy needs more devices, or more parts.

        Raises:
          ValueError: the strategy is unknown.
        """
        if strategy not in PLANNED_STRATEGIES:
            raise ValueError(
                f"strategy must be one of {', '.join(PLANNED_STRATEGIES)}. Received: {strategy!r}"
            )
        if strategy == "one_device":
            return self._on_one_device(layouts, phase, self.cluster.devices[0], self.batch_size)
        if strategy == "mirrored":
            return self._mirrored(layouts, phase)
        if len(layouts) < 2 or len(layouts) > len(self.cluster.devices):
            return None
        if strategy == DELAYED and phase.kind == "simultaneous":
            return self._delayed(layouts, phase)
        return self._in_turn(layouts, phase)

    def _on_one_device(
        self, layouts: Sequence[PartLayout], phase: Phase, device: Device, images: float
    ) -> Forecast:
        seconds = images * self._rest(device)
        for k, layout in enumerate(layouts[: phase.last + 1]):
            seconds += images * self._compute(layout, device, phase, k)
        each = [self._activations(layouts[k], phase) for k in phase.active]
        kept = max(each) if self.reversible else sum(each)
        held = STATES * weight_bytes(layouts) + images * kept
        return Forecast(seconds, (held,), 0.0, device.name)

    def _mirrored(self, layouts: Sequence[PartLayout], phase: Phase) -> Forecast:
        devices = self.cluster.devices
        images = self.batch_size / len(devices)
        replicas = [self._on_one_device(layouts, phase, device, images) for device in devices]
        slowest = max(replicas, key=lambda forecast: forecast.seconds)
        gradients = weight_bytes([layouts[k] for k in phase.active], heads=not phase.end_to_end)
        rounds = 2 * (len(devices) - 1)  # of a ring all-reduce; in each, a device sends 1/N of the gradients
        reduce = rounds * self.cluster.transfer(gradients / len(devices))
        limit = slowest.limit if slowest.seconds >= reduce else "all-reduce"
        held = tuple(replica.memory for replica in replicas)
        return Forecast(slowest.seconds + reduce, held, rounds * gradients, limit)

    def _in_turn(self, layouts: Sequence[PartLayout], phase: Phase) -> Forecast:
        """Each part on its own device; a batch passes all parts before the next one begins."""
        start = end = waiting = 0.0
        for k, layout in enumerate(layouts[: phase.last + 1]):
            device = self.cluster.devices[k]
            forward = self._forward(layout, device, phase, k) * self.batch_size
            own = self._compute(layout, device, phase, k) * self.batch_size
            rest = self._rest(device) * self.batch_size / len(layouts)
            sent = self.cluster.transfer(layout.output_bytes * self.batch_size) if k < phase.last else 0.0
            waiting += sent
            if phase.end_to_end:  # forward through all parts, then back through all parts
                end += own + rest + 2 * sent
            else:
                end = max(end, start + own + rest)
            start += forward + sent
        moved = sum(crossing_bytes(layouts, phase.last, crossed=phase.crossed)) * self.batch_size
        limit = "link" if (2 if phase.end_to_end else 1) * waiting > end / 2 else "parts in turn"
        return Forecast(end, self._held(layouts, phase), moved, limit)

    def _delayed(self, layouts: Sequence[PartLayout], phase: Phase) -> Forecast:
        """All parts work at the same time.

        A step ends when every part has ended and the outputs have arrived.
        """
        devices = self.cluster.devices
        spent = {}
        for k, layout in enumerate(layouts):
            per_image = self._compute(layout, devices[k], phase, k) + self._rest(devices[k]) / len(layouts)
            spent[f"part {k + 1}"] = self.batch_size * per_image
        spent["link"] = max(
            self.batch_size * self._forward(layout, devices[k], phase, k)
            + self.cluster.transfer(layout.output_bytes * self.batch_size)
            for k, layout in enumerate(layouts[:-1])
        )
        limit = max(spent, key=spent.get)
        moved = crossing_bytes(layouts, phase.last)[0] * self.batch_size
        return Forecast(spent[limit], self._held(layouts, phase), moved, limit)

    def _held(self, layouts: Sequence[PartLayout], phase: Phase) -> tuple[float, ...]:
        """Returns the bytes of every device, with each part on its own."""
        kept = [self._activations(own, phase) if k in phase.active else 0.0 for k, own in enumerate(layouts)]
        return tuple(
            STATES * weight_bytes([own]) + self.batch_size * each
            for own, each in zip(layouts, kept, strict=True)
        )

    def _compute(self, layout: PartLayout, device: Device, phase: Phase, k: int) -> float:
        """Returns the seconds per image that a part's flow steps and its flow head take in a phase."""
        forward = self._forward(layout, device, phase, k)
        if k not in phase.active:
            return forward
        both = (
            BOTH_WAYS * forward
            if device.flops
            else self._measured(layout, self.calibration.both) / device.speed
        )
        trained = both + forward if self.reversible else both
        if phase.minimises_objective_of(k):  # a head's multiply-adds run as fast as those of its part
            trained *= 1 + layout.head_macs / layout.forward_macs
        return trained

    def _forward(self, layout: PartLayout, device: Device, phase: Phase, k: int) -> float:
        """Returns the seconds per image of one forward pass of a part's flow steps, if a phase runs them."""
        if layout.fixed and not phase.runs_both_ways(k):
            return 0.0
        if device.flops:
            return 2 * layout.forward_macs / device.flops
        return self._measured(layout, self.calibration.forward) / device.speed

    def _measured(self, layout: PartLayout, seconds: Mapping[int, float]) -> float:
        blocks = [e.block for e in layout.elements if e.kind == "flow_step"]
        if missing := set(blocks) - set(seconds):
            raise ConfigError(
                "the calibration must be of a model with at least as many blocks. "
                f"Received: blocks {sorted(seconds)}, without {sorted(missing)}"
            )
        return sum(seconds[block] for block in blocks)

    def _rest(self, device: Device) -> float:
        """Returns the seconds per image that a training step spends outside flow steps."""
        return 0.0 if device.flops else self.calibration.rest / device.speed

    def _activations(self, layout: PartLayout, phase: Phase) -> float:
        """Returns the bytes per image that a trained part keeps for its backward pass in a phase."""
        elements = layout.elements if phase.end_to_end else (*layout.elements, *layout.head)
        each = [
            FLOAT_BYTES * e.height * e.width * (2 * e.hidden + FLOW_MAPS * e.channels)
            for e in elements
            if e.kind == "flow_step"
        ]
        return sum(each) / len(each) if self.reversible else sum(each)


def steps_of_epoch(
    batches: int, layouts: Sequence[PartLayout], phase: Phase, strategy: str, delay: int = 1
) -> int:
    """Returns the number of steps in an epoch.

    With delayed parts an epoch has more steps than batches: it ends when the last part has had all batches.

    Args:
      batches: per epoch.
      layouts: the parts.
      phase: of the epoch.
      strategy: one of `PLANNED_STRATEGIES`.
      delay: steps that a batch waits between two parts, if the strategy is delayed.
    """
    waiting = strategy == DELAYED and phase.kind == "simultaneous"
    return batches + ((len(layouts) - 1) * delay if waiting else 0)
