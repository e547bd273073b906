"""Starts the processes of one run on this machine: one per part, or several workers.

    glow-tf launch --parts -- --flagfile=cifar10_small_across_2 --data_dir=PATH --schedule=simultaneous
    glow-tf launch --workers=2 -- --flagfile=cifar10_small_across_2 --data_dir=PATH

The flags of `glow-tf train` follow after `--`; the launcher adds `--strategy`. Workers share every batch, and
each part has the whole batch. The cores and the GPUs are divided between the processes. The first process
prints and writes the workdir. To use several machines, start `glow-tf train` on each of them, with a
`TF_CONFIG` that lists them (docs/distributed.md). If a process is lost, the run ends with an error, and the
same command continues from the last checkpoint.
"""

import os
import subprocess
from collections.abc import Sequence

from absl import flags

from glow_tf.commands import parsing, run_flags
from glow_tf.core.errors import ConfigError
from glow_tf.devices import children
from glow_tf.devices.processes import JOBS, ProcessGroup, lost_message
from glow_tf.devices.stall import ENDS_ITS_RUN

FLAGS_AFTER_DASHES = "train"
PARTING = 30.0  # seconds in which an interrupted run ends its step and says what it keeps
GRACE = 60.0  # seconds in which a run that has lost a process says so itself


def define(values: flags.FlagValues) -> None:
    parsing.define(
        values,
        parts=(False, "Start one process for each part of the model."),
        workers=(0, "Start this many processes, each with a slice of every batch."),
    )


def main(values: flags.FlagValues, arguments: Sequence[str]) -> int:
    if values.workers < 0 or values.parts == (values.workers > 0):
        raise ConfigError(
            "glow-tf launch needs either --parts or --workers=N. Received: "
            f"--parts={values.parts}, --workers={values.workers}"
        )
    strategy = "part_parallel" if values.parts else "multi_worker"
    arguments = [*arguments, f"--strategy={strategy}"]
    config = run_flags.config_of(arguments)  # what it refuses, each process would refuse
    run_flags.check_data(config)
    count = values.workers or config.num_parts
    if count is None:
        raise ConfigError("--parts needs --num_blocks, or a --flagfile with it. Received: neither")
    return _run(arguments, strategy, count)


def _run(arguments: list[str], strategy: str, count: int) -> int:
    gpus = children.gpus_of_each(count, os.environ)
    addresses = tuple(f"localhost:{port}" for port in children.free_ports(count))
    groups = [ProcessGroup(JOBS[strategy], addresses, index) for index in range(count)]
    processes: list[subprocess.Popen] = []
    children.ends_by_sigterm()
    try:
        for group in groups:
            processes.append(
                children.start(
                    [*children.command("train"), *arguments],
                    env={**os.environ, **gpus[group.index], "TF_CONFIG": group.tf_config},
                    start_new_session=True,  # a terminal's Ctrl-C is for the launcher
                    # All workers print the same.
                    stdout=subprocess.DEVNULL if group.job == "worker" and group.index else None,
                )
            )
        status = children.wait_for_first(processes, GRACE)
        if status is None or status < 0:
            statuses = [process.poll() or 0 for process in processes]
            killed = [k for k, own in enumerate(statuses) if own < 0 and own != -ENDS_ITS_RUN]
            if not killed:  # who ended by itself, or was ended by its watch, has said why
                return 1
            raise OSError(lost_message(groups[0].names(killed)))
        return status
    except (KeyboardInterrupt, SystemExit):
        # The first process alone: it could not end its step without the others.
        if processes:
            children.ask_to_end(processes[0], PARTING)
        raise
    finally:
        for process in processes:
            process.kill()
            process.wait()
