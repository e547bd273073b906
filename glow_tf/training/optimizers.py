"""One optimizer per part, each with a learning rate that follows the part's own steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.core.errors import ConfigError
from glow_tf.internals import AppliesAsGiven, rate_of

Optimizer = keras.optimizers.Optimizer
Optimizers = Sequence[Optimizer]  # one for each part


@keras.saving.register_keras_serializable(package="glow_tf")
class PartRate(keras.optimizers.schedules.LearningRateSchedule):
    """Warm-up, then a constant or cosine rate, then optionally a second rate for the end-to-end epochs.

    rate(step) = learning_rate · min(1, (step + 1) / warmup_steps) · decay(step / n), where decay(x) is 1 or
    ½(1 + cos πx), and n is `steps`, or `finetune_from` if that is given. From step `finetune_from` on the
    rate is `finetune_learning_rate` without warm-up, with a cosine over the steps that remain.

    Args:
      learning_rate: the rate before decay.
      steps: number of steps that train the part.
      warmup_steps: number of steps over which the rate rises.
      cosine: whether the rate decays.
      finetune_learning_rate, finetune_from: the second rate and the step it starts at, or None for both.
      in_epochs: whether `steps` and `finetune_from` are still numbers of epochs. `count_steps` makes steps of
        them; before that the rate does not decay.

    Raises:
      ConfigError: one of `finetune_learning_rate` and `finetune_from` is given without the other.
    """

    def __init__(
        self,
        learning_rate: float,
        steps: int,
        warmup_steps: int = 0,
        cosine: bool = False,
        finetune_learning_rate: float | None = None,
        finetune_from: int | None = None,
        in_epochs: bool = False,
    ):
        super().__init__()
        if (finetune_learning_rate is None) != (finetune_from is None):
            raise ConfigError(
                "finetune_learning_rate and finetune_from go together. "
                f"Received: {finetune_learning_rate=}, {finetune_from=}"
            )
        self.learning_rate = learning_rate
        self.steps = steps
        self.warmup_steps = warmup_steps
        self.cosine = cosine
        self.finetune_learning_rate = finetune_learning_rate
        self.finetune_from = finetune_from
        self.in_epochs = in_epochs

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Returns the rate of a step, counted from 0; float32 []."""
        step = tf.cast(step, tf.float32)
        first_steps = self.steps if self.finetune_from is None else self.finetune_from
        rate = self.learning_rate * self._decay(step, first_steps)
        if self.warmup_steps:
            rate *= tf.minimum(1.0, (step + 1) / self.warmup_steps)
        if self.finetune_from is None or self.in_epochs:
            return rate
        since = step - self.finetune_from
        finetune = self.finetune_learning_rate * self._decay(since, self.steps - self.finetune_from)
        return tf.where(since >= 0, finetune, rate)

    def _decay(self, step: tf.Tensor, steps: int) -> tf.Tensor:
        if not self.cosine or self.in_epochs:
            return tf.ones([])
        done = tf.clip_by_value(step / max(steps, 1), 0.0, 1.0)
        return 0.5 * (1 + tf.cos(math.pi * done))

    def count_steps(self, steps_per_epoch: int) -> None:
        """Makes steps of the epochs that it was given."""
        self.in_epochs = False
        self.steps *= steps_per_epoch
        if self.finetune_from is not None:
            self.finetune_from *= steps_per_epoch

    def get_config(self) -> dict:
        return {
            "learning_rate": self.learning_rate,
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
            "cosine": self.cosine,
            "finetune_learning_rate": self.finetune_learning_rate,
            "finetune_from": self.finetune_from,
            "in_epochs": self.in_epochs,
        }


class RatePerWeight(AppliesAsGiven):
    """A base of optimizers, before one of Keras's, whose rate is multiplied by a factor for each weight.

    `rate_scaling="size"` needs it. An optimizer of one's own, without `weight_decay`, has it in a line:

        class Lion(RatePerWeight, keras.optimizers.Lion): ...
    """

    def scale_rates(self, variables: Sequence[keras.Variable], factors: Sequence[float]) -> None:
        """Gives each variable a factor; from now on gradients are applied as given, without a sum."""
        self.as_given = True
        local = tf.distribute.get_strategy().experimental_local_results
        pairs = zip(variables, factors, strict=True)
        # Not by an attribute, here and below: Keras would put the dictionary into checkpoints.
        vars(self)["_factors"] = {id(own): factor for v, factor in pairs for own in local(v.value)}

    def scaled(self, learning_rate: tf.Tensor, variable: tf.Variable) -> tf.Tensor:
        """Returns the rate of a variable, or of its copy on a replica."""
        factor = vars(self)["_factors"][id(variable)] if "_factors" in vars(self) else 1
        return learning_rate if factor == 1 else factor * learning_rate

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        """Updates a variable, at its own rate."""
        super().update_step(gradient, variable, self.scaled(learning_rate, variable))


@keras.saving.register_keras_serializable(package="glow_tf")
class ScaledSGD(RatePerWeight, keras.optimizers.SGD):
    """Keras's SGD, a `RatePerWeight`."""


class Fused(RatePerWeight):
    """One of Keras's optimizers with TensorFlow's own kernel: one pass over each variable, not ten.

    A subclass names the two moments of a variable as Keras names them.
    """

    MOMENTS: tuple[str, str]

    def build(self, variables: Sequence[keras.Variable]) -> None:
        """Makes the moments, and keeps which are those of a variable, or of its copy on a replica."""
        super().build(variables)
        kinds = ([v for v in self.variables if v.path.endswith(f"_{name}")] for name in self.MOMENTS)
        local = tf.distribute.get_strategy().experimental_local_results
        pairs = zip(variables, *kinds, strict=True)
        vars(self)["_moments"] = {id(own): moments for v, *moments in pairs for own in local(v.value)}

    def apply(self, grads: Sequence[tf.Tensor], trainable_variables: Any = None) -> None:
        """Applies gradients; what is the same for all variables is computed once."""
        vars(self)["_shared"] = {}
        super().apply(grads, trainable_variables)
        vars(self).pop("_shared", None)  # with it the graphs; replicas share an optimizer

    def _numbers(self, dtype: tf.DType, device: str, decays: Mapping[str, float]) -> dict[str, tf.Tensor]:
        """Returns what is the same for all variables of a step, and need be computed only once."""
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        shared, key = vars(self).get("_shared", {}), (graph, dtype, device)
        if key not in shared:
            own = {"beta1": self.beta_1, "beta2": self.beta_2, "epsilon": self.epsilon}
            steps = tf.cast(self.iterations + 1, dtype)  # `iterations` may be a tensor
            found = {name: tf.cast(number, dtype) for name, number in own.items()}
            shared[key] = found | {name: tf.cast(decay, dtype) ** steps for name, decay in decays.items()}
        return shared[key]

    def _apply_kernel(
        self,
        kernel: Callable,
        gradient: tf.Tensor,
        variable: tf.Variable,
        learning_rate: tf.Tensor,
        **decays: float,
    ) -> None:
        m, v = (moment.value.handle for moment in vars(self)["_moments"][id(variable)])
        kernel(
            var=variable.handle,
            m=m,
            v=v,
            lr=tf.cast(self.scaled(learning_rate, variable), variable.dtype),
            grad=gradient,
            **self._numbers(variable.dtype, variable.device, {"beta1_power": self.beta_1, **decays}),
        )


@keras.saving.register_keras_serializable(package="glow_tf")
class FusedAdam(Fused, keras.optimizers.Adam):
    """Keras's Adam, `Fused`.

    Raises:
      ValueError: amsgrad is set, which TensorFlow's kernel does not have.
    """

    MOMENTS = ("momentum", "velocity")

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.amsgrad:
            raise ValueError("FusedAdam has no amsgrad; keras.optimizers.Adam has. Received: amsgrad=True")

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        kernel = tf.raw_ops.ResourceApplyAdam
        self._apply_kernel(kernel, gradient, variable, learning_rate, beta2_power=self.beta_2)


@keras.saving.register_keras_serializable(package="glow_tf")
class FusedAdamax(Fused, keras.optimizers.Adamax):
    """Keras's Adamax, `Fused`."""

    MOMENTS = ("momentum", "norm")

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        self._apply_kernel(tf.raw_ops.ResourceApplyAdaMax, gradient, variable, learning_rate)


class OptimizerOfParts(keras.optimizers.Optimizer):
    """What Keras and its callbacks know as the optimizer of a trainer: those of all parts.

    Its rate is that of the first part. Who sets it multiplies the rates of all parts by one factor. `fit`
    does not end with the moving averages of the weights; see `Averages`.
    """

    def __init__(self, optimizers: Optimizers):
        super().__init__(learning_rate=0.0)
        self.of_parts = list(optimizers)
        self._ratios = [1.0] * len(self.of_parts)  # to the first part's rate, when it was last not 0

    @property
    def variables(self) -> list[keras.Variable]:
        return [v for optimizer in self.of_parts for v in optimizer.variables]

    @property
    def iterations(self) -> keras.Variable:
        return self.of_parts[0].iterations

    @property
    def learning_rate(self) -> tf.Tensor:
        return tf.convert_to_tensor(self.of_parts[0].learning_rate)

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        rates = [rate_of(optimizer) for optimizer in self.of_parts]
        for part, own in enumerate(rates, start=1):
            if not isinstance(own, keras.Variable):
                raise ConfigError(
                    "a learning rate is set, which needs optimizers that have a number as rate. "
                    f"Received: a schedule for part {part}"
                )
        if now := float(rates[0].numpy()):
            self._ratios = [float(own.numpy()) / now for own in rates]
        for own, ratio in zip(rates, self._ratios, strict=True):
            own.assign(ratio * float(rate))

    def finalize_variable_values(self, var_list: Sequence[keras.Variable]) -> None:
        """Leaves the weights as they are."""

    def save_own_variables(self, store: dict) -> None:
        """Saves nothing: each part's optimizer saves its own."""

    load_own_variables = save_own_variables


BY_NAME = {"adamax": FusedAdamax, "adam": FusedAdam, "sgd": ScaledSGD}


def steps_made(optimizer: Optimizer) -> keras.Variable:
    """Returns what counts an optimizer's steps; `iterations` counts its updates, which may be fewer."""
    return next(v for v in optimizer.variables if v.path.endswith("/iteration"))


def count_steps(optimizers: Optimizers, steps_per_epoch: int | None) -> None:
    """Tells optimizers how many steps an epoch has, unless they know it.

    ConfigError if it is not known now, either, and a rate or a decay follows it.
    """
    for optimizer in optimizers:
        rate = rate_of(optimizer)
        if not isinstance(rate, PartRate) or not rate.in_epochs:
            continue
        beta_2 = getattr(optimizer, "beta_2", None)
        if steps_per_epoch:
            rate.count_steps(steps_per_epoch)
            if beta_2 == "oai":
                optimizer.beta_2 = second_moment_decay(beta_2, steps_per_epoch)
        elif rate.cosine or rate.finetune_from is not None or beta_2 == "oai":
            raise ConfigError(
                "the rates follow the number of steps per epoch, which is not known here. Give compile "
                "steps_per_epoch, or a TrainConfig with rate_schedule='constant', without "
                "finetune_learning_rate and beta_2='oai'. "
                f"Received: cosine={rate.cosine}, finetune_learning_rate={rate.finetune_learning_rate}, "
                f"{beta_2=}, steps_per_epoch={steps_per_epoch}"
            )


def check_rates(optimizers: Optimizers, phases: Iterable[Phase], steps_per_epoch: int | None) -> None:
    """Raises ConfigError if an epoch to come would train a part at a rate that has fallen to 0 before it.

    If the number of steps per epoch is not known, the first epoch of each part counts.
    """
    rates = [rate_of(optimizer) for optimizer in optimizers]
    ends = [rate.steps if isinstance(rate, PartRate) and rate.cosine else math.inf for rate in rates]
    if min(ends) == math.inf:
        return
    made = [int(steps_made(optimizer).numpy()) for optimizer in optimizers]
    for phase in phases:
        for k in phase.active:
            if made[k] >= ends[k]:
                raise ConfigError(
                    f"the cosine of part {k + 1} ends with its step {ends[k]}, and later epochs would "
                    "change nothing. For more epochs train with a constant rate from the start, or compile "
                    f"the trainer with new optimizers. Received: phase '{phase}' after {made[k]} of its steps"
                )
            made[k] += steps_per_epoch or 0


def second_moment_decay(beta_2: str, steps_per_epoch: int) -> float:
    """Returns the setting `beta_2` as a number."""
    # The published code of Glow averages over one epoch.
    return 1 - 1 / max(steps_per_epoch, 2) if beta_2 == "oai" else float(beta_2)
