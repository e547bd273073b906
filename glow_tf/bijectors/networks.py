"""The coupling's convolutional network."""

import keras
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.bijector import Shape

NORMS = ("actnorm", "bias")


@keras.saving.register_keras_serializable(package="glow_tf")
class HiddenConvolution(keras.layers.Layer):
    """A same-size convolution followed by ActNorm or a bias.

    ActNorm is folded into the kernel and bias, so that it costs no pass over the activations.

    Args:
      filters: output channels.
      kernel_size: side of the kernel in pixels.
      norm: `actnorm` or `bias`.
      seed: of the kernel (He normal).
    """

    def __init__(self, filters: int, kernel_size: int, norm: str = "actnorm", seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {NORMS}. Received: norm={norm!r}")
        self.filters = filters
        self.kernel_size = kernel_size
        self.norm = norm
        self.seed = seed

    def build(self, input_shape: Shape) -> None:
        """Creates kernel and norm."""
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=keras.initializers.HeNormal(seed=self.seed),
        )
        if self.norm == "actnorm":
            self.actnorm = ActNorm(dtype=self.dtype_policy, name="actnorm")
            self.actnorm.build((*input_shape[:-1], self.filters))
        else:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] → [B, H, W, filters]."""
        if self.norm == "bias":
            return tf.nn.bias_add(self._convolve(x, self.kernel.value), self.bias.value)
        scale = tf.exp(self.actnorm.log_scale.value)
        return tf.nn.bias_add(self._convolve(x, self.kernel.value * scale), self.actnorm.bias.value * scale)

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """Sets the ActNorm from data, as `Bijector.initialize` does."""
        if self.norm == "actnorm":
            return self.actnorm.initialize(self._convolve(x, self.kernel.value))
        return self.call(x)

    def _convolve(self, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return tf.nn.conv2d(x, kernel, strides=1, padding="SAME")

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernel_size": self.kernel_size,
            "norm": self.norm,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="glow_tf")
class ZeroConvolution(keras.layers.Layer):
    """A 3×3 convolution that starts at zero, with a learned output scale.

    y = (conv(x) + bias) · exp(3·log_scale): all weights start at 0, and the factor 3 lets the output
    leave zero faster than the rest of the network learns.

    Args:
      filters: output channels.
    Reference: Kingma & Dhariwal 2018, section 3.3; the factor is that of the authors' published code.
    """

    LOG_SCALE_FACTOR = 3.0

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape: Shape) -> None:
        """Creates the zero weights."""
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=(self.filters,), initializer="zeros")
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] → [B, H, W, filters]."""
        scale = tf.exp(self.LOG_SCALE_FACTOR * self.log_scale.value)
        y = tf.nn.conv2d(x, self.kernel.value * scale, strides=1, padding="SAME")
        return tf.nn.bias_add(y, self.bias.value * scale)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {**super().get_config(), "filters": self.filters}


@keras.saving.register_keras_serializable(package="glow_tf")
class CouplingNetwork(keras.layers.Layer):
    """Three convolutions, 3×3 → 1×1 → 3×3, with ReLU between; the last starts at zero.

    Args:
      width: hidden channels.
      filters: output channels.
      norm: of the hidden convolutions, `actnorm` or `bias`.
      seed: of the kernels.
    Reference: Kingma & Dhariwal 2018, section 3.3, https://arxiv.org/abs/1807.03039
    """

    def __init__(self, width: int, filters: int, norm: str = "actnorm", seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.filters = filters
        self.norm = norm
        self.seed = seed
        policy = self.dtype_policy
        self.hidden = [
            HiddenConvolution(width, 3, norm, seed=2 * seed, dtype=policy, name="hidden_1"),
            HiddenConvolution(width, 1, norm, seed=2 * seed + 1, dtype=policy, name="hidden_2"),
        ]
        self.last = ZeroConvolution(filters, dtype=policy, name="last")

    def build(self, input_shape: Shape) -> None:
        """Builds the three convolutions."""
        shape = input_shape
        for layer in (*self.hidden, self.last):
            layer.build(shape)
            shape = (*shape[:-1], layer.filters)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """[B, H, W, C] → [B, H, W, filters]."""
        for layer in self.hidden:
            x = tf.nn.relu(layer.call(x))
        return self.last.call(x)

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """Sets the ActNorms from data, in order, as `Bijector.initialize` does."""
        for layer in self.hidden:
            x = tf.nn.relu(layer.initialize(x))
        return self.last.call(x)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            **super().get_config(),
            "width": self.width,
            "filters": self.filters,
            "norm": self.norm,
            "seed": self.seed,
        }
