"""Defines the flags of a training run, one for each setting of `glow_tf.config`, and reads them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from glow_tf import config as configuration
from glow_tf import presets
from glow_tf.commands.parsing import parse
from glow_tf.run import flags_file

_DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define(values: flags.FlagValues) -> None:
    """Defines the flags of a run in `values`."""
    for setting in configuration.all_settings():
        _DEFINE[type(setting.default)](
            setting.name, setting.default, setting.metadata["help"], flag_values=values
        )
    flags.DEFINE_string(
        "from_preset",
        "",
        "Start from a preset, by name or folder: its model's settings stand in the place of those in "
        "flagfiles, and --init_from is this preset.",
        flag_values=values,
    )


def run_config(values: flags.FlagValues) -> configuration.RunConfig:
    """Returns the run that the flags describe.

    Raises:
      ConfigError: it cannot be run.
    """
    settings = {setting.name: values[setting.name].value for setting in configuration.all_settings()}
    # The command that began a run in an earlier release goes on with it, although it lacks newer flags.
    earlier = flags_file.newer_settings(pathlib.Path(values.workdir))
    settings |= {name: value for name, value in earlier.items() if not values[name].present}
    if values.from_preset:
        of_preset = _of_preset(values.from_preset, values.workdir).items()
        # A flagfile may list every setting.
        settings |= {k: v for k, v in of_preset if not values[k].on_command_line}
    return configuration.RunConfig.from_settings(settings)


def _of_preset(preset: str, workdir: str) -> dict[str, Any]:
    """Returns the settings of a run that starts from a preset, which need not be there any more to go on."""
    names = {setting.name for setting in configuration.settings_of(configuration.ModelConfig)}
    names -= set(configuration.SAME_FUNCTION)
    if flags_file.read_settings(pathlib.Path(workdir)).get("init_from") == preset:
        before = flags_file.read_config(pathlib.Path(workdir)).to_settings()
        return {name: before[name] for name in (*names, "init_from", "image_size", "conditional")}
    folder = presets.find(preset)
    model = presets.read_model(folder)
    settings = {name: value for name, value in dataclasses.asdict(model).items() if name in names}
    height, width, _ = model.image_shape
    size = height if height == width else 0
    start = preset if presets.is_meant(preset) else str(folder)  # a workdir may have a preset's name
    return settings | {"init_from": start, "image_size": size, "conditional": bool(model.classes)}


def config_of(arguments: Sequence[str]) -> configuration.RunConfig:
    """Returns the run that `glow-tf train` would make of its arguments.

    Raises:
      ConfigError: these are not flags of `glow-tf train`, or what they say cannot be run.
    """
    values = flags.FlagValues()
    define(values)
    parse(values, arguments)
    return run_config(values)
