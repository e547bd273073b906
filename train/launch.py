"""Starts a run's processes on this machine, one a part.

    python train/launch.py --parts -- --flagfile=configs/cifar10_small_across_2.cfg --schedule=simultaneous

What follows `--` are main.py's flags; `--strategy=part_parallel` is added. Each part gets a process, and its
share of the cores; the first one trains and prints. On several machines, start main.py itself on each, with a
`TF_CONFIG` that lists them (docs/distributed.md). If one is lost the run ends with an error, and the same
command goes on from the last checkpoint.
"""

import os
import signal
import socket
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib

import flags_of_run
from absl import app, flags
from processes import die_with_parent

from glow_tf.cluster import Cluster
from glow_tf.config import ConfigError

PARTS = flags.DEFINE_boolean("parts", False, "One process for each part of the model.")

MAIN = pathlib.Path(__file__).parent / "main.py"
GRACE = 60.0  # seconds in which a run that has lost a process says so itself


def main(argv: list[str]) -> int:
    """Starts the processes and waits; returns the exit status of the first."""
    try:
        if not PARTS.value:
            raise ConfigError("launch needs --parts. Received: no kind of processes")
        arguments = [*argv[1:], "--strategy=part_parallel"]
        return _run(arguments, _number_of_parts(arguments))
    except (ConfigError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _number_of_parts(arguments: list[str]) -> int:
    try:
        return len(flags_of_run.config_of(arguments).model.flow_step_counts)
    except (flags.Error, OSError) as error:
        raise ConfigError(f"flags of main.py follow after --. {error}") from None


def _run(arguments: list[str], count: int) -> int:
    addresses = tuple(f"localhost:{port}" for port in _free_ports(count))
    processes: list[subprocess.Popen] = []
    for index in range(count):
        processes.append(
            subprocess.Popen(
                [sys.executable, str(MAIN), *arguments],
                env={**os.environ, "TF_CONFIG": Cluster(addresses, index).tf_config},
                preexec_fn=die_with_parent,
            )
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        deadline = float("inf")
        while (status := processes[0].poll()) is None and time.monotonic() < deadline:
            if any(p.poll() is not None for p in processes[1:]):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.1)
        return 1 if status is None else status
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on from the last checkpoint.", file=sys.stderr)
        return 130
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for listener in sockets:
            listener.bind(("localhost", 0))
        return [listener.getsockname()[1] for listener in sockets]
    finally:
        for listener in sockets:
            listener.close()


if __name__ == "__main__":
    app.run(main)
