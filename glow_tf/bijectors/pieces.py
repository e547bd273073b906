"""A batch cut into pieces that run side by side: on a CPU, each core takes one piece through the whole flow.

TensorFlow's own way is to spread every operation over all cores. A flow step has dozens of small operations
between its convolutions, during which the other cores are idle. With *streams* an operation runs on one core,
and each stream takes its own piece of the batch through the flow. Only the losses of the pieces and
the gradients of the weights are added up at the end. `devices/streams.py` sets the number of streams and the
threads of a process.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_streams = 1


def set_number_of_streams(count: int) -> None:
    """Sets how many streams functions are traced for from now on, in the whole process."""
    global _streams
    _streams = count


@contextlib.contextmanager
def number_of_streams(count: int) -> Iterator[None]:
    """Within the context, functions are traced for `count` streams, whatever the threads."""
    before = _streams
    set_number_of_streams(count)
    try:
        yield
    finally:
        set_number_of_streams(before)


def active_streams() -> int:
    """Returns the number of streams of the current replica: a process's replicas divide its streams."""
    replicas = 1
    if tf.distribute.has_strategy():
        replicas = len(tf.distribute.get_strategy().extended.worker_devices)  # of this process
    return max(_streams // replicas, 1)


def in_streams(function: Callable[..., Any], *batches: Any) -> Any:
    """Returns function(*batches), computed in one stream per piece of the batches.

    Eagerly, and within another stream, there is one piece: the whole. The function takes and returns nested
    structures of tensors whose first axis is the batch, or None; its result for an example depends on that
    example alone. A batch that does not divide is filled up with its last example.
    """
    count = active_streams()
    if count == 1 or not tf.inside_function():
        return function(*batches)
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
    with number_of_streams(1):
        results = [function(*piece) for piece in pieces]
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
