"""`python -m glow_tf.commands NAME --flag=value …` is `glow-tf NAME --flag=value …`."""

import sys

from glow_tf.commands import cli

if __name__ == "__main__":
    sys.exit(cli.main())
