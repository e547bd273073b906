"""`python train/score.py --flag=value …` is `glow-tf score --flag=value …`."""

import sys

from glow_tf.commands import cli

if __name__ == "__main__":
    sys.exit(cli.run("score"))
