"""Defines the flags of a training run, one for each setting of `glow_tf.config`, and reads them."""

from collections.abc import Sequence

from absl import flags

from glow_tf import config as configuration

_DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}


def define(values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines the flags."""
    for setting in configuration.all_settings():
        _DEFINE[type(setting.default)](
            setting.name, setting.default, setting.metadata["help"], flag_values=values
        )


def run_config(values: flags.FlagValues = flags.FLAGS) -> configuration.RunConfig:
    """Returns the run that the flags describe; raises ConfigError."""
    values = values.flag_values_dict()
    return configuration.RunConfig.from_settings(
        {setting.name: values[setting.name] for setting in configuration.all_settings()}
    )


def config_of(arguments: Sequence[str]) -> configuration.RunConfig:
    """Returns the run that main.py would make of its arguments.

    Raises:
      flags.Error, OSError: they are no flags of it, or name a flagfile that cannot be read.
      ConfigError: what they say cannot be run.
    """
    values = flags.FlagValues()
    define(values)
    rest = values(["main.py", *arguments])[1:]
    if rest:
        raise flags.Error(f"Received: {rest}")
    return run_config(values)
