"""What a step does with its gradients: clip and apply them, or skip the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.bijectors.rate_factor import rate_factor
from glow_tf.core.errors import ConfigError
from glow_tf.internals import built_with_others
from glow_tf.training.forward_pass import ForwardPass
from glow_tf.training.gradients import StepGradients
from glow_tf.training.optimizers import Optimizer, Optimizers, RatePerWeight, steps_made

Tensors = Sequence[tf.Tensor]
Variables = Sequence[keras.Variable]


class Update:
    """Applies a step's gradients to the parts' weights, each part's by its own optimizer.

    A step that is skipped changes no weight and no moment of an optimizer; only its step count goes on, so
    that the rate does. If gradients are accumulated, it counts as one with gradients of 0.

    The optimizers, one per part, are built here, in the current strategy's scope. Gradients are clipped by
    the norm over each group of parts that gradients join: end to end over all parts. ConfigError if an
    optimizer accumulates gradients over steps under a strategy of `tf.distribute`, or clips them on several
    replicas, or has the state of other weights.
    """

    def __init__(self, forward: ForwardPass, optimizers: Optimizers, clip_norm: float, rate_scaling: str):
        flow = forward.flow
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for k, optimizer in enumerate(optimizers):
            own = forward.variables_of(k)
            # Replicas that accumulate would meet within a `tf.cond`; Keras clips before it sums over them.
            refused = ["gradient_accumulation_steps"] if tf.distribute.has_strategy() else []
            refused += ["clipnorm", "global_clipnorm", "clipvalue"] if replicas > 1 else []
            if given := [name for name in refused if getattr(optimizer, name, None)]:
                raise ConfigError(
                    f"an optimizer with {', '.join(given)} needs a single replica outside of a strategy; "
                    "the clip_norm of compile clips the gradients' sum over replicas. "
                    f"Received: {type(tf.distribute.get_strategy()).__name__} of {replicas} replicas"
                )
            if built_with_others(optimizer, own):
                raise ConfigError(
                    "compile needs new optimizers when other weights are trained than before. "
                    f"Received: an optimizer for part {k + 1} that has the state of others"
                )
            with flow.on_device_of(k):
                optimizer.build(own)
            if isinstance(optimizer, RatePerWeight):
                scaled = rate_scaling == "size"
                steps = flow.design.steps_in_series(k)
                optimizer.scale_rates(own, [rate_factor(v, steps) if scaled else 1.0 for v in own])
        self.flow = flow
        self.forward = forward
        self.optimizers = list(optimizers)
        self.clip_norm = clip_norm

    def norms(self, phase: Phase, gradients: Sequence[Tensors]) -> list[tf.Tensor]:
        """Returns the norm of each active part's gradients, []; of a part that is frozen 0."""
        return [
            self._on_device(k, tf.linalg.global_norm, own or [tf.zeros([])])
            for k, own in zip(phase.active, gradients, strict=True)
        ]

    def __call__(self, phase: Phase, step: StepGradients, norms: list[tf.Tensor], finite: tf.Tensor) -> None:
        """Clips gradients by their norms and applies them, or skips a step that is not `finite`, bool []."""
        clipped = self._clipped(phase, step.gradients, norms)
        groups = self.forward.trained_variables(phase)
        for k, own, variables in zip(phase.active, clipped, groups, strict=True):
            if not own:
                continue
            with self.flow.on_device_of(k):
                self._apply(k, own, variables, finite)

    def _clipped(
        self, phase: Phase, gradients: list[list[tf.Tensor]], norms: list[tf.Tensor]
    ) -> list[list[tf.Tensor]]:
        if not self.clip_norm:
            return gradients
        norm_of = dict(zip(phase.active, norms, strict=True))
        for group in phase.groups:
            joined = [k for k in group if k in norm_of]
            if len(joined) > 1:
                norm_of |= dict.fromkeys(joined, tf.linalg.global_norm([norm_of[k] for k in joined]))

        def clip(own: list[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            return [gradient * factor for gradient in own]

        # On the device of the part: its gradients are as large as its weights, its norm is one number.
        return [
            self._on_device(k, clip, own, norm)
            for (k, norm), own in zip(norm_of.items(), gradients, strict=True)
        ]

    def _apply(self, k: int, gradients: Tensors, variables: Variables, finite: tf.Tensor) -> None:
        optimizer = self.optimizers[k]
        if tf.distribute.has_strategy():  # of a single replica, too
            _apply_on_replicas(optimizer, gradients, variables, finite)
            return

        def apply() -> bool:
            optimizer.apply([tf.identity(g) for g in gradients], variables)
            return True

        def skip() -> bool:
            if optimizer.gradient_accumulation_steps:  # the update of the other steps is made
                optimizer.apply([tf.zeros_like(g) for g in gradients], variables)
            else:
                steps_made(optimizer).assign_add(1)
            return False

        tf.cond(finite, apply, skip)

    def _on_device(self, k: int, function: Callable, *args: object) -> object:
        with self.flow.on_device_of(k):
            return function(*args)


def _apply_on_replicas(
    optimizer: Optimizer, gradients: Tensors, weights: Variables, finite: tf.Tensor
) -> None:
    """Applies gradients, and puts everything back as it was if the step is to be skipped.

    Replicas meet within `apply`, and TensorFlow forbids that within a `tf.cond`.
    """
    # Clipping had to see the gradients summed over replicas. An optimizer that sums them once more gets an
    # equal fraction from each replica.
    given = isinstance(optimizer, RatePerWeight)
    divisor = 1 if given else tf.distribute.get_strategy().num_replicas_in_sync
    kept = [v for v in [*weights, *optimizer.variables] if v is not steps_made(optimizer)]
    before = [tf.identity(v.value) for v in kept]
    optimizer.apply([g / divisor for g in gradients], weights)
    for variable, value in zip(kept, before, strict=True):
        variable.assign(tf.where(finite, variable.value, value))
