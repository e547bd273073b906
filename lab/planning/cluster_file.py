"""The devices and links that a run is planned for, and the file that describes them. Pure Python."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping

from glow_tf.core.errors import ConfigError
from lab.sections import Sections

SEGMENT_BYTES = 1460  # of TCP
DEVICE = "device "
MOST_DEVICES = 10_000


@dataclasses.dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
      name: its name.
      speed: arithmetic speed relative to the device that was calibrated; used where `flops` is 0.
      flops: sustained floating-point operations per second; 0 if the device is given by its speed.
      memory: bytes.
    """

    name: str
    speed: float
    flops: float
    memory: float


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Devices, and the link between any two of them.

    Attributes:
      title: its name in tables.
      devices: all devices, in the order in which parts are placed on them.
      bandwidth: bytes per second in one direction.
      latency: seconds in one direction.
      loss: fraction of packets lost.
    """

    title: str
    devices: tuple[Device, ...]
    bandwidth: float
    latency: float
    loss: float = 0.0

    @property
    def rate(self) -> float:
        """Bytes per second of one TCP connection; packet loss limits it, more so at a higher latency.

        Reference: Mathis et al. 1997, "The macroscopic behavior of the TCP congestion avoidance algorithm".
        """
        if not self.loss:
            return self.bandwidth
        return min(self.bandwidth, 1.22 * SEGMENT_BYTES / (2 * self.latency * math.sqrt(self.loss)))

    def transfer(self, size: float) -> float:
        """Returns the seconds until `size` bytes have arrived."""
        return self.latency + size / self.rate if size else 0.0


def read_cluster_file(path: str | pathlib.Path) -> Cluster:
    """Reads a description of a cluster.

        [cluster]      title; mbit, latency_ms and loss of the link between any two devices
        [device NAME]  count; memory_gb; and gflops (sustained, billions of operations per second), or speed
                       (relative to the calibrated device)

    Raises:
      ConfigError: the file does not exist, or holds something else.
    """
    received = f"Received: cluster={str(path)!r}"
    try:
        file = Sections(path, lowercase=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cluster file: {error}. {received}") from None
    devices: list[Device] = []
    section = "cluster"
    try:
        link = file.contents.get("cluster", {})
        for section in file.contents:
            if section != "cluster":
                devices += _devices(section, file.contents[section])
        section = "cluster"
        return _cluster(link, devices, pathlib.Path(path).stem)
    except (KeyError, ValueError, OverflowError) as error:
        reason = f"[{section}] must have {error}" if isinstance(error, KeyError) else str(error)
        line = file.line_of(section)
        raise ConfigError(
            f"cluster file: {reason}. {received}" + (f", line {line}" if line else "")
        ) from None


def _devices(section: str, own: Mapping[str, str]) -> list[Device]:
    if not section.startswith(DEVICE):
        raise ValueError(f"sections must be cluster and device NAME, not {section}")
    if unknown := set(own) - {"count", "memory_gb", "gflops", "speed"}:
        raise ValueError(f"[{section}] must hold count, memory_gb, gflops or speed, not {sorted(unknown)}")
    if ("gflops" in own) == ("speed" in own):
        raise ValueError(f"[{section}] must hold either gflops or speed")
    flops, speed = 1e9 * _number(section, own, "gflops", 0), _number(section, own, "speed", 1)
    if "gflops" in own and not flops > 0:
        raise ValueError(f"[{section}] must have positive gflops")
    device = Device(section.removeprefix(DEVICE), speed, flops, 1e9 * _number(section, own, "memory_gb"))
    count = _number(section, own, "count", 1)
    if not (count.is_integer() and 1 <= count <= MOST_DEVICES):
        raise ValueError(f"[{section}] must have a count from 1 to {MOST_DEVICES}, not {count:g}")
    if not all(0 < number < math.inf for number in (speed, flops or 1.0, device.memory)):
        raise ValueError(f"the numbers of [{section}] must be positive")
    return [device] * int(count)


def _number(section: str, own: Mapping[str, str], key: str, default: float | None = None) -> float:
    """Returns a number of a section; KeyError if it is missing without a default."""
    text = own[key] if default is None else own.get(key, default)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"[{section}] must have a number as {key}, not {text!r:.100}") from None


def _cluster(link: Mapping[str, str], devices: list[Device], name: str) -> Cluster:
    if unknown := set(link) - {"title", "mbit", "latency_ms", "loss"}:
        raise ValueError(f"[cluster] must hold title, mbit, latency_ms and loss, not {sorted(unknown)}")
    cluster = Cluster(
        link.get("title", name),
        tuple(devices),
        _number("cluster", link, "mbit") * 1e6 / 8,
        _number("cluster", link, "latency_ms", 0) / 1e3,
        _number("cluster", link, "loss", 0),
    )
    if not devices or not 0 < cluster.bandwidth < math.inf or not 0 <= cluster.loss < 1:
        raise ValueError("there must be a device, and numbers must be positive")
    lossless = not cluster.loss or cluster.latency * math.sqrt(cluster.loss) > 0
    if not 0 <= cluster.latency < math.inf or not lossless:
        raise ValueError("latency_ms must not be negative, and must be positive where packets are lost")
    return cluster
