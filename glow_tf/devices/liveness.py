"""Whether the other processes of a run answer. Pure Python: no TensorFlow."""

import socket
import time
from collections.abc import Iterable

from glow_tf.devices.processes import ProcessGroup, host_and_port

PATIENCE = 120.0  # seconds within which every process must start
ANSWER_TIME = 5.0  # seconds within which a running process answers
POLL = 0.5  # seconds between two questions
MISSES = 4  # after this many refusals in a row a process is gone


def answer_of(address: str) -> str:
    """Returns `yes`, `refused` (nobody listens at host:port) or `silent` (perhaps the link is down)."""
    try:
        with socket.create_connection(host_and_port(address), timeout=ANSWER_TIME):
            return "yes"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, UnicodeError):  # the latter where the name cannot be a host's
        return "silent"


def wait_for(group: ProcessGroup, indices: Iterable[int]) -> list[int]:
    """Waits until processes answer; returns those that do not within `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    missing = list(indices)
    while missing and time.monotonic() < end:
        missing = [k for k in missing if answer_of(group.addresses[k]) != "yes"]
        if missing:
            time.sleep(POLL)
    return missing


def lost(group: ProcessGroup) -> str:
    """Returns the names of the other processes that do not answer; empty if all do."""
    return group.names(k for k in group.others if answer_of(group.addresses[k]) != "yes")


def described(group: ProcessGroup) -> str:
    """Names the other processes, and says which of them answer."""

    def of(k: int) -> str:
        answers = answer_of(group.addresses[k]) == "yes"
        return f"{group.names([k])}, which {'answers' if answers else 'does not answer'}"

    return "; ".join(of(k) for k in group.others)


def missing_message(group: ProcessGroup, missing: Iterable[int]) -> str:
    """Says that processes did not start in time."""
    return (
        f"a run of {len(group.addresses)} processes waits {PATIENCE:.0f} s for all; start the same command "
        f"with its TF_CONFIG on each machine. Received: no answer from {group.names(missing)}"
    )
