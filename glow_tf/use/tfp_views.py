"""Bijectors and models as TensorFlow Probability sees them."""

from __future__ import annotations

import math

import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors import Bijector
from glow_tf.glow import Glow

tfb, tfd = tfp.bijectors, tfp.distributions


def as_tfp_bijector(bijector: Bijector | Glow) -> tfb.Bijector:
    """Returns a `tfb.Bijector` that runs a built bijector, or a whole Glow, as TFP composes them.

    The directions keep their names: `forward` maps data to latents. A `tfd.TransformedDistribution` maps its
    base to data, so it takes `tfb.Invert` of the result, as `as_distribution` does. A Glow maps dequantised
    values [H, W, C] to whitened latents [D]; other bijectors map [H, W, C] to [H', W', C'].

    Train with Keras: TFP does not see the variables.

    Args:
      bijector: built.

    Raises:
      ValueError: the bijector is not built.
    """
    if not bijector.built:
        raise ValueError(
            "as_tfp_bijector needs a built bijector: call build(input_shape) first. Received: built=False"
        )
    return _View(bijector)


def as_distribution(glow: Glow) -> tfd.Distribution:
    """Returns the Glow's density of *dequantised* images as a `tfd.Distribution`.

    The event shape is [H, W, C]. A value is the level of a byte (byte // 2^(8−n_bits)) plus noise in [0, 1).
    `log_prob` is exact for such real numbers, in nats. At level + uniform noise it is the lower bound that
    `Glow.log_prob` computes.
    """
    base = tfd.Sample(tfd.Normal(tf.zeros([], glow.compute_dtype), 1.0), glow.dimensions)
    return tfd.TransformedDistribution(base, tfb.Invert(as_tfp_bijector(glow)), name="Glow")


class _View(tfb.Bijector):
    """A layer with one batch dimension, seen as a TFP bijector with any number of batch dimensions."""

    def __init__(self, bijector: Bijector | Glow):
        parameters = dict(locals())
        self._layer = bijector
        super().__init__(
            forward_min_event_ndims=3,
            inverse_min_event_ndims=1 if isinstance(bijector, Glow) else 3,
            dtype=bijector.compute_dtype,
            parameters=parameters,
            name=bijector.name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    def _forward(self, x):
        return self._batched(lambda v: self._layer.forward_and_log_det(v)[0], x, 3)

    def _inverse(self, y):
        return self._batched(self._layer.inverse, y, self.inverse_min_event_ndims)

    def _forward_log_det_jacobian(self, x):
        return self._batched(lambda v: self._layer.forward_and_log_det(v)[1], x, 3)

    def _inverse_log_det_jacobian(self, y):
        ndims = self.inverse_min_event_ndims
        return self._batched(lambda v: self._layer.inverse_and_log_det(v)[1], y, ndims)

    def _batched(self, function, x, event_ndims):
        x = tf.convert_to_tensor(x)
        batch = tf.shape(x)[:-event_ndims]
        static = x.shape[:-event_ndims]
        result = function(tf.reshape(x, [-1, *x.shape[-event_ndims:]]))
        result_event = result.shape[1:]
        result = tf.reshape(result, tf.concat([batch, result_event], axis=0))
        return tf.ensure_shape(result, [*static, *result_event])

    def _forward_event_shape(self, input_shape):
        return self._event_shape(lambda v: self._layer.forward_and_log_det(v)[0], input_shape)

    def _inverse_event_shape(self, output_shape):
        if isinstance(self._layer, Glow):
            return tf.TensorShape(self._layer.image_shape)
        return self._event_shape(self._layer.inverse, output_shape)

    def _event_shape(self, function, shape):
        if isinstance(self._layer, Glow):
            return tf.TensorShape([math.prod(self._layer.image_shape)])
        spec = tf.TensorSpec([1, *shape], self.dtype)
        traced = tf.function(function, autograph=False).get_concrete_function(spec)
        return traced.structured_outputs.shape[1:]

    def _forward_event_shape_tensor(self, input_shape):
        return tf.constant(self._forward_event_shape(tf.get_static_value(input_shape)), tf.int32)

    def _inverse_event_shape_tensor(self, output_shape):
        return tf.constant(self._inverse_event_shape(tf.get_static_value(output_shape)), tf.int32)
