"""A coupling network of one's own."""

import types
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.own_layers import made, seeded
from glow_tf.bijectors.bijector import Shape, all_variables, with_weights
from glow_tf.bijectors.condition import beside
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.bijectors.networks import ZeroConvolution
from glow_tf.bijectors.rate_factor import scales_with
from glow_tf.core.errors import ConfigError


@keras.saving.register_keras_serializable(package="glow_tf")
class OwnNetwork(keras.layers.Layer):
    """A Keras layer of one's own, followed by a 3×3 convolution that starts at zero.

    The layer maps [B, H, W, C] to [B, H, W, any number]. A condition is brought to the same height and width,
    and its channels follow the C channels. Forward and inverse must compute the same numbers, so all weights
    of the layer must be trainable: dropout and batch normalisation are refused.

    Args:
      layer: the text of the setting `coupling_network`; see `own_layers.py`.
      filters: output channels.
      condition_channels: channels of a condition that is read; 0: none.
      seed: of the starting weights: of a layer that takes one, and of initializers that were given none.
    """

    def __init__(self, layer: str, filters: int, condition_channels: int = 0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.filters = filters
        self.condition_channels = condition_channels
        self.seed = seed
        self.own = self._made(seed)
        # In full precision it computes in the dtype of its weights, which are those of `own`.
        is_mixed = self.compute_dtype != self.variable_dtype
        twin = self._made(seed, self.variable_dtype) if is_mixed else self.own
        self._untracked = types.SimpleNamespace(twin=twin)
        self.last = ZeroConvolution(filters, dtype=self.dtype_policy, name="last")

    def _made(self, seed: int, dtype: Any = None) -> keras.layers.Layer:
        layer = made("coupling_network", self.layer, seed, dtype or self.dtype_policy)
        if not isinstance(layer, keras.layers.Layer):
            raise ConfigError(f"coupling_network must be a Keras layer. Received: {layer!r:.200}")
        return layer

    def build(self, input_shape: Shape) -> None:
        self._input_shape = (*input_shape[:-1], input_shape[-1] + self.condition_channels)
        for layer in dict.fromkeys((self.own, self._untracked.twin)):  # often one
            channels = _built(layer, self._input_shape, self.seed)
        # The package's names, since Keras numbers the layers within others' as they are made.
        for k, variable in enumerate(self.own.trainable_variables):
            variable.name_in_stack = f"network_own_{k}"
        self.last.build((*input_shape[:-1], channels))
        for weight in self.last.trainable_variables:
            scales_with(weight, width=channels if weight is self.last.kernel else 0, flow_steps=True)
        self.built = True

    def reseed(self, seed: int) -> None:
        """Gives the layer its starting values of another seed."""
        other = self._made(seed)
        _built(other, self._input_shape, seed)
        self.own.set_weights(other.get_weights())

    def fold(self) -> list[tf.Tensor]:
        """Returns the weights of the layer, and what `ZeroConvolution.fold` does."""
        return [*(v.value for v in all_variables(self.own)), *self.last.fold()]

    def run_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor], context: Context) -> tf.Tensor:
        """Runs the network with what `fold` returned: [B, H, W, C] → [B, H, W, filters], x's dtype."""
        count = len(all_variables(self.own))
        channels = self.condition_channels
        read = beside(x, context.condition, channels) if channels else x
        own = self._untracked.twin if context.mode.full_precision else self.own
        with with_weights(own, folded[:count]):
            h = own(read)
        y = self.last.run_folded(tf.cast(h, x.dtype), folded[count : count + 3], context.mode)
        return tf.cast(y, x.dtype)

    def call(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        return self.run_folded(x, self.fold(), context)

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Runs the network: nothing in it is set from data."""
        return self.call(x, context)


def _built(layer: keras.layers.Layer, input_shape: Shape, seed: int) -> int:
    """Builds a layer of one's own, and returns its output channels; ConfigError if it does not fit."""
    with seeded(seed):
        output = layer(keras.KerasTensor(input_shape, layer.compute_dtype))
    kept, channels = tuple(output.shape[1:-1]), output.shape[-1]
    if len(output.shape) != 4 or kept != tuple(input_shape[1:-1]) or not channels:
        raise ConfigError(
            "coupling_network must keep height and width, [B, H, W, C] to [B, H, W, any number]. "
            f"Received: {type(layer).__name__}, {tuple(input_shape)} to {tuple(output.shape)}"
        )
    if layer.non_trainable_variables:
        raise ConfigError(
            "coupling_network must have trainable weights alone, as the inverse must read what forward read: "
            f"no dropout, no batch normalisation. Received: {type(layer).__name__} with "
            f"{layer.non_trainable_variables[0].path}"
        )
    return channels
