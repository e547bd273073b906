"""Restores images by the exact gradient of their likelihood: noise, missing pixels, half the size.

    glow-tf restore denoise --model=fashion_mnist --dataset=folder:PATH --sigma=25
    glow-tf restore inpaint --model=fashion_mnist --dataset=folder:PATH --mask=mask.png
    glow-tf restore upscale --model=fashion_mnist --dataset=folder:PATH --temperature=0.5

Images are taken to be damaged already. With --simulate they are good ones: they are damaged first, and the
gain is printed in dB. `denoise` finds the likeliest image given a noisy one; `inpaint` the likeliest pixels
where --mask, a picture, is white; `upscale` takes images of half the model's size (others are resized to it
first) and draws the finest latents. Each row shows what was given and what was found; with --simulate, then
the truth.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.glow import Glow

ACTIONS = ("denoise", "inpaint", "upscale")


def define(values: flags.FlagValues) -> None:
    model_flags.define_glow(values, output="restored.png")
    model_flags.define_seed(values)
    model_flags.define_images(values, examples=8)
    mask = (
        "For inpaint: a picture of the model's size, white where pixels are unknown; empty: a square in the "
    )
    parsing.define(
        values,
        sigma=(["25"], "Of the noise, in levels of 256."),
        mask=("", mask),
        temperature=(["0"], "Of the finest latents, for upscale."),
        steps=(150, "Of the climb."),
        simulate=(False, "Damage good images first, and say what is gained."),
    )
    model_flags.define_white(values)


def main(values: flags.FlagValues, action: str) -> None:
    temperature = model_flags.float_of(values, "temperature", lowest=0)
    sigma = model_flags.float_of(values, "sigma", lowest=0)
    steps = model_flags.count_of(values, "steps")
    write_rows = model_flags.picture_writer(values)
    from glow_tf.use import denoise, doubled, inpaint, psnr, upscale

    glow = model_flags.glow_of(values)
    unknown = _mask(values, glow) if action == "inpaint" else None
    shape = _halved(glow.image_shape) if action == "upscale" and not values.simulate else glow.image_shape
    used = model_flags.images_of(values, glow, shape)
    truth, condition = used.images, used.condition
    given = _damaged(values.seed, sigma, action, truth, unknown) if values.simulate else truth
    if action == "denoise":
        found = denoise(glow, given, sigma, steps, condition)
    elif action == "inpaint":
        found = inpaint(glow, given, unknown, steps, condition)
    else:
        found = upscale(glow, given, temperature, values.seed, condition)
        given = doubled(given)
    columns = [given, found, truth] if values.simulate else [given, found]
    if values.simulate:
        before, after = (psnr(images, truth).mean() for images in (given, found))
        print(
            f"{before:.2f} dB as given, {after:.2f} dB restored, against a peak of 255: means of "
            f"{len(truth)} images"
        )
    write_rows(np.stack(columns, axis=1))


def _halved(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    return shape[0] // 2, shape[1] // 2, shape[2]


def _mask(values: flags.FlagValues, glow: Glow) -> np.ndarray:
    """Returns where pixels are unknown, bool [H, W]; without --mask, a square in the middle."""
    from glow_tf.data.pictures import read_picture

    height, width, _ = glow.image_shape
    if not values.mask:
        unknown = np.zeros((height, width), bool)
        unknown[height // 3 : -(height // 3), width // 3 : -(width // 3)] = True
        return unknown
    picture = read_picture(pathlib.Path(values.mask), 0)
    if picture.problem or picture.pixels.shape[:2] != (height, width):
        received = picture.problem or "×".join(map(str, picture.pixels.shape[:2]))
        raise ConfigError(
            f"mask must be a picture of {height}×{width}. Received: mask={values.mask!r}, {received}"
        )
    unknown = picture.pixels.mean(axis=-1) > 127
    if not unknown.any():
        raise ConfigError(
            "mask must be white where pixels are unknown. "
            f"Received: mask={values.mask!r}, without a white pixel"
        )
    return unknown


def _damaged(
    seed: int, sigma: float, action: str, truth: np.ndarray, unknown: np.ndarray | None
) -> np.ndarray:
    from glow_tf.use import halved

    if action == "denoise":
        noise = np.random.default_rng(seed).normal(0, sigma, truth.shape)
        return np.clip(np.round(truth + noise), 0, 255).astype(np.uint8)
    if action == "inpaint":
        return np.where(unknown[..., None], np.uint8(0), truth)
    return np.round(halved(truth)).astype(np.uint8)
