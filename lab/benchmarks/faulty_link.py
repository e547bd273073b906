"""Two network namespaces of this machine, joined by a link that can lose, hold, double and damage packets.

It does what the kernel's `netem` does, without it: this process carries every packet. Needs Linux and root.
"""

import contextlib
import dataclasses
import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import threading
import time
from collections.abc import Iterator, Sequence

from lab.benchmarks.slow_link import ADDRESSES, in_namespace, limit_rate, namespaces, run

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # from Linux's linux/if_tun.h
LARGEST = 1 << 16  # bytes of a packet
POLL = 0.05  # seconds


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens to packets, in both directions; by default nothing.

    Attributes:
      lost, doubled, damaged: shares of the packets, from 0 to 1. A damaged one has one wrong bit.
      delay_ms: how long a packet takes.
      jitter_ms: how much longer or shorter a packet may take; packets overtake one another.
    """

    lost: float = 0.0
    doubled: float = 0.0
    damaged: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0


class FaultyLink:
    """Carries packets between two ends, with the fault that is set at the moment.

    Attributes:
      fault: what happens to packets from now on.
      hit: how many packets were lost, doubled, damaged or held so far.

    Args:
      ends: files from which each packet of one side is read, and to which those of the other are written.
      seed: of what happens to which packet.
    """

    def __init__(self, ends: Sequence[int], seed: int):
        self.fault = Fault()
        self.hit = 0
        self.other_end = {ends[0]: ends[1], ends[1]: ends[0]}
        self.chances = random.Random(seed)
        self.waiting: list[tuple[float, int, int, bytes]] = []  # due, number, end, packet
        self.numbers = itertools.count()

    def carry(self, over: threading.Event) -> None:
        """Carries packets until it is over."""
        while not over.is_set():
            soon = self.waiting[0][0] - time.monotonic() if self.waiting else POLL
            for end in select.select(list(self.other_end), [], [], min(max(soon, 0.0), POLL))[0]:
                self.take(os.read(end, LARGEST), self.other_end[end])
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                *_, end, packet = heapq.heappop(self.waiting)
                with contextlib.suppress(OSError):  # the other end is not up yet
                    os.write(end, packet)

    def take(self, packet: bytes, end: int) -> None:
        """Takes a packet that is to go to an end, with what the fault of the moment does to it."""
        fault, chance = self.fault, self.chances.random
        lost, doubled, damaged = (chance() < share for share in (fault.lost, fault.doubled, fault.damaged))
        self.hit += lost or doubled or damaged or fault.delay_ms > 0
        if lost:
            return
        if damaged:
            bit = self.chances.randrange(8 * len(packet))
            changed = bytearray(packet)
            changed[bit // 8] ^= 1 << bit % 8
            packet = bytes(changed)
        for _ in range(1 + doubled):
            jitter = fault.jitter_ms * self.chances.uniform(-1, 1)
            due = time.monotonic() + (fault.delay_ms + jitter) / 1000
            heapq.heappush(self.waiting, (due, next(self.numbers), end, packet))


@contextlib.contextmanager
def faulty_link(seed: int) -> Iterator[tuple[FaultyLink, tuple[str, str]]]:
    """Makes the link; yields it and the names of the two namespaces, and removes all at the end.

    A process in namespace k is reached at `ADDRESSES[k]`.

    Args:
      seed: of what happens to which packet.

    Raises:
      OSError: the link cannot be made here.
    """
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(namespaces())
        ends = []
        for name, address in zip(names, ADDRESSES, strict=True):
            ends.append(tunnel(name))
            stack.callback(os.close, ends[-1])
            run("ip", "link", "set", name, "netns", name)
            run(*in_namespace(name), "ip", "addr", "add", f"{address}/24", "dev", name)
            run(*in_namespace(name), "ip", "link", "set", name, "up")
        link, over = FaultyLink(ends, seed), threading.Event()
        carrier = threading.Thread(target=link.carry, args=[over], daemon=True)
        carrier.start()
        stack.callback(carrier.join)
        stack.callback(over.set)
        yield link, names


@contextlib.contextmanager
def home_link(mbit: float, latency_ms: float, lost: float, seed: int) -> Iterator[tuple[str, str]]:
    """Makes a link of a limited rate, as homes have it; yields the names of the two namespaces.

    Args:
      mbit: millions of bits per second in each direction.
      latency_ms: milliseconds that a packet takes.
      lost: share of the packets that are lost.
      seed: of which packets these are.

    Raises:
      OSError: the link cannot be made here.
    """
    with faulty_link(seed) as (link, names):
        for name in names:
            limit_rate(name, name, mbit)
        link.fault = Fault(lost=lost, delay_ms=latency_ms)
        yield names


def tunnel(name: str) -> int:
    """Makes a network device of which this process is the other end; returns the file of that end."""
    end = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
    return end
