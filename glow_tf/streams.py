"""Shares of a batch side by side: on a CPU, each core takes one through the whole flow.

TensorFlow's own way is to spread every operation over all cores. A flow step has dozens of small operations
between its convolutions, which leave the other cores idle or waiting. Streams turn it round: an operation
runs on one core, and each core has a share of the batch to itself until the shares' losses, and the gradients
of the weights, are added up.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

# A convolution of fewer images is no longer efficient.
SMALLEST_SHARE = 8

_streams = 1


def use_streams(batch_size: int, count: int = 0) -> int:
    """Makes this process run batches in streams, and returns their number.

    To be called before TensorFlow starts: its threads are set once for a process. Where it has started, and
    where there is a GPU, nothing changes and the number is 1.

    Args:
      batch_size: images of a batch.
      count: how many streams; 0 is one for each core, as far as the batch goes round.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = count or min(cores, batch_size // SMALLEST_SHARE)
    if count < 2 or tf.config.list_physical_devices("GPU"):
        return 1
    try:
        tf.config.threading.set_intra_op_parallelism_threads(max(cores // count, 1))
        tf.config.threading.set_inter_op_parallelism_threads(max(cores, count))
    except RuntimeError:
        return 1
    _set(count)
    return count


@contextlib.contextmanager
def number_of_streams(count: int) -> Iterator[None]:
    """Within it, functions are traced for so many streams, whatever the threads."""
    before = _streams
    _set(count)
    try:
        yield
    finally:
        _set(before)


def active_streams() -> int:
    """Returns the number of streams here: replicas of a strategy divide them among themselves."""
    return max(_streams // tf.distribute.get_strategy().num_replicas_in_sync, 1)


def _set(count: int) -> None:
    global _streams
    _streams = count


def in_streams(function: Callable[..., Any], *batches: Any) -> Any:
    """Returns function(*batches), computed on shares of the batches that nothing ties to one another.

    Eagerly there is one share, the whole.

    Args:
      function: of nested structures of tensors to the like, all with the batch as their first axis; the
        results of an example must depend on that example alone.
      *batches: its arguments.
    """
    count = active_streams()
    if count == 1 or not tf.inside_function():
        return function(*batches)
    first = tf.nest.flatten(batches)[0]
    size = first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]
    missing = -size % count  # filled up with the last example, so that all shares have one shape

    def shares(tensor: tf.Tensor) -> list[tf.Tensor]:
        if not _is_zero(missing):
            tensor = tf.concat([tensor, tf.repeat(tensor[-1:], missing, axis=0)], axis=0)
        return tf.split(tensor, count)

    def joined(*pieces: tf.Tensor) -> tf.Tensor:
        whole = tf.concat(pieces, axis=0)
        return whole if _is_zero(missing) else whole[:size]

    columns = [shares(tensor) for tensor in tf.nest.flatten(batches)]
    results = [function(*tf.nest.pack_sequence_as(batches, row)) for row in zip(*columns, strict=True)]
    return tf.nest.map_structure(joined, *results)


def _is_zero(number: int | tf.Tensor) -> bool:
    return isinstance(number, int) and number == 0
