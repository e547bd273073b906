"""Restores images by their likelihood: noise, missing pixels, half the size.

    glow-tf restore denoise --model=fashion_mnist --dataset=folder:PATH --sigma=25
    glow-tf restore inpaint --model=fashion_mnist --dataset=folder:PATH --mask=mask.png
    glow-tf restore upscale --model=cifar10_small --dataset=folder:PATH --temperature=0.7 --draws=3

Images are taken to be damaged already. With --simulate they are good ones: they are damaged first, and the
gain is printed in dB. `denoise` finds the likeliest image given a noisy one; `inpaint` the likeliest pixels
where --mask, a picture, is white. `upscale` draws the details that a model of levels expects, given the
image: of images of any size, all of one, and with --factor=4 of two levels. A Glow takes images of half its
size (others are resized to it first) and draws the finest latents. Each row shows what was given and what
was found; with --simulate, then the truth.
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
        temperature=(["0"], "Of the latents that upscale draws; 0: the likeliest ones."),
        factor=(2, "How many times as large upscale makes images; above 2, levels are needed."),
        draws=(1, "How many results of upscale, which differ if the temperature is above 0."),
        steps=(150, "Of the climb."),
        simulate=(False, "Damage good images first, and say what is gained."),
        white=model_flags.WHITE,
    )


def main(values: flags.FlagValues, action: str) -> None:
    temperature = model_flags.float_of(values, "temperature", lowest=0)
    sigma = model_flags.float_of(values, "sigma", lowest=0)
    steps, draws, factor = (model_flags.count_of(values, name) for name in ("steps", "draws", "factor"))
    write_rows = model_flags.picture_writer(values)
    from glow_tf.use import denoise, inpaint, psnr
    from glow_tf.use.latents import seed_of
    from glow_tf.use.upscaling import check_factor, repeated, upscale

    glow = model_flags.glow_of(values)
    unknown = _mask(values, glow) if action == "inpaint" else None
    if action == "upscale":
        check_factor(glow, factor)
    used = model_flags.images_of(values, glow, _shape(glow, action, values.simulate))
    truth, condition = used.images, used.condition
    if values.simulate and action == "upscale":
        height, width = (side // factor * factor for side in truth.shape[1:3])
        truth = truth[:, :height, :width]  # without rows and columns that the factor does not divide
    given = _damaged(values.seed, sigma, action, truth, unknown, factor) if values.simulate else truth
    if action == "denoise":
        found = [denoise(glow, given, sigma, steps, condition)]
    elif action == "inpaint":
        found = [inpaint(glow, given, unknown, steps, condition)]
    else:
        seeds = [seed_of(values.seed, draw) for draw in range(draws)]
        found = [upscale(glow, given, temperature, seed, condition, factor) for seed in seeds]
        given = repeated(given, factor)
    columns = [given, *found, truth] if values.simulate else [given, *found]
    if values.simulate:
        before, after = (psnr(images, truth).mean() for images in (given, found[0]))
        print(
            f"{before:.2f} dB as given, {after:.2f} dB restored, against a peak of 255: means of "
            f"{len(truth)} images"
        )
    write_rows(np.stack(columns, axis=1))


def _shape(glow: Glow, action: str, simulate: bool) -> tuple[int, int, int]:
    """Returns the shape to which images are brought; levels upscale images of any size, (0, 0, C)."""
    height, width, channels = glow.image_shape
    if action == "upscale" and glow.config.design.images_between_parts:
        return 0, 0, channels
    half = 2 if action == "upscale" and not simulate else 1
    return height // half, width // half, channels


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
    seed: int, sigma: float, action: str, truth: np.ndarray, unknown: np.ndarray | None, factor: int
) -> np.ndarray:
    from glow_tf.use.upscaling import reduced

    if action == "denoise":
        noise = np.random.default_rng(seed).normal(0, sigma, truth.shape)
        return np.clip(np.round(truth + noise), 0, 255).astype(np.uint8)
    if action == "inpaint":
        return np.where(unknown[..., None], np.uint8(0), truth)
    return np.round(reduced(truth, factor)).astype(np.uint8)
