"""Trains a Glow: `python train/main.py --flagfile=configs/quickstart.cfg [--flag=value …]`.

Flags are the settings of `glow_tf.config`, one each; later flags win.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's start-up notices

import flags_of_run
from absl import app, flags, logging

from glow_tf import ConfigError, NonFiniteError, run

flags_of_run.define()
flags.adopt_module_key_flags(flags_of_run)  # so that --help lists them


def main(argv: list[str]) -> int:
    """Turns flags into a configuration and runs it; returns the exit status."""
    logging.set_verbosity(logging.WARNING)
    try:
        if len(argv) > 1:
            raise ConfigError(f"flags are written --name=value. Received: {argv[1:]}")
        run.train(flags_of_run.run_config())
    except (ConfigError, NonFiniteError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
