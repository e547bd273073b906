"""Bijectors and models as TensorFlow Probability sees them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from glow_tf.bijectors import Bijector
from glow_tf.bijectors.bijector import WithLogDet
from glow_tf.bijectors.condition import Condition
from glow_tf.model.glow import Glow
from glow_tf.model.parts import Part
from glow_tf.use.tfp import tfp_batches

if TYPE_CHECKING:  # type checkers do not find what `tfp` imports on first use
    from tensorflow_probability.python.bijectors.bijector import Bijector as TfpBijector
    from tensorflow_probability.python.distributions.distribution import Distribution

tfb, tfd = tfp.bijectors, tfp.distributions


def as_tfp_bijector(bijector: Bijector | Part | Glow, condition: Any = None) -> TfpBijector:
    """Returns a `tfb.Bijector` that runs a built bijector, a part of a Glow, or a whole Glow.

    The directions keep their names: `forward` maps data to latents. A `tfd.TransformedDistribution` maps its
    base to data, so it takes `tfb.Invert` of the result. A Glow maps dequantised values [..., H, W, C] to
    whitened latents [..., D]. Another bijector maps [..., H, W, C] to [..., H', W', C'], with the shapes that
    it was built on. So does a part without splits. A part that factors latents out maps to [..., D]: its
    whitened latents in forward order, then its output.

    Any number of batch dimensions may come first. Their sizes, and their number, may be unknown while a
    `tf.function` is traced. Values have the dtype of the layer; as in all of TFP, NumPy arrays and lists of
    floating-point numbers are cast to it, and tensors are not.

    Other TFP bijectors remember the results of a tensor, even after their variables have changed. This one
    computes anew in every call. Its variables are those of the layer.

    Args:
      bijector: built.
      condition: of a Glow that is given something: one condition, without a batch axis, for all values. A
        model that knows its conditions by name takes a dictionary.

    Raises:
      TypeError: the argument is none of the three.
      ValueError: the bijector is not built, or is given something else; a method of the
        result got values of another shape or dtype.
    """
    if not isinstance(bijector, Bijector | Part | Glow):
        raise TypeError(
            "as_tfp_bijector needs a bijector of glow_tf, a part or a Glow. "
            f"Received: an object of class {type(bijector).__name__}"
        )
    if not bijector.built:
        raise ValueError(
            "as_tfp_bijector needs a built bijector: call build(input_shape) first. Received: built=False"
        )
    if isinstance(bijector, Glow):
        return _View(bijector, tfp_batches.given_of(bijector, condition))
    if condition is not None:
        raise ValueError(f"a condition needs a Glow. Received: a {type(bijector).__name__} with a condition")
    return _View(_WholePart(bijector) if isinstance(bijector, Part) else bijector)


def as_distribution(glow: Glow, condition: Any = None) -> Distribution:
    """Returns the Glow's density of *dequantised* images as a `tfd.Distribution`.

    The event shape is [H, W, C], the batch shape is []. A value is the level of a byte (byte // 2^(8−n_bits))
    plus noise in [0, 1); `glow.dequantized(images)` makes values from bytes. `log_prob` is exact for such
    real numbers, in nats. At level + uniform noise it is the lower bound that `Glow.log_prob` computes. For a
    model of real data, values are the data.

    `log_prob` runs the model forward once, and `sample` runs it inverse once. The two attributes of a
    `tfd.TransformedDistribution` are here too: `distribution`, the standard normal density of the latents
    [D], and `bijector`, the map from latents to values. Shapes, dtypes and variables are as in
    `as_tfp_bijector`.

    Args:
      glow: the model.
      condition: what the model is given, as in `as_tfp_bijector`.

    Raises:
      TypeError: the argument is not a `Glow`.
      ValueError: the model needs another condition; a method of the result got values of another shape or
        dtype, such as bytes.
    """
    if not isinstance(glow, Glow):
        raise TypeError(f"as_distribution needs a Glow. Received: an object of class {type(glow).__name__}")
    return _Density(glow, tfp_batches.given_of(glow, condition))


class _WholePart:
    """A part as one map: of its input to its output, after its whitened latents if it factors any out."""

    def __init__(self, part: Part):
        self.part = part
        self.name, self.compute_dtype = part.name, part.compute_dtype
        self.variables = [v for bijector in part.bijectors for v in bijector.variables]
        self.shapes = [*part.latent_shapes, part.output_event_shape]
        self.sizes = [math.prod(shape) for shape in self.shapes]

    def event_shapes(self) -> tuple[tf.TensorShape, tf.TensorShape]:
        output = self.shapes[0] if len(self.shapes) == 1 else [sum(self.sizes)]
        return tf.TensorShape(self.part.input_event_shape), tf.TensorShape(output)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        output = self.part.call(x)
        pieces = zip((*output.latents, output.h), self.sizes, strict=True)
        y = tf.concat([tf.reshape(own, [-1, size]) for own, size in pieces], axis=1)
        return tf.reshape(y, [-1, *self.event_shapes()[1]]), output.log_det_of_all

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        pieces = tf.split(tf.reshape(y, [-1, sum(self.sizes)]), self.sizes, axis=1)
        *latents, h = (tf.reshape(own, [-1, *s]) for own, s in zip(pieces, self.shapes, strict=True))
        return self.part.inverse(h, latents)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        x = self.inverse(y)
        return x, -self.forward_and_log_det(x)[1]


class _View(tfb.Bijector):
    """A layer with one batch dimension, seen as a TFP bijector with any number of batch dimensions."""

    def __init__(self, bijector: Bijector | _WholePart | Glow, condition: Condition = None):
        parameters = dict(locals())
        self.model = bijector
        self.condition = condition
        # `trainable_variables` of everything that is composed of the view finds the variables in this list.
        self._variables_of_layer = [variable.value for variable in bijector.variables]
        self._input_event, self._output_event = _event_shapes(bijector)
        super().__init__(
            forward_min_event_ndims=self._input_event.rank,
            inverse_min_event_ndims=self._output_event.rank,
            dtype=tf.as_dtype(bijector.compute_dtype),
            parameters=parameters,
            name=bijector.name,
        )

    @classmethod
    def _parameter_properties(cls, dtype):
        return {}

    # `tfb.Bijector` keeps each result with the tensor that it was computed from, and returns it again for the
    # same tensor, also when the weights have been trained in between. A new tensor per call prevents that.

    def forward(self, x, name="forward", **kwargs):
        return super().forward(self._new_input(x), name=name, **kwargs)

    def inverse(self, y, name="inverse", **kwargs):
        return super().inverse(self._new_output(y), name=name, **kwargs)

    def forward_log_det_jacobian(self, x, event_ndims=None, name="forward_log_det_jacobian", **kwargs):
        return super().forward_log_det_jacobian(self._new_input(x), event_ndims, name=name, **kwargs)

    def inverse_log_det_jacobian(self, y, event_ndims=None, name="inverse_log_det_jacobian", **kwargs):
        return super().inverse_log_det_jacobian(self._new_output(y), event_ndims, name=name, **kwargs)

    def _new_input(self, x: Any) -> tf.Tensor:
        is_glow = isinstance(self.model, Glow)
        what = f"{self.name}.forward"
        return tf.identity(tfp_batches.checked(x, what, self._input_event, self.dtype, dequantised=is_glow))

    def _new_output(self, y: Any) -> tf.Tensor:
        return tf.identity(tfp_batches.checked(y, f"{self.name}.inverse", self._output_event, self.dtype))

    def _forward(self, x):
        return self._run(self.model.forward_and_log_det, x, self._input_event)[0]

    def _inverse(self, y):
        inverse = self.model.inverse
        return self._run(lambda own, **given: (inverse(own, **given), None), y, self._output_event)[0]

    def _forward_log_det_jacobian(self, x):
        return self._run(self.model.forward_and_log_det, x, self._input_event)[1]

    def _inverse_log_det_jacobian(self, y):
        return self._run(self.model.inverse_and_log_det, y, self._output_event)[1]

    def _run(self, method: Callable, values: tf.Tensor, event: tf.TensorShape) -> list[tf.Tensor | None]:
        return tfp_batches.batched(tfp_batches.given_to(self.condition, method), values, event)

    def _forward_event_shape(self, input_shape):
        return self._event_shape(input_shape, self._input_event, self._output_event)

    def _inverse_event_shape(self, output_shape):
        return self._event_shape(output_shape, self._output_event, self._input_event)

    def _event_shape(self, shape: tf.TensorShape, source: tf.TensorShape, target: tf.TensorShape):
        if shape.rank is None:
            return shape
        event = shape[-source.rank :]
        if not event.is_compatible_with(source):
            raise ValueError(
                f"the event of {self.name} must have a shape that ends with {tfp_batches.brackets(source)}. "
                f"Received: {tuple(shape)}"
            )
        result = event.merge_with(source) if source == target else target
        return shape[: -source.rank].concatenate(result)

    def _forward_event_shape_tensor(self, input_shape):
        return tfp_batches.event_shape_tensor(input_shape, self._input_event, self._output_event)

    def _inverse_event_shape_tensor(self, output_shape):
        return tfp_batches.event_shape_tensor(output_shape, self._output_event, self._input_event)


class _Density(tfd.Distribution):
    """A Glow as a distribution of dequantised values."""

    def __init__(self, glow: Glow, condition: Condition = None, name: str = "Glow"):
        parameters = dict(locals())
        self.model = glow
        self._warned = False
        dtype = tf.as_dtype(glow.compute_dtype)
        self.condition = condition
        self._bijector = tfb.Invert(_View(glow, condition))
        zero, one = np.array([0, 1], dtype.as_numpy_dtype)
        self._distribution = tfd.Sample(tfd.Normal(zero, one), glow.dimensions)
        super().__init__(
            dtype=dtype,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )

    @classmethod
    def _parameter_properties(cls, dtype, num_classes=None):
        return {}

    @property
    def distribution(self) -> tfd.Distribution:
        return self._distribution

    @property
    def bijector(self) -> tfb.Bijector:
        return self._bijector

    # TFP casts NumPy arrays before it calls `_log_prob`, bytes too. So the public methods check the values.

    def log_prob(self, value, name="log_prob", **kwargs):
        return super().log_prob(self._checked(value), name=name, **kwargs)

    def prob(self, value, name="prob", **kwargs):
        return super().prob(self._checked(value), name=name, **kwargs)

    def unnormalized_log_prob(self, value, name="unnormalized_log_prob", **kwargs):
        return super().unnormalized_log_prob(self._checked(value), name=name, **kwargs)

    def _checked(self, value: Any) -> tf.Tensor:
        values = tfp_batches.checked(
            value, f"the density {self.name}", self.event_shape, self.dtype, dequantised=True
        )
        noisy = self.model.dequantize.takes_noise and self.model.config.n_bits > 1
        if noisy and not self._warned and tf.executing_eagerly():
            self._warned = bool(tf.reduce_min(values) >= 0 and 0 < tf.reduce_max(values) <= 1)
            if self._warned:
                text = "all values lie in [0, 1]; glow.dequantized(images) makes values from uint8 images"
                warnings.warn(text, stacklevel=3)
        return values

    def _log_prob(self, value):
        log_prob = tfp_batches.given_to(self.condition, self.model.dequantized_log_prob)
        return tfp_batches.batched(lambda own: (log_prob(own),), value, self.event_shape)[0]

    def _sample_n(self, n, seed=None):
        return self._bijector.forward(self._distribution.sample(n, seed=seed))

    def _event_shape(self):
        return tf.TensorShape(self.model.image_shape)

    def _event_shape_tensor(self):
        return tf.constant(self.model.image_shape, tf.int32)

    def _default_event_space_bijector(self):
        return self._bijector


def _event_shapes(bijector: Bijector | _WholePart | Glow) -> tuple[tf.TensorShape, tf.TensorShape]:
    """Returns the shapes of one example before and after `forward`; None is a size that may vary."""
    if isinstance(bijector, Glow):
        return tf.TensorShape(bijector.image_shape), tf.TensorShape([bijector.dimensions])
    if isinstance(bijector, _WholePart):
        return bijector.event_shapes()
    built_on = bijector.get_build_config()
    if built_on is None:  # a layer without weights, which needed no `build`
        return tf.TensorShape([None] * 3), tf.TensorShape([None] * 3)
    input_shape = tuple(built_on["input_shape"])
    return tf.TensorShape(input_shape[1:]), tf.TensorShape(bijector.output_shape_of(input_shape)[1:])
