"""Which devices, threads and processes a run is spread over."""

import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from glow_tf.config import STRATEGIES
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import usable_cores
from glow_tf.data.batches import DataSlice
from glow_tf.devices.workers import cluster_of, in_several_processes


def make_strategy(strategy: str, virtual_devices: int = 0) -> tf.distribute.Strategy:
    """Returns the strategy in whose scope the model and the trainer are made.

    Args:
      strategy: `one_device`; `mirrored` over all GPUs, or over all logical CPU devices where there is no
        GPU, which is `one_device` if there is only one; `auto`: the same; `multi_worker`: mirrored over the
        processes of `cluster_of`, for which it waits; `part_parallel`: TensorFlow's default, to be used with
        `part_devices`.
      virtual_devices: logical CPU devices to make first; 0 leaves them alone.

    Raises:
      ConfigError: there is no such strategy, nothing describes the cluster, or TensorFlow has already started
        with another number of CPU devices.
    """
    if strategy not in STRATEGIES:
        raise ConfigError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {strategy=}")
    if strategy == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_of(strategy))
    if virtual_devices:
        _make_virtual_devices(virtual_devices)
    devices, gpus = _devices()
    if strategy in ("mirrored", "auto") and len(devices) > 1:
        # Collective operations of a second strategy in one process collide on CPU devices; a plain sum
        # does not, and adds in a fixed order.
        reduction = None if gpus else tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
    return tf.distribute.get_strategy()


def compiles_by_default() -> bool:
    """Returns whether training steps are compiled with XLA unless told otherwise: where there is a GPU.

    On a CPU XLA's convolutions take 1.3 to 3 times as long as oneDNN's.
    """
    return bool(tf.config.list_physical_devices("GPU"))


def slow_compilation(jit_compile: bool | str) -> list[str]:
    """Returns a sentence if XLA is asked for where there is no GPU; empty if not."""
    if jit_compile is not True or compiles_by_default():
        return []
    return [
        "with --jit_compile=on, XLA compiles the training step of each phase first, on a CPU for half a "
        "minute or more, and the steps are then slower than without. `auto` uses XLA where there is a GPU"
    ]


def step_function(
    strategy: tf.distribute.Strategy,
    step: Callable[[Any], Any],
    made: Callable[[], None],
    *,
    steps: int = 1,
    compiled: bool = False,
    eager: bool = False,
) -> Callable[[Iterator], Any]:
    """Returns what Keras calls with an iterator: it makes `steps` steps and returns the logs of the last one.

    The logs are the mean of those that the step returns on the replicas of this process. `made` is called
    after each step, which may still be running.

    Keras's own function keeps the batches to itself. In several processes it reduces every log of every step
    over all workers, and fails at it (https://github.com/tensorflow/tensorflow/issues/72388).
    """

    def mean(value: Any) -> Any:
        own = strategy.experimental_local_results(value)
        return own[0] if len(own) == 1 else tf.reduce_mean(own, axis=0)

    def of_batch(batch: Any) -> Any:
        return tf.nest.map_structure(mean, strategy.run(step, args=(batch,)))

    if not eager:
        of_batch = tf.function(of_batch, autograph=False, reduce_retracing=True, jit_compile=compiled)

    def of_next(iterator: Iterator) -> Any:
        return of_batch(next(iterator))

    in_graph = tf.function(of_next, autograph=False, reduce_retracing=True)

    def run(iterator: Iterator) -> Any:
        reads = isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator)
        one = in_graph if reads and not eager else of_next
        for number in range(steps):
            try:
                logs = one(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):  # the data have ended
                if not number:
                    raise
                break
            made()
        return logs

    return run


def distributed(strategy: tf.distribute.Strategy, batches: Callable[..., tf.data.Dataset]) -> Any:
    """Returns what `fit` or `evaluate` takes: whole batches, or this process's slice of each batch."""
    if not in_several_processes(strategy):
        return batches()

    def of_process(place: tf.distribute.InputContext) -> tf.data.Dataset:
        own = DataSlice(place.input_pipeline_id, place.num_input_pipelines, place.num_replicas_in_sync)
        return batches(data_slice=own)

    return strategy.distribute_datasets_from_function(of_process)


def part_devices(strategy: str, listed: str, num_parts: int) -> list[str]:
    """Returns the device of every part; empty unless the strategy is `part_parallel`.

    Args:
      strategy: see `make_strategy`, which comes first.
      listed: names of devices, comma-separated; empty takes this process's devices in order.
      num_parts: number of parts.

    Raises:
      ConfigError: a device does not exist, or there are too few.
    """
    if strategy != "part_parallel":
        return []
    present, _ = _devices()
    if not listed and len(present) < num_parts:
        raise ConfigError(
            f"part_parallel needs a device for each of the {num_parts} parts, and finds {len(present)}; "
            "virtual_devices makes several of a CPU, part_devices puts several parts on one. Received: "
            f"{', '.join(present)}"
        )
    chosen = [name.strip() for name in listed.split(",")] if listed else present[:num_parts]
    if len(chosen) != num_parts:
        raise ConfigError(
            f"part_devices must name a device for each of the {num_parts} parts. Received: {listed}"
        )
    names = [d.name for d in tf.config.list_logical_devices()]
    short = {name.split("device:")[-1]: name for name in names}
    if unknown := [name for name in chosen if name not in (*names, *short)]:
        raise ConfigError(
            f"part_devices must name devices of this process: {', '.join(short)}. Received: "
            f"{', '.join(unknown)}"
        )
    return [short.get(name, name) for name in chosen]


def check_batch_size(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Raises ConfigError unless every replica gets the same number of images."""
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ConfigError(
            f"batch_size must be a multiple of the {replicas} replicas. Received: batch_size={batch_size}"
        )


def device_name() -> str:
    """Describes the hardware that the run computes on."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return f"{len(gpus)} × {details.get('device_name', 'GPU')}"
    return f"{_processor()}, {len(tf.config.list_logical_devices('CPU'))} logical CPU device(s)"


def _devices() -> tuple[list[str], list[str]]:
    """Returns the names of the devices that compute, and those of the GPUs."""
    gpus = [d.name for d in tf.config.list_logical_devices("GPU")]
    return gpus or [d.name for d in tf.config.list_logical_devices("CPU")], gpus


def _make_virtual_devices(count: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError:
        present = len(tf.config.list_logical_devices("CPU"))
        if present != count:
            raise ConfigError(
                f"virtual_devices must be set before TensorFlow starts; it runs with {present}. "
                f"Received: virtual_devices={count}"
            ) from None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return f"{lines[0]}, {len(lines)} cores"
    except (OSError, IndexError):
        return "CPU"


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
