"""The network that turns what is given into the features that a flow reads."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Shape
from glow_tf.bijectors.networks import HiddenConvolution
from glow_tf.bijectors.rate_factor import REFERENCE_WIDTH, scales_with


@keras.saving.register_keras_serializable(package="glow_tf")
class ConditionNetwork(keras.layers.Layer):
    """Convolutions of 3×3 pixels, each followed by ActNorm and ReLU.

    Shapes: [B, h, w, c] → [B, h, w, features]; a vector [B, d] is a map of one pixel.

    Args:
      features: output channels, and those in between.
      depth: number of convolutions.
      seed: of the kernels.
    """

    def __init__(self, features: int, depth: int = 2, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.features = features
        self.depth = depth
        self.seed = seed
        self.convolutions = [
            HiddenConvolution(
                features, 3, seed=depth * seed + k, dtype=self.dtype_policy, name=f"convolution_{k + 1}"
            )
            for k in range(depth)
        ]

    def build(self, input_shape: Shape) -> None:
        """Builds the convolutions."""
        for layer in self.convolutions:
            layer.build(input_shape)
            scales_with(layer.kernel, width=max(input_shape[-1], REFERENCE_WIDTH))
            input_shape = (*input_shape[:-1], self.features)
        self.built = True

    def call(self, condition: tf.Tensor) -> tf.Tensor:
        """Returns the features, in the dtype of the condition."""
        h = _as_map(condition)
        for layer in self.convolutions:
            h = tf.nn.relu(layer.call(h))
        return tf.cast(h, condition.dtype)

    def initialize(self, condition: tf.Tensor) -> tf.Tensor:
        """Sets the ActNorms from data, in order, as `Bijector.initialize` does, and returns the features."""
        h = _as_map(condition)
        for layer in self.convolutions:
            h = tf.nn.relu(layer.initialize(h))
        return tf.cast(h, condition.dtype)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            **super().get_config(),
            "features": self.features,
            "depth": self.depth,
            "seed": self.seed,
        }


def _as_map(condition: tf.Tensor) -> tf.Tensor:
    return condition[:, tf.newaxis, tf.newaxis] if condition.shape.rank == 2 else condition
