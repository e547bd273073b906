"""What a `TrainConfig` says of a trainer: its phases, optimizers and options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from glow_tf.architectures.schedule import Phase, phases_of_training
from glow_tf.config import TrainConfig
from glow_tf.core.errors import ConfigError
from glow_tf.model.glow import Glow
from glow_tf.training.optimizers import make_optimizers
from glow_tf.training.options import CompileOptions


class Recipe(NamedTuple):
    """What a trainer is compiled with."""

    phases: tuple[Phase, ...]  # of every epoch
    optimizers: list[keras.optimizers.Optimizer]
    options: dict[str, Any]  # of `PartsTrainer.compile`


def recipe_of(
    train: TrainConfig, glow: Glow, phases: Sequence[Phase] = (), steps_per_epoch: int | None = None
) -> Recipe:
    """Returns the recipe of the settings, made in the current strategy's scope.

    Without phases the settings say them; without `steps_per_epoch`, `count_steps` tells the optimizers later.
    ConfigError if the settings do not fit the model, or are for runs alone.
    """
    num_parts = len(glow.parts)
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
