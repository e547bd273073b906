"""Copies of one bijector, one after another, traced once for all of them."""

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape
from glow_tf.bijectors.networks import in_full_precision

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
        starts = []
        for k in range(self.count):
            copy = _copy(bijector, k) if k else bijector
            copy.build(input_shape)
            starts.append([v.numpy() for v in _variables(copy)])
        self._trained, self._fixed = [], []
        for variable, values in zip(_variables(bijector), zip(*starts, strict=True), strict=True):
            weight = self.add_weight(
                name=variable.path.split(f"{bijector.name}/")[-1].replace("/", "_"),
                shape=(self.count, *variable.shape),
                dtype=variable.dtype,
                trainable=variable.trainable,
                initializer=lambda shape, dtype=None, values=values: tf.constant(np.stack(values)),
            )
            (self._trained if variable.trainable else self._fixed).append(weight)
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        trained = [weight.value for weight in self._trained]
        fixed = _rows([weight.value for weight in self._fixed], self.count)
        if not self.reversible:
            return self._forward(x, _rows(trained, self.count), fixed)

        @tf.custom_gradient
        def run(x, *trained):
            rows = _rows(trained, self.count)
            y, log_det = self._forward(x, rows, fixed)
            return (y, log_det), lambda *gradients: self._pull_back(y, *gradients, rows, fixed)

        return run(x, *[tf.convert_to_tensor(weight) for weight in trained])

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        total = 0.0
        for weights in reversed(self._weights()):
            y, log_det = self._call(self._inverse_one, *weights, y)
            total += log_det
        return y, total

    def inverse(self, y: tf.Tensor, limit: float | None = None) -> tf.Tensor:
        """Returns f⁻¹(y); with a limit, what passes between the copies is clipped to ±limit."""
        for weights in reversed(self._weights()):
            y, _ = self._call(self._inverse_one, *weights, y)
            if limit is not None:
                y = tf.clip_by_value(y, -limit, limit)
        return y

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """See base: initialises each copy on what the ones before it yield."""
        self.ensure_built(x)
        bijector = self._untracked.bijector
        rows = []
        for trained, fixed in self._weights():
            with _with_weights(bijector, [*trained, *fixed]) as scope:
                x = bijector.initialize(x)
            rows.append([scope.get_current_value(v) for v in _variables(bijector)])
        for weight, values in zip([*self._trained, *self._fixed], zip(*rows, strict=True), strict=True):
            weight.assign(tf.stack(values))
        return x

    @contextlib.contextmanager
    def copy(self, k: int) -> Iterator[Bijector]:
        """Within the context, the bijector with the weights of copy k (from 0), to be run or looked at."""
        trained, fixed = self._weights()[k]
        with _with_weights(self._untracked.bijector, [*trained, *fixed]):
            yield self._untracked.bijector

    def _weights(self) -> list[tuple[Weights, Weights]]:
        self.require_built()
        trained = _rows([weight.value for weight in self._trained], self.count)
        fixed = _rows([weight.value for weight in self._fixed], self.count)
        return list(zip(trained, fixed, strict=True))

    def _forward(
        self, x: tf.Tensor, trained: list[Weights], fixed: list[Weights]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        total = 0.0
        for weights in zip(trained, fixed, strict=True):
            x, log_det = self._call(self._forward_one, *weights, x)
            total += log_det
        return x, total

    def _pull_back(
        self,
        y: tf.Tensor,
        y_gradient: tf.Tensor,
        log_det_gradient: tf.Tensor,
        trained: list[Weights],
        fixed: list[Weights],
    ) -> list[tf.Tensor]:
        gradients: list[Weights] = []
        for k in reversed(range(self.count)):
            y, y_gradient, own = self._call(
                self._pull_back_one, trained[k], fixed[k], y, y_gradient, log_det_gradient
            )
            gradients.insert(0, own)
        return [y_gradient, *[tf.stack(column) for column in zip(*gradients, strict=True)]]

    def _run(self, method: str, trained: Weights, fixed: Weights, *args: tf.Tensor) -> Any:
        """Runs a method of the bijector with the weights of one copy."""
        bijector = self._untracked.bijector
        with _with_weights(bijector, [*trained, *fixed]):
            return getattr(bijector, method)(*args)

    def _forward_one(self, trained: Weights, fixed: Weights, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._run("forward_and_log_det", trained, fixed, x)

    def _inverse_one(self, trained: Weights, fixed: Weights, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return self._run("inverse_and_log_det", trained, fixed, y)

    def _pull_back_one(self, trained: Weights, fixed: Weights, *args: tf.Tensor) -> Any:
        return self._run("pull_back", trained, fixed, *args)

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
            "bijector": keras.saving.serialize_keras_object(_copy(self._untracked.bijector, 0)),
            "count": self.count,
            "reversible": self.reversible,
        }

    @classmethod
    def from_config(cls, config: dict) -> "Stack":
        """See keras.Layer."""
        return cls(keras.saving.deserialize_keras_object(config.pop("bijector")), **config)


def _copy(bijector: Bijector, k: int) -> Bijector:
    config = bijector.get_config()
    return type(bijector).from_config({**config, "seed": config["seed"] + k} if "seed" in config else config)


def _variables(bijector: Bijector) -> list[keras.Variable]:
    return [*bijector.trainable_variables, *bijector.non_trainable_variables]


def _with_weights(bijector: Bijector, weights: Weights) -> keras.StatelessScope:
    """Within the scope, the bijector's variables have these values."""
    return keras.StatelessScope(zip(_variables(bijector), weights, strict=True))


def _rows(stacked: list[tf.Tensor], count: int) -> list[Weights]:
    """[weights of the copies together] → [weights of each copy]."""
    columns = [tf.unstack(weight, num=count) for weight in stacked]
    return [[column[k] for column in columns] for k in range(count)]
