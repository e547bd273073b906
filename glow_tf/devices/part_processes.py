"""A process per part: how the first process uses the devices of the others."""

from __future__ import annotations

import time

import tensorflow as tf

from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup
from glow_tf.devices.streams import SENDING_THREADS
from glow_tf.errors import ConfigError
from glow_tf.internals import send_eager_operations_one_by_one


def connect(group: ProcessGroup) -> list[str]:
    """Connects process 0 to the others; returns the name of the first device of each process.

    Raises:
      ConfigError: a process did not start in time.
    """
    if missing := liveness.wait_for(group, range(1, len(group.addresses))):
        raise ConfigError(liveness.nobody_came(group, missing))
    send_eager_operations_one_by_one()
    spec = tf.train.ClusterSpec({group.job: group.addresses})
    tf.config.experimental_connect_to_cluster(spec, job_name=group.job, task_index=0)
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return [f"/job:{group.job}/replica:0/task:{k}/device:{kind}:0" for k in range(len(group.addresses))]


def serve(group: ProcessGroup, threads: int) -> None:
    """Lends this process's devices to process 0 until that has ended.

    Args:
      group: with an index above 0.
      threads: number of this machine's cores that the process may use.

    Raises:
      ConfigError: process 0 did not start in time.
    """
    spec = tf.train.ClusterSpec({group.job: group.addresses})
    options = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads + SENDING_THREADS
    )
    server = tf.distribute.Server(spec, job_name=group.job, task_index=group.index, config=options)
    if missing := liveness.wait_for(group, [0]):
        raise ConfigError(liveness.nobody_came(group, missing))
    print(f"part {group.index + 1}: serves {group.addresses[0]}", flush=True)
    # A refusal says that the process has ended. Silence may only mean that the link is down.
    refusals, heard = 0, time.monotonic()
    while refusals < liveness.MISSES and time.monotonic() < heard + liveness.PATIENCE:
        time.sleep(liveness.POLL)
        answer = liveness.answer_of(group.addresses[0])
        refusals = refusals + 1 if answer == "refused" else 0
        heard = time.monotonic() if answer == "yes" else heard
    del server
