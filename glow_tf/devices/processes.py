"""The processes of one run, as `TF_CONFIG` lists them. Pure Python: no TensorFlow.

Under `part_parallel` each process has a part, under `multi_worker` a slice of every batch.
"""

import dataclasses
import json
import os
import re
import socket
from collections.abc import Iterable, Mapping

from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import parse_json

JOBS = {"part_parallel": "part", "multi_worker": "worker"}  # strategy → what TF_CONFIG calls its processes

KEPT = "The last checkpoint is kept, if there is one; the same command goes on."


@dataclasses.dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, seen from one of them.

    Attributes:
      job: `part` or `worker`.
      addresses: host:port of every process, in the order of the parts, or of the slices of a batch.
      index: the place of this process. Process 0 writes the workdir. Where each process has a part, process 0
        also trains, and the others lend it their devices.
    """

    job: str
    addresses: tuple[str, ...]
    index: int

    @property
    def tf_config(self) -> str:
        """What `TF_CONFIG` says in this process; see `read_process_group`."""
        task = {"type": self.job, "index": self.index}
        return json.dumps({"cluster": {self.job: self.addresses}, "task": task})

    @property
    def processes_here(self) -> int:
        """How many of the processes run on this one's host."""
        hosts = [host_and_port(address)[0] for address in self.addresses]
        return hosts.count(hosts[self.index])

    @property
    def others(self) -> list[int]:
        """The indices of the other processes."""
        return [k for k in range(len(self.addresses)) if k != self.index]

    def names(self, indices: Iterable[int]) -> str:
        """Names processes for messages: parts are counted from 1, workers from 0, as TensorFlow counts."""
        first = 1 if self.job == "part" else 0
        return ", ".join(f"{self.job} {k + first} ({self.addresses[k]})" for k in indices)


def is_chief(group: ProcessGroup | None) -> bool:
    """Returns whether this process is the chief, which has the workdir: the only process, or process 0."""
    return group is None or group.index == 0


def read_process_group(strategy: str, environment: Mapping[str, str] | None = None) -> ProcessGroup | None:
    """Returns the processes that `TF_CONFIG` lists for a strategy; None if there is a single process.

    It has TensorFlow's form, with `worker` in place of `part` under `multi_worker`:
    {"cluster": {"part": ["host:port", …]}, "task": {"type": "part", "index": 0}}.

    Args:
      strategy: of the run.
      environment: this process's environment variables, by default.

    Raises:
      ConfigError: `TF_CONFIG` says something else, or `multi_worker` has none.
    """
    job = JOBS.get(strategy)
    if job is None:
        return None
    text = (os.environ if environment is None else environment).get("TF_CONFIG", "")
    if not text and job == "part":
        return None
    try:
        described = parse_json(text)
        if job == "part" and job not in described["cluster"]:
            return None
        addresses, index = described["cluster"][job], described["task"]["index"]
        complete = isinstance(addresses, list) and all(map(_is_address, addresses))
        if not complete or index not in range(len(addresses)) or described["task"]["type"] != job:
            raise ValueError
        index = int(index)
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f'{strategy} needs a TF_CONFIG of {{"cluster": {{"{job}": ["host:port", …]}}, "task": '
            f'{{"type": "{job}", "index": k}}}} where k is this process; `glow-tf launch` starts '
            f"processes that have one. Received: TF_CONFIG={text!r:.500}"
        ) from None
    return ProcessGroup(job, tuple(addresses), index)


def host_and_port(address: str) -> tuple[str, int]:
    """Returns the host and the port of an address host:port; an IPv6 address loses its brackets."""
    host, port = address.rsplit(":", 1)
    return host.strip("[]"), int(port)


def listen(address: str) -> socket.socket:
    """Returns a socket that listens at an address host:port."""
    host, port = host_and_port(address)
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _is_address(text: object) -> bool:
    found = re.fullmatch(r"\S+:([0-9]{1,5})", text) if isinstance(text, str) else None
    return found is not None and int(found[1]) < 2**16


def lost_message(names: str) -> str:
    """Says that processes are lost."""
    return f"Lost the process of {names}. {KEPT}"
