"""Which phase each epoch is in. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence

from glow_tf.architectures.design import design_of
from glow_tf.architectures.partition import PartLayout, relative_cost
from glow_tf.config import SCHEDULES, RunConfig, TrainConfig
from glow_tf.core.errors import ConfigError

KINDS = ("end_to_end", "part", "simultaneous", "mixed")


@dataclasses.dataclass(frozen=True)
class Phase:
    """What an epoch trains: some parts, and the cuts that their gradients cross.

    Parts that a crossed cut joins are trained together, on the objective of the last of them and on the terms
    of the likelihood of the others; see `groups`. Every other trained part is trained on its own objective.

        Phase((0,))               # part 1 alone; `one_part(0)`
        Phase((0, 1, 2), (1, 2))  # end to end; `end_to_end(3)`
        Phase((0, 1, 2))          # each on its own objective; `simultaneous(3)`
        Phase((0, 1), (1,))       # parts 1 and 2 of three together; part 3 does not run
        Phase((0, 2))             # parts 1 and 3, each on its own objective; part 2 runs forward only

    Attributes:
      active: indices from 0 of the parts trained.
      crossed: the cuts that gradients cross; cut k is between part k − 1 and part k.
      kind: `end_to_end` (all parts, gradients through everything), `part` (one part alone), `simultaneous`
        (parts on their own objectives), or `mixed`, all others. It is a name, and says no more than `active`
        and `crossed` do.

    Raises:
      ConfigError: nothing is trained, or there is no such part, cut or kind.
    """

    active: tuple[int, ...]
    crossed: tuple[int, ...] = ()
    kind: str = ""

    def __post_init__(self):
        for name, least in (("active", 0), ("crossed", 1)):
            given = getattr(self, name)
            several = isinstance(given, Iterable) and not isinstance(given, str)
            places = tuple(given) if several else (None,)
            if any(not isinstance(k, int) or k < least for k in places):
                raise ConfigError(
                    "a phase is Phase(active, crossed): the parts trained, from 0, and the cuts that its "
                    "gradients cross, from 1; what was Phase('part', (k,)) is one_part(k). "
                    f"Received: {name}={given!r}"
                )
            object.__setattr__(self, name, tuple(sorted(set(places))))
        joined = tuple(k for k in self.crossed if self.active and self.joins(k))  # others change nothing
        object.__setattr__(self, "crossed", joined)
        alone = len(self.active) == 1 and not self.crossed
        object.__setattr__(self, "kind", self.kind or ("part" if alone else "mixed"))
        if not self.active or self.kind not in KINDS or (self.kind == "part" and not alone):
            raise ConfigError(
                f"a phase must be one of {', '.join(KINDS)}, and train a part; one of kind part exactly one. "
                f"Received: kind={self.kind!r}, active={self.active}"
            )

    def to_config(self) -> list:
        """Returns what a saved trainer keeps: kind, parts, and the cuts where the kind does not say them."""
        return [self.kind, list(self.active), *([list(self.crossed)] if self.kind == "mixed" else [])]

    @classmethod
    def from_config(cls, config: Sequence) -> Phase:
        """Inverts `to_config`."""
        kind, active, *crossed = config
        return cls(active, *(crossed or [active[1:] if kind == "end_to_end" else ()]), kind=kind)

    @functools.cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The parts that are trained together: from a trained part on, as far as gradients cross cuts.

        A part within a group that is not trained hands gradients on.
        """
        found: list[list[int]] = []
        for k in range(max((*self.active, *self.crossed)) + 1):
            if found and found[-1][-1] == k - 1 and k in self.crossed:
                found[-1].append(k)
            elif k in self.active:
                found.append([k])
        return tuple(map(tuple, found))

    @property
    def end_to_end(self) -> bool:
        """Whether gradients cross cuts."""
        return self.kind == "end_to_end" or bool(self.crossed)

    @property
    def last(self) -> int:
        """Index (from 0) of the last part that runs."""
        return self.groups[-1][-1]

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The last part of each group, whose own objective, with its local base, is minimised."""
        return tuple(group[-1] for group in self.groups)

    def joins(self, k: int) -> bool:
        """Whether gradients of part k reach the part before it, within a group."""
        return any(k in group[1:] for group in self.groups)

    def runs_both_ways(self, k: int) -> bool:
        """Whether gradients run through part k."""
        return any(k in group for group in self.groups)

    def minimises_objective_of(self, k: int) -> bool:
        """Whether the phase minimises part k's own objective."""
        return k in self.ends

    @property
    def active_parts(self) -> str:
        """The parts trained, from 1, joined by spaces, as history.csv lists them."""
        return " ".join(str(k + 1) for k in self.active)

    def __str__(self) -> str:
        if self.kind == "mixed":
            return "parts " + ", ".join("+".join(str(k + 1) for k in group) for group in self.groups)
        return f"part {self.active_parts}" if self.kind == "part" else self.kind.replace("_", " ")


def one_part(k: int) -> Phase:
    """The phase that trains part k (from 0) alone."""
    return Phase((k,), kind="part")


def end_to_end(num_parts: int) -> Phase:
    """The phase that trains all parts with gradients through everything."""
    return Phase(range(num_parts), range(1, num_parts), kind="end_to_end")


def simultaneous(num_parts: int) -> Phase:
    """The phase that trains every part on its own objective, with gradients isolated."""
    return Phase(range(num_parts), kind="simultaneous")


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
        in_parts = [simultaneous(num_parts)] * part_epochs
    elif schedule == "alternating":
        in_parts = [one_part(epoch // period % num_parts) for epoch in range(part_epochs)]
    elif schedule == "sequential":
        each, remainder = divmod(part_epochs, num_parts)
        in_parts = [one_part(k) for k in range(num_parts) for _ in range(each + (k < remainder))]
    else:
        raise ValueError(f"schedule must be one of {SCHEDULES}. Received: schedule={schedule!r}")
    return (*in_parts, *[end_to_end(num_parts)] * finetune_epochs)


def phases_of_training(train: TrainConfig, num_parts: int) -> tuple[Phase, ...]:
    """Returns the phase of every epoch, as the settings of the training say."""
    if train.only_part:
        return (one_part(train.only_part - 1),) * (train.part_epochs + train.finetune_epochs)
    return phases(train.schedule, num_parts, train.part_epochs, train.finetune_epochs, train.period)


def first_finetune_epoch(train: TrainConfig, schedule_phases: Sequence[Phase], num_parts: int) -> int:
    """Returns the epoch (from 0) that begins with `finetune_learning_rate`.

    ConfigError if the phases are others than the settings say, and do not end end to end after parts.
    """
    if tuple(schedule_phases) == phases_of_training(train, num_parts):
        return train.part_epochs
    in_parts = [e for e, phase in enumerate(schedule_phases, start=1) if phase.kind != "end_to_end"]
    if not in_parts or in_parts[-1] == len(schedule_phases):
        raise ConfigError(
            "finetune_learning_rate needs phases that end end to end, after others in parts. "
            f"Received: phases={', '.join(map(str, schedule_phases)):.100}"
        )
    return in_parts[-1]


def phases_of(config: RunConfig) -> tuple[Phase, ...]:
    """Returns the phase of every epoch of a run; ConfigError if no epoch could use its `cache_prefix`."""
    train, design = config.train, design_of(config.model)
    found = phases_of_training(train, design.num_parts)
    if train.cache_prefix and (design.separable or not cached_parts(found)):
        raise ConfigError(
            "cache_prefix needs a Glow's part other than the first that keeps its turn for several epochs: "
            "alternating with a period of 2 or more, or sequential; levels run no part but those trained. "
            f"Received: cache_prefix=True, schedule={train.schedule!r}, period={train.period}, part_epochs="
            f"{train.part_epochs}, parts={config.model.parts!r}, architecture={config.model.architecture!r}"
        )
    return found


def named_phases(given: Sequence[Phase], num_parts: int) -> tuple[Phase, ...]:
    """Returns phases, those that train all parts of a model by name; ConfigError if one has other parts."""
    whole = (end_to_end(num_parts), simultaneous(num_parts))
    known = {(phase.active, phase.crossed): phase for phase in whole}
    for phase in given:
        of_all = phase.kind in ("end_to_end", "simultaneous")
        if max(*phase.active, *phase.crossed, 0) >= num_parts or (of_all and phase not in whole):
            raise ConfigError(
                f"phases must be made for the {num_parts} parts of the flow. "
                f"Received: phase '{phase}' of parts {phase.active_parts}, counted from 1"
            )
    return tuple(
        known.get((phase.active, phase.crossed), phase) if phase.kind == "mixed" else phase for phase in given
    )


def epochs_training(part: int, schedule_phases: Sequence[Phase]) -> int:
    """Returns the number of epochs that train a part (index from 0)."""
    return sum(part in phase.active for phase in schedule_phases)


def turn_starts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns, for every epoch (from 0), the first epoch of its turn: a stretch of epochs in one phase."""
    starts: list[int] = []
    for epoch, phase in enumerate(schedule_phases):
        same = epoch > 0 and phase == schedule_phases[epoch - 1]
        starts.append(starts[-1] if same else epoch)
    return starts


def cached_parts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns the parts (from 0), but the first, with turns of several epochs: a prefix cache serves them."""
    found = set()
    for epoch, start in enumerate(turn_starts(schedule_phases)):
        phase = schedule_phases[epoch]
        if phase.kind == "part" and phase.active[0] > 0 and start < epoch:
            found.add(phase.active[0])
    return sorted(found)


def cache_noise_epochs(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns, for every epoch, the epoch (both from 0) whose noise its prefix cache has, if it has one.

    A turn follows that of the part before, whose cache its own is made of, as far back as part 2 or the first
    epoch.
    """
    found: list[int] = []
    for epoch, start in enumerate(turn_starts(schedule_phases)):
        follows = start > 0 and schedule_phases[epoch].active[0] > 1
        found.append(found[start - 1] if follows else start)
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
        cached = phase.kind == "part" and phase.active[0] in served
        first = phase.active[0] - (start == epoch) if cached else 0
        costs.append(
            relative_cost(
                layouts,
                [k for group in phase.groups for k in group],
                first=first,
                reversible=reversible,
                scored=phase.ends,
            )
        )
    return costs
