"""Which phase each epoch is in. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from glow_tf.partition import PartPlan, relative_cost

SCHEDULES = ("end_to_end", "sequential", "alternating", "simultaneous")


@dataclasses.dataclass(frozen=True)
class Phase:
    """What an epoch trains.

    Attributes:
      kind: `end_to_end` (all parts, gradients through everything), `part` (one part alone) or
        `simultaneous` (every part on its own objective, gradients isolated).
      active: indices from 0 of the parts trained.
    """

    kind: str
    active: tuple[int, ...]

    @property
    def end_to_end(self) -> bool:
        """Whether gradients cross the cuts."""
        return self.kind == "end_to_end"

    @property
    def last(self) -> int:
        """Index of the last part that is evaluated: nothing after it is."""
        return self.active[-1]

    @property
    def active_parts(self) -> str:
        """The parts trained, from 1, joined by spaces, as history.csv lists them."""
        return " ".join(str(k + 1) for k in self.active)

    def __str__(self) -> str:
        return f"part {self.active_parts}" if self.kind == "part" else self.kind.replace("_", " ")


def end_to_end(num_parts: int) -> Phase:
    """The phase that trains all parts with gradients through everything."""
    return Phase("end_to_end", tuple(range(num_parts)))


def phases(
    schedule: str, num_parts: int, part_epochs: int, finetune_epochs: int = 0, period: int = 1
) -> tuple[Phase, ...]:
    """Returns the phase of every epoch, in order.

    Args:
      schedule: `end_to_end`; `sequential` (part_epochs div n each, the remainder to the first parts);
        `alternating` (epoch e, from 1, trains part ((e−1) div period) mod n + 1); `simultaneous`.
      num_parts: n.
      part_epochs: epochs in parts.
      finetune_epochs: epochs end to end that follow.
      period: epochs a part keeps its turn in `alternating`.

    Raises:
      ValueError: schedule is unknown.
    Reference: Glow parts, section 3.
    """
    if schedule == "end_to_end":
        in_parts = [end_to_end(num_parts)] * part_epochs
    elif schedule == "simultaneous":
        in_parts = [Phase("simultaneous", tuple(range(num_parts)))] * part_epochs
    elif schedule == "alternating":
        in_parts = [Phase("part", (epoch // period % num_parts,)) for epoch in range(part_epochs)]
    elif schedule == "sequential":
        each, remainder = divmod(part_epochs, num_parts)
        in_parts = [Phase("part", (k,)) for k in range(num_parts) for _ in range(each + (k < remainder))]
    else:
        raise ValueError(f"schedule must be one of {SCHEDULES}. Received: schedule={schedule!r}")
    return (*in_parts, *[end_to_end(num_parts)] * finetune_epochs)


def epochs_training(part: int, schedule_phases: Sequence[Phase]) -> int:
    """Number of epochs in which a part (index from 0) is trained."""
    return sum(part in phase.active for phase in schedule_phases)


def turn_starts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns, for every epoch (from 0), the first epoch of its turn: the stretch of epochs in one phase."""
    starts: list[int] = []
    for epoch, phase in enumerate(schedule_phases):
        same = epoch > 0 and phase == schedule_phases[epoch - 1]
        starts.append(starts[-1] if same else epoch)
    return starts


def cached_epochs(schedule_phases: Sequence[Phase]) -> list[bool]:
    """Whether a prefix cache serves each epoch: a part that is not the first has a turn of several."""
    starts = turn_starts(schedule_phases)
    long_turns = {start for epoch, start in enumerate(starts) if start < epoch}
    return [
        phase.kind == "part" and phase.active[0] > 0 and start in long_turns
        for phase, start in zip(schedule_phases, starts, strict=True)
    ]


def epoch_costs(
    plans: Sequence[PartPlan], schedule_phases: Sequence[Phase], cache_prefix: bool = False
) -> list[float]:
    """Returns the predicted cost of every epoch, an end-to-end epoch's being 1.

    With the prefix cached, a turn's first epoch pays for it and the others do not.
    """
    return [
        relative_cost(
            plans,
            phase.active,
            phase.end_to_end,
            prefix=not cache_prefix or start == epoch,
        )
        for epoch, (phase, start) in enumerate(
            zip(schedule_phases, turn_starts(schedule_phases), strict=True)
        )
    ]
