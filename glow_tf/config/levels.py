"""How `--level_steps` and `--level_widths` are written. Pure Python: no TensorFlow."""

from __future__ import annotations

from glow_tf.config.choices import MOST_STEPS, MOST_WIDTH
from glow_tf.errors import ConfigError


def read_level_steps(text: str, num_blocks: int, flow_steps: int) -> tuple[int, ...]:
    """Returns the flow steps of each of L levels, the finest first, and at last those of the coarsest image.

    The text is comma-separated; empty: all of `flow_steps` in the finest level, and half of them elsewhere.
    ConfigError if there are not L + 1 positive integers.
    """
    if not text:
        return (flow_steps, *[(flow_steps + 1) // 2] * num_blocks)
    return _counts("level_steps", text, num_blocks + 1, MOST_STEPS)


def read_level_widths(text: str, num_blocks: int, width: int) -> tuple[int, ...]:
    """Returns the width of the couplings of each level, as `read_level_steps` does; empty: all `width`."""
    if not text:
        return (width,) * (num_blocks + 1)
    return _counts("level_widths", text, num_blocks + 1, MOST_WIDTH)


def _counts(name: str, text: str, count: int, most: int) -> tuple[int, ...]:
    pieces = [piece.strip() for piece in text.split(",")]
    found = tuple(int(p) for p in pieces if p.isascii() and p.isdigit() and len(p) < 10)
    if not len(found) == len(pieces) == count or not all(0 < number <= most for number in found):
        raise ConfigError(
            f"{name} must be {count} integers from 1 to {most}, comma-separated: one for each level, the "
            f"finest first, and one for the coarsest image. Received: {name}={text!r}"
        )
    return found
