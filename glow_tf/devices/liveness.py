"""Whether the other processes of a run answer, and nobody else can. Pure Python: no TensorFlow."""

import ipaddress
import socket
import time
from collections.abc import Iterable, Sequence

from glow_tf.devices.processes import ProcessGroup, host_and_port
from glow_tf.errors import ConfigError

PATIENCE = 120.0  # seconds within which every process must start
ANSWER_TIME = 5.0  # seconds within which a running process answers
POLL = 0.5  # seconds between two questions
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
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


def check_addresses(group: ProcessGroup) -> None:
    """Raises ConfigError unless the processes of a run have loopback or private addresses.

    Whoever reaches a process of TensorFlow can make it compute, read and write what they like. Names are
    resolved, if need be for as long as processes wait for one another: some exist only once a process runs.
    """
    end = time.monotonic() + PATIENCE
    waiting = list(dict.fromkeys(group.addresses))
    while True:
        waiting = [address for address in waiting if not _is_checked(address)]
        if not waiting:
            return
        if time.monotonic() >= end:
            raise ConfigError(
                f"the hosts in TF_CONFIG must have addresses. Received: {', '.join(waiting)}, unknown for "
                f"{PATIENCE:.0f} s"
            )
        time.sleep(POLL)


def _is_checked(address: str) -> bool:
    """Returns whether an address host:port is known; ConfigError if it is not private."""
    host, _ = host_and_port(address)
    found = addresses_of(host)
    if public := [str(own) for own in found if not is_private(own)]:
        raise ConfigError(
            "the processes of a run talk without encryption and without passwords, so their addresses must "
            "be loopback or private ones. Use a private network, or a tunnel by SSH or WireGuard "
            "(docs/distributed.md); --insecure_network allows any address. Received: TF_CONFIG with "
            f"{address}" + (f", which is {public[0]}" if public[0] != host else "")
        )
    return bool(found)


def addresses_of(host: str) -> Sequence[Address]:
    """Returns all addresses of a host; none if its name is unknown."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(entry[4][0].partition("%")[0]) for entry in found]


def is_private(address: Address) -> bool:
    """Whether an address is a loopback, link-local or private one."""
    address = getattr(address, "ipv4_mapped", None) or address
    near = address.is_loopback or address.is_link_local or address.is_private
    return near and not address.is_unspecified
