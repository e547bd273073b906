"""Runs of `glow-tf` whose processes have a core each: on their own, or as two machines joined by a link."""

import contextlib
import csv
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence

from glow_tf.devices import children
from glow_tf.devices.processes import ProcessGroup
from lab.benchmarks.slow_link import ADDRESSES, in_namespace

PORT = 4711  # every port is free in a new namespace


def run_on_cores(command: Sequence[str], *cores: int) -> None:
    """Runs a command on some of this process's cores, given by their index; OSError if it fails."""
    _check(subprocess.run(command, preexec_fn=lambda: _on_cores(*cores), capture_output=True, text=True))


def run_in_namespaces(command: Sequence[str], job: str, namespaces: Sequence[str]) -> None:
    """Runs a command as two processes of one run, each in a network namespace and on a core of its own.

    Args:
      command: of both.
      job: what `TF_CONFIG` calls them, `part` or `worker`.
      namespaces: their names; the process in namespace k is reached at `ADDRESSES[k]`.

    Raises:
      OSError: one of them failed.
    """
    addresses = tuple(f"{address}:{PORT}" for address in ADDRESSES)
    with contextlib.ExitStack() as stack:
        processes, errors = [], []
        for index, namespace in enumerate(namespaces):
            errors.append(stack.enter_context(tempfile.TemporaryFile("w+")))
            process = subprocess.Popen(
                [*in_namespace(namespace), *command],
                env={**os.environ, "TF_CONFIG": ProcessGroup(job, addresses, index).tf_config},
                preexec_fn=lambda index=index: _on_cores(index),
                stdout=subprocess.DEVNULL,
                stderr=errors[-1],
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            processes.append(process)
        processes[0].wait()
        # The second process ends a little later; if it failed, its message is the reason.
        for process, said in reversed(list(zip(processes, errors, strict=True))):
            if process.poll():
                said.seek(0)
                _check(subprocess.CompletedProcess(command, process.returncode, "", said.read()))


def seconds_of_epochs(workdir: pathlib.Path) -> list[float]:
    """Returns the training seconds of a run's epochs."""
    with open(workdir / "history.csv", newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def _on_cores(*cores: int) -> None:
    """In a child: limits it to some of this process's cores, given by their index."""
    children.die_with_parent()
    mine = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {mine[core % len(mine)] for core in cores})


def _check(finished: subprocess.CompletedProcess) -> None:
    if finished.returncode:
        last = finished.stderr.strip().splitlines()[-1:]
        raise OSError(f"a run ended with status {finished.returncode}: {last[0] if last else ''}")
