"""The link of the network's faults does to packets what it says."""

import contextlib
import os
import select
import socket
import threading

from lab.benchmarks.faulty_link import Fault, FaultyLink


@contextlib.contextmanager
def link_and_sides():
    """A link between two sides, on which each message is a packet."""
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
        (left, one), (right, other) = [tuple(map(stack.enter_context, pair)) for pair in pairs]
        link, over = FaultyLink([one.fileno(), other.fileno()], seed=0), threading.Event()
        carrier = threading.Thread(target=link.carry, args=[over])
        carrier.start()
        try:
            yield link, left, right
        finally:
            over.set()
            carrier.join()


def passed(fault, packets):
    """What arrives of packets, and how many the fault has hit."""
    with link_and_sides() as (link, left, right):
        link.fault = fault
        for packet in packets:
            left.send(packet)
        found = []
        while select.select([right], [], [], 0.5)[0]:
            found.append(right.recv(1000))
        return found, link.hit


PACKETS = [os.urandom(40) for _ in range(30)]


def test_a_sound_link_changes_nothing():
    assert passed(Fault(), PACKETS) == (PACKETS, 0)


def test_lost_packets_do_not_arrive():
    assert passed(Fault(lost=1.0), PACKETS) == ([], 30)
    found, hit = passed(Fault(lost=0.5), PACKETS)
    assert found == [packet for packet in PACKETS if packet in found]
    assert 0 < hit == 30 - len(found)


def test_doubled_packets_arrive_twice():
    found, _ = passed(Fault(doubled=1.0), PACKETS)
    assert found == [packet for packet in PACKETS for _ in range(2)]


def test_a_damaged_packet_has_one_wrong_bit():
    found, _ = passed(Fault(damaged=1.0), PACKETS)
    for before, after in zip(PACKETS, found, strict=True):
        assert (int.from_bytes(before, "big") ^ int.from_bytes(after, "big")).bit_count() == 1


def test_packets_whose_times_differ_overtake_one_another():
    found, hit = passed(Fault(delay_ms=50, jitter_ms=50), PACKETS)
    assert hit == 30
    assert found != PACKETS
    assert sorted(found) == sorted(PACKETS)
