"""Trains a flow, or resumes the run in its workdir.

    glow-tf train --flagfile=quickstart
    glow-tf train --flagfile=cifar10_small_across_2 --data_dir=PATH --workdir=runs/mine --seed=1

The first command trains two parts on scikit-learn's digits in a minute or two and downloads nothing. The
workdir gets history.csv, summary.json, checkpoints, TensorBoard logs, sample grids and a SavedModel. The same
command again resumes a run that was interrupted; with more --part_epochs or --finetune_epochs it trains for
longer, if its --rate_schedule is constant. --init_from starts a new run from the model of another one, with
its settings.

Without a flagfile, a run trains levels, or a Glow where a flag is for one, such as --parts; it chooses the
size of the model and the epochs to suit its images, and prints what it chose. What is typed wins, over a
flagfile, too.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from glow_tf import config as configuration
from glow_tf import store
from glow_tf.commands import parsing
from glow_tf.core.errors import ConfigError
from glow_tf.data.named import check_named
from glow_tf.run import flags_file, settings
from glow_tf.run.workdir import SUMMARY


def define(values: flags.FlagValues) -> None:
    for setting in configuration.all_settings():
        is_chosen = setting.name in (*settings.LEVELS, *settings.SIZES)
        chosen = " Without a flagfile: what suits the data." if is_chosen else ""
        parsing.define(values, **{setting.name: (setting.default, setting.metadata["help"] + chosen)})
    about = "Start from nothing where a run would start from a prior, a preset of photographs."
    parsing.define(values, from_scratch=(False, about))


def main(values: flags.FlagValues) -> None:
    found = asked(values)
    config = settings.likely(found).config  # a wrong flag is found before TensorFlow is loaded
    if not pathlib.Path(config.workdir, SUMMARY).exists():  # a finished run needs no data
        check_named(config.data)
    from glow_tf.run import lifecycle
    from glow_tf.use import export

    lifecycle.train(found, export)


def asked(values: flags.FlagValues) -> settings.Asked:
    """Returns what the flags ask for, with the models that a new run may start from."""
    names = [setting.name for setting in configuration.all_settings()]
    typed = {name: values[name].value for name in names if values[name].on_command_line}
    in_file = {name: values[name].value for name in names if values[name].in_flagfile}
    if values.from_scratch:
        if start := typed.get("init_from"):
            raise ConfigError(
                f"a run starts from a model or from scratch. Received: from_scratch=True, init_from={start!r}"
            )
        typed["init_from"] = ""
    before = flags_file.read_values(pathlib.Path(values.workdir), names)
    found = settings.Asked(typed, in_file or None, before)
    if before:
        return found
    if found.init_from != configuration.PRIOR:
        return found._replace(start=_start(found.init_from) if found.init_from else None)
    installed = {n: name for n, name in configuration.PRIORS.items() if name in store.names()}
    return found._replace(priors={n: _start(name) for n, name in installed.items()})


def _start(name: str) -> settings.Start | None:
    """Returns a model to start from; None if it cannot be read: the run says why."""
    try:
        model, about = store.settings_of(name), store.about(name)
    except (ConfigError, OSError):
        return None
    height, width, _ = model.image_shape
    size = None if str(about.get("image_size")) == "0" else height if height == width else 0
    return settings.Start(name, model, size)


def config_of(arguments: Sequence[str]) -> configuration.RunConfig:
    """Returns the run that `glow-tf train` would make of its arguments if the images suited them.

    ConfigError if it refuses them.
    """
    values = flags.FlagValues()
    define(values)
    parsing.parse(values, arguments)
    return settings.likely(asked(values)).config
