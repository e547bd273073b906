"""In what way functions of a model run, and what a bijector is handed beside its argument."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.internals import function_kept_whole, keeping_custom_gradients


class Mode(NamedTuple):
    """In what way functions run. Whoever calls a function says it, and each hands it on to those it calls.

    Attributes:
      training: whether a training step is traced: 1×1 convolutions have a gradient of their own, which is
        faster. Elsewhere they have TensorFlow's, so that exports are plain.
      full_precision: whether coupling networks compute in the dtype of their weights, not of their dtype
        policy. Maps whose inverse must be exact to the last digit need this: bfloat16 can round two inputs
        that differ in the last digit of float32 to different numbers.
      recompute: whether backpropagation computes the activations of flow steps once more; see `Stack`.
      inlined: whether TensorFlow may put the functions of stacks into the graph that calls them. XLA needs
        this for gradients within a loop, such as those of a compiled Markov chain. Otherwise a stack's
        functions are kept whole, and TensorFlow optimises each of them once for all copies.
      streams: in how many pieces, side by side, a batch is computed; see `pieces.py`.
    """

    training: bool = False
    full_precision: bool = False
    recompute: bool = False
    inlined: bool = False
    streams: int = 1


PLAIN = Mode()


class Context(NamedTuple):
    """What a bijector is handed beside its argument.

    Attributes:
      condition: what it is given, see `condition.py`; None: nothing.
      mode: in what way it runs.
    """

    condition: Condition = None
    mode: Mode = PLAIN


ALONE = Context()


class TracedOnce:
    """Calls functions of a mode, weights and activations; in a `tf.function`, each is traced once per mode.

    If they are `kept_whole`, calls stay nodes of the graph; otherwise TensorFlow inlines them as it runs.
    """

    def __init__(self, kept_whole: bool = True):
        self._kept_whole = kept_whole
        self._traced: dict[tuple, Callable] = {}
        self._gradients: list[Callable] = []

    def __call__(self, function: Callable, mode: Mode, *args: Any) -> Any:
        """Returns function(mode, *args); functions with one name must be the same function."""
        if not tf.inside_function():
            return function(mode, *args)
        traced, key = self._traced, (function.__name__, mode)
        if key not in traced:

            def run(*args: Any) -> Any:
                return function(mode, *args)

            own = keeping_custom_gradients(run, self._gradients)
            inlined = mode.inlined or not self._kept_whole
            traced[key] = tf.function(own, autograph=False) if inlined else function_kept_whole(own)
        return traced[key](*args)
