"""One process a part: how the processes of a run find one another, and notice that one is gone."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import time

import tensorflow as tf

from glow_tf.config import ConfigError

JOB = "part"
PATIENCE = 120.0  # seconds in which every process must come
POLL = 0.5
MISSES = 4  # of so many polls in a row: gone


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run, one a part, as `TF_CONFIG` describes them.

    Attributes:
      addresses: host:port of every process, in the order of the parts.
      index: which of them this is; process 0 trains, and writes the workdir, the others lend their devices.
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def tf_config(self) -> str:
        """What `TF_CONFIG` says in this process; see `read_cluster`."""
        task = {"type": JOB, "index": self.index}
        return json.dumps({"cluster": {JOB: self.addresses}, "task": task})

    @property
    def processes_here(self) -> int:
        """How many of them share this one's host."""
        hosts = [address.rsplit(":", 1)[0] for address in self.addresses]
        return hosts.count(hosts[self.index])


def read_cluster(environment: dict[str, str] | None = None) -> Cluster | None:
    """Returns the cluster of parts that `TF_CONFIG` describes, None without one.

    It is TensorFlow's: {"cluster": {"part": ["host:port", …]}, "task": {"type": "part", "index": 0}}.

    Raises:
      ConfigError: it is something else.
    """
    text = (os.environ if environment is None else environment).get("TF_CONFIG", "")
    if not text:
        return None
    try:
        described = json.loads(text)
        if JOB not in described["cluster"]:
            return None
        addresses, index = described["cluster"][JOB], described["task"]["index"]
        complete = all(":" in a for a in addresses) and 0 <= index < len(addresses)
        if not complete or described["task"]["type"] != JOB:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            'TF_CONFIG must be {"cluster": {"part": ["host:port", …]}, "task": {"type": "part", "index": k}} '
            f"with k the place of this process. Received: TF_CONFIG={text!r}"
        ) from None
    return Cluster(tuple(addresses), index)


def connect(cluster: Cluster) -> list[str]:
    """Makes the processes' devices this one's to use; returns the first device of each.

    Raises:
      ConfigError: a process did not come in time.
    """
    missing = _wait_for(cluster.addresses[1:])
    if missing:
        raise ConfigError(
            f"part_parallel waited {PATIENCE:.0f} s for a process of every part; start the same command with "
            f"its TF_CONFIG on each machine. Received: no answer from {', '.join(missing)}"
        )
    # Operations outside of functions (making variables, initialising them) are sent one by one, each waited
    # for. Streamed, as is TensorFlow's default, one in a dozen runs read a variable before it was there.
    os.environ["TF_ENABLE_EAGER_CLIENT_STREAMING_ENQUEUE"] = "false"
    spec = tf.train.ClusterSpec({JOB: cluster.addresses})
    tf.config.experimental_connect_to_cluster(spec, job_name=JOB, task_index=0)
    return [f"/job:{JOB}/replica:0/task:{k}/device:{_kind()}:0" for k in range(len(cluster.addresses))]


def serve(cluster: Cluster, threads: int) -> None:
    """Lends this process's devices to process 0 until that is gone.

    Args:
      cluster: with an index above 0.
      threads: cores of this machine that are the process's.

    Raises:
      ConfigError: process 0 did not come in time.
    """
    spec = tf.train.ClusterSpec({JOB: cluster.addresses})
    options = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=threads, inter_op_parallelism_threads=threads + 1
    )
    server = tf.distribute.Server(spec, job_name=JOB, task_index=cluster.index, config=options)
    if _wait_for(cluster.addresses[:1]):
        raise ConfigError(
            f"part_parallel waited {PATIENCE:.0f} s for the process of the first part. "
            f"Received: no answer from {cluster.addresses[0]}"
        )
    print(f"part {cluster.index + 1}: serves {cluster.addresses[0]}", flush=True)
    misses = 0
    while misses < MISSES:
        time.sleep(POLL)
        misses = 0 if _answers(cluster.addresses[0]) else misses + 1
    del server


def lost(cluster: Cluster) -> list[str]:
    """Returns the parts (from 1) whose processes do not answer, with their addresses."""
    return [
        f"part {k} ({address})"
        for k, address in enumerate(cluster.addresses, start=1)
        if k - 1 != cluster.index and not _answers(address)
    ]


def _kind() -> str:
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def _wait_for(addresses: tuple[str, ...]) -> list[str]:
    """Waits until all answer; returns those that do not in time."""
    end = time.monotonic() + PATIENCE
    missing = list(addresses)
    while missing and time.monotonic() < end:
        missing = [address for address in missing if not _answers(address)]
        if missing:
            time.sleep(POLL)
    return missing


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=5):
            return True
    except OSError:
        return False
