"""What a saved trainer keeps, beside weights: its arguments, its optimizers and the options of `compile`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import keras

from glow_tf.architectures.schedule import Phase
from glow_tf.training.objective import BaseObjective
from glow_tf.training.optimizers import Optimizers
from glow_tf.training.options import CompileOptions


def config_of(trainer: keras.Model) -> dict[str, Any]:
    """Returns the config of a `PartsTrainer`."""
    save = keras.saving.serialize_keras_object
    own = [None if isinstance(o, BaseObjective) else save(o) for o in trainer.local_objectives]
    return {
        "name": trainer.name,
        "flow": save(trainer.flow),
        "seed": trainer.seed,
        **({"objective": own} if any(own) else {}),
    }


def trainer_of(kind: type[keras.Model], config: dict[str, Any], custom_objects: dict | None) -> Any:
    """Returns the trainer, of a kind, that has a config."""
    load, own = keras.saving.deserialize_keras_object, config.get("objective")
    return kind(
        load(config["flow"], custom_objects),
        seed=config["seed"],
        objective=[o and load(o, custom_objects) for o in own] if own else None,
        name=config["name"],
    )


def compile_config_of(
    optimizers: Optimizers, options: CompileOptions, phases: Sequence[Phase]
) -> dict[str, Any]:
    """Returns the config of what a trainer is compiled with."""
    _warn_of_unregistered(optimizers)
    saved = [keras.saving.serialize_keras_object(o) for o in optimizers]
    return {"optimizers": saved, "phases": [phase.to_config() for phase in phases], **options.to_config()}


def compiled_of(config: dict[str, Any]) -> tuple[Optimizers, CompileOptions, list[Phase]]:
    """Returns optimizers, options and phases of a config."""
    optimizers = [keras.saving.deserialize_keras_object(o) for o in config.pop("optimizers")]
    phases = [Phase.from_config(phase) for phase in config.pop("phases")]
    return optimizers, CompileOptions(**config), phases


def _warn_of_unregistered(optimizers: Optimizers) -> None:
    """Warns, when a trainer is saved, of classes of optimizers that Keras will not find when it loads it."""
    for own in {type(optimizer) for optimizer in optimizers}:
        found = keras.saving.get_registered_object(keras.saving.get_registered_name(own))
        if found is None and not own.__module__.startswith("keras."):
            warnings.warn(
                "an optimizer's class must be registered with Keras, or keras.saving.load_model needs it in "
                "custom_objects: write @keras.saving.register_keras_serializable() before the class. "
                f"Received: an optimizer of class {own.__name__}",
                stacklevel=3,
            )
