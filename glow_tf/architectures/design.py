"""The design of a model: what its settings mean; and whether those of a run fit it. Loads no TensorFlow."""

from __future__ import annotations

import dataclasses

from glow_tf.architectures.architecture import Architecture
from glow_tf.architectures.glow import MultiScale
from glow_tf.architectures.levels import Levels
from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.lazy import imported

ARCHITECTURES: dict[str, type[Architecture]] = {"glow": MultiScale, "levels": Levels}


def architecture(name: str) -> type[Architecture]:
    """Returns the architecture of a name, or of `module:Class`; ConfigError if there is none."""
    if name not in ARCHITECTURES and ":" not in name:
        listed = ", ".join(ARCHITECTURES)
        raise ConfigError(f"architecture must be one of {listed}, or module:Class. Received: {name!r}")
    found = ARCHITECTURES.get(name) or imported("architecture", name)
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        raise ConfigError(f"architecture must name an Architecture. Received: architecture={name!r}")
    return found


def design_of(config: ModelConfig) -> Architecture:
    """Returns what the settings of a model mean: its architecture, bound to them.

    ConfigError if the settings contradict one another, or mean nothing for this architecture. Whether images
    of their shape fit is seen when `layouts` are asked for; see `Architecture.check_size`.
    """
    design = architecture(config.architecture)(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in {name for other in ARCHITECTURES.values() for name in other.settings} - set(design.settings):
        if (value := getattr(config, name)) != defaults[name]:
            theirs = [key for key, other in ARCHITECTURES.items() if name in other.settings]
            raise ConfigError(
                f"{name} is for architecture={' or '.join(theirs)}. "
                f"Received: {name}={value!r}, architecture={config.architecture!r}"
            )
    design.check()
    return design


def check_run(config: RunConfig) -> None:
    """Raises ConfigError unless the settings of a run fit its model, as far as nobody need read its data."""
    design, train = design_of(config.model), config.train
    num_parts = design.num_parts
    if size := config.data.image_size:
        design.check_size((size, size), f"image_size={size}")
    if (only := train.only_part) and not (design.separable and only <= num_parts):
        raise ConfigError(
            f"only_part needs architecture=levels, and must be a part from 1 to {num_parts}. "
            f"Received: only_part={only}, architecture={config.model.architecture!r}"
        )
    multiple = 2**config.model.num_blocks
    if (crop := config.data.crop) and (not design.any_size or crop % multiple or 0 < size < crop):
        raise ConfigError(
            f"crop needs architecture=levels, and must be a multiple of {multiple} (2^num_blocks), not "
            f"larger than the images. Received: crop={crop}, architecture={config.model.architecture!r}, "
            f"image_size={size}"
        )
    train.learning_rates(num_parts)
    train.finetune_learning_rates(num_parts)
    devices = [device for device in config.part_devices.split(",") if device]
    if devices and num_parts != len(devices):
        raise ConfigError(
            f"part_devices needs a device for each of the {num_parts} parts. "
            f"Received: part_devices={config.part_devices!r}"
        )
