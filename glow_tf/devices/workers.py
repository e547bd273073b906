"""The processes of a run under `multi_worker`: who they are, and what they compute together."""

import json
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.core.errors import ConfigError

Cluster = tf.distribute.cluster_resolver.ClusterResolver


def cluster_of(strategy: str) -> Cluster | None:
    """Returns the cluster of a run, as `TF_CONFIG` or SLURM describe it; None for a single process.

    ConfigError if `multi_worker` has neither, or they describe no cluster of workers.
    """
    if strategy != "multi_worker":
        return None
    try:
        if "TF_CONFIG" not in os.environ:
            os.environ["TF_CONFIG"] = _of_slurm()  # where TensorFlow looks for it, too
        cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        if cluster.task_type == "worker" and cluster.task_id in range(
            cluster.cluster_spec().num_tasks("worker")
        ):
            return cluster
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        pass
    raise ConfigError(
        'multi_worker needs a TF_CONFIG of {"cluster": {"worker": ["host:port", …]}, "task": {"type": '
        '"worker", "index": k}} where k is this process, or the variables that srun sets. '
        f"Received: TF_CONFIG={os.environ.get('TF_CONFIG', '')!r:.500}"
    )


def _of_slurm() -> str:
    """Returns the `TF_CONFIG` of a task that srun has started."""
    # SLURM itself gives each task its GPUs, or none, for which this class has no numbers.
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    own = {"gpus_per_node": tasks, "gpus_per_task": 1, "auto_set_gpu": False}
    slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(**own)
    cluster = slurm.cluster_spec().as_dict()  # after which the task is known
    return json.dumps({"cluster": cluster, "task": {"type": slurm.task_type, "index": slurm.task_id}})


def is_chief(cluster: Cluster | None) -> bool:
    """Returns whether this process has the workdir: the only process, or worker 0."""
    return cluster is None or cluster.task_id == 0


def in_several_processes(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the strategy's replicas are spread over processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def sums_over_replicas(values: Sequence[tf.Tensor | tf.Variable]) -> list[tf.Tensor]:
    """Returns the sum of each value over the replicas; within a function that they run."""
    totals = [tf.identity(value) for value in values]  # on the replica's device, which TensorFlow asks for
    for dtype in sorted({v.dtype.name for v in totals}):  # TensorFlow sums one dtype at a time
        places = [i for i, v in enumerate(totals) if v.dtype.name == dtype]
        own = [totals[i] for i in places]
        sums = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)
        for i, total in zip(places, sums, strict=True):
            totals[i] = total
    return totals


def by_each_replica(strategy: tf.distribute.Strategy, function: Callable[[], Any]) -> Any:
    """Lets each replica call a function, as a graph; returns what the first one here returns."""
    found = tf.function(lambda: strategy.run(function), autograph=False)()
    return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], found)


def holds_anywhere(strategy: tf.distribute.Strategy, here: bool) -> bool:
    """Returns whether something holds in this process or in another one; waits until all have asked."""
    if not in_several_processes(strategy):
        return here
    (count,) = by_each_replica(strategy, lambda: sums_over_replicas([tf.constant(float(here))]))
    return float(count) > 0


def check_same_in_all(strategy: tf.distribute.Strategy, known: Mapping[str, str]) -> None:
    """Raises ConfigError unless all processes of a run know the same; all of them come here at once."""
    if not in_several_processes(strategy):
        return
    own = tf.constant([zlib.crc32(text.encode(errors="surrogateescape")) for text in known.values()])
    own = tf.cast(own, tf.float64)  # whose sums are exact
    (total,) = by_each_replica(strategy, lambda: sums_over_replicas([own]))
    same = (total == own * strategy.num_replicas_in_sync).numpy()
    if other := [
        f"{name}={text}" for (name, text), alike in zip(known.items(), same, strict=True) if not alike
    ]:
        raise ConfigError(
            "all processes of a run must have the same flags, data and checkpoints. "
            f"Received: in this one {', '.join(other)}"
        )
