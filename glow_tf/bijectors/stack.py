"""Bijectors one after another: a chain of several, and a stack of copies, traced once for all of them."""

import types
from collections.abc import Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import (
    Bijector,
    Bound,
    Latents,
    Repeatable,
    Shape,
    WithLogDet,
    WithMap,
    all_variables,
    log_det_by_place,
    read_by,
    with_weights,
)
from glow_tf.bijectors.condition import brought_to
from glow_tf.bijectors.mode import ALONE, Context, Mode, TracedOnce


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


Weights = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="glow_tf")
class Stack(Bijector):
    """A chain of `count` copies of one bijector, each with its own weights.

    Forward:   y = f_count(… f_1(x))      log_det = Σ log_det_k
    Inverse:   x = f_1⁻¹(… f_count⁻¹(y))

    Each weight of the bijector is one variable here, with one axis more in front for the copies. The number
    of variables therefore does not grow with depth. Neither does what TensorFlow traces and optimises: inside
    a `tf.function`, the bijector is traced once per direction and run with the weights of each copy in turn.

    In a mode that says `recompute`, backpropagation keeps the input of each copy alone, and runs the copy
    forward once more, which takes about a third more time. The activations of its network are held for one
    copy at a time.

    Shapes: [B, H, W, C] → the same.

    Args:
      bijector: the bijector to repeat, not built yet. It must preserve the shape of its input.
      count: number of copies, at least one. Copy k, from 0, starts with the weights of a bijector whose seed
        is `seed + k`.

    Raises:
      ValueError: bijector is not a `Repeatable`, or count is not positive.
    Reference for `recompute`: Chen et al. 2016, https://arxiv.org/abs/1604.06174
    """

    def __init__(self, bijector: Repeatable, count: int, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(bijector, Repeatable):
            raise ValueError(
                "Stack needs a bijector that derives from Repeatable. "
                f"Received: bijector of class {type(bijector).__name__}"
            )
        if count < 1:
            raise ValueError(f"Stack needs at least one copy. Received: count={count}")
        self.count = count
        # Keras must not track the bijector: its variables stand for the copies' weights. It does not look
        # into a namespace.
        self._untracked = types.SimpleNamespace(bijector=bijector)
        self._call = TracedOnce()

    def build(self, input_shape: Shape) -> None:
        bijector = self._untracked.bijector
        bijector.build(input_shape)
        starts = bijector.starting_values(self.count)
        self._stacked = []
        for variable, values in zip(all_variables(bijector), starts, strict=True):
            weight = self.add_weight(
                name=_name_of(variable, bijector),
                shape=(self.count, *variable.shape),
                dtype=variable.dtype,
                trainable=variable.trainable,
                initializer=lambda shape, dtype=None, values=values: tf.constant(values),
            )
            weight.scales_with = getattr(variable, "scales_with", (0, False))
            self._stacked.append(weight)
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._ensure_built(x)
        mode, read, total = context.mode, self._read(x, context), 0.0
        for weights in _rows(self._folded(), self.count):
            if mode.recompute:
                x, log_det = self._recomputed(mode, weights, x, *read)
            else:
                x, log_det = self._call(self._forward_one, mode, weights, x, *read)
            total += log_det
        return x, total

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        total, read = 0.0, self._read(y, context)
        for weights in reversed(self._weights()):
            y, log_det = self._call(self._inverse_one, context.mode, weights, y, *read)
            total += log_det
        return y, total

    def inverse_in_part(
        self, h: tf.Tensor, latents: Latents, bound: Bound, context: Context = ALONE
    ) -> tuple[tf.Tensor, Latents]:
        read = self._read(h, context)
        for weights in reversed(self._weights()):
            h = bound(self._call(self._inverse_one, context.mode, weights, h, *read)[0])
        return h, latents

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self._ensure_built(x)
        rows, read = [], self._read(x, context)
        for weights in self._weights():
            x, own = self._initialize_one(context.mode, weights, x, *read)
            rows.append(own)
        for weight, values in zip(self._stacked, zip(*rows, strict=True), strict=True):
            weight.assign(tf.stack(values))
        return x

    def _weights(self) -> list[Weights]:
        self._require_built()
        return _rows([weight.value for weight in self._stacked], self.count)

    def _folded(self) -> Weights:
        """Returns the folded weights of all copies, stacked along the first axis."""
        self._require_built()
        bijector = self._untracked.bijector
        with with_weights(bijector, [tf.convert_to_tensor(weight) for weight in self._stacked]):
            return bijector.fold()

    def _read(self, x: tf.Tensor, context: Context) -> list[tf.Tensor]:
        """Returns what every copy reads: nothing, or one tensor at the resolution of x."""
        channels = self._untracked.bijector.condition_channels
        return [brought_to(context.condition, x, channels)] if channels else []

    def _recomputed(self, mode: Mode, folded: Weights, x: tf.Tensor, *read: tf.Tensor) -> WithLogDet:
        """Runs one copy forward; backpropagation keeps its input alone, and runs it once more."""
        # `tf.recompute_grad` does the same with more memory, and takes twice as long to trace.
        floating = [tensor for tensor in folded if tensor.dtype.is_floating]

        @tf.custom_gradient
        def run(x, *sources):
            def gradients(*gradients):
                return self._call(self._gradients_one, mode, folded, gradients, x, *read)

            return self._call(self._forward_one, mode, folded, x, *read), gradients

        return run(x, *read, *floating)

    def _initialize_one(
        self, mode: Mode, weights: Weights, x: tf.Tensor, *read: tf.Tensor
    ) -> tuple[tf.Tensor, Weights]:
        bijector = self._untracked.bijector
        with with_weights(bijector, weights) as scope:
            y = bijector.initialize(x, *read_by(bijector, Context(*read, mode=mode)))
        return y, [tf.convert_to_tensor(scope.get_current_value(v)) for v in all_variables(bijector)]

    def _forward_one(self, mode: Mode, folded: Weights, x: tf.Tensor, *read: tf.Tensor) -> WithLogDet:
        return self._untracked.bijector.forward_folded(x, folded, Context(*read, mode=mode))

    def _gradients_one(
        self, mode: Mode, folded: Weights, gradients: Sequence[tf.Tensor], x: tf.Tensor, *read: tf.Tensor
    ) -> list[tf.Tensor]:
        """Returns gradients with respect to x, to what is read, and to the folded weights of one copy."""
        sources = [x, *read, *(tensor for tensor in folded if tensor.dtype.is_floating)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            results = self._forward_one(mode, folded, x, *read)
        return tape.gradient(results, sources, gradients, tf.UnconnectedGradients.ZERO)

    def _inverse_one(self, mode: Mode, weights: Weights, y: tf.Tensor, *read: tf.Tensor) -> WithLogDet:
        bijector = self._untracked.bijector
        with with_weights(bijector, weights):
            return bijector.inverse_and_log_det(y, *read_by(bijector, Context(*read, mode=mode)))

    def _places_one(self, mode: Mode, weights: Weights, x: tf.Tensor, *read: tf.Tensor) -> WithMap:
        bijector = self._untracked.bijector
        with with_weights(bijector, weights):
            return log_det_by_place(bijector, x, Context(*read, mode=mode))

    def get_config(self) -> dict:
        bijector = self._untracked.bijector
        unbuilt = type(bijector).from_config(bijector.get_config())
        return {
            **super().get_config(),
            "bijector": keras.saving.serialize_keras_object(unbuilt),
            "count": self.count,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Stack":
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("bijector")), **config)


@log_det_by_place.register
def _(stack: Stack, x: tf.Tensor, context: Context = ALONE) -> WithMap:
    total, read = 0.0, stack._read(x, context)
    for weights in stack._weights():
        x, log_det = stack._call(stack._places_one, context.mode, weights, x, *read)
        total += log_det
    return x, total


def _name_of(variable: keras.Variable, bijector: Bijector) -> str:
    plain = variable.path.split(f"{bijector.name}/")[-1].replace("/", "_")
    return getattr(variable, "name_in_stack", plain)


def _rows(stacked: list[tf.Tensor], count: int) -> list[Weights]:
    """Takes stacked weights [count, …] apart: returns the list of weights of each copy."""
    columns = [tf.unstack(weight, num=count) for weight in stacked]
    return [[column[k] for column in columns] for k in range(count)]
