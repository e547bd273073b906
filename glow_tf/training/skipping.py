"""Steps that overflow: skipped, counted, and after too many in a row the end of the run."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from glow_tf.errors import NonFiniteError
from glow_tf.glow import Glow
from glow_tf.schedule import Phase
from glow_tf.training.diagnosis import explain_non_finite


class SkippedSteps:
    """Decides of every step whether it may change the weights, and when a run has to stop.

    A step whose loss or gradient is not finite is skipped. If more than `most` steps in a row are skipped,
    or all steps of an epoch, training stops. The last batch is then run again, bijector by bijector, to find
    out where. Steps are counted anew in every epoch, so a resumed run decides as an uninterrupted one does.

    Args:
      glow: the model.
      optimizers: one per part; their step counts are in the message.
      most: how many steps in a row may be skipped; 0 stops at the first.
      compiled: the step is compiled with XLA, which cannot call Python. Then `raise_fault` stops training,
        without naming the bijector.

    Attributes:
      fault: describes the step that stopped training; None if there was none.
    """

    def __init__(
        self, glow: Glow, optimizers: Sequence[keras.optimizers.Optimizer], most: int, compiled: bool
    ):
        self.glow = glow
        self.optimizers = optimizers
        self.most = most
        self.compiled = compiled
        self.fault: str | None = None
        # Each replica counts by itself; all of them count the same.
        self._in_a_row, self._allowed = (
            tf.Variable(
                value,
                trainable=False,
                synchronization=tf.VariableSynchronization.ON_READ,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
            )
            for value in (0, most)
        )

    def begin_epoch(self, steps: int | None) -> None:
        """Counts from zero; `steps` of the epoch, None if not known, are too many to skip."""
        self._in_a_row.assign(0)
        self._allowed.assign(self.most if steps is None else min(self.most, steps - 1))

    def finite(
        self,
        phase: Phase,
        loss: tf.Tensor,
        norms: Sequence[tf.Tensor],
        batch: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Returns whether a step may change the weights, bool []; the same on all replicas.

        Args:
          phase: what is trained.
          loss: of this replica, [].
          norms: of the gradients, [] each; the same on all replicas.
          batch: returns the step's dequantised images [B, H, W, C], for the message.

        Raises:
          tf.errors.InvalidArgumentError: too many steps in a row are not finite; `fault` has the message.
        """
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([loss, *norms])))
        explains = ~finite
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # The replica whose images are at fault is to explain; all of them skip the step.
            own = 1 - tf.cast(tf.math.is_finite(loss), tf.int32)
            anywhere = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)
            finite &= anywhere == 0
            explains = ~finite & ((own > 0) | (anywhere == 0))
        in_a_row = tf.where(finite, 0, self._in_a_row + 1)
        self._in_a_row.assign(in_a_row)
        if self.compiled:
            return finite
        stops = explains & (in_a_row > self._allowed)
        with tf.control_dependencies([self._checked(phase, stops, in_a_row, loss, norms, batch)]):
            return tf.identity(finite)

    def raise_fault(self, phase: Phase) -> None:
        """Raises NonFiniteError if compiled steps have been skipped too often."""
        in_a_row = int(self._in_a_row.numpy()) if self.compiled else 0
        if in_a_row <= int(self._allowed.numpy()):
            return
        self.fault = (
            f"Training stopped: a loss or gradient was not finite in phase '{phase}', {in_a_row} steps in a "
            f"row, after step {self._steps_of(phase)} of part {phase.last + 1}. No weight was changed by "
            "those steps. Compile with jit_compile=False to learn which bijector it was."
        )
        raise NonFiniteError(self.fault)

    def _checked(
        self,
        phase: Phase,
        stops: tf.Tensor,
        in_a_row: tf.Tensor,
        loss: tf.Tensor,
        norms: Sequence[tf.Tensor],
        batch: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Returns a check that fails if the run has to stop.

        Python finds out where, and the graph fails by itself. TensorFlow would log an exception of the Python
        function twice, with its traceback, before the message of the run.
        """
        # TensorFlow keeps every py_function for as long as the process lives, and all that one refers to.
        reference = weakref.ref(self)

        def explain(v: tf.Tensor, in_a_row: tf.Tensor, loss: tf.Tensor, *norms: tf.Tensor) -> bool:
            own = reference()
            own.fault = explain_non_finite(
                own.glow,
                phase,
                own._steps_of(phase),
                int(in_a_row),
                v,
                float(loss),
                [float(n) for n in norms],
            )
            return False

        passed = tf.cond(
            stops, lambda: tf.py_function(explain, [batch(), in_a_row, loss, *norms], tf.bool), lambda: True
        )
        message = "the loss or a gradient is not finite"
        with tf.control_dependencies([tf.debugging.Assert(passed, [message])]):
            return tf.identity(passed)

    def _steps_of(self, phase: Phase) -> int:
        return int(self.optimizers[phase.last].iterations.numpy())
