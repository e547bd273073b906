"""Images restored by the exact gradient of log p."""

import functools
from collections.abc import Callable

import numpy as np
import scipy.sparse
import tensorflow as tf
from scipy.sparse.linalg import splu

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.pieces import in_streams
from glow_tf.core.errors import ConfigError
from glow_tf.core.progress import with_progress
from glow_tf.model.compiled_model import require_pictures
from glow_tf.model.conditions import check_given, some_of
from glow_tf.model.glow import Glow
from glow_tf.use.latents import batch_of

BATCH = 64  # of sides up to 64; see `batch_of`
Misfit = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # of images and the given ones, [B, H, W, C] → [B]
Slopes = Callable[[tf.Tensor, slice], tuple[tf.Tensor, tf.Tensor]]  # see `_climbed`
CLIMB_RATE = 2.0  # levels of 256 that a pixel moves at most in the first step
SMOOTH_RATE = 4.0  # of `inpaint`, whose steps are smooth


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

    def slopes(gradient: tf.Tensor, _: slice) -> tuple[tf.Tensor, tf.Tensor]:
        return gradient, tf.square(gradient)

    return _climbed(glow, images, slopes, CLIMB_RATE, steps, condition, misfit)


def inpaint(
    glow: Glow, images: np.ndarray, unknown: np.ndarray, steps: int = 60, condition: Condition = None
) -> np.ndarray:
    """Fills in unknown pixels of images, uint8 [N, H, W, C]: the likeliest ones, given the others.

    The climb starts from the harmonic filling; see `harmonic`. Its steps are smooth: the gradient g becomes
    −Δ⁻¹g, with Δ the Laplacian of the unknown pixels. Steps that move each pixel by itself follow the noise
    of g, and leave the shape of a large hole as it was. The likeliest filling is smooth: it continues edges,
    and invents no texture.

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
    holes = _holes(images, unknown)
    start = np.stack([hole.filled(image) for hole, image in zip(holes, images, strict=True)])

    def slopes(gradient: tf.Tensor, place: slice) -> tuple[tf.Tensor, tf.Tensor]:
        found = gradient.numpy()
        smooth = np.stack([hole.smooth(own) for hole, own in zip(holes[place], found, strict=True)])
        size = np.array([max(hole.size, 1) * found.shape[-1] for hole in holes[place]], found.dtype)
        return smooth, np.sum(found * smooth, axis=(1, 2, 3), keepdims=True) / size[:, None, None, None]

    found = _climbed(glow, start, slopes, SMOOTH_RATE, steps, condition)
    return np.where(np.broadcast_to(unknown, images.shape[:3])[..., None], found, images)


def harmonic(images: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Fills in unknown pixels of images, uint8 [N, H, W, C]: each is the mean of its neighbours.

    This solves Laplace's equation, and uses no model. `unknown` is as in `inpaint`, and so are errors.
    """
    return np.stack([h.filled(image) for h, image in zip(_holes(images, unknown), images, strict=True)])


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of images, in dB: uint8 [N, H, W, C] twice → [N]."""
    error = np.square(images.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-12))


class _Hole:
    """The unknown pixels of an image, bool [H, W], and the Laplacian Δ within them."""

    def __init__(self, unknown: np.ndarray):
        self._unknown, self.size = unknown, int(unknown.sum())
        inside = unknown.ravel()
        laplacian = _laplacian(*unknown.shape)[inside]
        self._from_known = laplacian[:, ~inside]
        self._solve = splu(laplacian[:, inside].tocsc()).solve if self.size else np.copy

    def filled(self, image: np.ndarray) -> np.ndarray:
        """Returns an image [H, W, C] with the harmonic filling."""
        filled = image.copy()
        known = image[~self._unknown].astype(np.float64)
        filled[self._unknown] = np.round(self._solve(-(self._from_known @ known)))
        return filled

    def smooth(self, gradient: np.ndarray) -> np.ndarray:
        """Returns −Δ⁻¹ of a gradient [H, W, C], which is 0 where pixels are known."""
        found = np.zeros_like(gradient)
        found[self._unknown] = self._solve(gradient[self._unknown].astype(np.float64))
        return found


def _holes(images: np.ndarray, unknown: np.ndarray) -> list[_Hole]:
    """Returns the hole of each image; ConfigError as in `inpaint`."""
    if unknown.shape not in (images.shape[1:3], images.shape[:3]) or unknown.dtype != bool:
        raise ConfigError(
            f"unknown must be bool of shape {images.shape[1:3]} or {images.shape[:3]}. "
            f"Received: {unknown.dtype.name} of shape {unknown.shape}"
        )
    if unknown.all(axis=(-2, -1)).any():
        raise ConfigError("some pixels of every image must be known. Received: an image without any")
    return [_Hole(own) for own in unknown] if unknown.ndim == 3 else [_Hole(unknown)] * len(images)


def _laplacian(height: int, width: int) -> scipy.sparse.csr_matrix:
    """Returns −Δ of an image's pixels, each of which has up to four neighbours."""
    lines = []
    for side in (width, height):
        beside = scipy.sparse.eye(side, k=1) + scipy.sparse.eye(side, k=-1)
        lines.append(scipy.sparse.diags(np.asarray(beside.sum(axis=1)).ravel()) - beside)
    return scipy.sparse.kronsum(*lines, format="csr")


def _height_and_gradient(
    glow: Glow, misfit: Misfit | None, v: tf.Tensor, y: tf.Tensor, condition: Condition
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns log p − misfit of v [B, H, W, C], [B] nats, and its gradient."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(v)
        value = in_streams(glow.dequantized_log_prob, v, condition)
        value = value if misfit is None else value - misfit(v, y)
    return value, tape.gradient(value, v)


def _higher(
    v: tf.Tensor, value: tf.Tensor, best: tf.Tensor, best_value: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns of each image the higher of two points, [N, H, W, C], and its value, [N], if it is finite."""
    better = tf.math.is_finite(value) & (value > best_value)
    return tf.where(tf.reshape(better, [-1, 1, 1, 1]), v, best), tf.where(better, value, best_value)


def _climbed(
    glow: Glow,
    images: np.ndarray,
    slopes: Slopes,
    rate: float,
    steps: int,
    condition: Condition,
    misfit: Misfit | None = None,
) -> np.ndarray:
    """Climbs log p − misfit from images by Adam, and returns the highest point that was met.

    `slopes` makes of the gradient of a slice of the images its first moment, which is where to move, and its
    second one. `rate` is Adam's, in levels of 256.
    """
    if steps < 1:
        raise ConfigError(f"steps must be 1 or more. Received: {steps=}")
    glow.checked(images)
    check_given(glow, condition, len(images))
    top = float(glow.dequantize.bins)
    rate = rate / glow.dequantize.bin_width

    # A partial for each call: of one function TensorFlow counts all traces, and warns of many.
    height_and_gradient = tf.function(functools.partial(_height_and_gradient, glow, misfit), autograph=False)
    found = []
    size = batch_of(glow.image_shape, BATCH)
    starts = range(0, len(images), size)
    total = len(starts) * steps
    task = "{}×{}×{}".format(*glow.image_shape)
    bar = with_progress(None, total, f"Restoring {len(images)} images of {task}, steps")
    for start in starts:
        place = slice(start, start + size)
        y = v = glow.dequantized(images[place], noise=0.5)
        given = glow.checked_condition(some_of(condition, place))
        first = second = tf.zeros([], v.dtype)
        best, best_value = v, tf.fill(tf.shape(v)[:1], tf.constant(-np.inf, v.dtype))
        for step in range(1, steps + 1):
            bar.update()
            value, gradient = height_and_gradient(v, y, given)
            best, best_value = _higher(v, value, best, best_value)
            own, square = slopes(tf.where(tf.math.is_finite(gradient), gradient, 0.0), place)
            first, second = 0.9 * first + 0.1 * own, 0.99 * second + 0.01 * square
            slope = first / (1 - 0.9**step) / (tf.sqrt(second / (1 - 0.99**step)) + 1e-8)
            decay = 0.5 * (1 + np.cos(np.pi * (step - 1) / steps))
            v = tf.clip_by_value(v + rate * decay * slope, 0.0, top - 1e-3)
        value, _ = height_and_gradient(v, y, given)
        best, _ = _higher(v, value, best, best_value)
        found.append(glow.dequantize.to_output(best).numpy())
    bar.close()
    return np.concatenate(found)
