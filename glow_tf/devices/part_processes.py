"""A process per part: how the first process uses the devices of the others."""

import faulthandler
import os
import threading
import time

import tensorflow as tf

from glow_tf.core.errors import ConfigError
from glow_tf.devices import liveness
from glow_tf.devices.broken import naming_the_taken_address
from glow_tf.devices.processes import ProcessGroup, listen, lost_message
from glow_tf.devices.streams import SENDING_THREADS


def connect(group: ProcessGroup) -> list[str]:
    """Connects process 0 to the others; returns the first device of each: a GPU, where it has one.

    ConfigError if a process did not start in time, or this one cannot listen at its address.
    """
    if missing := liveness.wait_for(group, range(1, len(group.addresses)), speaks=True):
        raise ConfigError(liveness.missing_message(group, missing))
    # Eager operations make and initialise variables. Streamed, as is TensorFlow's default, one run in a dozen
    # read a variable before it was there.
    os.environ["TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"] = "false"
    spec = tf.train.ClusterSpec({group.job: group.addresses})
    if others := group.names(group.others):
        print(f"Connects to {others}; the run ends if that takes {liveness.PATIENCE:.0f} s.", flush=True)
    # TensorFlow would wait for ever, and lets no other Python thread run meanwhile.
    with open(os.devnull, "w") as nowhere, naming_the_taken_address(group):
        faulthandler.dump_traceback_later(liveness.PATIENCE, exit=True, file=nowhere)
        try:
            tf.config.experimental_connect_to_cluster(spec, job_name=group.job, task_index=0)
        finally:
            faulthandler.cancel_dump_traceback_later()
    found = {device.name for device in tf.config.list_logical_devices()}  # of all processes
    tasks = [f"/job:{group.job}/replica:0/task:{k}/device" for k in range(len(group.addresses))]
    return [f"{task}:{'GPU' if f'{task}:GPU:0' in found else 'CPU'}:0" for task in tasks]


def serve(group: ProcessGroup, threads: int) -> None:
    """Lends this process's devices, and so many threads, to process 0 until that has ended.

    ConfigError as in `connect`; OSError if process 0 has not answered for `liveness.SILENCE` seconds.
    """
    spec = tf.train.ClusterSpec({group.job: group.addresses})
    options = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads + SENDING_THREADS
    )
    with naming_the_taken_address(group):
        server = tf.distribute.Server(spec, job_name=group.job, task_index=group.index, config=options)
    if missing := liveness.wait_for(group, [0]):  # it may only come to release this one
        raise ConfigError(liveness.missing_message(group, missing))
    print(f"part {group.index + 1}: serves {group.addresses[0]}", flush=True)
    _, still = liveness.first_lost(group, threading.Event())
    if still:
        raise OSError(lost_message(group.names(still)))
    print(f"part {group.index + 1}: {group.addresses[0]} has ended, and so does this process", flush=True)
    del server


def release_others(group: ProcessGroup) -> None:
    """Tells the others, which wait for process 0 or will, that there is nothing to do: it comes and goes."""
    print(f"Waits {liveness.PATIENCE:.0f} s at most for the other processes, which then end.", flush=True)
    with listen(group.addresses[0]):
        liveness.wait_for(group, group.others)
        time.sleep(liveness.MISSES * liveness.POLL)  # so that each of them sees this one
