"""The log-density of the standard Gaussian, and the conversion between nats and bits per dimension."""

import math
from collections.abc import Sequence

import tensorflow as tf


def standard_normal_log_prob(z: tf.Tensor) -> tf.Tensor:
    """Returns log N(z; 0, I) per example, summed over all dimensions: [B, …] → [B], nats."""
    dimensions = math.prod(z.shape[1:])
    squares = tf.reduce_sum(tf.square(z), axis=list(range(1, z.shape.rank)))
    return -0.5 * (squares + dimensions * math.log(2 * math.pi))


def bits_per_dim(nll: tf.Tensor, image_shape: Sequence[int]) -> tf.Tensor:
    """Converts nats of any shape to bits per dimension: nll / (H·W·C·ln 2).

    `image_shape` is (H, W, C) of the *image*. The terms of single parts use it too, so that they add up.
    """
    return nll / (math.prod(image_shape) * math.log(2))


def nats(bits: tf.Tensor, image_shape: Sequence[int]) -> tf.Tensor:
    """Converts bits per dimension of the image (H, W, C) back to nats; any shape."""
    return bits * (math.prod(image_shape) * math.log(2))
