"""Copies of one bijector, one after another, traced once for all of them."""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, all_variables, with_weights
from glow_tf.bijectors.networks import in_full_precision
from glow_tf.streams import in_streams, join, share_out

Weights = list[tf.Tensor]


@keras.saving.register_keras_serializable(package="glow_tf")
class Stack(Bijector):
    """A chain of `count` bijectors that are alike but for their weights.

    Forward:   y = f_count(… f_1(x))      log_det = Σ log_det_k
    Inverse:   x = f_1⁻¹(… f_count⁻¹(y))

    The copies' weights are held together: each weight of the bijector is one variable here, its first axis
    the copies. So neither the number of variables nor what TensorFlow traces, optimises and differentiates
    grows with depth: inside a `tf.function`, one copy is traced for each direction and run with the weights
    of each in turn.

    With `reversible` set, backpropagation keeps no activations. It recovers each copy's input from its output
    and runs it forward once more (`Bijector.pull_back`), which costs about a third more time.

    Args:
      bijector: what is repeated; not built, and of the same shape before and after.
      count: how many, at least one. Copy k starts with the weights of the bijector whose seed is `seed + k`.
      reversible: whether activations are recomputed; may be changed until the first tracing.

    Raises:
      ValueError: count is not positive.
    Reference for `reversible`: Gomez et al. 2017, section 3.2, https://arxiv.org/abs/1707.04585
    """

    def __init__(self, bijector: Bijector, count: int, reversible: bool = False, **kwargs):
        super().__init__(**kwargs)
        if count < 1:
            raise ValueError(f"Stack needs at least one copy. Received: count={count}")
        self.count = count
        self.reversible = reversible
        # In a namespace Keras does not track it: its own variables only stand for those of the copies.
        self._untracked = types.SimpleNamespace(bijector=bijector, traced={})

    def build(self, input_shape: Shape) -> None:
        """Creates the weights of all copies, each with the copy's own starting values."""
        bijector = self._untracked.bijector
        bijector.build(input_shape)
        starts = self._starting_values(bijector.get_config().get("seed", 0))
        self._stacked = []
        for variable, values in zip(all_variables(bijector), starts, strict=True):
            weight = self.add_weight(
                name=variable.path.split(f"{bijector.name}/")[-1].replace("/", "_"),
                shape=(self.count, *variable.shape),
                dtype=variable.dtype,
                trainable=variable.trainable,
                initializer=lambda shape, dtype=None, values=values: tf.constant(values),
            )
            self._stacked.append(weight)
        self.built = True

    def reseed(self, seed: int) -> None:
        """See base: copy k gets the values of seed + k."""
        for weight, values in zip(self._stacked, self._starting_values(seed), strict=True):
            weight.assign(values)

    def _starting_values(self, seed: int) -> list[np.ndarray]:
        bijector = self._untracked.bijector
        starts = [np.empty((self.count, *v.shape), v.dtype) for v in all_variables(bijector)]
        for k in range(self.count):
            bijector.reseed(seed + k)
            for start, variable in zip(starts, all_variables(bijector), strict=True):
                start[k] = variable.numpy()
        return starts

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        folded = self._folded()
        if not self.reversible:
            return self._forward(x, _rows(folded, self.count))
        floating = [tensor.dtype.is_floating for tensor in folded]

        @tf.custom_gradient
        def run(x, *differentiable):
            given = iter(differentiable)
            rows = _rows(
                [next(given) if f else tensor for f, tensor in zip(floating, folded, strict=True)], self.count
            )
            y, log_det = in_streams(lambda own: self._forward(own, rows), x)
            return (y, log_det), lambda *gradients: self._pull_back(y, *gradients, rows)

        return run(x, *[tensor for f, tensor in zip(floating, folded, strict=True) if f])

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        total = 0.0
        for weights in reversed(self._weights()):
            y, log_det = self._call(self._inverse_one, weights, y)
            total += log_det
        return y, total

    def inverse(self, y: tf.Tensor, limit: float | None = None) -> tf.Tensor:
        """Returns f⁻¹(y); with a limit, what passes between the copies is clipped to ±limit."""
        for weights in reversed(self._weights()):
            y, _ = self._call(self._inverse_one, weights, y)
            if limit is not None:
                y = tf.clip_by_value(y, -limit, limit)
        return y

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """See base: initialises each copy on what the ones before it yield."""
        self.ensure_built(x)
        initialize_one = tf.function(self._initialize_one, autograph=False)
        rows = []
        for weights in self._weights():
            x, own = initialize_one(weights, x)
            rows.append(own)
        for weight, values in zip(self._stacked, zip(*rows, strict=True), strict=True):
            weight.assign(tf.stack(values))
        return x

    @contextlib.contextmanager
    def copy(self, k: int) -> Iterator[Bijector]:
        """Within the context, the bijector with the weights of copy k (from 0), to be run or looked at."""
        with with_weights(self._untracked.bijector, self._weights()[k]):
            yield self._untracked.bijector

    def _weights(self) -> list[Weights]:
        """Returns the weights of each copy."""
        self.require_built()
        return _rows([weight.value for weight in self._stacked], self.count)

    def _folded(self) -> Weights:
        """Returns what the copies' `fold` does, stacked."""
        self.require_built()
        bijector = self._untracked.bijector
        with with_weights(bijector, [tf.convert_to_tensor(weight) for weight in self._stacked]):
            return bijector.fold()

    def _forward(self, x: tf.Tensor, folded: list[Weights]) -> tuple[tf.Tensor, tf.Tensor]:
        total = 0.0
        for own in folded:
            x, log_det = self._call(self._forward_one, own, x)
            total += log_det
        return x, total

    def _pull_back(
        self, y: tf.Tensor, y_gradient: tf.Tensor, log_det_gradient: tf.Tensor, folded: list[Weights]
    ) -> list[tf.Tensor]:
        ys = [share for (share,) in share_out(y)]
        ups = share_out(y_gradient, log_det_gradient, fill_with_zeros=True)
        gradients: list[Weights] = []
        for own in reversed(folded):
            ys, ups, of_own = self._call(self._pull_back_one, own, ys, ups)
            gradients.insert(0, of_own)
        stacked = [tf.stack(column) for column in zip(*gradients, strict=True)]
        return [join([up for up, _ in ups], y), *stacked]

    def _initialize_one(self, weights: Weights, x: tf.Tensor) -> tuple[tf.Tensor, Weights]:
        bijector = self._untracked.bijector
        with with_weights(bijector, weights) as scope:
            y = bijector.initialize(x)
        return y, [tf.convert_to_tensor(scope.get_current_value(v)) for v in all_variables(bijector)]

    def _forward_one(self, folded: Weights, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._untracked.bijector.forward_folded(x, folded)

    def _pull_back_one(self, folded: Weights, ys: list[tf.Tensor], gradients: list[tuple]) -> Any:
        """Takes all shares through one copy, and adds up their gradients of the weights."""
        pull_back = self._untracked.bijector.pull_back
        xs, x_gradients, of_weights = zip(
            *[pull_back(y, *own, folded) for y, own in zip(ys, gradients, strict=True)], strict=True
        )
        passed = [(g, log_det) for g, (_, log_det) in zip(x_gradients, gradients, strict=True)]
        return list(xs), passed, [tf.add_n(column) for column in zip(*of_weights, strict=True)]

    def _inverse_one(self, weights: Weights, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        bijector = self._untracked.bijector
        with with_weights(bijector, weights):
            return bijector.inverse_and_log_det(y)

    def _call(self, function: Callable, *args: Any) -> Any:
        """Calls a function of weights and activations; in a `tf.function`, through its one trace."""
        if not tf.inside_function():
            return function(*args)
        traced, key = self._untracked.traced, (function.__name__, in_full_precision())
        if key not in traced:
            # A function that is not inlined stays one node of the graph: it is optimised once for all its
            # calls, and nothing in it starts, or takes memory, before its inputs are there.
            traced[key] = tf.function(function, autograph=False, experimental_attributes={"_noinline": True})
        return traced[key](*args)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            **super().get_config(),
            "bijector": keras.saving.serialize_keras_object(_unbuilt(self._untracked.bijector)),
            "count": self.count,
            "reversible": self.reversible,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Stack":
        """See keras.Layer."""
        return cls(keras.saving.deserialize_keras_object(config.pop("bijector")), **config)


def _unbuilt(bijector: Bijector) -> Bijector:
    return type(bijector).from_config(bijector.get_config())


def _rows(stacked: list[tf.Tensor], count: int) -> list[Weights]:
    """[weights of the copies together] → [weights of each copy]."""
    columns = [tf.unstack(weight, num=count) for weight in stacked]
    return [[column[k] for column in columns] for k in range(count)]
