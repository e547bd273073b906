"""ActNorm: a learned affine map of each channel, initialised from data."""

import warnings

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, per_example

# Added to a channel's standard deviation at initialisation, so that a constant channel cannot divide by 0.
EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="glow_tf")
class ActNorm(Bijector):
    """Shifts and scales every channel; `initialize` gives its outputs mean 0 and variance 1.

    Forward:   y = (x + bias) · exp(log_scale)      log_det = H·W·Σ_c log_scale_c
    Inverse:   x = y · exp(−log_scale) − bias

    The data-dependent initialisation is one explicit pass (`initialize`), never a branch of the training
    step. That it has happened is a weight (`initialized`), so a restored layer is never initialised again.

    Shapes: [B, H, W, C] → the same.
    Reference: Kingma & Dhariwal 2018, section 3.1, https://arxiv.org/abs/1807.03039
    """

    def build(self, input_shape: Shape) -> None:
        """Creates bias and log-scale per channel, and the flag."""
        channels = input_shape[-1]
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=(channels,), initializer="zeros")
        self.initialized = self.add_weight(
            name="initialized", shape=(), dtype="int32", initializer="zeros", trainable=False
        )
        self.built = True

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """See base: sets bias and log_scale from the mean and deviation of x, unless already done."""
        self.ensure_built(x)
        if not int(self.initialized.value):
            mean, variance = tf.nn.moments(x, axes=[0, 1, 2])
            deviation = tf.sqrt(variance)
            if bool(tf.reduce_any(deviation < EPSILON)):
                warnings.warn(
                    f"{self.path}: {int(tf.reduce_sum(tf.cast(deviation < EPSILON, tf.int32)))} channels "
                    "are constant over the initialisation batch; their scale is limited.",
                    stacklevel=2,
                )
            self.bias.assign(tf.cast(-mean, self.bias.dtype))
            self.log_scale.assign(tf.cast(-tf.math.log(deviation + EPSILON), self.log_scale.dtype))
            self.initialized.assign(1)
        return self.forward(x)

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        y = (x + self.bias.value) * tf.exp(self.log_scale.value)
        return y, per_example(self.log_det_per_pixel() * _pixels(x), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.require_built()
        x = y * tf.exp(-self.log_scale.value) - self.bias.value
        return x, per_example(-self.log_det_per_pixel() * _pixels(y), y)

    def log_det_per_pixel(self) -> tf.Tensor:
        """Returns Σ_c log_scale_c, in nats, []."""
        return tf.reduce_sum(self.log_scale.value, axis=-1)


def _pixels(x: tf.Tensor) -> tf.Tensor:
    return tf.constant(x.shape[1] * x.shape[2], x.dtype)
