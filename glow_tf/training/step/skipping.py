"""Steps that overflow or leave their band: skipped or counted, and after too many in a row the run's end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf.core.errors import DivergedError
from glow_tf.layout.schedule import Phase
from glow_tf.model.glow import Glow
from glow_tf.training.optim.optimizers import steps_made
from glow_tf.training.step.diagnosis import Seen, explain_divergence, explain_non_finite
from glow_tf.training.step.divergence import DivergenceMonitor, replicated
from glow_tf.training.step.gradients import StepGradients, mean_over_examples


class SkippedSteps:
    """Decides of every step whether it may change the weights, and between steps whether training goes on.

    A step whose loss, or the norm of whose gradient, is not finite is skipped: the graph decides that. It
    writes what the step was like into a variable, which the host reads. If more than `most` steps in a row
    were skipped, or all steps of an epoch, training stops. The last batch is then run again, bijector by
    bijector, to find out where. These steps are counted anew in every epoch, so a resumed run decides as an
    uninterrupted one does.

    A step that is finite and outside of its band (see `DivergenceMonitor`) is applied and counted. Training
    stops if more than `most_outside` steps in a row were outside or not finite; None does not watch.

    All replicas see the same numbers, so several processes skip a step together, and stop after the same one.
    """

    def __init__(
        self,
        glow: Glow,
        optimizers: Sequence[keras.optimizers.Optimizer],
        most: int,
        most_outside: int | None,
    ):
        self.glow = glow
        self.optimizers = optimizers
        self.most = most
        # The longer of two permissions holds for steps of both kinds.
        self.most_outside = None if most_outside is None else max(most, most_outside)
        self._strategy = tf.distribute.get_strategy()
        self.divergence_monitor = DivergenceMonitor(len(glow.parts))
        self.in_a_row = replicated(tf.zeros([], tf.int64))  # steps up to the last one that were not finite
        # Of a step: whether it is finite, its loss, each row's value, and which rows of the monitor have one.
        self._report = replicated(tf.zeros([2 + 2 * self.divergence_monitor.rows]))
        self._reports: list[Sequence[tf.Tensor]] = []  # of each replica here, of the steps not looked at yet
        self.begin_epoch(None)

    def begin_epoch(self, steps: int | None, resumes: bool = False) -> None:
        """Counts from zero, unless the epoch goes on; its `steps` (None: not known) are too many to skip."""
        if not resumes:
            self.in_a_row.assign(0)
        self.recall()
        self._allowed = self.most if steps is None else min(self.most, steps - 1)
        self._reports.clear()

    def recall(self) -> None:
        """Goes on from what the variables hold, which may be what a checkpoint has given them."""
        self._so_far = int(self.in_a_row.numpy())
        self.divergence_monitor.recall()

    def finite(self, phase: Phase, step: StepGradients, norms: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns whether a step may change the weights, bool []; the same on all replicas.

        The step's losses are those of this replica, the gradients' norms the same on all.
        """
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([step.loss, *norms])))
        losses = [mean_over_examples(step.truncated_nlls[k], step.weight) for k in phase.ends]
        if self._strategy.num_replicas_in_sync > 1:
            anywhere, losses = _over_replicas(~tf.math.is_finite(step.loss), losses, step.weight)
            finite &= anywhere == 0
        values, there = [0.0] * self.divergence_monitor.rows, [False] * self.divergence_monitor.rows
        of_losses, of_norms = self.divergence_monitor.rows_of(phase)
        for row, loss in zip(of_losses, losses, strict=True):
            values[row], there[row] = loss, True
        for row, norm in zip(of_norms, norms, strict=True):
            values[row], there[row] = norm, True
        self._report.assign(tf.stack([tf.cast(n, tf.float32) for n in (finite, step.loss, *values, *there)]))
        return finite

    def note(self) -> None:
        """Keeps what a step that has been made was like, for `fault_of`; waits for nothing."""
        own = self._strategy.experimental_local_results(self._report)
        self._reports.append([variable.read_value() for variable in own])

    def fault_of(self, phase: Phase, batch: Callable[[], Seen]) -> DivergedError | None:
        """Looks at the steps of a phase since the last time; returns what stops training after them, if any.

        `batch` returns that of the last of them, which the message looks into.
        """
        reports, self._reports = self._reports, []
        if not reports:
            return None
        in_a_row, outside, observed = self._so_far, 0, None
        for of_replicas in reports:
            finite, loss, values, there = self._read(of_replicas)
            in_a_row = 0 if finite else in_a_row + 1
            if self.most_outside is not None:
                observed = self.divergence_monitor.observe(finite, values, there)
                outside = observed.consecutive if there.any() else 0
        self.divergence_monitor.write()
        if in_a_row != self._so_far:
            self._so_far = in_a_row
            self.in_a_row.assign(in_a_row)
        if in_a_row <= self._allowed and outside <= (self.most_outside or 0):
            return None
        rows = self.divergence_monitor.rows_of(phase)
        step = int(steps_made(self.optimizers[phase.last]).numpy()) - 1
        if finite:
            return explain_divergence(self.glow, phase, step, batch(), observed, rows)
        return explain_non_finite(
            self.glow, phase, step, max(in_a_row, outside), batch(), loss, values[rows[1]]
        )

    def _read(self, of_replicas: Sequence[tf.Tensor]) -> tuple[bool, float, np.ndarray, np.ndarray]:
        """Returns whether a step is finite, its loss, and what the monitor observes.

        Of replicas that make a step alone the worst one counts, and none that had no batch.
        """
        rows = self.divergence_monitor.rows
        found = np.stack([report.numpy() for report in of_replicas])
        arrived = found[found[:, 2 + rows :].any(axis=1)]
        (_, loss), values, there = np.split((arrived if len(arrived) else found).max(0), [2, 2 + rows])
        return bool(found[:, 0].all()), float(loss), values, there > 0


def _over_replicas(
    bad: tf.Tensor, losses: Sequence[tf.Tensor], weight: tf.Tensor | None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns on how many replicas the loss is not finite, and the mean of each loss over all examples.

    `bad` is whether this replica's loss is not finite; the losses are means over its examples.
    """
    count = tf.ones([]) if weight is None else tf.cast(tf.reduce_sum(weight), tf.float32)
    own = [tf.cast(bad, tf.float32), count, *(count * tf.cast(loss, tf.float32) for loss in losses)]
    replica = tf.distribute.get_replica_context()
    anywhere, total, *sums = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(own)))
    return anywhere, [tf.math.divide_no_nan(value, total) for value in sums]
