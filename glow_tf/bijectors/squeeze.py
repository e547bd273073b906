"""What halves an image: 2×2 pixels become one of four times the channels, a last row or column is cut off."""

import math

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import (
    Bijector,
    Bound,
    Latents,
    PartOutput,
    Shape,
    WithLogDet,
    no_log_det,
    per_example,
)
from glow_tf.bijectors.likelihood import standard_normal_log_prob

# Means keep the range of pixels, so that the image of the means is an image like any other. Differences of
# neighbouring pixels are small; as twice the orthonormal transform has them they are of the order of pixels.
MEAN = 1 / 4
DIFFERENCE = 2.0


@keras.saving.register_keras_serializable(package="glow_tf")
class Squeeze(Bijector):
    """Turns each 2×2 square of pixels into one pixel with four times the channels.

    Forward:   [B, H, W, C] → [B, H/2, W/2, 4C], a permutation of the numbers, so log_det = 0.
    Inverse:   [B, H/2, W/2, 4C] → [B, H, W, C].

    Raises:
      ValueError: on build, H or W is odd.
    Reference: Dinh et al. 2017, section 3.6, https://arxiv.org/abs/1605.08803
    """

    def build(self, input_shape: Shape) -> None:
        _, height, width, _ = input_shape
        if height % 2 or width % 2:
            raise ValueError(
                f"Squeeze needs an even height and width. Received: input_shape={tuple(input_shape)}"
            )
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        return tf.nn.space_to_depth(x, 2), no_log_det(x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        return tf.nn.depth_to_space(y, 2), no_log_det(y)

    def shapes(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        batch, height, width, channels = input_shape
        return (batch, height // 2, width // 2, 4 * channels), ()


@keras.saving.register_keras_serializable(package="glow_tf")
class Haar(Squeeze):
    """Takes an image apart into one of half its size and the details that it lacks.

    Of the pixels [[p, q], [r, s]] of a square, for each channel:
    Forward:   [(p + q + r + s) / 4, 2·(p − q + r − s), 2·(p + q − r − s), 2·(p − q − r + s)]
    Inverse:   the same sums of the mean and the differences, each divided by its own scale.
    The means of all channels come first, then the first difference of all channels, and so on. The map is an
    orthonormal one but for its scales, so log_det = H·W·C/4 · 5·ln 2. Where it is `orthonormal`, all four
    scales are 1/2, and log_det = 0.

    Shapes: [B, H, W, C] → [B, H/2, W/2, 4C], of which the first C channels are the smaller image.

    Args:
      orthonormal: whether sums and differences have the scale that keeps lengths.

    Raises:
      ValueError: on build, H or W is odd.
    Reference: Yu et al. 2020 (Wavelet Flow), section 3, https://arxiv.org/abs/2010.13821
    """

    def __init__(self, orthonormal: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.orthonormal = orthonormal
        self._mean, self._difference = (1 / 2, 1 / 2) if orthonormal else (MEAN, DIFFERENCE)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        # The pixels of a square one after another, each with its channels.
        p, q, r, s = tf.split(tf.nn.space_to_depth(x, 2), 4, axis=-1)
        top, bottom, left, right = p + q, r + s, p - q, r - s
        differences = (left + right, top - bottom, left - right)
        y = tf.concat([self._mean * (top + bottom), *(self._difference * own for own in differences)], -1)
        return y, per_example(tf.constant(self._log_det(x.shape[1:]), x.dtype), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        mean, across, down, diagonal = tf.split(y, 4, axis=-1)
        across, down, diagonal = (t / (4 * self._difference) for t in (across, down, diagonal))
        mean /= 4 * self._mean
        top, bottom, left, right = mean + down, mean - down, across + diagonal, across - diagonal
        x = tf.nn.depth_to_space(tf.concat([top + left, top - left, bottom + right, bottom - right], -1), 2)
        return x, per_example(tf.constant(-self._log_det(x.shape[1:]), y.dtype), y)

    def _log_det(self, event_shape: Shape) -> float:
        """Returns log|det| of the forward direction for images of a shape, nats."""
        # Sums and differences of four numbers are an orthogonal map that doubles lengths.
        log_scales = math.log(2 * self._mean) + 3 * math.log(2 * self._difference)
        return math.prod(event_shape) / 4 * log_scales


def squeeze(kind: str, **kwargs) -> Squeeze:
    """Makes the squeeze of a setting: `haar` or `pixels`."""
    return Haar(orthonormal=True, **kwargs) if kind == "haar" else Squeeze(**kwargs)


# Fitted to differences between neighbours in photographs, at their own size and at five halves of it.
SLOPE, SCALE = 0.4, 2**-9
FARTHEST = 80.0  # of an exponent; float32 overflows at 88


@keras.saving.register_keras_serializable(package="glow_tf")
class LastLine(Bijector):
    """Factors out the last row, or column, of images with an odd side; then the side can be halved.

    Let d be the difference between the last line and the line before it, and e its first channel, and of
    every other channel the difference from the channel before: e_c = d_c − d_{c−1}. The density of e is
    fixed: Johnson's S_U distribution of slope a = 0.4 and scale b = 1/512, of half a grey value.
    Forward:   eps = a·asinh(e / b)      log_det = Σ log a − log(e² + b²) / 2
    Inverse:   e = b·sinh(eps / a), from which d and the line follow.
    So log p(line | the rest) = log N(eps; 0, I) + log_det. It is exact, and there is nothing to learn.
    A scale that follows the neighbours would save 0.7 of 4.7 bits per value of a line of photographs. But it
    multiplies rounding errors, and black-and-white noise did not come back to the byte.
    Images whose side is even pass as they are. So does, in the inverse, an image without a latent.

    Shapes: [B, H, W, C] → h [B, H − 1, W, C] and a latent [B, 1, W, C]; of columns likewise.

    Args:
      axis: 1, the last row, or 2, the last column.

    Reference: Johnson 1949, https://doi.org/10.1093/biomet/36.1-2.149
    """

    def __init__(self, axis: int, **kwargs):
        super().__init__(**kwargs)
        self.axis = axis
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        if not self._is_odd(x.shape):
            return x, no_log_det(x)
        rest, line = self._cut(x)
        eps, log_det = self._whiten(rest, line)
        return tf.concat([rest, eps], self.axis), log_det

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        if not self._is_odd(y.shape):
            return y, no_log_det(y)
        rest, eps = self._cut(y)
        size = tf.abs(_exponent(eps))
        log_cosh = size + tf.math.log1p(tf.exp(-2 * size)) - math.log(2)
        log_det = tf.reduce_sum(log_cosh + math.log(SCALE) - math.log(SLOPE), axis=[1, 2, 3])
        return self._with_line(rest, eps), log_det

    def forward_in_part(self, so_far: PartOutput) -> PartOutput:
        if not self._is_odd(so_far.h.shape):
            return so_far
        rest, line = self._cut(so_far.h)
        eps, log_det = self._whiten(rest, line)
        log_prob = so_far.latents_log_prob + standard_normal_log_prob(eps) + log_det
        return so_far._replace(h=rest, latents=(*so_far.latents, eps), latents_log_prob=log_prob)

    def inverse_in_part(self, h: tf.Tensor, latents: Latents, bound: Bound) -> tuple[tf.Tensor, Latents]:
        return (bound(self._with_line(h, latents[-1])), latents[:-1]) if latents else (h, latents)

    def initialize_in_part(self, x: tf.Tensor) -> tf.Tensor:
        return self.pass_on(x)

    def pass_on(self, x: tf.Tensor) -> tf.Tensor:
        return self._cut(x)[0] if self._is_odd(x.shape) else x

    def shapes(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        shape, line = list(input_shape), list(input_shape)
        if not self._is_odd(input_shape):
            return tuple(shape), ()
        shape[self.axis] -= 1
        line[self.axis] = 1
        return tuple(shape), (tuple(line),)

    def _is_odd(self, shape: Shape) -> bool:
        return shape[self.axis] % 2 == 1

    def _cut(self, x: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(x, [x.shape[self.axis] - 1, 1], self.axis)

    def _neighbour(self, rest: tf.Tensor) -> tf.Tensor:
        return tf.split(rest, [rest.shape[self.axis] - 1, 1], self.axis)[1]

    def _whiten(self, rest: tf.Tensor, line: tf.Tensor) -> WithLogDet:
        """Returns eps of the line, and log|det d eps/d line|, [B], nats."""
        difference = line - self._neighbour(rest)
        steps = tf.concat([difference[..., :1], difference[..., 1:] - difference[..., :-1]], -1)
        log_slope = math.log(SLOPE) - 0.5 * tf.math.log(tf.square(steps) + SCALE**2)
        return SLOPE * _asinh(steps / SCALE), tf.reduce_sum(log_slope, axis=[1, 2, 3])

    def _with_line(self, rest: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        exponent = _exponent(eps)
        steps = SCALE / 2 * (tf.exp(exponent) - tf.exp(-exponent))
        return tf.concat([rest, self._neighbour(rest) + tf.cumsum(steps, axis=-1)], self.axis)


def _exponent(eps: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(eps / SLOPE, -FARTHEST, FARTHEST)


def _asinh(x: tf.Tensor) -> tf.Tensor:
    """Returns asinh(x) by a formula for positive x."""
    is_below = x < 0
    size = tf.where(is_below, -x, x)  # unlike |x|, it has a derivative at 0
    found = tf.math.log(size + tf.sqrt(tf.square(size) + 1))
    return tf.where(is_below, -found, found)
