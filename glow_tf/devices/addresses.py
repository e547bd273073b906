"""Where the processes of a run may listen: nobody else should reach them. Pure Python: no TensorFlow."""

import ipaddress
import socket
import time
from collections.abc import Sequence

from glow_tf.devices import liveness
from glow_tf.devices.processes import ProcessGroup, host_and_port
from glow_tf.errors import ConfigError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def check_addresses(group: ProcessGroup) -> None:
    """Raises ConfigError unless the processes of a run have loopback or private addresses.

    Whoever reaches a process of TensorFlow can make it compute, read and write what they like. Names are
    resolved, if need be for as long as processes wait for one another: some exist only once a process runs.
    """
    end = time.monotonic() + liveness.PATIENCE
    waiting = list(dict.fromkeys(group.addresses))
    while True:
        waiting = [address for address in waiting if not _is_checked(address)]
        if not waiting:
            return
        if time.monotonic() >= end:
            raise ConfigError(
                f"the hosts in TF_CONFIG must have addresses. Received: {', '.join(waiting)}, unknown for "
                f"{liveness.PATIENCE:.0f} s"
            )
        time.sleep(liveness.POLL)


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
