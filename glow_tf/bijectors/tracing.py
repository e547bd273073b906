"""How the functions of stacks are traced: once for all copies, and kept whole."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.networks import in_full_precision
from glow_tf.bijectors.repeatable import are_weights_constant
from glow_tf.internals import function_kept_whole

_functions_inlined = contextvars.ContextVar("functions_inlined", default=False)


@contextlib.contextmanager
def functions_inlined() -> Iterator[None]:
    """Within the context, TensorFlow may put the functions of stacks into the graph that calls them.

    XLA needs this for gradients within a loop, such as those of a compiled Markov chain. Otherwise a stack's
    functions are kept whole, and TensorFlow optimises each of them once for all copies.
    """
    token = _functions_inlined.set(True)
    try:
        yield
    finally:
        _functions_inlined.reset(token)


class TracedOnce:
    """Calls functions of weights and activations; within a `tf.function`, each is traced only once.

    Args:
      kept_whole: whether calls stay nodes of the graph; otherwise TensorFlow inlines them as it runs.
    """

    def __init__(self, kept_whole: bool = True):
        self._kept_whole = kept_whole
        self._traced: dict[tuple, Callable] = {}

    def __call__(self, function: Callable, *args: Any) -> Any:
        """Returns function(*args); functions with one name must be the same function."""
        if not tf.inside_function() or are_weights_constant():
            return function(*args)
        inlined = _functions_inlined.get() or not self._kept_whole
        traced, key = self._traced, (function.__name__, in_full_precision(), inlined)
        if key not in traced:
            traced[key] = tf.function(function, autograph=False) if inlined else function_kept_whole(function)
        return traced[key](*args)
