"""Defines the flags of a training run, one for each setting of `glow_tf.config`, and reads them."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from glow_tf import config as configuration
from glow_tf import store
from glow_tf.architectures import architecture, check_run
from glow_tf.commands import parsing
from glow_tf.core.errors import ConfigError
from glow_tf.data.named import check_named
from glow_tf.run import suited
from glow_tf.run.files import flags_file
from glow_tf.run.files.workdir import SUMMARY


def define(values: flags.FlagValues) -> None:
    for setting in configuration.all_settings():
        is_chosen = setting.name in (*suited.LEVELS, *suited.SETTINGS)
        chosen = " Without a flagfile: what suits the data." if is_chosen else ""
        parsing.define(values, **{setting.name: (setting.default, setting.metadata["help"] + chosen)})
    about = "Start from nothing where a run would start from a prior, a preset of photographs."
    parsing.define(values, from_scratch=(False, about))


def run_config(values: flags.FlagValues) -> configuration.RunConfig:
    """Returns the run that the flags describe; ConfigError if it cannot be run.

    Without a flagfile it has levels, and what suits the data is left open, unless a run in the workdir has
    chosen it. A model to start from says its own settings; those that are typed win.
    """
    settings = {setting.name: values[setting.name].value for setting in configuration.all_settings()}
    workdir = pathlib.Path(values.workdir)
    settings |= _scaling_of_rate(values, workdir)
    given = {name for name in settings if values[name].present}
    is_open = [name for name in (*suited.LEVELS, *suited.SETTINGS) if name not in given]
    has_flagfile = any(getattr(values[name], "in_flagfile", False) for name in settings)
    follows = _follow_prior(values, settings, workdir, has_flagfile)
    if has_flagfile:
        is_open = []
    elif before := flags_file.read_values(workdir, is_open):
        settings |= before
        is_open = []
    start = settings["init_from"]
    if start and start != configuration.PRIOR:
        # A flagfile may list every setting.
        of_start = _of_start(start, workdir).items()
        taken = {name: value for name, value in of_start if not values[name].on_command_line}
        settings |= taken
        # A model to start from is known, and its own run has held images out.
        is_open = [name for name in is_open if name not in (*taken, "validation_examples")]
        given |= taken.keys()
    form = suited.form(settings, given) if is_open else {}
    if is_open and not form:  # a Glow, which no prior is
        follows = [name for name in follows if name != "architecture"]
    settings |= form
    # What follows from a list for each level, or for each of a Glow's parts.
    unknown = {"num_blocks", "flow_steps"}.intersection(is_open)
    implied = architecture(settings["architecture"]).implied(settings, unknown)
    is_open = [name for name in is_open if name in (*form, *suited.SETTINGS) and name not in implied]
    config = configuration.RunConfig.from_settings(settings | implied, is_open, follows)
    check_run(config)
    return config


def _follow_prior(
    values: flags.FlagValues, settings: dict[str, Any], workdir: pathlib.Path, has_flagfile: bool
) -> list[str]:
    """Says in `settings` whether the run starts from a prior; returns the settings that this may change.

    Without a flagfile it does, unless another start is typed. A run in the workdir has decided it already.
    """
    is_typed = values["init_from"].on_command_line
    if values.from_scratch:
        if is_typed and values.init_from:
            raise ConfigError(
                "a run starts from a model or from scratch. Received: from_scratch=True, "
                f"init_from={values.init_from!r}"
            )
        settings["init_from"] = ""
    elif not (has_flagfile or is_typed):
        settings["init_from"] = configuration.PRIOR
    if settings["init_from"] != configuration.PRIOR:
        return []
    typed = {name for name in suited.FOLLOWS if values[name].on_command_line}
    typed |= {"rate_scaling"} if "learning_rate" in typed else set()  # a rate is typed with its own, or none
    names = [name for name in suited.FOLLOWS if name not in typed]
    if before := flags_file.read_values(workdir, [*names, "init_from"]):
        settings |= before
        return []
    return names


def _scaling_of_rate(values: flags.FlagValues, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the `rate_scaling` of a learning rate that is typed without one; flagfiles keep theirs.

    It is `none`, as in other programs, or that of the run in the workdir.
    """
    rate, scaling = (getattr(values[name], "file", None) for name in ("learning_rate", "rate_scaling"))
    if rate != "" or scaling == "":  # the name of a file; empty: the command line
        return {}
    return {"rate_scaling": "none"} | flags_file.read_values(workdir, ["rate_scaling"])


def _of_start(start: str, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns the settings of a run that starts from a model, which need not be there any more to go on."""
    names = {setting.name for setting in configuration.settings_of(configuration.ModelConfig)}
    names -= set(configuration.SAME_FUNCTION)
    if flags_file.read_settings(workdir).get("init_from") == start:
        before = flags_file.read_config(workdir).to_settings()
        return {name: before[name] for name in (*names, "init_from", "image_size")}
    try:
        model, about = store.settings_of(start), store.about(start)
    except (ConfigError, OSError):
        return {"init_from": start}  # the run says why it cannot start from it
    settings = {name: value for name, value in dataclasses.asdict(model).items() if name in names}
    settings |= {"init_from": start}
    if str(about.get("image_size")) == "0":  # it fits any size
        return settings
    height, width, _ = model.image_shape
    return settings | {"image_size": height if height == width else 0}


def check_data(config: configuration.RunConfig) -> None:
    """Raises ConfigError if the data set is not there, before time is spent; a finished run needs none."""
    if not pathlib.Path(config.workdir, SUMMARY).exists():
        check_named(config.data)


def config_of(arguments: Sequence[str]) -> configuration.RunConfig:
    """Returns the run that `glow-tf train` would make of its arguments; ConfigError if it refuses them."""
    values = flags.FlagValues()
    define(values)
    parsing.parse(values, arguments)
    return run_config(values)
