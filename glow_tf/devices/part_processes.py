"""A process per part: how the first process uses the devices of the others."""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Iterator

import tensorflow as tf

from glow_tf.devices import liveness
from glow_tf.devices.broken import naming_the_taken_address
from glow_tf.devices.processes import ProcessGroup, listen, lost_message
from glow_tf.devices.streams import SENDING_THREADS
from glow_tf.errors import ConfigError


def connect(group: ProcessGroup) -> list[str]:
    """Connects process 0 to the others; returns the first device of each: a GPU, where it has one.

    ConfigError if a process did not start in time, or this one cannot listen at its address.
    """
    if missing := liveness.wait_for(group, range(1, len(group.addresses))):
        raise ConfigError(liveness.missing_message(group, missing))
    # Eager operations make and initialise variables. Streamed, as is TensorFlow's default, one run in a dozen
    # read a variable before it was there.
    os.environ["TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"] = "false"
    spec = tf.train.ClusterSpec({group.job: group.addresses})
    if others := group.names(group.others):
        print(f"Connects to {others}; the run ends if that takes {liveness.PATIENCE:.0f} s.", flush=True)
    # TensorFlow would wait for ever, and lets no other Python thread run meanwhile, `watched_parts` neither.
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

    ConfigError as in `connect`; OSError if process 0 has not answered for `liveness.PATIENCE` seconds.
    """
    spec = tf.train.ClusterSpec({group.job: group.addresses})
    options = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads + SENDING_THREADS
    )
    with naming_the_taken_address(group):
        server = tf.distribute.Server(spec, job_name=group.job, task_index=group.index, config=options)
    if missing := liveness.wait_for(group, [0]):
        raise ConfigError(liveness.missing_message(group, missing))
    print(f"part {group.index + 1}: serves {group.addresses[0]}", flush=True)
    # A refusal says that the process has ended. Silence may only mean that the link is down.
    refusals, heard = 0, time.monotonic()
    while refusals < liveness.MISSES:
        if time.monotonic() > heard + liveness.PATIENCE:
            raise OSError(lost_message(group.names([0])))
        time.sleep(liveness.POLL)
        answer = liveness.answer_of(group.addresses[0])
        refusals = refusals + 1 if answer == "refused" else 0
        heard = time.monotonic() if answer == "yes" else heard
    print(f"part {group.index + 1}: {group.addresses[0]} has ended, and so does this process", flush=True)
    del server


@contextlib.contextmanager
def watched_parts(group: ProcessGroup | None) -> Iterator[None]:
    """Within the context, process 0 ends when another one has been silent for `liveness.PATIENCE` seconds.

    TensorFlow would wait for it for ever, in a call that no exception reaches. So the process ends at once,
    with the sentence that an error would have. Nothing is half-written: every write is whole or not at all.
    (A process that is gone refuses, and then TensorFlow raises an error by itself.)
    """
    if group is None or group.job != "part":
        yield
        return
    over = threading.Event()
    heard: dict[int, float] = {}  # when each answered last; `connect` waits for the first time

    def watch() -> None:
        while not over.wait(liveness.POLL):
            for k in group.others:
                answer = liveness.answer_of(group.addresses[k])
                if answer == "yes" or (k in heard and answer == "refused"):
                    heard[k] = time.monotonic()
            silent = [k for k in heard if time.monotonic() > heard[k] + liveness.PATIENCE]
            if silent and not over.is_set():
                sys.stdout.flush()
                print(f"Error: {lost_message(group.names(silent))}", file=sys.stderr, flush=True)
                os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def release_others(group: ProcessGroup) -> None:
    """Tells the others, which wait for process 0 or will, that there is nothing to do: it comes and goes."""
    print(f"Waits {liveness.PATIENCE:.0f} s at most for the other processes, which then end.", flush=True)
    with listen(group.addresses[0]):
        liveness.wait_for(group, group.others)
        time.sleep(liveness.MISSES * liveness.POLL)  # so that each of them sees this one
