"""Which phase each epoch is in. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from glow_tf.config import SCHEDULES, RunConfig, TrainConfig
from glow_tf.cost import relative_cost
from glow_tf.errors import ConfigError
from glow_tf.partition import PartLayout

KINDS = ("end_to_end", "part", "simultaneous")


@dataclasses.dataclass(frozen=True)
class Phase:
    """What an epoch trains.

    Attributes:
      kind: `end_to_end` (all parts, gradients through everything), `part` (one part alone) or
        `simultaneous` (every part on its own objective, gradients isolated).
      active: indices from 0 of the parts trained.

    Raises:
      ValueError: there is no such kind, or a phase of kind `part` does not train exactly one.
    """

    kind: str
    active: tuple[int, ...]

    def __post_init__(self):
        """Raises ValueError; see the class."""
        object.__setattr__(self, "active", tuple(self.active))
        if self.kind not in KINDS or (self.kind == "part" and len(self.active) != 1):
            raise ValueError(
                f"a phase must be one of {', '.join(KINDS)}, and a phase of kind part must train one part. "
                f"Received: kind={self.kind!r}, active={self.active}"
            )

    @property
    def end_to_end(self) -> bool:
        """Whether gradients cross the cuts."""
        return self.kind == "end_to_end"

    @property
    def last(self) -> int:
        """Index (from 0) of the last part that is trained; the parts after it do not run."""
        return self.active[-1]

    def minimises_objective_of(self, k: int) -> bool:
        """Whether the phase minimises part k's own objective, which contains the part's local prior.

        End to end only the last part's prior is in the loss: the others' are in no likelihood of the chain.
        """
        return k in self.active and (not self.end_to_end or k == self.last)

    def scores(self, k: int, has_head: bool) -> bool:
        """Whether the phase scores the output of part k by the part's local prior.

        A Gaussian costs nothing and scores every part that runs. A flow head runs where it is trained.
        """
        return k <= self.last and (self.minimises_objective_of(k) or not has_head)

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
      finetune_epochs: end-to-end epochs that follow.
      period: epochs for which a part keeps its turn in `alternating`.

    Raises:
      ValueError: schedule is unknown, or the period is not positive.
    Reference: Glow parts, section 3.
    """
    if period < 1:
        raise ValueError(f"period must be a positive number of epochs. Received: period={period}")
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


def phases_of_training(train: TrainConfig, num_parts: int) -> tuple[Phase, ...]:
    """Returns the phase of every epoch, as the settings of the training say."""
    return phases(train.schedule, num_parts, train.part_epochs, train.finetune_epochs, train.period)


def first_finetune_epoch(train: TrainConfig, schedule_phases: Sequence[Phase], num_parts: int) -> int:
    """Returns the epoch (from 0) that begins with `finetune_learning_rate`.

    Raises:
      ConfigError: the phases are others than the settings say, and do not end end to end after parts.
    """
    if tuple(schedule_phases) == phases_of_training(train, num_parts):
        return train.part_epochs
    in_parts = [epoch for epoch, phase in enumerate(schedule_phases, start=1) if not phase.end_to_end]
    if not in_parts or in_parts[-1] == len(schedule_phases):
        raise ConfigError(
            "finetune_learning_rate needs phases that end end to end, after others in parts. "
            f"Received: phases={', '.join(map(str, schedule_phases)):.100}"
        )
    return in_parts[-1]


def phases_of(config: RunConfig) -> tuple[Phase, ...]:
    """Returns the phase of every epoch of a run.

    Raises:
      ConfigError: `cache_prefix` is set and no epoch could use the cache.
    """
    train = config.train
    found = phases_of_training(train, config.model.num_parts)
    if train.cache_prefix and not cached_parts(found):
        raise ConfigError(
            "cache_prefix needs a part other than the first that keeps its turn for several epochs: "
            "alternating with a period of 2 or more, or sequential. Received: "
            f"cache_prefix=True, schedule={train.schedule!r}, period={train.period}, "
            f"part_epochs={train.part_epochs}, parts={config.model.parts!r}"
        )
    return found


def epochs_training(part: int, schedule_phases: Sequence[Phase]) -> int:
    """Returns the number of epochs that train a part (index from 0)."""
    return sum(part in phase.active for phase in schedule_phases)


def turn_starts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns, for every epoch (from 0), the first epoch of its turn.

    A turn is a stretch of consecutive epochs in one phase.
    """
    starts: list[int] = []
    for epoch, phase in enumerate(schedule_phases):
        same = epoch > 0 and phase == schedule_phases[epoch - 1]
        starts.append(starts[-1] if same else epoch)
    return starts


def cached_parts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns the indices (from 0) of the parts that a prefix cache can serve.

    These are all but the first that have a turn of several epochs. The cache then serves all turns of the
    part, a shorter last one, too.
    """
    found = set()
    for epoch, start in enumerate(turn_starts(schedule_phases)):
        phase = schedule_phases[epoch]
        if phase.kind == "part" and phase.active[0] > 0 and start < epoch:
            found.add(phase.active[0])
    return sorted(found)


def cache_noise_epochs(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns, for every epoch, the epoch (both from 0) whose noise its prefix cache has, if it has one.

    A turn follows that of the part before, whose cache its own is made of, as far back as part 2.
    """
    found: list[int] = []
    for epoch, start in enumerate(turn_starts(schedule_phases)):
        later_than_part_2 = schedule_phases[epoch].active[0] > 1
        found.append(found[start - 1] if later_than_part_2 else start)
    return found


def epoch_costs(
    layouts: Sequence[PartLayout],
    schedule_phases: Sequence[Phase],
    cache_prefix: bool = False,
    reversible: bool = False,
) -> list[float]:
    """Returns the predicted cost of every epoch divided by the cost of an end-to-end epoch of the same kind.

    With a prefix cache, the first epoch of a turn pays for the part before the trained one, whose input the
    cache before holds, and the others pay for no part but the trained one.
    """
    served = cached_parts(schedule_phases) if cache_prefix else []
    costs = []
    for epoch, (phase, start) in enumerate(zip(schedule_phases, turn_starts(schedule_phases), strict=True)):
        first = phase.active[0] - (start == epoch) if phase.active[0] in served else 0
        costs.append(
            relative_cost(layouts, phase.active, phase.end_to_end, first=first, reversible=reversible)
        )
    return costs
