"""Bijectors one after another."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape


@keras.saving.register_keras_serializable(package="glow_tf")
class Chain(Bijector):
    """Applies bijectors in the order of the list when run forward, in reverse when run inverse.

    Forward:   y = f_n(… f_1(x))      log_det = Σ log_det_i
    Inverse:   x = f_1⁻¹(… f_n⁻¹(y))

    Args:
      bijectors: at least one; forward order (unlike `tfb.Chain`, which lists the last one first).

    Raises:
      ValueError: the list is empty.
    """

    def __init__(self, bijectors: Sequence[Bijector], **kwargs):
        super().__init__(**kwargs)
        if not bijectors:
            raise ValueError(f"Chain needs at least one bijector. Received: bijectors={bijectors}")
        self.bijectors = list(bijectors)

    def build(self, input_shape: Shape) -> None:
        """Builds every bijector on the shape the one before it yields."""
        for bijector in self.bijectors:
            if not bijector.built:  # a deserialised one is
                bijector.build(input_shape)
            input_shape = bijector.output_shape_of(input_shape)
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        total = 0.0
        for bijector in self.bijectors:
            x, log_det = bijector.forward_and_log_det(x)
            total += log_det
        return x, total

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.require_built()
        total = 0.0
        for bijector in reversed(self.bijectors):
            y, log_det = bijector.inverse_and_log_det(y)
            total += log_det
        return y, total

    def reseed(self, seed: int) -> None:
        """See base: hands the seed to each."""
        for bijector in self.bijectors:
            bijector.reseed(seed)

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """See base: initialises each on what the ones before it yield."""
        self.ensure_built(x)
        for bijector in self.bijectors:
            x = bijector.initialize(x)
        return x

    def output_shape_of(self, input_shape: Shape) -> Shape:
        """See base."""
        for bijector in self.bijectors:
            input_shape = bijector.output_shape_of(input_shape)
        return input_shape

    def get_config(self) -> dict:
        """See keras.Layer."""
        bijectors = [keras.saving.serialize_keras_object(b) for b in self.bijectors]
        return {**super().get_config(), "bijectors": bijectors}

    @classmethod
    def from_config(cls, config: dict) -> "Chain":
        """See keras.Layer."""
        bijectors = [keras.saving.deserialize_keras_object(b) for b in config.pop("bijectors")]
        return cls(bijectors, **config)
