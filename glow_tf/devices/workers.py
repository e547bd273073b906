"""Workers that share every batch: noticing that one of them is gone, and what they tell one another."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup, lost_message
from glow_tf.internals import abort_collectives

LONGEST_TRANSFER = 300.0  # seconds that weights or gradients may take over the workers' link


def in_several_processes(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether the strategy's replicas are spread over processes."""
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


@contextlib.contextmanager
def watched_workers(group: ProcessGroup | None) -> Iterator[None]:
    """Within the context, an operation that waits for a worker that is gone fails within seconds.

    A worker is gone when its host refuses connections. `naming_who_is_lost` says of the error who it is.
    """
    if group is None or group.job != "worker":
        yield
        return
    over = threading.Event()

    def watch() -> None:
        gone, _ = liveness.first_lost(group, over)
        if gone:
            abort_collectives(lost_message(group.names(gone)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(liveness.ANSWER_TIME)


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
    """Returns whether something holds in this process or, where all of them ask, in another one."""
    if not in_several_processes(strategy):
        return here
    (count,) = by_each_replica(strategy, lambda: sums_over_replicas([tf.constant(float(here))]))
    return float(count) > 0


def follow_first_worker(strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]) -> None:
    """Gives every worker the values that the first one has, and waits until all workers have come here.

    Does nothing in a single process. Integers must be below 2^53.
    """
    if not in_several_processes(strategy):
        return
    is_chief = strategy.cluster_resolver.task_id == 0

    values = [variable.read_value() for variable in variables]
    floats = [value if value.dtype.is_floating else tf.cast(value, tf.float64) for value in values]

    def values_of_first() -> list[tf.Tensor]:
        replica = tf.distribute.get_replica_context()
        own = tf.equal(replica.replica_id_in_sync_group, 0) if is_chief else tf.constant(False)
        # Chosen rather than multiplied by 0: a best bpd is infinite until there is one.
        return sums_over_replicas([tf.where(own, v, tf.zeros_like(v)) for v in [*floats, tf.constant(1.0)]])

    for variable, total in zip(variables, by_each_replica(strategy, values_of_first), strict=False):
        variable.assign(tf.cast(total, variable.dtype))
