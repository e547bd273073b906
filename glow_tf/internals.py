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

from glow_tf.core.errors import ConfigError

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
    """A model whose `fit` and `evaluate` need not build it.

    Keras's `_maybe_symbolic_build` takes a batch from the data to trace the model with. There is nothing
    left to build, and with several processes the batch cannot be taken.
    """

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        pass


# Keras: optimizers


def apply_as_given(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes an optimizer apply the gradients that it is given, and not their sum over the replicas.

    Keras's TensorFlow optimizers call `_all_reduce_sum_gradients` in `apply`. If a release no longer did, the
    gradients of n replicas would be summed twice, silently. Those that leave updates to others go on summing.
    """
    optimizer._all_reduce_sum_gradients = lambda grads_and_vars: grads_and_vars


def leaves_updates_to_others(optimizer: keras.optimizers.Optimizer) -> bool:
    """Returns whether an optimizer, as MultiOptimizer, lets other optimizers update the variables."""
    return type(optimizer).update_step is keras.optimizers.Optimizer.update_step


def built_with_others(optimizer: keras.optimizers.Optimizer, variables: Sequence[keras.Variable]) -> bool:
    """Returns whether an optimizer has the state of other variables than these."""
    known = getattr(optimizer, "_trainable_variables", [])
    return optimizer.built and [id(v) for v in known] != [id(v) for v in variables]


def scale_rates(optimizer: keras.optimizers.Optimizer, factors: Sequence[float]) -> None:
    """Makes an optimizer multiply its rate by a factor for each of the variables it was built with.

    Every Keras optimizer updates a variable by `update_step(gradient, variable, learning_rate)`, and decays
    weights by `_apply_weight_decay(variables)` at the rate of `_get_current_learning_rate()`. The methods are
    replaced in this one object, so that any optimizer can be given factors; ConfigError if it leaves updates
    to others, as MultiOptimizer.
    """
    kind = type(optimizer)
    plain, decay, rate_now = kind.update_step, kind._apply_weight_decay, kind._get_current_learning_rate
    if all(factor == 1 for factor in factors):
        vars(optimizer).pop("update_step", None)
        vars(optimizer).pop("_apply_weight_decay", None)
        return
    if leaves_updates_to_others(optimizer):
        raise ConfigError(
            "rate_scaling='size' needs an optimizer that updates the variables itself; give the one that it "
            f"wraps, or rate_scaling='none'. Received: {type(optimizer).__name__}"
        )

    def factor_of(variable: tf.Variable) -> float:
        return factors[optimizer._get_variable_index(variable)]

    def update_step(gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor) -> None:
        factor = factor_of(variable)
        plain(optimizer, gradient, variable, learning_rate if factor == 1 else factor * learning_rate)

    def apply_weight_decay(variables: Sequence[keras.Variable]) -> None:
        # The rate is scaled, not the decay, which optimizers keep in attributes of their own.
        for factor in sorted({factor_of(variable) for variable in variables}):
            optimizer._get_current_learning_rate = lambda factor=factor: factor * rate_now(optimizer)
            decay(optimizer, [variable for variable in variables if factor_of(variable) == factor])
        # Replicas are traced in threads that take turns: another one may have been here.
        vars(optimizer).pop("_get_current_learning_rate", None)

    optimizer.update_step = update_step
    optimizer._apply_weight_decay = apply_weight_decay


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
