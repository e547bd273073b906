"""Shares of a batch side by side: on a CPU, each core takes one through the whole flow.

TensorFlow's own way is to spread every operation over all cores. A flow step has dozens of small operations
between its convolutions, which leave the other cores idle or waiting. Streams turn it round: an operation
runs on one core, and each core has a share of the batch to itself until the shares' losses, and the gradients
of the weights, are added up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

# A convolution of fewer images is no longer efficient.
SMALLEST_SHARE = 8

# Threads that do not compute keep a tensor from waiting, until a part is done, to be sent.
SENDING_THREADS = 1

M_ARENA_MAX = -8  # of glibc's malloc.h

_streams = 1


def set_up_process(
    batch_size: int, streams: int = 0, *, reversible: bool = False, processes: int = 0, shares: int = 1
) -> int:
    """Sets what holds for a whole process that trains, before TensorFlow starts; returns its streams.

    Args:
      batch_size: images of a batch.
      streams: how many streams; see `use_streams`.
      reversible: whether activations are recomputed, to save memory.
      processes: how many of the run's processes share this machine's cores; 0 if it has but one.
      shares: how many of the run's processes share a batch.
    """
    # It makes a copy of a flow step's function for every call, which takes a second at 3×32 flow steps, and
    # steps gain nothing.
    tf.config.optimizer.set_experimental_options({"function_optimization": False})
    if reversible:
        _share_one_heap()
    if not processes:
        return use_streams(batch_size, streams)
    cores = threads_of(processes)
    tf.config.threading.set_intra_op_parallelism_threads(cores)
    count = use_streams(batch_size // shares, streams, cores)
    tf.config.threading.set_inter_op_parallelism_threads(cores + SENDING_THREADS)
    return count


def threads_of(processes: int) -> int:
    """Returns the cores that are left to each of so many processes on this machine."""
    return max(_cores() // processes, 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_streams(batch_size: int, count: int = 0, cores: int = 0) -> int:
    """Makes this process run batches in streams, and returns their number.

    To be called before TensorFlow starts: its threads are set once for a process. Where it has started, and
    where there is a GPU, nothing changes and the number is 1.

    Args:
      batch_size: images of a batch.
      count: how many streams; 0 is one for each core, as far as the batch goes round.
      cores: that are this process's; 0 is all it may run on.
    """
    cores = cores or _cores()
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


def _share_one_heap() -> None:
    """Makes the threads that start from now on allocate from one heap, where the C library is glibc.

    It gives each its own otherwise, and what one thread frees another cannot use. Takes up to 5 % more time
    and a fifth to a quarter less memory when activations are recomputed.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


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
    """Returns the number of streams here: a process's replicas divide them among themselves."""
    strategy = tf.distribute.get_strategy()
    replicas = len(strategy.extended.worker_devices) if tf.distribute.has_strategy() else 1
    return max(_streams // replicas, 1)


def _set(count: int) -> None:
    global _streams
    _streams = count


def in_streams(function: Callable[..., Any], *batches: Any) -> Any:
    """Returns function(*batches), computed on shares of the batches that nothing ties to one another.

    Eagerly, and within another stream, there is one share, the whole.

    Args:
      function: of nested structures of tensors to the like, all with the batch as their first axis; the
        results of an example must depend on that example alone.
      *batches: its arguments.
    """
    shares = share_out(*batches)
    if len(shares) == 1:
        return function(*batches)
    with number_of_streams(1):
        results = [function(*share) for share in shares]
    return join(results, tf.nest.flatten(batches)[0])


def share_out(*batches: Any, fill_with_zeros: bool = False) -> list[tuple]:
    """Returns the streams' shares of nested structures of tensors, all of one shape.

    Where the batch does not go round, it is filled up with its last example, or with zeros.
    """
    count = active_streams()
    if count == 1 or not tf.inside_function():
        return [batches]
    missing = -_size(tf.nest.flatten(batches)[0]) % count

    def shares(tensor: tf.Tensor) -> list[tf.Tensor]:
        if not _is_zero(missing):
            filler = tf.repeat(tensor[-1:], missing, axis=0)
            if fill_with_zeros:
                filler = tf.zeros_like(filler)
            tensor = tf.concat([tensor, filler], axis=0)
        return tf.split(tensor, count)

    columns = [shares(tensor) for tensor in tf.nest.flatten(batches)]
    return [tf.nest.pack_sequence_as(batches, row) for row in zip(*columns, strict=True)]


def join(results: Sequence[Any], batch: tf.Tensor) -> Any:
    """Puts results of the shares of a batch together again."""
    if len(results) == 1:
        return results[0]
    size = _size(batch)
    missing = -size % len(results)

    def joined(*pieces: tf.Tensor) -> tf.Tensor:
        whole = tf.concat(pieces, axis=0)
        return whole if _is_zero(missing) else whole[:size]

    return tf.nest.map_structure(joined, *results)


def _size(batch: tf.Tensor) -> int | tf.Tensor:
    return batch.shape[0] if batch.shape[0] is not None else tf.shape(batch)[0]


def _is_zero(number: int | tf.Tensor) -> bool:
    return isinstance(number, int) and number == 0
