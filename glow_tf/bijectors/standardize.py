"""Standardize: the only place that knows how real data are centred and scaled."""

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, WithLogDet, per_example, pixels_of, set_where


@keras.saving.register_keras_serializable(package="glow_tf")
class Standardize(Bijector):
    """Centres and scales every channel of real data, by numbers that are not trained.

    Forward:   y = (v − mean) / deviation      log_det = −H·W·Σ_c log deviation_c
    Inverse:   v = y · deviation + mean

    It stands where a model of bytes has `Dequantize`. Nothing is added to the data and nothing is rounded:
    `levels` and `to_output` only convert types, so the log-density of v is exact.

    `initialize` sets mean and deviation from a batch, `adapt` from all data. The weight `initialized` records
    that this has happened, so a restored layer keeps what it has. A channel that is constant has the
    deviation 1.

    Shapes: [B, H, W, C] → the same.

    Attributes:
      takes_noise: whether values are made of images and noise.
      output_dtype: of what is drawn and decoded.
    """

    takes_noise = False
    output_dtype = "float32"

    def build(self, input_shape: Shape) -> None:
        size = {"shape": (input_shape[-1],), "trainable": False}
        self.mean = self.add_weight(name="mean", initializer="zeros", **size)
        self.deviation = self.add_weight(name="deviation", initializer="ones", **size)
        self.initialized = self.add_weight(name="initialized", shape=(), dtype="int64", trainable=False)
        self.built = True

    @property
    def unit(self) -> tf.Tensor:
        """In which errors are told: the deviation of the channel, [C]."""
        return self.deviation.value

    def levels(self, images: tf.Tensor) -> tf.Tensor:
        """Returns real values [B, H, W, C] in the compute dtype."""
        return tf.cast(images, self.compute_dtype)

    def to_output(self, v: tf.Tensor) -> tf.Tensor:
        """Returns values [B, H, W, C] as float32."""
        return tf.cast(v, self.output_dtype)

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        self._ensure_built(x)
        self.adapt(np.asarray(x))
        return self.forward_and_log_det(x)[0]

    def adapt(self, values: np.ndarray) -> None:
        """Sets mean and deviation to those of all training values, [N, H, W, C], unless they are set."""
        self._require_built()
        mean, deviation = moments(values)
        new = self.initialized.value < 1
        # Of a constant channel rounding may leave something.
        deviation = tf.where(deviation > 1e-12 * tf.abs(mean), deviation, tf.ones_like(deviation))
        set_where(new, self.mean, mean)
        set_where(new, self.deviation, deviation)
        self.initialized.assign(1)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        return (x - self.mean.value) / self.deviation.value, per_example(self._log_det(x), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        self._require_built()
        return y * self.deviation.value + self.mean.value, per_example(-self._log_det(y), y)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        return -pixels_of(x) * tf.reduce_sum(tf.math.log(self.deviation.value))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the deviation of each channel of data [N, H, W, C]: float64 [C] twice."""
    axes = (0, 1, 2)
    # Example by example: they may be larger than memory, and so may a copy in float64.
    mean = np.mean([example.mean(axes[:2], np.float64) for example in values], axis=0)
    squares = sum(np.square(example - mean).mean(axes[:2]) for example in values)
    return mean, np.sqrt(squares / len(values))
