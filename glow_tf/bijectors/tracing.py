"""How the functions of stacks are traced, once for all copies; what changes the way for a while."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from glow_tf.internals import function_kept_whole, keeping_custom_gradients


class Switch:
    """Something that is on within `with switch():`, and off elsewhere."""

    def __init__(self, name: str):
        self._state = contextvars.ContextVar(name, default=False)

    @property
    def on(self) -> bool:
        """Whether the code runs within the context."""
        return self._state.get()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        token = self._state.set(True)
        try:
            yield
        finally:
            self._state.reset(token)


# Coupling networks compute in the dtype of their weights, not of their dtype policy. Maps whose inverse must
# be exact to the last digit need this: bfloat16 can round two inputs that differ in the last digit of float32
# to different numbers.
full_precision = Switch("full_precision")

# A training step is traced: 1×1 convolutions have a gradient of their own, which is faster. Elsewhere they
# have TensorFlow's, so that exports are plain.
for_training = Switch("for_training")

# TensorFlow may put the functions of stacks into the graph that calls them. XLA needs this for gradients
# within a loop, such as those of a compiled Markov chain. Otherwise a stack's functions are kept whole, and
# TensorFlow optimises each of them once for all copies.
functions_inlined = Switch("functions_inlined")


class TracedOnce:
    """Calls functions of weights and activations; within a `tf.function`, each is traced only once.

    If they are `kept_whole`, calls stay nodes of the graph; otherwise TensorFlow inlines them as it runs.
    """

    def __init__(self, kept_whole: bool = True):
        self._kept_whole = kept_whole
        self._traced: dict[tuple, Callable] = {}
        self._gradients: list[Callable] = []

    def __call__(self, function: Callable, *args: Any) -> Any:
        """Returns function(*args); functions with one name must be the same function."""
        if not tf.inside_function():
            return function(*args)
        inlined = functions_inlined.on or not self._kept_whole
        traced, key = self._traced, (function.__name__, full_precision.on, for_training.on, inlined)
        if key not in traced:
            own = keeping_custom_gradients(function, self._gradients)
            traced[key] = tf.function(own, autograph=False) if inlined else function_kept_whole(own)
        return traced[key](*args)
