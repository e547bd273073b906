"""2×2 pixels become one of four times the channels: side by side, or their mean and differences."""

import math

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, WithLogDet, no_log_det, per_example

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
