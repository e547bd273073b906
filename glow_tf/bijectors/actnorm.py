"""ActNorm: a learned affine map of each channel, initialised from data."""

import functools
import warnings

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Repeatable, Shape, WithLogDet, per_example, pixels_of, set_where

# Added to a channel's standard deviation at initialisation, because it is 0 in a constant channel.
EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="glow_tf")
class ActNorm(Repeatable):
    """Shifts and scales every channel; `initialize` gives its outputs mean 0 and variance 1.

    Forward:   y = (x + bias) · exp(log_scale)      log_det = H·W·Σ_c log_scale_c
    Inverse:   x = y · exp(−log_scale) − bias

    `initialize` is a separate pass over one batch; the training step does not contain it. The weight
    `initialized` records that this pass has happened, so a restored layer is never initialised again.

    Shapes: [B, H, W, C] → the same.
    Reference: Kingma & Dhariwal 2018, section 3.1, https://arxiv.org/abs/1807.03039
    """

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=(channels,), initializer="zeros")
        self.initialized = self.add_weight(name="initialized", shape=(), dtype="int64", trainable=False)
        self.built = True

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        self._ensure_built(x)
        self.initialize_from(*tf.nn.moments(x, axes=[1, 2]))
        return self.forward_and_log_det(x)[0]

    def initialize_from(self, means: tf.Tensor, variances: tf.Tensor) -> None:
        """Does what `initialize` does, from the moments of each example over its pixels, [B, C] both."""
        self._require_built()
        mean, variance_of_means = tf.nn.moments(means, axes=[0])
        deviation = tf.sqrt(tf.reduce_mean(variances, axis=0) + variance_of_means)
        new = self.initialized.value < 1
        set_where(new, self.bias, -mean)
        set_where(new, self.log_scale, -tf.math.log(deviation + EPSILON))
        self.initialized.assign(1)
        constant = tf.reduce_sum(tf.cast(new & (deviation < EPSILON), tf.int32))
        # TensorFlow keeps the function for as long as the process lives, so it must not hold the layer.
        tf.numpy_function(functools.partial(_warn, self.path), [constant], [])

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        y = (x + self.bias.value) * tf.exp(self.log_scale.value)
        return y, per_example(self.log_det_per_pixel() * pixels_of(x), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        self._require_built()
        x = y * tf.exp(-self.log_scale.value) - self.bias.value
        return x, per_example(-self.log_det_per_pixel() * pixels_of(y), y)

    def log_det_per_pixel(self) -> tf.Tensor:
        """Returns Σ_c log_scale_c, in nats, []."""
        return tf.reduce_sum(self.log_scale.value, axis=-1)


def _warn(path: str, constant: np.ndarray) -> None:
    if constant:
        warnings.warn(
            f"{path}: {constant} channels are constant over the initialisation batch; "
            f"their scale is set to {1 / EPSILON:g}.",
            stacklevel=2,
        )
