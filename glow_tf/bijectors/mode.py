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
      streams: in how many pieces, side by side, a batch is computed; see `in_streams`.
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


def mode_of_process(**others: bool) -> Mode:
    """Returns a mode with as many streams as operations run at once, as TensorFlow's threads are set."""
    threads = tf.config.threading
    within = threads.get_intra_op_parallelism_threads()  # one operation
    streams = threads.get_inter_op_parallelism_threads() // within if within else 1
    return Mode(streams=max(streams, 1), **others)


def in_streams(function: Callable[..., Any], mode: Mode, *batches: Any) -> Any:
    """Returns function(mode, *batches), computed in one stream per piece of the batches.

    TensorFlow's own way is to spread every operation over all cores. A flow step has dozens of small
    operations between its convolutions, during which the other cores are idle. In streams an operation runs
    on one core, and each stream takes its own piece of the batch through the flow. `set_up_process` sets the
    threads of a process for a number of streams.

    Within a stream the mode has one stream. Eagerly there is one piece: the whole. A process's replicas
    divide its streams. The function takes and returns nested structures of tensors whose first axis is the
    batch, or None; its result for an example depends on that example alone. A batch that does not divide is
    filled up with its last example.
    """
    replicas = 1
    if tf.distribute.has_strategy():
        replicas = len(tf.distribute.get_strategy().extended.worker_devices)  # of this process
    count, mode = mode.streams // replicas, mode._replace(streams=1)
    if count <= 1 or not tf.inside_function():
        return function(mode, *batches)
    first = tf.nest.flatten(batches)[0]
    size = tf.shape(first)[0] if first.shape[0] is None else first.shape[0]
    missing = -size % count
    is_whole = isinstance(missing, int) and missing == 0

    def cut(tensor: tf.Tensor | None) -> list[tf.Tensor | None]:
        if tensor is None:
            return [None] * count
        if not is_whole:
            tensor = tf.concat([tensor, tf.repeat(tensor[-1:], missing, axis=0)], axis=0)
        return tf.split(tensor, count)

    def joined(*pieces: tf.Tensor | None) -> tf.Tensor | None:
        if pieces[0] is None:
            return None
        whole = tf.concat(pieces, axis=0)
        return whole if is_whole else whole[:size]

    columns = [cut(tensor) for tensor in tf.nest.flatten(batches)]
    pieces = [tf.nest.pack_sequence_as(batches, row) for row in zip(*columns, strict=True)]
    results = [function(mode, *piece) for piece in pieces]
    return tf.nest.map_structure(joined, *results)


def filled_if_empty(*batches: Any) -> list[Any]:
    """Returns nested structures of tensors [B, …] as they are; if B is 0, each with one example of zeros.

    TensorFlow's fused convolutions crash on an empty batch.
    """
    missing = tf.cast(tf.shape(batches[0])[0] == 0, tf.int32)

    def filled(tensor: tf.Tensor | None) -> tf.Tensor | None:
        if tensor is None:
            return None
        whole = tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)])
        sizes = tensor.shape[1:]
        # Exports do not know the sizes of what is padded.
        return tf.reshape(whole, (-1, *sizes)) if sizes.is_fully_defined() else whole

    return tf.nest.map_structure(filled, list(batches))
