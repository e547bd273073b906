"""How training steps are computed: the options of `PartsTrainer.compile`, checked."""

from __future__ import annotations

import dataclasses
import math
import numbers
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.config import RATE_SCALINGS, TrainConfig
from glow_tf.core.errors import ConfigError
from glow_tf.devices.strategies import compiles_by_default
from glow_tf.devices.workers import in_several_processes
from glow_tf.internals import rate_of
from glow_tf.model.flow import Flow
from glow_tf.training.inputs import DEFAULT_BATCH_SIZE
from glow_tf.training.objective import BaseObjective, LocalObjective
from glow_tf.training.optimizers import BY_NAME, Optimizers, PartRate, RatePerWeight

# What a saved trainer does not keep: where and how steps are computed.
NOT_SAVED = ("steps_per_execution", "jit_compile", "run_eagerly")
# A weight of a stack holds that of all its flow steps, [K, …]: these would mix the steps.
BY_SHAPE = ("Adafactor", "Lamb", "Muon")
SLOW = 20  # times below the default rate
# Of the default rate; on digits such a constant rate overshoots, and the default itself ends far above where
# it began. With a warm-up neither does.
FAST = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompileOptions:
    """The options of `PartsTrainer.compile`.

    Attributes:
      clip_norm: largest global norm of the gradients of the loss in bits/dim, after they are summed over
        replicas; 0 does not clip. The norm is over the parts that train together: end to end over all.
      max_skipped_steps: how many steps in a row are skipped if their loss, or the norm of a gradient, is not
        finite; one more ends the run, and so does an epoch of such steps. 0 ends it at the first.
      rate_scaling: `size` multiplies the rate of each weight by a factor that depends on the width and the
        number of flow steps, so that one rate suits models of all sizes; see `rate_factor`. `none` gives
        every weight the optimizer's rate.
      steps_per_execution, run_eagerly: as in keras.Model.compile. A divergence ends training after the last
        of such steps.
      jit_compile: compile steps with XLA; `auto` does where there is a GPU.
      reversible: recompute activations instead of keeping them (see `Stack`).
      batch_size: of `fit`, where it is given an array and no batch size.
    """

    clip_norm: float = 0.0
    max_skipped_steps: int = 10
    rate_scaling: str = "size"
    steps_per_execution: int = 1
    jit_compile: bool | str = "auto"
    reversible: bool = False
    run_eagerly: bool = False
    batch_size: int = DEFAULT_BATCH_SIZE

    @classmethod
    def of(cls, given: dict[str, Any]) -> CompileOptions:
        """Returns the options that `compile` was given; raises ConfigError if there are no such options."""
        known = [field.name for field in dataclasses.fields(cls)]
        if unknown := sorted(set(given) - set(known)):
            raise ConfigError(
                f"compile takes {', '.join(known)}, phases, and steps_per_epoch with a TrainConfig; no "
                "loss and no metrics, as the loss is the bits per dimension. "
                f"Received: {', '.join(unknown)}"
            )
        return cls(**given)

    def checked(self, flow: Flow, strategy: tf.distribute.Strategy, optimizers: Optimizers) -> CompileOptions:
        """Returns the options with `jit_compile` decided.

        ConfigError if there is not one optimizer per part, made in the scope of the strategy, or options are
        no counts, not finite, or exclude each other.
        """
        _check_optimizers(optimizers, len(flow.parts), strategy, self.rate_scaling)
        jit_compile = self.jit_compile
        if jit_compile not in (True, False, "auto"):
            raise ConfigError(f"jit_compile must be True, False or 'auto'. Received: {jit_compile=}")
        if jit_compile == "auto":
            alone = strategy.num_replicas_in_sync == 1 and not flow.part_devices
            jit_compile = alone and not self.run_eagerly and compiles_by_default()
        options = dataclasses.replace(self, jit_compile=bool(jit_compile))
        options._check_combination(flow, strategy)
        return options

    def of_keras(self) -> dict[str, Any]:
        """Returns those of keras.Model.compile."""
        return {name: getattr(self, name) for name in ("jit_compile", "steps_per_execution", "run_eagerly")}

    def to_config(self) -> dict[str, float | bool | int]:
        """Returns the options that a saved trainer keeps."""
        return {name: value for name, value in vars(self).items() if name not in NOT_SAVED}

    def _check_combination(self, flow: Flow, strategy: tf.distribute.Strategy) -> None:
        replicas, placed = strategy.num_replicas_in_sync, bool(flow.part_devices)
        if not isinstance(steps := self.steps_per_execution, numbers.Integral) or steps < 1:
            raise ConfigError(
                f"steps_per_execution must be 1 or more, an integer. Received: steps_per_execution={steps!r}"
            )
        is_count = isinstance(self.max_skipped_steps, numbers.Integral) and self.max_skipped_steps >= 0
        is_norm = isinstance(self.clip_norm, numbers.Real) and 0 <= self.clip_norm < math.inf
        wrong = {
            "steps_per_execution must be 1 in several processes": self.steps_per_execution != 1
            and in_several_processes(strategy),
            "max_skipped_steps must be an integer and must not be negative": not is_count,
            "clip_norm must be finite and must not be negative": not is_norm,
            f"rate_scaling must be one of {', '.join(RATE_SCALINGS)}": self.rate_scaling not in RATE_SCALINGS,
            "part_devices needs one replica": placed and replicas > 1,
            "jit_compile needs one replica, and parts that share its device": self.jit_compile
            and (placed or replicas > 1),
        }
        for expected, is_wrong in wrong.items():
            if is_wrong:
                named = [f"{name}={value!r}" for name, value in vars(self).items() if name in expected]
                received = ", ".join([*named, f"part_devices={flow.part_devices}", f"{replicas} replicas"])
                raise ConfigError(f"{expected}. Received: {received}")


def check_compiled(model: keras.Model, method: str) -> None:
    """Raises ConfigError unless a trainer is compiled."""
    if not model.compiled:
        raise ConfigError(
            f"compile the trainer before {method}, for example trainer.compile(). "
            "Received: a trainer without optimizers"
        )


def check_phases(flow: Flow, phases: Sequence[Phase], objectives: Iterable[LocalObjective]) -> None:
    """Raises ConfigError if one of the phases trains nothing, because its parts are frozen.

    Warns if objectives of one's own were given and no phase minimises one, as end to end.
    """
    for phase in phases:
        if not any(flow.parts[k].trainable_variables for k in phase.active):
            raise ConfigError(
                "a phase must name a part that has weights to train. "
                f"Received: phase '{phase}', whose parts have trainable=False"
            )

    own = [k for k, objective in enumerate(objectives) if not isinstance(objective, BaseObjective)]
    if own and not any(phase.minimises_objective_of(k) for phase in phases for k in own):
        names = ", ".join(sorted({str(phase) for phase in phases}))
        warnings.warn(f"no phase trains a part on its own objective. Received: phases {names}", stacklevel=3)


def check_planned(phase: Phase, planned: Sequence[Phase]) -> None:
    """Raises ConfigError if epochs to come are planned in another phase than the one of `fit`."""
    others = [str(other) for other in planned if other != phase]
    if others:
        raise ConfigError(
            "fit trains in one phase. Write a loop: for epoch, phase in enumerate(trainer.phases): "
            "trainer.set_phase(phase); trainer.fit(images, initial_epoch=epoch, epochs=epoch + 1). "
            f"Received: phase '{phase}', and epochs of compile's schedule in phase '{others[0]}'"
        )


def warn_of_rates(optimizers: Optimizers, rate_scaling: str) -> None:
    """Warns of rates that are meant for every weight, and of high ones without a warm-up."""
    adaptive = keras.optimizers.Adam | keras.optimizers.Adamax | keras.optimizers.Nadam
    rates = [
        (rate.learning_rate, rate.warmup_steps) if isinstance(rate, PartRate) else (float(rate.numpy()), 0)
        for rate in (rate_of(o) for o in optimizers if isinstance(o, adaptive))
        if isinstance(rate, PartRate | keras.Variable)  # of other schedules nothing is known
    ]
    if rates and rate_scaling == "size":
        highest, warmup_steps = max(rates)
        for sentence in unsuited_rates(highest, warmup_steps):
            warnings.warn(f"{sentence}.", stacklevel=3)


def optimizers_per_part(given: Any, num_parts: int) -> list[keras.optimizers.Optimizer]:
    """Returns one optimizer per part: those given, or new ones of one optimizer, its name or its config.

    ConfigError if something else is given, such as an optimizer of another Keras.
    """
    if isinstance(given, str) and (kind := BY_NAME.get(given.lower())):
        return [kind() for _ in range(num_parts)]
    if isinstance(given, str | dict):
        return [keras.optimizers.get(given) for _ in range(num_parts)]
    if isinstance(given, keras.optimizers.Optimizer):
        new = [type(given).from_config(given.get_config()) for _ in range(num_parts)]  # registered or not
        return new if given.built else [given, *new[1:]]  # all parts start anew, or none does
    optimizers = list(given) if isinstance(given, list | tuple) else [given]
    for optimizer in optimizers:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ConfigError(
                "compile needs optimizers of Keras 3, such as keras.optimizers.Adamax(1e-2), or their names. "
                f"Received: {type(optimizer).__module__}.{type(optimizer).__name__}"
            )
    return optimizers


def _check_optimizers(
    optimizers: Optimizers, num_parts: int, strategy: tf.distribute.Strategy, rate_scaling: str
) -> None:
    if len(optimizers) != num_parts:
        raise ConfigError(
            f"compile needs one optimizer for each of the {num_parts} parts. "
            f"Received: {len(optimizers)} optimizers"
        )
    for optimizer in optimizers:
        _check_kind(optimizer, rate_scaling)
        if not strategy.extended.variable_created_in_scope(optimizer.variables[0].value):
            raise ConfigError(
                "compile needs optimizers made in the scope of the model's strategy: make them within "
                "`with strategy.scope():`, or give a name, such as compile('adamax'). "
                f"Received: {type(optimizer).__name__} of another scope"
            )
    if len({id(optimizer) for optimizer in optimizers}) < num_parts:
        raise ConfigError("compile needs a separate optimizer for each part. Received: one of them twice")


def _check_kind(optimizer: keras.optimizers.Optimizer, rate_scaling: str) -> None:
    """Raises ConfigError unless an optimizer can update the weights of a part."""
    kind, factor = type(optimizer), getattr(optimizer, "loss_scale_factor", None)
    if factor is not None or kind.update_step is keras.optimizers.Optimizer.update_step:
        raise ConfigError(
            "compile needs optimizers that update the weights themselves, and that do not scale the loss: "
            f"float32 and bfloat16 need no scaling. Received: {kind.__name__} with loss_scale_factor={factor}"
        )
    by_shape = {base.__name__ for base in kind.__mro__} & {*BY_SHAPE}
    if by_shape:
        raise ConfigError(
            f"compile needs optimizers that treat all numbers of a weight alike, and {', '.join(BY_SHAPE)} "
            "go by its rank or norm: a weight of a block holds those of all its flow steps, which they would "
            f"mix. Received: {kind.__name__}"
        )
    if rate_scaling == "size" and (not isinstance(optimizer, RatePerWeight) or optimizer.weight_decay):
        raise ConfigError(
            "rate_scaling='size' needs optimizers that have a rate for each weight and no weight_decay: one "
            f"of the names {', '.join(BY_NAME)}, a FusedAdam, FusedAdamax or ScaledSGD of glow_tf.training, "
            f"or a subclass of its RatePerWeight; rate_scaling='none' takes others. Received: "
            f"{kind.__name__}, weight_decay={optimizer.weight_decay}"
        )


def unsuited_rates(highest: float, warmup_steps: int) -> list[str]:
    """Returns a sentence for what is wrong with rates under `rate_scaling=size`; empty if nothing is.

    `highest` is the highest rate of a part, for Adamax or Adam.
    """
    default = TrainConfig()
    rate = float(default.learning_rate)
    # Most weights of a large model have a small part of it. A rate of 0 is for callbacks that warm up.
    if highest > 0 and round(highest, 7) < rate / SLOW:
        return [
            f"a learning rate of {highest:g} is {rate / highest:.0f} times below the default, {rate:g}, "
            "which suits models of every size. Rates that other codes name are for rate_scaling=none"
        ]
    if highest >= FAST * rate and not warmup_steps:
        return [
            f"a learning rate of {highest:g} from the first step on can make training run away. Let it warm "
            f"up: {default.warmup_steps} steps are the default (warmup_steps of TrainConfig)"
        ]
    return []
