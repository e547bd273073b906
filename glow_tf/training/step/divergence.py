"""Divergence: the band that a part's loss and the norm of its gradients have to stay in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf.layout.schedule import Phase

Tensors = Sequence[tf.Tensor]

WINDOW = 64  # steps whose median is the reference
FEWEST = 16  # steps before a median says something
FIRST_RISE = 10.0  # bits/dim above the lowest loss of the steps before
RISE = 1.0  # bits/dim above the median
SPREAD_FACTOR = 20.0  # or so many times the distance from the median to the upper quartile, for noisy batches
NORM_RATIO = 100.0  # times the median norm
# In eight sound runs (digits, also with two images a step; flow heads; CIFAR-10; sparse pictures) 5 steps of
# 6,414 were outside, 2 in a row at most. The largest ratio of norms was 20.


class Observed(NamedTuple):
    """What the monitor says of a step; one entry for each of its rows."""

    values: tf.Tensor  # losses in bits/dim, then norms, [rows]; 0 where the step has none
    medians: tf.Tensor  # of the last steps within the band, [rows]; inf before there are any
    outside: tf.Tensor  # whether a value is outside, bool [rows]
    consecutive: tf.Tensor  # how many steps in a row were outside, or not finite, []


class DivergenceMonitor:
    """Says of every step whether the loss of each trained part, or the norm of its gradients, left its band.

    A loss is outside if it is above the median of the last `WINDOW` steps by more than `RISE` bits/dim, and
    by more than `SPREAD_FACTOR` times their spread. The limit stays within `RISE` of its lowest, so a
    slow climb leaves the band, too. A norm is outside above `NORM_RATIO` times its median. Steps that are
    outside, or not finite, are not among those that the medians are of, so a divergence cannot become its own
    reference. The first `FEWEST` losses may be `FIRST_RISE` above the lowest of them.

    The loss of part k is the truncated negative log-likelihood up to it, so that of the last part is the bits
    per dimension of the whole. End to end this one is watched: the first end-to-end step already has the
    median of the last part's own steps.

    `variables` are what a checkpoint has to hold so that a resumed run decides as an uninterrupted one does.
    """

    def __init__(self, num_parts: int):
        self.num_parts = num_parts
        # Rows: each part's loss, the norm of its gradients in its own and in simultaneous steps, end to end.
        rows = 3 * num_parts
        self._of_losses = [row < num_parts for row in range(rows)]
        self._recent = replicated(tf.zeros([rows, WINDOW]))
        self._seen = replicated(tf.zeros([rows], tf.int64))
        self._lowest = replicated(tf.zeros([rows]))
        self.consecutive = replicated(tf.zeros([], tf.int64))
        self.forget()

    def forget(self) -> None:
        """Starts anew, without a reference."""
        self._seen.assign(tf.zeros_like(self._seen))
        self._lowest.assign(tf.fill(self._lowest.shape, float("inf")))
        self.consecutive.assign(0)

    def forget_losses(self, rows: Sequence[int]) -> None:
        """Starts anew with the losses of these parts."""
        if rows:
            forgotten = [row in rows for row in range(len(self._of_losses))]
            self._seen.assign(tf.where(forgotten, tf.zeros_like(self._seen), self._seen))
            self._lowest.assign(tf.where(forgotten, float("inf"), self._lowest))

    @property
    def variables(self) -> dict[str, tf.Variable]:
        """The state, as checkpoints name it."""
        return {
            "recent": self._recent,
            "seen": self._seen,
            "lowest": self._lowest,
            "streak": self.consecutive,
        }

    @property
    def steps_outside(self) -> int:
        """How many steps in a row, up to the last one, were outside of their band, or not finite."""
        return int(self.consecutive.numpy())

    def rows_of(self, phase: Phase) -> tuple[list[int], list[int]]:
        """Returns the rows of the losses and of the norms that a phase watches."""
        losses = list(phase.ends)
        first = self.num_parts * (2 if phase.end_to_end else 1)
        return losses, [first + k for k in phase.active]

    def observe(
        self, phase: Phase, finite: tf.Tensor, losses: Tensors, norms: Tensors, arrived: Tensors | None = None
    ) -> Observed:
        """Looks at a step; the same on all replicas if the arguments are.

        The losses, bits/dim, are those that the phase watches (`rows_of`); the norms are of each active part.
        `arrived` says of each part whether it has a batch; None: every part has. All are [].
        """
        values, watched = self._arranged(phase, losses, norms, arrived)
        medians, limits = self._medians_and_limits()
        highest = tf.where(self._of_losses, self._lowest + RISE, float("inf"))
        outside = watched & (values > tf.minimum(limits, highest))
        bad = ~finite | tf.reduce_any(outside)
        self._remember(values, watched & ~bad, limits)
        counted = tf.where(bad, self.consecutive + 1, 0)
        consecutive = tf.where(tf.reduce_any(watched), counted, self.consecutive)
        self.consecutive.assign(consecutive)
        return Observed(values, medians, outside, consecutive)

    def _arranged(
        self, phase: Phase, losses: Tensors, norms: Tensors, arrived: Tensors | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the values and whether a row has one, both [rows]."""
        values: list[Any] = [0.0] * (3 * self.num_parts)
        watched: list[Any] = [False] * len(values)
        of_losses, of_norms = self.rows_of(phase)
        for row, value in zip([*of_losses, *of_norms], [*losses, *norms], strict=True):
            values[row], watched[row] = tf.cast(value, tf.float32), True
        if arrived is not None:
            for row in of_losses:  # all losses are of the batch that has come to the last part
                watched[row] = arrived[phase.last]
            for k, row in zip(phase.active, of_norms, strict=True):
                watched[row] = arrived[k]
        return tf.stack(values), tf.stack(watched)

    def _medians_and_limits(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the medians and the limits that follow from them, both [rows]; inf where there are none."""
        count = tf.minimum(tf.convert_to_tensor(self._seen), WINDOW)
        there = tf.range(WINDOW, dtype=count.dtype) < count[:, tf.newaxis]
        ordered = tf.sort(tf.where(there, self._recent, float("inf")), axis=1)
        places = tf.maximum(count - 1, 0)[:, tf.newaxis] * [2, 3] // 4
        medians, quartiles = tf.unstack(tf.gather(ordered, places, batch_dims=1), axis=1)
        above = medians + tf.maximum(RISE, SPREAD_FACTOR * (quartiles - medians))
        first = tf.where(self._of_losses, ordered[:, 0] + FIRST_RISE, float("inf"))
        limits = tf.where(self._of_losses, above, NORM_RATIO * medians)
        return medians, tf.where(count >= FEWEST, limits, first)

    def _remember(self, values: tf.Tensor, inside: tf.Tensor, limits: tf.Tensor) -> None:
        newest = tf.one_hot(self._seen % WINDOW, WINDOW, True, False, dtype=tf.bool) & inside[:, tf.newaxis]
        self._recent.assign(tf.where(newest, values[:, tf.newaxis], self._recent))
        self._lowest.assign(tf.minimum(self._lowest, tf.where(inside, limits, float("inf"))))
        self._seen.assign_add(tf.cast(inside, self._seen.dtype))


def replicated(value: tf.Tensor) -> tf.Variable:
    """Returns a variable of which each replica keeps its own copy; all of them keep the same.

    Whole numbers must be int64: TensorFlow keeps variables of int32 on the host, where XLA on a GPU does not
    reach them.
    """
    return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
    )
