"""Dequantize: the only place that knows how integers become real numbers and back."""

import math

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, WithLogDet, per_example


@keras.saving.register_keras_serializable(package="glow_tf")
class Dequantize(Bijector):
    """Centres and scales pixel levels: the map between [0, 2^n_bits) and [−½, ½).

    A byte b has the level ⌊b / 2^(8−n_bits)⌋. With more than 8 bits, images are integers of 16 bits, and
    16 stands for the 8. The *dequantised* value is v = level + noise, with noise uniform in [0, 1). The
    model's input is y. The log-density of v is in expectation a lower bound on the log-probability of the
    byte.

    Forward:   y = v / 2^n_bits − ½      log_det = −H·W·C·n_bits·ln 2   (so a uniform density of y has
               exactly n_bits bits per dimension)
    Inverse:   v = (y + ½) · 2^n_bits

    `levels` maps bytes to levels, and `to_output` maps v back to bytes. `to_output` rounds *down*: a v at the
    middle of its bin (noise ½) gives the right byte despite any error below half a level.

    `Standardize` stands in its place in a model of real values, `Equalize` where images have flat regions.

    Args:
      n_bits: bits kept per pixel and channel, 1 to 16.

    Attributes:
      takes_noise: whether values are made of images and noise.
      output_dtype: of images, `uint8` or `uint16`.
      unit: in which errors are told: one level.

    Raises:
      ValueError: n_bits is out of range.
    Reference: Theis et al. 2016, section 3.1, https://arxiv.org/abs/1511.01844
    """

    takes_noise = True
    unit = 1.0

    def __init__(self, n_bits: int = 8, **kwargs):
        super().__init__(**kwargs)
        if n_bits not in range(1, 17):
            raise ValueError(f"n_bits must be an integer from 1 to 16. Received: n_bits={n_bits}")
        self.n_bits = n_bits
        self.bins = 2**n_bits
        stored = 8 if n_bits <= 8 else 16
        self.output_dtype = f"uint{stored}"
        self.bin_width = 2 ** (stored - n_bits)  # in levels of a byte
        self.built = True

    def adapt(self, images: np.ndarray) -> None:
        """Learns from all training images [N, H, W, C] what is to be known of them: here, nothing."""

    def levels(self, images: tf.Tensor) -> tf.Tensor:
        """Drops the lowest 8 − n_bits bits: bytes [B, H, W, C] → whole numbers in the compute dtype."""
        # As int32: ONNX Runtime has no division of uint8.
        return tf.cast(tf.cast(images, tf.int32) // self.bin_width, self.compute_dtype)

    def to_output(self, v: tf.Tensor) -> tf.Tensor:
        """Rounds dequantised values [B, H, W, C] down to bytes, the lowest 8 − n_bits bits 0, and clips."""
        level = tf.clip_by_value(tf.floor(v), 0, self.bins - 1)
        return tf.cast(level * self.bin_width, self.output_dtype)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        return x / self.bins - 0.5, per_example(self._log_det(x), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        return (y + 0.5) * self.bins, per_example(-self._log_det(y), y)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        return tf.constant(-math.prod(x.shape[1:]) * self.n_bits * math.log(2), x.dtype)
