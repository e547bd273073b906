"""Whether the other processes of a run answer, and nobody else can. Pure Python: no TensorFlow."""

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from glow_tf.core.errors import ConfigError
from glow_tf.devices.processes import ProcessGroup, host_and_port

PATIENCE = 120.0  # seconds within which every process must start
ANSWER_TIME = 5.0  # seconds within which a running process answers
POLL = 0.5  # seconds between two questions
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
MISSES = 4  # after this many refusals in a row a process is gone
SILENCE = 45.0  # seconds without an answer after which a process stands still, or its machine is gone


def answer_of(address: str, speaks: bool = True) -> str:
    """Returns `yes`, `refused` (nobody listens at host:port) or `silent` (perhaps the link is down).

    TensorFlow speaks first to whoever comes (the settings of HTTP/2), from a thread that no Python holds up.
    Where the process stands still, its system takes connections all the same, but they hear nothing: it is
    silent, too. What listens before TensorFlow does, does not speak.
    """
    try:
        with socket.create_connection(host_and_port(address), timeout=ANSWER_TIME) as connection:
            return "yes" if not speaks or connection.recv(1) else "refused"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, UnicodeError):  # the latter where the name cannot be a host's
        return "silent"


def wait_for(group: ProcessGroup, indices: Iterable[int], speaks: bool = False) -> list[int]:
    """Waits until processes answer, see `answer_of`; returns those that do not within `PATIENCE`."""
    return _waited(indices, lambda k: answer_of(group.addresses[k], speaks) == "yes")


def _waited(pending: Iterable[Any], is_there: Callable[[Any], bool]) -> list[Any]:
    """Asks for each until it is there; returns those that are not within `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while (pending := [one for one in pending if not is_there(one)]) and time.monotonic() < end:
        time.sleep(POLL)
    return pending


def first_lost(
    group: ProcessGroup, over: threading.Event, connected: bool = True, silence: float = SILENCE
) -> tuple[list[int], list[int]]:
    """Waits until other processes have ended or stand still, and returns both; none when `over` is set.

    One has ended when it refuses a few times in a row. One stands still, or cannot be reached, if it has not
    answered for the seconds of `silence`. A part that lends its devices watches over process 0 alone. If this
    process is not `connected` yet to the others, it watches over one from its first answer on.
    """
    indices = [0] if group.job == "part" and group.index > 0 else group.others
    there = set(indices if connected else [])
    refusals, silent = dict.fromkeys(indices, 0), dict.fromkeys(indices, (0, 0.0))
    while not over.wait(POLL):
        for k in indices:
            asked, answer = time.monotonic(), answer_of(group.addresses[k])
            there |= {k} if answer == "yes" else set()
            refusals[k] = refusals[k] + 1 if answer == "refused" else 0
            times, since = silent[k]
            silent[k] = (times + 1, since if times else asked) if answer == "silent" else (0, 0.0)
        ended = [k for k in there if refusals[k] >= MISSES]
        # Once or twice proves nothing: this process may have stood still while it asked.
        still = [k for k in there if silent[k][0] > 2 and time.monotonic() > silent[k][1] + silence]
        if (ended or still) and not over.is_set():
            return ended, still
    return [], []


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


def check_addresses(group: ProcessGroup) -> None:
    """Raises ConfigError unless the processes of a run have loopback or private addresses.

    Whoever reaches a process of TensorFlow can make it compute, read and write what they like. Names are
    resolved, if need be for as long as processes wait for one another: some exist only once a process runs.
    """
    if unknown := _waited(dict.fromkeys(group.addresses), _is_checked):
        raise ConfigError(
            f"the hosts in TF_CONFIG must have addresses. Received: {', '.join(unknown)}, unknown for "
            f"{PATIENCE:.0f} s"
        )


def _is_checked(address: str) -> bool:
    """Returns whether an address host:port is known; ConfigError if it is not private."""
    host, _ = host_and_port(address)
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # the name is unknown, or cannot be a host's
        return False
    found = [ipaddress.ip_address(entry[4][0].partition("%")[0]) for entry in entries]
    if public := [str(own) for own in found if not is_private(own)]:
        raise ConfigError(
            "the processes of a run talk without encryption and without passwords, so their addresses must "
            "be loopback or private ones. Use a private network, or a tunnel by SSH or WireGuard "
            "(docs/distributed.md); --insecure_network allows any address. Received: TF_CONFIG with "
            f"{address}" + (f", which is {public[0]}" if public[0] != host else "")
        )
    return bool(found)


def is_private(address: Address) -> bool:
    """Whether an address is a loopback, link-local or private one."""
    address = getattr(address, "ipv4_mapped", None) or address
    near = address.is_loopback or address.is_link_local or address.is_private
    return near and not address.is_unspecified
