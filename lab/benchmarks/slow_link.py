"""Two network namespaces of this machine, joined by a slow link. Needs Linux and root."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

ADDRESSES = ("10.213.7.1", "10.213.7.2")
DEVICE = "veth0"


@contextlib.contextmanager
def slow_link(mbit: float, latency_ms: float = 0.0) -> Iterator[tuple[str, str]]:
    """Makes the link, yields the names of the two namespaces, and removes both at the end.

    A process in namespace k is reached at `ADDRESSES[k]`; `in_namespace` tells how to start one.

    Args:
      mbit: millions of bits per second in each direction.
      latency_ms: milliseconds in one direction. A kernel without netem keeps the rate but has no latency.

    Raises:
      OSError: the link cannot be made here.
    """
    with namespaces() as names:
        peer = ("type", "veth", "peer", DEVICE, "netns", names[1])
        run("ip", "link", "add", DEVICE, "netns", names[0], *peer)
        for name, address in zip(names, ADDRESSES, strict=True):
            run(*in_namespace(name), "ip", "addr", "add", f"{address}/24", "dev", DEVICE)
            run(*in_namespace(name), "ip", "link", "set", DEVICE, "up")
            _slow_down(name, mbit, latency_ms)
        yield names


@contextlib.contextmanager
def namespaces() -> Iterator[tuple[str, str]]:
    """Makes two network namespaces whose processes reach themselves; yields their names, removes both."""
    names = (f"glow{os.getpid()}a", f"glow{os.getpid()}b")
    with contextlib.ExitStack() as stack:
        for name in names:
            run("ip", "netns", "add", name)
            stack.callback(run, "ip", "netns", "del", name)
            run(*in_namespace(name), "ip", "link", "set", "lo", "up")
        yield names


def in_namespace(name: str) -> tuple[str, ...]:
    """Returns the words that come before a command to run it in a namespace."""
    return ("ip", "netns", "exec", name)


def run(*command: str) -> str:
    """Runs a command and returns its output; if it fails, raises OSError with its error message."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except subprocess.CalledProcessError as error:
        raise OSError(f"{' '.join(command)}: {error.stderr.strip()}") from None


def limit_rate(namespace: str, device: str, mbit: float) -> None:
    """Limits what leaves a device of a namespace to millions of bits per second."""
    bucket = ("tbf", "rate", f"{mbit:g}mbit", "burst", "64kb", "latency", "1s")
    run(*in_namespace(namespace), "tc", "qdisc", "add", "dev", device, "root", *bucket)


def _slow_down(name: str, mbit: float, latency_ms: float) -> None:
    netem = ("netem", "rate", f"{mbit:g}mbit", "delay", f"{latency_ms:g}ms")
    try:
        if latency_ms:
            run(*in_namespace(name), "tc", "qdisc", "add", "dev", DEVICE, "root", *netem)
            return
    except OSError:
        pass  # a kernel without netem
    limit_rate(name, DEVICE, mbit)
