"""The network that turns what is given into the features that a flow reads."""

import functools
from collections.abc import Callable, Mapping

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import FEATURE_BOUND, Shape, soft_bound
from glow_tf.bijectors.condition import Condition, at_its_own_resolution
from glow_tf.bijectors.mode import PLAIN, Mode
from glow_tf.bijectors.networks import ACTIVATION, HiddenConvolution
from glow_tf.bijectors.rate_factor import REFERENCE_WIDTH, scales_with


@keras.saving.register_keras_serializable(package="glow_tf")
class ConditionNetwork(keras.layers.Layer):
    """Convolutions of 3×3 pixels, each followed by ActNorm, with an activation between them.

    Shapes: [B, h, w, c] → [B, h, w, features]. A vector [B, d] is a map of one pixel; several conditions are
    brought to the resolution of the largest.

    Args:
      features: output channels, and those in between.
      depth: number of convolutions.
      seed: of the kernels.
      activation: one of `ACTIVATIONS`.
      bounded: whether the features are softly bounded to ±3.
    """

    RADIUS = 1  # pixels that each convolution sees in each direction

    def __init__(
        self,
        features: int,
        depth: int = 2,
        seed: int = 0,
        activation: str = "relu",
        bounded: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = activation
        self.bounded = bounded
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
        shapes = list(input_shape.values()) if isinstance(input_shape, Mapping) else [input_shape]
        self.channels = sum(shape[-1] for shape in shapes)
        input_shape = (None, None, None, self.channels)
        for layer in self.convolutions:
            layer.build(input_shape)
            scales_with(layer.kernel, width=max(input_shape[-1], REFERENCE_WIDTH))
            input_shape = (*input_shape[:-1], self.features)
        self.built = True

    def call(self, condition: Condition, mode: Mode = PLAIN) -> tf.Tensor:
        """Returns the features, in the dtype of the condition."""
        return self._run(condition, functools.partial(HiddenConvolution.call, mode=mode))

    def initialize(self, condition: Condition) -> tf.Tensor:
        """Sets the ActNorms from data, in order, as `Bijector.initialize` does, and returns the features."""
        return self._run(condition, HiddenConvolution.initialize)

    def _run(self, condition: Condition, run: Callable[..., tf.Tensor]) -> tf.Tensor:
        given = h = at_its_own_resolution(condition, self.channels)
        for layer in self.convolutions:
            h = run(layer, h if layer is self.convolutions[0] else ACTIVATION[self.activation](h))
        h = tf.cast(h, given.dtype)
        return soft_bound(h, FEATURE_BOUND) if self.bounded else h
