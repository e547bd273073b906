"""Runs of several processes: how they find one another, and notice that one is gone.

Under `part_parallel` a process has a part, under `multi_worker` a share of every batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from glow_tf.config import ConfigError
from glow_tf.streams import SENDING_THREADS

JOBS = {"part_parallel": "part", "multi_worker": "worker"}  # strategy → name of its processes in TF_CONFIG
PATIENCE = 120.0  # seconds in which every process must come
ANSWER_TIME = 5.0  # seconds in which a process that is there answers
POLL = 0.5
LONGEST_TRANSFER = 300.0  # seconds that weights or gradients may take over the workers' link
MISSES = 4  # so many refusals in a row: gone


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, as `TF_CONFIG` describes them.

    Attributes:
      job: `part` or `worker`.
      addresses: host:port of every process, in the order of the parts, or of the shares of a batch.
      index: which of them this is. Process 0 writes the workdir; of parts, it also trains, and the others
        lend it their devices.
    """

    job: str
    addresses: tuple[str, ...]
    index: int

    @property
    def tf_config(self) -> str:
        """What `TF_CONFIG` says in this process; see `read_cluster`."""
        task = {"type": self.job, "index": self.index}
        return json.dumps({"cluster": {self.job: self.addresses}, "task": task})

    @property
    def processes_here(self) -> int:
        """How many of them share this one's host."""
        hosts = [address.rsplit(":", 1)[0] for address in self.addresses]
        return hosts.count(hosts[self.index])

    @property
    def others(self) -> list[int]:
        """The indices of all but this one."""
        return [k for k in range(len(self.addresses)) if k != self.index]

    def names(self, indices: Iterable[int]) -> str:
        """Names processes as people do: counted from 1 where they are parts, as TensorFlow counts else."""
        first = 1 if self.job == "part" else 0
        return ", ".join(f"{self.job} {k + first} ({self.addresses[k]})" for k in indices)


def read_cluster(strategy: str, environment: Mapping[str, str] | None = None) -> Cluster | None:
    """Returns the cluster that `TF_CONFIG` describes for a strategy; None without one.

    It is TensorFlow's: {"cluster": {"part": ["host:port", …]}, "task": {"type": "part", "index": 0}}, with
    `worker` for `part` under `multi_worker`.

    Raises:
      ConfigError: it is something else, or `multi_worker` has none.
    """
    job = JOBS.get(strategy)
    if job is None:
        return None
    text = (os.environ if environment is None else environment).get("TF_CONFIG", "")
    if not text and job == "part":
        return None
    try:
        described = json.loads(text)
        if job == "part" and job not in described["cluster"]:
            return None
        addresses, index = described["cluster"][job], described["task"]["index"]
        complete = all(":" in a for a in addresses) and 0 <= index < len(addresses)
        if not complete or described["task"]["type"] != job:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f'{strategy} needs a TF_CONFIG of {{"cluster": {{"{job}": ["host:port", …]}}, "task": '
            f'{{"type": "{job}", "index": k}}}} with k the place of this process; train/launch.py starts '
            f"processes that have one. Received: TF_CONFIG={text!r}"
        ) from None
    return Cluster(job, tuple(addresses), index)


def connect(cluster: Cluster) -> list[str]:
    """Makes the processes' devices this one's to use; returns the first device of each.

    Raises:
      ConfigError: a process did not come in time.
    """
    missing = _wait_for(cluster, range(1, len(cluster.addresses)))
    if missing:
        raise ConfigError(_nobody_came(cluster, missing))
    # Operations outside of functions (making variables, initialising them) are sent one by one, each waited
    # for. Streamed, as is TensorFlow's default, one in a dozen runs read a variable before it was there.
    os.environ["TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"] = "false"
    spec = tf.train.ClusterSpec({cluster.job: cluster.addresses})
    tf.config.experimental_connect_to_cluster(spec, job_name=cluster.job, task_index=0)
    return [
        f"/job:{cluster.job}/replica:0/task:{k}/device:{_kind()}:0" for k in range(len(cluster.addresses))
    ]


def serve(cluster: Cluster, threads: int) -> None:
    """Lends this process's devices to process 0 until that is gone.

    Args:
      cluster: with an index above 0.
      threads: cores of this machine that are the process's.

    Raises:
      ConfigError: process 0 did not come in time.
    """
    spec = tf.train.ClusterSpec({cluster.job: cluster.addresses})
    options = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads + SENDING_THREADS
    )
    server = tf.distribute.Server(spec, job_name=cluster.job, task_index=cluster.index, config=options)
    if missing := _wait_for(cluster, [0]):
        raise ConfigError(_nobody_came(cluster, missing))
    print(f"part {cluster.index + 1}: serves {cluster.addresses[0]}", flush=True)
    # A refusal says that the process is gone; silence, perhaps only that the link is down.
    refusals, heard = 0, time.monotonic()
    while refusals < MISSES and time.monotonic() < heard + PATIENCE:
        time.sleep(POLL)
        answer = _answer(cluster.addresses[0])
        refusals = refusals + 1 if answer == "refused" else 0
        heard = time.monotonic() if answer == "yes" else heard
    del server


def meet(
    cluster: Cluster, settings: Mapping[str, Any], summary: Mapping[str, Any] | None
) -> Mapping[str, Any] | None:
    """Waits until all workers are there and agree; returns the summary that the first one has, if any.

    Each other worker shows process 0 its settings over a plain socket at process 0's address, which is free
    again, for TensorFlow, when this returns.

    Args:
      cluster: of workers.
      settings: what must be the same in all of them.
      summary: process 0's, if the run is finished.

    Raises:
      ConfigError: one did not come in time, or has other settings; all are told.
    """
    host, port = cluster.addresses[0].rsplit(":", 1)
    own = json.dumps([cluster.index, {name: str(value) for name, value in settings.items()}]).encode()
    if cluster.index:
        answer = _ask(host, int(port), own)
        if answer is None:
            raise ConfigError(_nobody_came(cluster, [0]))
    else:
        answer = {"error": "", "summary": summary}
        guests = _receive(cluster, host, int(port))
        missing = [k for k in range(1, len(cluster.addresses)) if k not in guests]
        expected = json.loads(own)[1]
        other = {
            k: {n: v for n, v in found.items() if expected.get(n) != v} for k, (_, found) in guests.items()
        }
        if missing:
            answer["error"] = _nobody_came(cluster, missing)
        elif any(other.values()):
            k, differing = next((k, d) for k, d in sorted(other.items()) if d)
            answer["error"] = (
                "all workers must have the same flags. Received: "
                + ", ".join(
                    f"--{name}={value} (worker 0: {expected.get(name)})" for name, value in differing.items()
                )
                + f" of {cluster.names([k])}"
            )
        for connection, _ in guests.values():
            with connection:
                connection.sendall(json.dumps(answer).encode() + b"\n")
    if answer["error"]:
        raise ConfigError(answer["error"])
    return answer["summary"]


def _receive(cluster: Cluster, host: str, port: int) -> dict[int, tuple[socket.socket, dict[str, str]]]:
    """Returns the connections of the workers that come in time, and their settings."""
    guests: dict[int, tuple[socket.socket, dict[str, str]]] = {}
    end = time.monotonic() + PATIENCE
    with socket.create_server((host, port)) as listener:
        while len(guests) < len(cluster.addresses) - 1 and (left := end - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection, _ = listener.accept()
            except OSError:  # nobody
                continue
            try:
                connection.settimeout(ANSWER_TIME)  # a worker speaks at once
                index, settings = json.loads(connection.makefile().readline())
                if index not in cluster.others:
                    raise ValueError
            except (OSError, ValueError, TypeError):  # somebody else
                connection.close()
                continue
            connection.settimeout(PATIENCE)
            guests[index] = (connection, settings)
    return guests


def _ask(host: str, port: int, message: bytes) -> dict[str, Any] | None:
    """Returns the first worker's answer, None if it does not come."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, port), timeout=ANSWER_TIME) as connection:
                connection.settimeout(2 * PATIENCE)
                connection.sendall(message + b"\n")
                return json.loads(connection.makefile().readline())
        except (OSError, ValueError):
            time.sleep(POLL)
    return None


def be_patient_with_workers() -> None:
    """Makes TensorFlow wait longer for the heartbeats of `TF_CONFIG`'s workers: `LONGEST_TRANSFER`.

    They wait behind weights and gradients, and TensorFlow ends the run after 5 seconds, which these may well
    take over a slow link. There is no public way to say so; this is what MultiWorkerMirroredStrategy itself
    does unless it has been done.
    """
    from tensorflow.python.distribute import collective_all_reduce_strategy as strategy
    from tensorflow.python.distribute import multi_worker_util
    from tensorflow.python.eager import context

    if context.context().coordination_service is not None:
        return
    workers = tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec()
    make_job = strategy.coordination_config_pb2.CoordinatedJob
    context.context().configure_coordination_service(
        "standalone",
        multi_worker_util.coordination_leader(workers),
        heartbeat_timeout_in_ms=int(2000 * LONGEST_TRANSFER),  # half of which each heartbeat has
        coordinated_jobs=[make_job(name="worker", num_tasks=workers.num_tasks("worker"))],
    )


@contextlib.contextmanager
def watched_workers(cluster: Cluster | None) -> Iterator[None]:
    """Within it, what waits for a worker that is gone fails in seconds: its host refuses connections.

    Args:
      cluster: of processes that have all started; nothing is watched unless they are workers.

    Raises:
      OSError: one is gone.
    """
    if cluster is None or cluster.job != "worker":
        yield
        return
    over = threading.Event()
    gone: list[int] = []

    def watch() -> None:
        refusals = dict.fromkeys(cluster.others, 0)
        while not gone and not over.wait(POLL):
            for k in refusals:
                refused = _answer(cluster.addresses[k]) == "refused"
                refusals[k] = refusals[k] + 1 if refused else 0
            gone.extend(k for k in refusals if refusals[k] >= MISSES)
        if gone and not over.is_set():
            _abort_collectives(lost_message(cluster.names(gone)))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    except tf.errors.OpError:
        if gone:
            raise OSError(lost_message(cluster.names(gone))) from None
        raise
    finally:
        over.set()
        thread.join(ANSWER_TIME)


def _abort_collectives(reason: str) -> None:
    from tensorflow.python.eager import context

    context.context().abort_collective_ops(tf.errors.UNAVAILABLE, reason)


def lost(cluster: Cluster) -> str:
    """Names the processes that do not answer; empty if all do."""
    return cluster.names(k for k in cluster.others if not _answers(cluster.addresses[k]))


def waits_for(cluster: Cluster) -> str:
    """Names the other processes, and says which of them answer."""
    return "waits for " + "; ".join(
        f"{cluster.names([k])}, which {'answers' if _answers(cluster.addresses[k]) else 'does not answer'}"
        for k in cluster.others
    )


def lost_message(names: str) -> str:
    """Says that processes are lost."""
    return f"Lost the process of {names}. The last checkpoint is kept, and the same command goes on from it."


def _nobody_came(cluster: Cluster, missing: Iterable[int]) -> str:
    return (
        f"a run of {len(cluster.addresses)} processes waits {PATIENCE:.0f} s for all; start the same command "
        f"with its TF_CONFIG on each machine. Received: no answer from {cluster.names(missing)}"
    )


def _kind() -> str:
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def _wait_for(cluster: Cluster, indices: Iterable[int]) -> list[int]:
    """Waits until all answer; returns those that do not in time."""
    end = time.monotonic() + PATIENCE
    missing = list(indices)
    while missing and time.monotonic() < end:
        missing = [k for k in missing if not _answers(cluster.addresses[k])]
        if missing:
            time.sleep(POLL)
    return missing


def _answers(address: str) -> bool:
    return _answer(address) == "yes"


def _answer(address: str) -> str:
    """Returns yes, refused (nobody listens there) or silent."""
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_TIME):
            return "yes"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "silent"
