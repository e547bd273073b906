"""Child processes: commands of this package that end when their parent does."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # from Linux's sys/prctl.h


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


def ends_by_sigterm() -> None:
    """Lets SIGTERM end this process as `sys.exit` does, so that it ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def ask_to_end(process: subprocess.Popen, seconds: float | None = None) -> None:
    """Sends SIGTERM to a process and waits until it has ended, or for some seconds."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
