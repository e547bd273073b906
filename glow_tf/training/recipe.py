"""What a `TrainConfig` says of a trainer: its phases, optimizers and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from glow_tf.architectures.schedule import (
    Phase,
    epochs_training,
    first_finetune_epoch,
    phases_of_training,
)
from glow_tf.config import TrainConfig
from glow_tf.core.errors import ConfigError
from glow_tf.model.flow import Flow
from glow_tf.training.optimizers import BY_NAME, Optimizer, PartRate, ScaledSGD, count_steps
from glow_tf.training.options import CompileOptions


class Recipe(NamedTuple):
    """What a trainer is compiled with."""

    phases: tuple[Phase, ...]  # of every epoch
    optimizers: list[keras.optimizers.Optimizer]
    options: dict[str, Any]  # of `PartsTrainer.compile`


def recipe_of(
    train: TrainConfig, flow: Flow, phases: Sequence[Phase] = (), steps_per_epoch: int | None = None
) -> Recipe:
    """Returns the recipe of the settings, made in the current strategy's scope.

    Without phases the settings say them; without `steps_per_epoch`, `count_steps` tells the optimizers later.
    ConfigError if the settings do not fit the model, or are for runs alone.
    """
    num_parts = len(flow.parts)
    for_runs = {"cache_prefix": "prefix_caches, see PrefixCache", "objective": "an argument for its class"}
    for_runs["steps_per_epoch"] = "that of compile and of fit"
    for name, has in for_runs.items():
        if value := getattr(train, name):
            raise ConfigError(f"{name} is a setting of runs; a trainer has {has}. Received: {name}={value!r}")
    phases = tuple(phases) or phases_of_training(train, num_parts)
    optimizers = make_optimizers(train, phases, num_parts, steps_per_epoch)
    names = {field.name for field in dataclasses.fields(CompileOptions)}
    options = {name: value for name, value in vars(train).items() if name in names}
    return Recipe(phases, optimizers, options)


def make_optimizers(
    config: TrainConfig,
    phases: Sequence[Phase],
    num_parts: int,
    steps_per_epoch: int | None,
) -> list[Optimizer]:
    """Returns the optimizer of every part.

    Args:
      config: the optimizer, its rates and their decay.
      phases: the phase of every epoch; the rate of a part runs over the steps that train it.
      num_parts: n.
      steps_per_epoch: training steps per epoch; None: `count_steps` tells it later.

    Raises:
      ConfigError: the number of rates is neither 1 nor n, or no epoch is one of `finetune_learning_rate`.
    """
    optimizers = [_make_optimizer(config, rate) for rate in part_rates(config, phases, num_parts)]
    if steps_per_epoch:
        count_steps(optimizers, steps_per_epoch)
    return optimizers


def part_rates(config: TrainConfig, phases: Sequence[Phase], num_parts: int) -> list[PartRate]:
    """Returns the learning rate of every part, in epochs; see `make_optimizers`."""
    rates = config.learning_rates(num_parts)
    finetune_rates = config.finetune_learning_rates(num_parts)
    before = phases[: first_finetune_epoch(config, phases, num_parts)] if finetune_rates else ()
    return [
        PartRate(
            rates[k],
            steps=epochs_training(k, phases),
            warmup_steps=config.warmup_steps,
            cosine=config.rate_schedule == "cosine",
            finetune_learning_rate=finetune_rates[k] if finetune_rates else None,
            finetune_from=epochs_training(k, before) if finetune_rates else None,
            in_epochs=True,
        )
        for k in range(num_parts)
    ]


def _make_optimizer(config: TrainConfig, rate: PartRate) -> Optimizer:
    average = {"use_ema": True, "ema_momentum": config.ema} if config.ema else {}
    if config.optimizer == "sgd":
        return ScaledSGD(rate, **average)
    optimizer_class = BY_NAME[config.optimizer]
    beta_2 = "oai" if config.beta_2 == "oai" else float(config.beta_2)  # until `count_steps`
    return optimizer_class(rate, beta_2=beta_2, **average)
