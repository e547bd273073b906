"""Which devices a run is spread over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.cluster import Cluster, be_patient_with_workers, connect
from glow_tf.config import ConfigError
from glow_tf.data import WHOLE, Share


def make_strategy(strategy: str, virtual_devices: int = 0) -> tf.distribute.Strategy:
    """Returns the strategy in whose scope model and trainer are made.

    Args:
      strategy: `one_device`; `mirrored` over all GPUs, or over all logical CPU devices where there is no
        GPU; `auto`: mirrored if that is more than one device; `multi_worker`: mirrored over the processes of
        `TF_CONFIG`, which must all be there; `part_parallel`: TensorFlow's default, to be used with
        `part_devices`.
      virtual_devices: logical CPU devices to make first; 0 leaves them alone.

    Raises:
      ConfigError: TensorFlow has already started with another number of CPU devices.
    """
    if strategy == "multi_worker":
        be_patient_with_workers()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if virtual_devices:
        _make_virtual_devices(virtual_devices)
    devices, gpus = _devices()
    if strategy == "mirrored" or (strategy == "auto" and len(devices) > 1):
        # Collective operations of a second strategy in one process collide on CPU devices; a plain sum
        # does not, and adds in a fixed order.
        reduction = None if gpus else tf.distribute.ReductionToOneDevice()
        return tf.distribute.MirroredStrategy(devices, cross_device_ops=reduction)
    return tf.distribute.get_strategy()


def in_several_processes(strategy: tf.distribute.Strategy) -> bool:
    """Whether the strategy's replicas are spread over processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def spread(strategy: tf.distribute.Strategy, batches: Callable[[Share], tf.data.Dataset]) -> Any:
    """Returns what `fit` or `evaluate` needs under a strategy: all batches, or this process's share of each.

    Args:
      strategy: any.
      batches: makes the dataset of a share.
    """
    if not in_several_processes(strategy):
        return batches(WHOLE)
    return strategy.distribute_datasets_from_function(
        lambda place: batches(
            Share(place.input_pipeline_id, place.num_input_pipelines, place.num_replicas_in_sync)
        )
    )


def follow_first_worker(strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]) -> None:
    """Gives every process the values that the first one has, and waits until all have come here.

    Does nothing in a single process. Integers must be below 2^53.
    """
    if not in_several_processes(strategy):
        return
    leads = strategy.cluster_resolver.task_id == 0

    @tf.function(autograph=False)
    def shared(values: list[tf.Tensor]) -> list[tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        own = tf.equal(replica.replica_id_in_sync_group, 0) if leads else tf.constant(False)
        # Chosen, not multiplied by 0: a best bpd is infinite until there is one.
        totals = [tf.where(own, v, tf.zeros_like(v)) for v in [*values, tf.constant(1.0)]]
        for dtype in sorted({v.dtype.name for v in totals}):  # TensorFlow sums one at a time
            places = [i for i, v in enumerate(totals) if v.dtype.name == dtype]
            sums = replica.all_reduce(tf.distribute.ReduceOp.SUM, [totals[i] for i in places])
            for i, total in zip(places, sums, strict=True):
                totals[i] = total
        return totals

    values = [variable.read_value() for variable in variables]
    numbers = [value if value.dtype.is_floating else tf.cast(value, tf.float64) for value in values]
    totals = strategy.run(shared, args=(numbers,))
    for variable, total in zip(variables, totals, strict=False):
        variable.assign(tf.cast(strategy.experimental_local_results(total)[0], variable.dtype))


def part_devices(strategy: str, listed: str, num_parts: int, cluster: Cluster | None = None) -> list[str]:
    """Returns the device of every part; none unless the strategy is `part_parallel`.

    Args:
      strategy: see `make_strategy`, which comes first.
      listed: names of devices, comma-separated; empty takes the first of this process.
      num_parts: n.
      cluster: the run's processes, of which each part then has one.

    Raises:
      ConfigError: there is no such device, or too few; a process of the cluster does not come.
    """
    if strategy != "part_parallel":
        return []
    if cluster is not None:
        if listed or len(cluster.addresses) != num_parts:
            raise ConfigError(
                f"part_parallel over processes needs one for each of the {num_parts} parts, and no "
                f"part_devices. Received: {len(cluster.addresses)} processes, part_devices={listed!r}"
            )
        return connect(cluster)
    present, _ = _devices()
    if not listed and len(present) < num_parts:
        raise ConfigError(
            f"part_parallel needs a device for each of the {num_parts} parts, and finds {len(present)}; "
            "virtual_devices makes more of a CPU, part_devices puts several parts on one. Received: "
            f"{', '.join(present)}"
        )
    chosen = listed.split(",") if listed else present[:num_parts]
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
