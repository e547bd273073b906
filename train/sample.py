"""`python train/sample.py --flag=value …` is `glow-tf sample --flag=value …`."""

import sys

from glow_tf.commands import cli

if __name__ == "__main__":
    sys.exit(cli.run("sample"))
