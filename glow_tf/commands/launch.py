"""Starts a run's processes on this machine: one a part, or some that share every batch.

    python train/launch.py --parts -- --flagfile=configs/cifar10_small_across_2.cfg --schedule=simultaneous
    python train/launch.py --workers=2 -- --flagfile=configs/cifar10_small_across_2.cfg

What follows `--` are main.py's flags; `--strategy` is added. Each process gets its share of the cores, and
the first one prints and has the workdir. On several machines, start main.py itself on each, with a
`TF_CONFIG` that lists them (docs/distributed.md). If a process is lost the run ends with an error, and the
same command goes on from the last checkpoint.
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

from glow_tf.cluster import JOBS, Cluster, lost_message
from glow_tf.config import ConfigError, RunConfig

PARTS = flags.DEFINE_boolean("parts", False, "One process for each part of the model.")
WORKERS = flags.DEFINE_integer("workers", 0, "So many processes, each with a share of every batch.")

MAIN = pathlib.Path(__file__).parent / "main.py"
GRACE = 60.0  # seconds in which a run that has lost a process says so itself


def main(argv: list[str]) -> int:
    """Starts the processes and waits; returns the exit status of the first."""
    try:
        if PARTS.value == (WORKERS.value > 0):
            raise ConfigError(
                "launch needs either --parts or --workers=N. Received: "
                f"--parts={PARTS.value}, --workers={WORKERS.value}"
            )
        strategy = "part_parallel" if PARTS.value else "multi_worker"
        arguments = [*argv[1:], f"--strategy={strategy}"]
        config = _config(arguments)
        return _run(arguments, JOBS[strategy], WORKERS.value or len(config.model.flow_step_counts))
    except (ConfigError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def _config(arguments: list[str]) -> RunConfig:
    try:
        return flags_of_run.config_of(arguments)
    except (flags.Error, OSError) as error:
        raise ConfigError(f"flags of main.py follow after --. {error}") from None


def _run(arguments: list[str], job: str, count: int) -> int:
    addresses = tuple(f"localhost:{port}" for port in _free_ports(count))
    clusters = [Cluster(job, addresses, index) for index in range(count)]
    processes: list[subprocess.Popen] = []
    for cluster in clusters:
        processes.append(
            subprocess.Popen(
                [sys.executable, str(MAIN), *arguments],
                env={**os.environ, "TF_CONFIG": cluster.tf_config},
                preexec_fn=die_with_parent,
                # Workers all have the same to say.
                stdout=subprocess.DEVNULL if job == "worker" and cluster.index else None,
            )
        )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        deadline = float("inf")
        while (status := processes[0].poll()) is None and time.monotonic() < deadline:
            if any(p.poll() is not None for p in processes[1:]):
                deadline = min(deadline, time.monotonic() + GRACE)
            time.sleep(0.1)
        if status is None or status < 0:
            gone = [k for k, process in enumerate(processes) if process.poll() is not None]
            raise OSError(lost_message(clusters[0].names(gone)))
        return status
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
