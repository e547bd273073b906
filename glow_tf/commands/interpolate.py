"""Draws the ways between pairs of images, through the latents.

    glow-tf interpolate --model=digits --dataset=digits --examples=8 --steps=8
    glow-tf interpolate --model=runs/mine --dataset=folder:PATH

Each row begins with an image and ends with the next one: 8 images make 4 rows. Both ends are the images
themselves, in the bits that the model keeps. What the model is given with them changes evenly on the way.
"""

from typing import Any

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing, size_flags
from glow_tf.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="interpolated.png")
    model_flags.define_images(values, examples=8)
    size_flags.define(values)
    parsing.define(values, steps=(8, "Images in a row, both ends included."), white=model_flags.WHITE)


def main(values: flags.FlagValues) -> None:
    steps = model_flags.count_of(values, "steps", lowest=2)
    write_rows = model_flags.picture_writer(values)
    from glow_tf.model.conditions import some_of
    from glow_tf.use import decode, encode, interpolate

    model, used = size_flags.model_and_images(values, model_flags.model_of(values))
    images = used.images
    if len(images) < 2:
        raise ConfigError(f"there must be two images or more. Received: {len(images)}")
    pairs = len(images) // 2
    condition = some_of(used.condition, slice(2 * pairs))
    eps = encode(model, images[: 2 * pairs], condition)
    between = interpolate(eps[::2], eps[1::2], steps)
    given = _between(model.checked_condition(condition), steps)
    rows = decode(model, between.reshape(-1, model.dimensions), given)
    write_rows(rows.reshape(pairs, steps, *model.image_shape))


def _between(condition: Any, steps: int) -> np.ndarray | None:
    """Returns what is given on straight ways between pairs of conditions, [2N, …] → [N · steps, …]."""
    if condition is None:
        return None
    numbers = np.asarray(condition)
    weights = np.linspace(0, 1, steps, dtype=numbers.dtype).reshape(-1, *[1] * (numbers.ndim - 1))
    ways = (1 - weights) * numbers[::2, np.newaxis] + weights * numbers[1::2, np.newaxis]
    return ways.reshape(-1, *numbers.shape[1:])
