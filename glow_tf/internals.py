"""Every use of a private or undocumented API of TensorFlow or Keras, in one place.

Each entry says what it is for and which versions it was seen to work with. `tests/test_internals.py` has one
test per entry that fails when a release changes its meaning. No other module of this package touches a
private API; `tests/test_imports.py` checks that.

Seen with TensorFlow 2.18 and 2.21, Keras 3.12 and 3.15.
"""

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

# Keras: layers and models


def with_values(variables: Sequence[keras.Variable], values: Sequence[tf.Tensor]) -> keras.StatelessScope:
    """Returns a scope within which the variables have other values.

    `StatelessScope(state_mapping=…)` refuses values of another shape; `add_update`, which Keras calls itself
    on `assign`, does not check. A stack's weights have one axis more than the variables they stand for.
    """
    scope = keras.StatelessScope()
    for variable, value in zip(variables, values, strict=True):
        scope.add_update((variable, value))
    return scope


class BuiltBeforeFit(keras.Model):
    """A model whose constructor builds it: `fit` and `evaluate` need not, and a subclass may add metrics.

    Keras's `_maybe_symbolic_build` takes a batch from the data to trace the model with. There is nothing
    left to build, and with several processes the batch cannot be taken. Its `_lock_state` would forbid an
    attribute with variables from then on.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        pass

    def _lock_state(self) -> None:
        pass


# Keras: optimizers


class AppliesAsGiven:
    """A base of optimizers, before one of Keras's, that may be given gradients that are sums over replicas.

    Keras's TensorFlow optimizers call `_all_reduce_sum_gradients` in `apply`. If a release no longer did, the
    gradients of n replicas would be summed twice, silently.
    """

    as_given = False

    def _all_reduce_sum_gradients(self, grads_and_vars: Any) -> Any:
        return grads_and_vars if self.as_given else super()._all_reduce_sum_gradients(grads_and_vars)


def built_with_others(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> bool:
    """Returns whether an optimizer has the state of other variables than these."""
    known = getattr(optimizer, "_trainable_variables", [])
    return optimizer.built and [id(v) for v in known] != [id(v) for v in variables]


def layers_within(layer: keras.Layer) -> list[keras.Layer]:
    """Returns a layer and all layers within it, each before those within it."""
    return list(layer._flatten_layers())


def rate_of(
    optimizer: keras.optimizers.Optimizer,
) -> keras.Variable | keras.optimizers.schedules.LearningRateSchedule:
    """Returns an optimizer's learning rate as it was given; `learning_rate` is the number at this step."""
    return optimizer._learning_rate


# TensorFlow: functions and graphs


def function_kept_whole(function: Callable) -> tf.types.experimental.PolymorphicFunction:
    """Returns a `tf.function` whose every call stays one node of the graph, by the attribute `_noinline`.

    TensorFlow then optimises the function once for all its calls, and starts nothing in it, nor takes memory
    for it, before its inputs are there.
    """
    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def keeping_custom_gradients(function: Callable, kept: list[Callable]) -> Callable:
    """Returns a function whose custom gradients live as long as the list `kept`, into which they are put.

    TensorFlow keeps what `tf.custom_gradient` defines in a registry for as long as the process lives, and
    with it the graph that was being traced. What is traced once is differentiated later, too: by a step that
    is traced after the first one. Keras's own optimizers define some as well, where they sum gradients.
    """
    registry = _gradients()

    @functools.wraps(function)
    def run(*args: Any) -> Any:
        before = len(registry)
        result = function(*args)
        for name in _custom_since(before):
            gradient = registry[name]["type"]
            kept.append(gradient)
            weakref.finalize(gradient, registry.pop, name, None)
            registry[name] = registry[name] | {"type": _Weakly(gradient)}
        return result

    return run


class _Weakly:
    """Calls a function that others keep."""

    def __init__(self, function: Callable):
        self._function = weakref.ref(function)

    def __call__(self, *args: Any) -> Any:
        return self._function()(*args)


def _gradients() -> dict[str, dict[str, Any]]:
    from tensorflow.python.framework import ops

    return ops.gradient_registry._registry  # in the order in which they were defined


def _custom_since(before: int) -> list[str]:
    """Returns names of custom gradients that nobody keeps, defined when there were so many gradients."""
    registry = _gradients()
    since = list(registry)[before:] if len(registry) > before else []
    return [n for n in since if n.startswith("CustomGradient-") and type(registry[n]["type"]) is not _Weakly]
