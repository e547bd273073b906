"""Draws images from a trained model.

    glow-tf sample --model=digits
    glow-tf sample --model=runs/mine --num=8 --temperatures=0.5,0.7,1 --seed=3 --output=drawn.png

It writes a PNG with two rows of images for each temperature, which have the same latents at every
temperature, and the same images as an array, .npy: uint8 [rows, columns, H, W, C]. Temperature 0 is the mode.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from glow_tf.commands import model_flags
from glow_tf.errors import ConfigError

ROWS = 2  # for each temperature


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    model_flags.define_model(values, output="samples.png")
    flags.DEFINE_integer("num", 16, "Images for each temperature; an even number.", flag_values=values)
    flags.DEFINE_list(
        "temperatures", ["0.7", "0.8", "0.9", "1"], "Comma-separated, from 0.", flag_values=values
    )
    model_flags.define_white(values)


def main(values: flags.FlagValues) -> None:
    """Draws and writes."""
    temperatures = model_flags.numbers(values, "temperatures", lowest=0)
    num = model_flags.positive(values, "num")
    if num % ROWS:
        raise ConfigError(f"num must be even: each temperature has two rows. Received: {num=}")
    write_rows = model_flags.picture_writer(values)
    from glow_tf.use import draw

    model = model_flags.model_of(values)
    drawn = [draw(model, num, temperature, values.seed) for temperature in temperatures]
    rows = np.concatenate([images.reshape(ROWS, num // ROWS, *images.shape[1:]) for images in drawn])
    write_rows(rows)
    blank = [int(np.sum(np.ptp(images.reshape(num, -1), axis=1) == 0)) for images in drawn]
    for temperature, count in zip(temperatures, blank, strict=True):
        if count:
            print(f"At temperature {temperature:g}, {count} of {num} images have a single level.")
