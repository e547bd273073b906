"""`python train/restore.py --flag=value …` is `glow-tf restore --flag=value …`."""

import sys

from glow_tf.commands import cli

if __name__ == "__main__":
    sys.exit(cli.run("restore"))
