"""Trains a Glow: `python train/main.py --flagfile=configs/quickstart.cfg [--flag=value …]`.

Flags are the settings of `glow_tf.config`, one each; later flags win.
"""

import os
import sys

from absl import app, flags, logging

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notices

from glow_tf import config as configuration

_DEFINE = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
}
for setting in configuration.all_settings():
    _DEFINE[type(setting.default)](setting.name, setting.default, setting.metadata["help"])


def main(argv: list[str]) -> int:
    """Turns flags into a configuration and runs it."""
    logging.set_verbosity(logging.WARNING)
    if len(argv) > 1:
        return fail(f"unexpected arguments (flags are --name=value). Received: {argv[1:]}")
    values = flags.FLAGS.flag_values_dict()
    try:
        settings = {s.name: values[s.name] for s in configuration.all_settings()}
        config = configuration.RunConfig.from_settings(settings)

        from glow_tf import run

        run.train(config)
    except (configuration.ConfigError, OSError) as error:
        return fail(str(error))
    except RuntimeError as error:
        if type(error).__name__ != "NonFiniteError":
            raise
        return fail(str(error))
    return 0


def fail(message: str) -> int:
    """Prints what is wrong; returns the exit status."""
    print(f"Error: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    app.run(main)
