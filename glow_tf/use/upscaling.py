"""Images of several times the size, drawn from a model; images from the coarsest level to the finest."""

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.config import MOST_BLOCKS
from glow_tf.core.errors import ConfigError
from glow_tf.model.compiled_model import check_finite, require_pictures
from glow_tf.model.conditions import check_given
from glow_tf.model.density_model import checked_images
from glow_tf.model.endpoints import ActivationLimit
from glow_tf.model.flow import Flow
from glow_tf.use.images import check_needed
from glow_tf.use.latents import batch_of, in_batches, seed_of


def upscale(
    flow: Flow,
    small: np.ndarray,
    temperature: float = 0.0,
    seed: int = 0,
    condition: Condition = None,
    factor: int = 2,
) -> np.ndarray:
    """Enlarges images [N, h, w, C] to [N, factor·h, factor·w, C], uint8 both.

    A model of levels draws the details given the image, p(details | image). Levels are convolutions, so
    their images may have any size. Each square of the result has the mean of the pixel that it stands for,
    but for rounding, which is to the model's `n_bits`, and where that would leave the range.

    Args:
      flow: a model of levels.
      small: [N, h, w, C].
      temperature: of the latents that are drawn; 0 is their mode.
      seed: of the latents that are drawn.
      condition: what the model is given with each image, an array [N, …] or a dictionary of them.
      factor: a power of two, from 2. Which part makes which details says `Architecture.serving`: at other
        sizes than the model's it is the finest part.

    Raises:
      ConfigError: images have another type or shape, the factor cannot be, or the data are no pictures.
    """
    require_pictures("upscale", flow)
    check_finite("temperature", temperature, lowest=0)
    check_given(flow, condition, len(small))
    check_factor(flow, factor)
    checked_images(small, (None, None, flow.image_shape[-1]), "uint8")
    return _with_details(flow, small, temperature, seed, condition, int(math.log2(factor)))


def with_means(images: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Returns images uint8 [N, f·h, f·w, C], moved so that each f×f square has its mean, [N, h, w, C]."""
    found, factor = images.astype(np.float32), images.shape[1] // small.shape[1]
    moved = found + repeated(small - reduced(found, factor), factor)
    return np.clip(np.round(moved), 0, 255).astype(np.uint8)


def reduced(images: np.ndarray, factor: int = 2) -> np.ndarray:
    """Returns the mean of each square: [N, H, W, C] → float [N, H/factor, W/factor, C]."""
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    return squares.mean(axis=(2, 4))


def repeated(images: np.ndarray, factor: int = 2) -> np.ndarray:
    """Repeats each pixel as a square: [N, H, W, C] → [N, factor·H, factor·W, C]."""
    return np.repeat(np.repeat(images, factor, axis=1), factor, axis=2)


def check_factor(flow: Flow, factor: int) -> None:
    """Raises ConfigError unless a model can make images so many times as large."""
    if not flow.design.images_between_parts:
        raise ConfigError(
            f"upscale needs a model of levels. Received: architecture={flow.config.architecture!r}"
        )
    if factor < 2 or factor & (factor - 1) or factor > 2**MOST_BLOCKS:
        raise ConfigError(f"factor must be a power of two, 2 or more. Received: {factor=}")


def _with_details(
    flow: Flow, small: np.ndarray, temperature: float, seed: int, condition: Condition, levels: int
) -> np.ndarray:
    """Draws the details of the finest levels: uint8 [N, h, w, C] → uint8 [N, h·2^levels, w·2^levels, C]."""
    channels, factor = flow.image_shape[-1], 2**levels
    shape = (factor * small.shape[1], factor * small.shape[2], channels)
    size = batch_of(shape)
    check_needed(flow, shape[:2], "images", "take a smaller factor")
    parts = [flow.design.serving(shape, level) for level in range(levels)]
    draw = tf.function(functools.partial(_drawn, flow, parts), autograph=False, reduce_retracing=True)
    places = itertools.count()

    def drawn(images: np.ndarray, condition: Condition) -> tf.Tensor:
        numbers = tf.constant(seed_of(seed, next(places))), tf.constant(temperature, flow.compute_dtype)
        return draw(tf.constant(images), *numbers, flow.checked_condition(condition))

    large = in_batches(drawn, small, "Drawing details", np.empty((0, *shape), np.uint8), condition, size)
    return with_means(large, small) if flow.config.equalize else large  # its means are of other values


def _drawn(
    flow: Flow,
    parts: Sequence[int],
    small: tf.Tensor,
    seed: tf.Tensor,
    temperature: tf.Tensor,
    condition: Condition,
) -> tf.Tensor:
    # The mean of dequantised pixels is half a level above that of levels. A mean may lie between two levels.
    v = tf.cast(small, flow.compute_dtype) / flow.dequantize.bin_width + 0.5
    h, _ = flow.dequantize.forward_and_log_det(v)
    for level, k in reversed(list(enumerate(parts))):
        with flow.on_device_of(k):
            shape = tf.concat([tf.shape(h)[:-1], [3 * h.shape[-1]]], 0)
            eps = tf.random.stateless_normal(shape, [seed, level], dtype=h.dtype)
            eps = tf.ensure_shape(eps, [*h.shape[:-1], 3 * h.shape[-1]])
            part = flow.parts[k]
            h = flow.within_range(h)  # of the images, or of what was drawn last
            h = part.inverse(h, [temperature * eps], ActivationLimit(), part.read(condition))
    return flow.dequantize.to_output(flow.dequantize.inverse_and_log_det(h)[0])
