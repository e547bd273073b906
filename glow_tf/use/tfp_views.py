"""Models as distributions and bijectors of TensorFlow Probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors.mode import Mode, filled_if_empty
from glow_tf.model.conditions import by_name, of_names
from glow_tf.model.flow import Flow

tfb, tfd = tfp.bijectors, tfp.distributions


def as_tfp_bijector(flow: Flow, condition: Any = None) -> tfb.Bijector:
    """Returns a flow as a `tfb.Bijector`: dequantised values [..., H, W, C] → whitened latents [..., D].

    The directions keep their names: `forward` maps data to latents. A `tfd.TransformedDistribution` maps its
    base to data, so it takes `tfb.Invert` of the result. Any number of batch dimensions may come first.
    Nothing is remembered from call to call, so that results follow the weights.

    Args:
      flow: the model.
      condition: what the model is given: one condition, without a batch axis, for all values. A model that
        knows its conditions by name takes a dictionary.

    Raises:
      TypeError: the argument is not a `Flow`.
      ValueError: the model needs another condition; a method of the result got values of another shape or
        dtype, such as bytes.
    """
    return _View(flow, condition)


def as_distribution(flow: Flow, condition: Any = None) -> tfd.Distribution:
    """Returns the flow's density of *dequantised* images as a `tfd.Distribution`.

    The event shape is [H, W, C], the batch shape is []. A value is a grey value (byte // 2^(8−n_bits)) plus
    noise in [0, 1); `flow.dequantized(images)` makes values from bytes. `log_prob` is exact for such real
    numbers, in nats. With uniform noise it is the lower bound that `Flow.log_prob` computes. For a model of
    real data, values are the data. `log_prob` runs the model forward once, and `sample` runs it inverse once.
    Its `distribution` is that of the latents, and its `bijector` maps them to values. Arguments
    and errors are as in `as_tfp_bijector`.
    """
    return _Density(flow, condition)


class _View(tfb.Bijector):
    """A Glow, which has one batch dimension, with any number of them."""

    def __init__(self, flow: Flow, condition: Any):
        parameters = dict(locals())
        if not isinstance(flow, Flow):
            raise TypeError(f"TFP's views are of a Flow. Received: an object of class {type(flow).__name__}")
        given = {k: tf.convert_to_tensor(v)[None] for k, v in by_name(condition).items() if v is not None}
        self.flow, self._condition = flow, flow.checked_condition(of_names(given))
        self.data, self.latents = [*flow.image_shape], [flow.dimensions]
        # `trainable_variables` of everything that is composed of the view finds the variables in this list.
        self._variables_of_flow = [variable.value for variable in flow.variables]
        ranks = {"forward_min_event_ndims": 3, "inverse_min_event_ndims": 1}
        super().__init__(**ranks, dtype=tf.as_dtype(flow.compute_dtype), parameters=parameters, name="glow")

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    # `tfb.Bijector` keeps each result with the tensor that it was computed from, and returns it again for the
    # same tensor, also when the weights have been trained in between. A new tensor per call prevents that.

    def forward(self, x, *args, **kwargs):
        return super().forward(self.checked(x, self.data), *args, **kwargs)

    def inverse(self, y, *args, **kwargs):
        return super().inverse(self.checked(y, self.latents), *args, **kwargs)

    def forward_log_det_jacobian(self, x, *args, **kwargs):
        return super().forward_log_det_jacobian(self.checked(x, self.data), *args, **kwargs)

    def inverse_log_det_jacobian(self, y, *args, **kwargs):
        return super().inverse_log_det_jacobian(self.checked(y, self.latents), *args, **kwargs)

    def checked(self, values: Any, event: list[int]) -> tf.Tensor:
        """Returns values as a new tensor; ValueError unless they are floats of an event's shape."""
        tensor = tf.convert_to_tensor(values)
        fits = tensor.dtype.is_floating and (tensor.dtype == self.dtype or not tf.is_tensor(values))
        if not (fits and tensor.shape[-len(event) :].is_compatible_with(event)):
            raise ValueError(
                f"the flow takes {self.dtype.name} of shape [..., {', '.join(map(str, event))}]; "
                "flow.dequantized(images) makes values from images of bytes. "
                f"Received: {tensor.dtype.name} of shape {tensor.shape}"
            )
        return tf.identity(tf.cast(tensor, self.dtype))

    def run(self, method: Callable, x: tf.Tensor, event: list[int]) -> list[tf.Tensor]:
        """Runs a method of the flow on a tensor [batch…, event…]; its results are [batch…, …]."""
        batch, own_event = tf.split(tf.shape(x), [-1, len(event)])
        flat = tf.ensure_shape(tf.reshape(x, tf.concat([[-1], own_event], axis=0)), [None, *event])

        def of_each(own: tf.Tensor) -> tf.Tensor:
            return tf.broadcast_to(own, tf.concat([tf.shape(filled)[:1], own.shape[1:]], axis=0))

        def unflattened(own: tf.Tensor) -> tf.Tensor:
            whole = tf.reshape(own[: tf.shape(flat)[0]], tf.concat([batch, tf.shape(own)[1:]], axis=0))
            return tf.ensure_shape(whole, x.shape[: -len(event)].concatenate(own.shape[1:]))

        (filled,) = filled_if_empty(flat)
        given = None if self._condition is None else tf.nest.map_structure(of_each, self._condition)
        mode = Mode(inlined=True)  # so that XLA can differentiate the view within a loop
        return [unflattened(own) for own in tf.nest.flatten(method(filled, condition=given, mode=mode))]

    def _forward(self, x):
        return self.run(self.flow.forward_and_log_det, x, self.data)[0]

    def _inverse(self, y):
        return self.run(self.flow.inverse, y, self.latents)[0]

    def _forward_log_det_jacobian(self, x):
        return self.run(self.flow.forward_and_log_det, x, self.data)[1]

    def _forward_event_shape(self, input_shape):
        return input_shape[:-3].concatenate(self.latents)

    def _inverse_event_shape(self, output_shape):
        return output_shape[:-1].concatenate(self.data)

    def _forward_event_shape_tensor(self, input_shape):
        return tf.concat([input_shape[:-3], self.latents], axis=0)

    def _inverse_event_shape_tensor(self, output_shape):
        return tf.concat([output_shape[:-1], self.data], axis=0)


class _Density(tfd.Distribution):
    """A Glow as a distribution of dequantised values."""

    def __init__(self, flow: Flow, condition: Any):
        parameters = dict(locals())
        self._view = _View(flow, condition)
        zero, one = np.array([0, 1], self._view.dtype.as_numpy_dtype)
        self.distribution = tfd.Sample(tfd.Normal(zero, one), flow.dimensions)
        self.bijector = tfb.Invert(self._view)
        kind = {"reparameterization_type": tfd.FULLY_REPARAMETERIZED, "allow_nan_stats": True}
        super().__init__(self._view.dtype, validate_args=False, parameters=parameters, name="Glow", **kind)

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    def log_prob(self, value, *args, **kwargs):
        # TFP casts NumPy arrays, bytes too, before it calls `_log_prob`.
        return super().log_prob(self._view.checked(value, self._view.data), *args, **kwargs)

    def _log_prob(self, value):
        return self._view.run(self._view.flow.dequantized_log_prob, value, self._view.data)[0]

    def _sample_n(self, n, seed=None):
        return self.bijector.forward(self.distribution.sample(n, seed=seed))

    def _event_shape(self):
        return tf.TensorShape(self._view.data)

    def _event_shape_tensor(self):
        return tf.constant(self._view.data)

    def _default_event_space_bijector(self):
        return self.bijector
