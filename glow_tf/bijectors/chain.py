"""Bijectors one after another."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, WithLogDet, read_by
from glow_tf.bijectors.mode import ALONE, Context


@keras.saving.register_keras_serializable(package="glow_tf")
class Chain(Bijector):
    """Applies bijectors in the order of the list when run forward, and in reverse order when run inverse.

    Forward:   y = f_n(… f_1(x))      log_det = Σ log_det_i
    Inverse:   x = f_1⁻¹(… f_n⁻¹(y))

    Args:
      bijectors: at least one, in forward order (`tfb.Chain` lists them in reverse order).

    Raises:
      ValueError: the list is empty.
    """

    def __init__(self, bijectors: Sequence[Bijector], **kwargs):
        super().__init__(**kwargs)
        if not bijectors:
            raise ValueError(f"Chain needs at least one bijector. Received: bijectors={bijectors}")
        self.bijectors = list(bijectors)

    def build(self, input_shape: Shape) -> None:
        for bijector in self.bijectors:
            if not bijector.built:  # Keras has already built one that it loaded
                bijector.build(input_shape)
            input_shape, _ = bijector.compute_output_shape(input_shape)
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._ensure_built(x)
        total = 0.0
        for bijector in self.bijectors:
            x, log_det = bijector.forward_and_log_det(x, *read_by(bijector, context))
            total += log_det
        return x, total

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._require_built()
        total = 0.0
        for bijector in reversed(self.bijectors):
            y, log_det = bijector.inverse_and_log_det(y, *read_by(bijector, context))
            total += log_det
        return y, total

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self._ensure_built(x)
        for bijector in self.bijectors:
            x = bijector.initialize(x, *read_by(bijector, context))
        return x

    def shapes(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        for bijector in self.bijectors:
            input_shape, _ = bijector.compute_output_shape(input_shape)
        return input_shape, ()

    def get_config(self) -> dict:
        bijectors = [keras.saving.serialize_keras_object(b) for b in self.bijectors]
        return {**super().get_config(), "bijectors": bijectors}

    @classmethod
    def from_config(cls, config: dict) -> "Chain":
        config = dict(config)
        bijectors = [keras.saving.deserialize_keras_object(b) for b in config.pop("bijectors")]
        return cls(bijectors, **config)
