"""Divergence: the band that a part's loss and the norm of its gradients have to stay in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.layout.schedule import Phase

Tensors = Sequence[tf.Tensor]

WINDOW = 64  # steps whose median is the reference
FEWEST = 16  # steps before a median says something
FIRST_RISE = 10.0  # bits/dim above the lowest loss of the steps before, or as much as that loss is
RISE = 1.0  # bits/dim above the median
SPREAD_FACTOR = 20.0  # or so many times the distance from the median to the upper quartile, for noisy batches
NORM_RATIO = 100.0  # times the median norm
# In eight sound runs (digits, also with two images a step; flow heads; CIFAR-10; sparse pictures) 5 steps of
# 6,414 were outside, 2 in a row at most. The largest ratio of norms was 20.


class Observed(NamedTuple):
    """What the monitor says of a step; one entry for each of its rows."""

    values: np.ndarray  # losses in bits/dim, then norms, [rows]; 0 where the step has none
    medians: np.ndarray  # of the last steps within the band, [rows]; inf before there are any
    outside: np.ndarray  # whether a value is outside, bool [rows]
    consecutive: int  # how many steps in a row were outside, or not finite


class DivergenceMonitor:
    """Says of every step whether the loss of each trained part, or the norm of its gradients, left its band.

    A loss is outside if it is above the median of the last `WINDOW` steps by more than `RISE` bits/dim, and
    by more than `SPREAD_FACTOR` times their spread. The limit stays within `RISE` of its lowest, so a
    slow climb leaves the band, too. A norm is outside above `NORM_RATIO` times its median. Steps that are
    outside, or not finite, are not among those that the medians are of, so a divergence cannot become its own
    reference. The first `FEWEST` losses may be `FIRST_RISE` above the lowest of them, or twice as high: a run
    may start from a model that images are very unlike.

    The loss of part k is the truncated negative log-likelihood up to it, so that of the last part is the bits
    per dimension of the whole. End to end this one is watched: the first end-to-end step already has the
    median of the last part's own steps.

    `variables` are what a checkpoint has to hold so that a resumed run decides as an uninterrupted one does.
    What `observe` learns is in them after `write`; `recall` reads them.
    """

    def __init__(self, num_parts: int):
        self.num_parts = num_parts
        # Rows: each part's loss, the norm of its gradients in its own and in simultaneous steps, end to end.
        self.rows = 3 * num_parts
        self._of_losses = np.arange(self.rows) < num_parts
        # As checkpoints name them.
        self.variables = {
            "recent": replicated(tf.zeros([self.rows, WINDOW])),
            "seen": replicated(tf.zeros([self.rows], tf.int64)),
            "lowest": replicated(tf.zeros([self.rows])),
            "streak": replicated(tf.zeros([], tf.int64)),
        }
        self._changed: set[str] = set()  # what is not written yet
        self.recall()
        self.forget()

    def recall(self) -> None:
        """Goes on from what the variables hold, which may be what a checkpoint has given them."""
        self._known = {name: variable.numpy() for name, variable in self.variables.items()}

    def forget(self) -> None:
        """Starts anew, without a reference."""
        self._set("streak", np.int64(0))
        self.forget_losses(range(self.rows))

    def forget_losses(self, rows: Sequence[int]) -> None:
        """Starts anew with the losses of these parts."""
        forgotten = np.isin(np.arange(self.rows), rows)
        self._set("seen", np.where(forgotten, 0, self._known["seen"]))
        self._set("lowest", np.where(forgotten, np.float32(np.inf), self._known["lowest"]))
        self.write()

    def write(self) -> None:
        """Writes what the steps so far have taught into the variables."""
        for name in self._changed:
            self.variables[name].assign(self._known[name], read_value=False)
        self._changed.clear()

    def _set(self, name: str, value: np.ndarray) -> None:
        self._known[name] = value
        self._changed.add(name)

    @property
    def steps_outside(self) -> int:
        """How many steps in a row, up to the last one, were outside of their band, or not finite."""
        return int(self.variables["streak"].numpy())

    def rows_of(self, phase: Phase) -> tuple[list[int], list[int]]:
        """Returns the rows of the losses and of the norms that a phase watches."""
        first = self.num_parts * (2 if phase.end_to_end else 1)
        return list(phase.ends), [first + k for k in phase.active]

    @np.errstate(over="ignore", invalid="ignore")  # of losses that are huge, or that nothing is known of yet
    def observe(self, finite: bool, values: np.ndarray, watched: np.ndarray) -> Observed:
        """Looks at a step: whether it is finite, and what it has in which rows, float32 and bool [rows].

        The values are the losses, bits/dim, and the norms of the gradients that a phase watches (`rows_of`).
        """
        recent, seen, lowest = (self._known[name] for name in ("recent", "seen", "lowest"))
        medians, limits = self._medians_and_limits(recent, seen)
        highest = np.where(self._of_losses, lowest + RISE, np.inf)
        outside = watched & (values > np.minimum(limits, highest))
        bad, streak = not finite or outside.any(), int(self._known["streak"])
        if watched.any() and (bad or streak):
            streak = streak + 1 if bad else 0
            self._set("streak", np.int64(streak))
        if watched.any() and not bad:
            places = np.flatnonzero(watched)
            recent[places, seen[places] % WINDOW] = values[places]
            self._set("recent", recent)
            self._set("seen", seen + watched)
            if (limits < lowest)[places].any():
                self._set("lowest", np.where(watched, np.minimum(lowest, limits), lowest))
        return Observed(values, medians, outside, streak)

    def _medians_and_limits(self, recent: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the medians and the limits that follow from them, both [rows]; inf where there are none."""
        count = np.minimum(seen, WINDOW)[:, np.newaxis]
        ordered = np.sort(np.where(np.arange(WINDOW) < count, recent, np.float32(np.inf)), axis=1)
        places = np.maximum(count - 1, 0) * [2, 3] // 4
        medians, quartiles = np.take_along_axis(ordered, places, axis=1).T
        above = medians + np.maximum(RISE, SPREAD_FACTOR * (quartiles - medians))
        first = ordered[:, 0] + np.maximum(FIRST_RISE, ordered[:, 0])
        first = np.where(self._of_losses, first, np.inf)
        limits = np.where(self._of_losses, above, NORM_RATIO * medians)
        return medians, np.where(count[:, 0] >= FEWEST, limits, first)


def replicated(value: tf.Tensor) -> tf.Variable:
    """Returns a variable of which each replica keeps its own copy.

    Whole numbers must be int64: TensorFlow keeps variables of int32 on the host, where XLA on a GPU does not
    reach them.
    """
    return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
