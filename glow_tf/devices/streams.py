"""Threads, heap and streams of a process that trains; all of it is set before TensorFlow starts.

What a stream is: see `pieces.py`.
"""

import ctypes
import platform

import tensorflow as tf

from glow_tf.core.machine import usable_cores

SMALLEST_PIECE = 2  # images; the smallest for which streams were measured, and they pay
M_ARENA_MAX = -8  # from glibc's malloc.h


def set_up_process(batch_size: int, streams: int = 0, *, reversible: bool = False) -> int:
    """Sets the threads, heap and streams of a process that trains; returns the number of streams.

    Call it before TensorFlow starts.

    Args:
      batch_size: images per batch, those of this process alone.
      streams: number of streams; see `use_streams`.
      reversible: whether activations are recomputed to save memory.
    """
    # Function optimisation copies a flow step's function for every call. That takes a second at 3×32 flow
    # steps, and training steps gain nothing.
    tf.config.optimizer.set_experimental_options({"function_optimization": False})
    if reversible:
        _share_one_heap()
    return use_streams(batch_size, streams)


def use_streams(batch_size: int, count: int = 0) -> int:
    """Makes this process run batches in streams, and returns their number.

    TensorFlow's threads are set once for a process. If TensorFlow has started, or if there is a GPU, nothing
    changes and the number is 1.

    Args:
      batch_size: images per batch.
      count: number of streams; 0 means one per core, but at least 2 images per stream.
    """
    cores = usable_cores()
    count = count or min(cores, batch_size // SMALLEST_PIECE)
    if count < 2 or tf.config.list_physical_devices("GPU"):
        return 1
    try:
        within = max(cores // count, 1)
        tf.config.threading.set_intra_op_parallelism_threads(within)
        tf.config.threading.set_inter_op_parallelism_threads(count * within)  # see `mode_of_process`
    except RuntimeError:
        return 1
    return count


def _share_one_heap() -> None:
    """Makes all threads that start from now on allocate from one heap, where the C library is glibc.

    By default each thread has its own heap, and no other thread can use what it frees. With one heap, steps
    that recompute activations take up to 5 % more time and 20 to 25 % less memory.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
