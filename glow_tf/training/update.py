"""What follows the gradients of a step: check that they are finite, clip them, apply them."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from glow_tf.errors import NonFiniteError
from glow_tf.glow import Glow
from glow_tf.schedule import Phase
from glow_tf.training.diagnosis import explain_non_finite
from glow_tf.training.gradients import Groups, StepGradients
from glow_tf.training.optimizers import Fused, sums_gradients


class Update:
    """Applies a step's gradients to the parts' weights, each part's by its own optimizer.

    A step with a non-finite loss or gradient changes nothing: the update waits for the check. If the check
    fails, the batch is run again, bijector by bijector, to find out where.

    Args:
      glow: the model.
      optimizers: one per part; builds them, in the current strategy's scope.
      clip_norm: largest global norm of the gradients; 0 does not clip. End to end the norm is over all parts,
        otherwise over each part alone.
      compiled: the step is compiled with XLA, which cannot call Python: then a step that is not finite is
        skipped, and `raise_fault` says so afterwards, without naming the bijector.

    Attributes:
      fault: describes the step that was not finite; None if there was none.
    """

    def __init__(
        self,
        glow: Glow,
        optimizers: Sequence[keras.optimizers.Optimizer],
        clip_norm: float = 0.0,
        compiled: bool = False,
    ):
        for k, (part, optimizer) in enumerate(zip(glow.parts, optimizers, strict=True)):
            with glow.on_device_of(k):
                optimizer.build(part.trainable_variables)
            if isinstance(optimizer, Fused):
                optimizer.sums_gradients = False
        self.glow = glow
        self.optimizers = list(optimizers)
        self.clip_norm = clip_norm
        self.fault: str | None = None
        self._skipped = tf.Variable(False, trainable=False) if compiled else None

    def __call__(
        self,
        phase: Phase,
        groups: Groups,
        step: StepGradients,
        batch: Callable[[], tf.Tensor],
        arrived: Sequence[tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """Checks, clips and applies.

        Args:
          phase: what is trained.
          groups: the trained variables of each active part.
          step: their gradients.
          batch: returns the step's dequantised images [B, H, W, C], for the diagnosis.
          arrived: for each part whether it has a batch, bool []; None if every part has.

        Returns:
          The norm of each active part's gradients, before clipping, [].

        Raises:
          tf.errors.InvalidArgumentError: the loss or a gradient is not finite; `fault` has the message.
        """
        norms = [
            self._on_device(k, tf.linalg.global_norm, own)
            for k, own in zip(phase.active, step.gradients, strict=True)
        ]
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([step.loss, *norms])))
        clipped = self._clipped(phase, step.gradients, norms)
        if self._skipped is not None:
            self._skipped.assign(self._skipped | ~finite)
            tf.cond(finite, lambda: (self._apply(phase, groups, clipped, arrived), True)[1], lambda: False)
            return norms
        with tf.control_dependencies([self._checked(phase, finite, step.loss, norms, batch)]):
            self._apply(phase, groups, clipped, arrived)
        return norms

    def raise_fault(self, phase: Phase) -> None:
        """Raises NonFiniteError if a compiled step was skipped."""
        if self._skipped is not None and bool(self._skipped):
            self._skipped.assign(False)
            self.fault = (
                f"Training stopped: a loss or gradient was not finite in phase '{phase}', after step "
                f"{self._steps_of(phase)} of part {phase.last + 1}. No weight was changed by that step. "
                "Compile with jit_compile=False to learn which bijector it was."
            )
            raise NonFiniteError(self.fault)

    def _checked(
        self,
        phase: Phase,
        finite: tf.Tensor,
        loss: tf.Tensor,
        norms: Sequence[tf.Tensor],
        batch: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        """Returns a check that fails, before any weight changes, if the step has a non-finite number.

        Python finds out where, and the graph fails by itself. TensorFlow would log an exception of the Python
        function twice, with its traceback, before the message of the run.
        """
        # TensorFlow keeps every py_function for as long as the process lives, and all that one refers to.
        reference = weakref.ref(self)

        def explain(v: tf.Tensor, loss: tf.Tensor, *norms: tf.Tensor) -> bool:
            update = reference()
            update.fault = explain_non_finite(
                update.glow, phase, update._steps_of(phase), v, float(loss), [float(n) for n in norms]
            )
            return False

        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            # All replicas have the same norms. The replica whose images are at fault is to explain.
            own = 1 - tf.cast(tf.math.is_finite(loss), tf.int32)
            anywhere = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)
            finite |= (own == 0) & (anywhere > 0)
        passed = tf.cond(
            finite, lambda: True, lambda: tf.py_function(explain, [batch(), loss, *norms], tf.bool)
        )
        message = "the loss or a gradient is not finite"
        with tf.control_dependencies([tf.debugging.Assert(passed, [message])]):
            return tf.identity(passed)

    def _steps_of(self, phase: Phase) -> int:
        return int(self.optimizers[phase.last].iterations.numpy())

    def _clipped(
        self, phase: Phase, gradients: list[list[tf.Tensor]], norms: list[tf.Tensor]
    ) -> list[list[tf.Tensor]]:
        if not self.clip_norm:
            return gradients
        if phase.end_to_end:
            norms = [tf.linalg.global_norm(norms)] * len(norms)

        def clip(own: list[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            return [gradient * factor for gradient in own]

        # On the device of the part: its gradients are as large as its weights, its norm is one number.
        return [
            self._on_device(k, clip, own, norm)
            for k, own, norm in zip(phase.active, gradients, norms, strict=True)
        ]

    def _apply(
        self,
        phase: Phase,
        groups: Groups,
        gradients: list[list[tf.Tensor]],
        arrived: Sequence[tf.Tensor] | None,
    ) -> None:
        for k, own, variables in zip(phase.active, gradients, groups, strict=True):
            optimizer = self.optimizers[k]
            # Clipping had to see the gradients summed over replicas. An optimizer that sums them once more
            # gets an equal fraction from each replica.
            replicas = tf.distribute.get_strategy().num_replicas_in_sync
            divisor = replicas if sums_gradients(optimizer) else 1
            with self.glow.on_device_of(k):
                given = [g / divisor if divisor > 1 else tf.identity(g) for g in own]
                apply = functools.partial(optimizer.apply, given, variables)
                if arrived is None:
                    apply()
                else:
                    tf.cond(arrived[k], lambda apply=apply: (apply(), True)[1], lambda: False)

    def _on_device(self, k: int, function: Callable, *args: object) -> object:
        with self.glow.on_device_of(k):
            return function(*args)
