"""`python train/export.py --flag=value …` is `glow-tf export --flag=value …`."""

import sys

from glow_tf.commands import cli

if __name__ == "__main__":
    sys.exit(cli.run("export"))
