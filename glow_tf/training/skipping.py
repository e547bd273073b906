"""What diverges: steps that are not finite are skipped, and after too many in a row training stops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.core.errors import DivergedError
from glow_tf.training.gradients import StepGradients
from glow_tf.training.optimizers import Optimizers, steps_made

MOST_BITS = 32.0  # per dimension at the end of an epoch; a uniform density of 8-bit images has 8
ADVICE = "A lower learning rate or a longer warm-up usually helps; so does clip_norm, where it is 0."


class SkippedSteps:
    """Decides of every step whether it may change the weights, and between steps whether training goes on.

    A step whose loss, or the norm of whose gradient, is not finite is skipped: the graph decides that. It
    writes what the step was like into a variable, which the host reads. If more than `most` steps in a row
    were skipped, or all steps of an epoch, training stops. They are counted anew in every epoch, so a resumed
    run decides as an uninterrupted one does.

    All replicas see the same numbers, so several processes skip a step together, and stop after the same one.
    """

    def __init__(self, optimizers: Optimizers, most: int):
        self.optimizers = optimizers
        self.most = most
        self._strategy = tf.distribute.get_strategy()
        # Of a step: whether it is finite, its loss, and the norm of each part's gradients, if it trains them.
        # float32: TensorFlow keeps variables of int32 on the host, where XLA on a GPU does not reach them.
        self._report = tf.Variable(
            tf.zeros([2 + len(optimizers)]),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )
        self.begin_epoch(None)

    def begin_epoch(self, steps: int | None) -> None:
        """Counts from zero; an epoch's `steps` (None: not known) are too many to skip."""
        self._in_a_row = 0
        self._allowed = self.most if steps is None else min(self.most, steps - 1)
        self._reports: list[Sequence[tf.Tensor]] = []  # of each replica here, of the steps not looked at yet

    def finite(self, phase: Phase, step: StepGradients, norms: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns whether a step may change the weights, bool []; the same on all replicas.

        The step's loss is that of this replica, the gradients' norms are the same on all.
        """
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([step.loss, *norms])))
        if self._strategy.num_replicas_in_sync > 1:
            bad = tf.cast(~tf.math.is_finite(step.loss), tf.float32)
            replica = tf.distribute.get_replica_context()
            finite &= replica.all_reduce(tf.distribute.ReduceOp.SUM, bad) == 0
        numbers = [finite, step.loss, *[0.0] * len(self.optimizers)]
        for k, norm in zip(phase.active, norms, strict=True):
            numbers[2 + k] = norm
        self._report.assign(tf.stack([tf.cast(number, tf.float32) for number in numbers]))
        return finite

    def note(self) -> None:
        """Keeps what a step that has been made was like, for `check`; waits for nothing."""
        own = self._strategy.experimental_local_results(self._report)
        self._reports.append([variable.read_value() for variable in own])

    def check(self, phase: Phase) -> None:
        """Looks at the steps of a phase since the last time; DivergedError if training stops after them."""
        reports, self._reports = self._reports, []
        for of_replicas in reports:
            found = np.stack([report.numpy() for report in of_replicas])
            loss, *norms = found[:, 1:].max(axis=0)
            self._in_a_row = 0 if found[:, 0].all() else self._in_a_row + 1
        if not reports or self._in_a_row <= self._allowed:
            return
        bad = [k for k in phase.active if not math.isfinite(norms[k])]
        # Parts after one whose output is not finite are not finite either; end to end, all are not.
        part = phase.last if phase.end_to_end or not bad else bad[0]
        gradients = [float(f"{norms[k]:.4g}") for k in phase.active]
        last = "" if self._in_a_row == 1 else f" It is the last of {self._in_a_row} such steps in a row."
        raise DivergedError(
            f"Training stopped: not finite {self._place(phase, part)} (loss {loss:.6g} bits/dim, gradient "
            f"norms {gradients}).{last} No step that is not finite changes a weight. {ADVICE}"
        )

    def check_bits(self, phase: Phase, bits: Mapping[str, float], most: float = MOST_BITS) -> None:
        """Raises DivergedError if bits/dim of an epoch of a phase, by what they are of, are above `most`."""
        for what, value in bits.items():
            if not value <= most or not math.isfinite(value):
                above = f", and at most {most:g} are sound" if most < math.inf else ""
                raise DivergedError(
                    f"Training stopped: it diverged {self._place(phase, phase.last)}: the epoch ends with "
                    f"{value:.6g} bits/dim of the {what} images{above}. {ADVICE}"
                )

    def _place(self, phase: Phase, part: int) -> str:
        optimizer = self.optimizers[part]
        step, rate = steps_made(optimizer).numpy() - 1, tf.convert_to_tensor(optimizer.learning_rate)
        return f"in phase '{phase}', step {step} of part {part + 1}, at a learning rate of {float(rate):g}"
