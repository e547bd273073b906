"""A batch cut into pieces that run side by side: on a CPU, each core takes one piece through the whole flow.

TensorFlow's own way is to spread every operation over all cores. A flow step has dozens of small operations
between its convolutions, during which the other cores are idle. With *streams* an operation runs on one core,
and each stream takes its own piece of the batch through the flow. Only the losses of the pieces and
the gradients of the weights are added up at the end. `devices/streams.py` sets the number of streams and the
threads of a process.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
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
    structures of tensors whose first axis is the batch; its result for an example depends on that example
    alone.
    """
    pieces = pieces_of(*batches)
    if len(pieces) == 1:
        return function(*batches)
    with number_of_streams(1):
        results = [function(*piece) for piece in pieces]
    return join(results, tf.nest.flatten(batches)[0])


def pieces_of(*batches: Any) -> list[tuple]:
    """Cuts nested structures of tensors [B, …] or None along the batch, into equal pieces, one per stream.

    A batch that does not divide is filled up with its last example. Returns, for each stream, the tuple of
    its pieces of all batches.
    """
    count = active_streams()
    if count == 1 or not tf.inside_function():
        return [batches]
    missing = -_size(tf.nest.flatten(batches)[0]) % count

    def cut(tensor: tf.Tensor | None) -> list[tf.Tensor | None]:
        if tensor is None:
            return [None] * count
        if not _is_zero(missing):
            tensor = tf.concat([tensor, tf.repeat(tensor[-1:], missing, axis=0)], axis=0)
        return tf.split(tensor, count)

    columns = [cut(tensor) for tensor in tf.nest.flatten(batches)]
    return [tf.nest.pack_sequence_as(batches, row) for row in zip(*columns, strict=True)]


def join(results: Sequence[Any], batch: tf.Tensor) -> Any:
    """Joins the results of the pieces of a batch [B, …], and drops what the batch was filled up with."""
    if len(results) == 1:
        return results[0]
    size = _size(batch)
    missing = -size % len(results)

    def joined(*pieces: tf.Tensor | None) -> tf.Tensor | None:
        if pieces[0] is None:
            return None
        whole = tf.concat(pieces, axis=0)
        return whole if _is_zero(missing) else whole[:size]

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
        # LiteRT does not know the sizes of what is padded.
        return tf.reshape(whole, (-1, *sizes)) if sizes.is_fully_defined() else whole

    return tf.nest.map_structure(filled, list(batches))


def _size(batch: tf.Tensor) -> int | tf.Tensor:
    return batch.shape[0] if batch.shape[0] is not None else tf.shape(batch)[0]


def _is_zero(number: int | tf.Tensor) -> bool:
    return isinstance(number, int) and number == 0
