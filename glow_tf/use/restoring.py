"""Images restored by the exact gradient of log p."""

import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.compiled_model import require_pictures
from glow_tf.conditions import check_given, some_of
from glow_tf.data.progress import with_progress
from glow_tf.errors import ConfigError
from glow_tf.glow import Glow
from glow_tf.pieces import in_streams
from glow_tf.use.latents import batch_of

BATCH = 64  # of sides up to 64; see `batch_of`
Misfit = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # of images and the given ones, [B, H, W, C] → [B]
CLIMB_RATE = 2.0  # levels of 256 that a pixel moves at most in the first step


def denoise(
    glow: Glow, images: np.ndarray, sigma: float, steps: int = 150, condition: Condition = None
) -> np.ndarray:
    """Removes Gaussian noise: returns the likeliest images, given noisy ones, uint8 [N, H, W, C] both.

    Climbs log p(v) − |v − y|² / 2σ², v an image and y the noisy one.

    Args:
      glow: a model of clean images.
      images: noisy ones.
      sigma: standard deviation of the noise, in levels of 256; above 0.
      steps: of the climb.
      condition: what the model is given with each image, an array [N, …] or a dictionary of them.

    Raises:
      ConfigError: images have another type or shape, sigma or steps cannot be, or the model's data are no
        pictures.
    """
    require_pictures("denoise", glow)
    if not (np.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"sigma must be above 0. Received: {sigma=}")
    scale = glow.dequantize.bin_width

    def misfit(v: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.square((v - y) * scale / sigma), axis=[1, 2, 3]) / 2

    return _climbed(glow, images, np.ones_like(images, np.float32), misfit, steps, condition)


def inpaint(
    glow: Glow, images: np.ndarray, unknown: np.ndarray, steps: int = 150, condition: Condition = None
) -> np.ndarray:
    """Fills in unknown pixels of images, uint8 [N, H, W, C]: the likeliest ones, given the others.

    The climb starts from the mean of what is known around each unknown pixel.

    Args:
      glow: a model of whole images.
      images: what unknown pixels hold does not matter.
      unknown: bool [H, W] or [N, H, W], True where pixels are unknown; some are known.
      steps: of the climb.
      condition: as in `denoise`.

    Raises:
      ConfigError: images or mask have another type or shape, nothing is known, or steps cannot be.
    """
    require_pictures("inpaint", glow)
    glow.checked(images)
    if unknown.shape not in (images.shape[1:3], images.shape[:3]) or unknown.dtype != bool:
        raise ConfigError(
            f"unknown must be bool of shape {images.shape[1:3]} or {images.shape[:3]}. "
            f"Received: {unknown.dtype.name} of shape {unknown.shape}"
        )
    mask = np.broadcast_to(unknown, images.shape[:3])
    if mask.all(axis=(1, 2)).any():
        raise ConfigError("some pixels of every image must be known. Received: an image without any")
    free = np.repeat(mask[..., None], images.shape[-1], axis=-1).astype(np.float32)
    start = np.stack([_filled(image, own) for image, own in zip(images, mask, strict=True)])
    result = _climbed(glow, start, free, lambda v, y: tf.zeros(tf.shape(v)[:1], v.dtype), steps, condition)
    return np.where(mask[..., None], result, images)


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of images, in dB: uint8 [N, H, W, C] twice → [N]."""
    error = np.square(images.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-12))


def _filled(image: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Fills unknown pixels [H, W] of an image [H, W, C] from around them, ring by ring."""
    values, known = image.astype(np.float32) * ~unknown[..., None], ~unknown
    while not known.all():
        padded, weight = np.pad(values, ((1, 1), (1, 1), (0, 0))), np.pad(known.astype(np.float32), 1)
        views = [(slice(i, i + len(image)), slice(j, j + image.shape[1])) for i in range(3) for j in range(3)]
        total, count = sum(padded[v] for v in views), sum(weight[v] for v in views)
        reached = ~known & (count > 0)
        values[reached] = total[reached] / count[reached][:, None]
        known = known | reached
    return np.round(values).astype(np.uint8)


def _height_and_gradient(
    glow: Glow, misfit: Misfit, v: tf.Tensor, y: tf.Tensor, condition: Condition
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns log p − misfit of v [B, H, W, C], [B] nats, and its gradient."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(v)
        value = in_streams(glow.dequantized_log_prob, v, None, condition) - misfit(v, y)
    return value, tape.gradient(value, v)


def _higher(
    v: tf.Tensor, value: tf.Tensor, best: tf.Tensor, best_value: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns of each image the higher of two points, [N, H, W, C], and its value, [N], if it is finite."""
    better = tf.math.is_finite(value) & (value > best_value)
    return tf.where(tf.reshape(better, [-1, 1, 1, 1]), v, best), tf.where(better, value, best_value)


def _climbed(
    glow: Glow, images: np.ndarray, free: np.ndarray, misfit: Misfit, steps: int, condition: Condition
) -> np.ndarray:
    """Climbs log p − misfit by Adam, from images, where `free` [N, H, W, C] is 1; keeps the best point."""
    if steps < 1:
        raise ConfigError(f"steps must be 1 or more. Received: {steps=}")
    glow.checked(images)
    check_given(glow, condition, len(images))
    top = float(glow.dequantize.bins)
    rate = CLIMB_RATE / glow.dequantize.bin_width

    # A partial for each call: of one function TensorFlow counts all traces, and warns of many.
    height_and_gradient = tf.function(functools.partial(_height_and_gradient, glow, misfit), autograph=False)
    found = []
    size = batch_of(glow.image_shape, BATCH)
    starts = range(0, len(images), size)
    total = len(starts) * steps
    ticks = with_progress(range(total), total, f"Restoring, steps of batches of {size}")
    for start in starts:
        y = v = glow.dequantized(images[start : start + size], noise=0.5)
        given = glow.checked_condition(some_of(condition, slice(start, start + size)))
        moves = free[start : start + size]
        first = second = tf.zeros_like(v)
        best, best_value = v, tf.fill(tf.shape(v)[:1], tf.constant(-np.inf, v.dtype))
        for step, _ in zip(range(1, steps + 1), ticks, strict=False):
            value, gradient = height_and_gradient(v, y, given)
            best, best_value = _higher(v, value, best, best_value)
            gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0) * moves
            first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * tf.square(gradient)
            slope = first / (1 - 0.9**step) / (tf.sqrt(second / (1 - 0.99**step)) + 1e-8)
            decay = 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))
            v = tf.clip_by_value(v + rate * decay * slope, 0.0, top - 1e-3)
        value, _ = height_and_gradient(v, y, given)
        best, _ = _higher(v, value, best, best_value)
        found.append(glow.dequantize.to_output(best).numpy())
    ticks.close()
    return np.concatenate(found)
