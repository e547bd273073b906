"""Child processes: commands of this package that end when their parent does."""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h
POLL = 0.1  # seconds


def command(name: str) -> list[str]:
    """Returns how a command of this package is started in a process of its own: `glow-tf NAME`."""
    return [sys.executable, "-m", "glow_tf.commands", name]


def start(arguments: Sequence[str], **options: Any) -> subprocess.Popen:
    """Starts a process that is killed when this one ends, where the system is Linux."""
    return subprocess.Popen(arguments, preexec_fn=die_with_parent if os.name == "posix" else None, **options)


def die_with_parent() -> None:
    """Asks Linux to kill this process when its parent ends; does nothing on other systems.

    Call it in the child before its program starts.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_for_first(processes: Sequence[subprocess.Popen], grace: float) -> int | None:
    """Waits until the first process ends, or another one has, and then `grace` seconds.

    Returns the first one's exit status; None if it still runs.
    """
    deadline = float("inf")
    while (status := processes[0].poll()) is None and time.monotonic() < deadline:
        if any(process.poll() is not None for process in processes[1:]):
            deadline = min(deadline, time.monotonic() + grace)
        time.sleep(POLL)
    return status


def ends_by_sigterm() -> None:
    """Lets SIGTERM end this process as `sys.exit` does, so that it ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def ask_to_end(process: subprocess.Popen, seconds: float | None = None) -> None:
    """Sends SIGTERM to a process and waits until it has ended, or for some seconds."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def gpus_of_each(count: int, environment: Mapping[str, str]) -> list[dict[str, str]]:
    """Divides this machine's GPUs between `count` processes: TensorFlow takes all memory of those it sees.

    Returns what to add to the environment of each process; nothing where there is no GPU. Where there are
    fewer than processes, some share one, and take of its memory only what they need. `CUDA_VISIBLE_DEVICES`
    of the environment, if set, says which GPUs there are.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    names = _nvidia_gpus() if visible is None else [name.strip() for name in visible.split(",")]
    gpus = list(itertools.takewhile(lambda name: name not in ("", "-1"), names))  # as CUDA reads it
    if not gpus:
        return [{}] * count
    if len(gpus) < count:
        growing = {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
        return [{"CUDA_VISIBLE_DEVICES": gpus[k % len(gpus)], **growing} for k in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[k::count])} for k in range(count)]


def _nvidia_gpus() -> list[str]:
    """Returns the numbers of this machine's GPUs, as NVIDIA's driver counts them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    with contextlib.suppress(subprocess.TimeoutExpired):
        listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False, timeout=20)
        return [str(k) for k in range(sum(line.startswith("GPU ") for line in listing.stdout.splitlines()))]
    return []


def free_ports(count: int) -> list[int]:
    """Returns `count` different ports of this machine that no process listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("localhost", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()
