"""Small runs, and what they leave behind."""

import contextlib
import csv
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import keras
import pytest
import tensorflow as tf
from small import ROOT, eagerly

from glow_tf import RunConfig, export
from glow_tf.run import context, lifecycle
from glow_tf.run.checkpoints import state_of
from glow_tf.run.history import MEASURED_COLUMNS

SMALL = {
    "dataset": "digits",
    "n_bits": 5,
    "train_examples": 320,
    "test_examples": 50,
    "num_blocks": 2,
    "flow_steps": 1,
    "width": 8,
    "parts": "by_block:2",
    "schedule": "alternating",
    "part_epochs": 4,
    "finetune_epochs": 2,
    "learning_rate": "5e-3",
    "rate_scaling": "size",
    "rate_schedule": "cosine",
    "batch_size": 32,
    "augment": "flip_shift",
    "sample_every": 3,
}


def config(folder, **changes):
    own = {"strategy": "one_device", "workdir": str(folder)}  # `auto` would take both devices of the tests
    return RunConfig.from_settings({**SMALL, **own, **changes})


_traced = {}


@contextlib.contextmanager
def traced_once():
    """Within the context runs of equal settings share a trainer, which is given out as it was at first.

    What it has traced stays traced, which is most of a small run's time.
    """
    make = context.compiled_trainer

    def shared(config, flow, phases, steps):
        if flow.part_devices or tf.distribute.has_strategy() or config.train.cache_prefix:
            return make(config, flow, phases, steps)
        settings = dataclasses.asdict(config.train)
        constant = settings["rate_schedule"] == "constant" and not settings["finetune_learning_rate"]
        if constant:  # steps do not depend on the number of epochs
            del settings["part_epochs"], settings["finetune_epochs"]
        of_epochs = () if constant else phases
        own = (config.seed, config.jit_compile, config.streams)
        key = repr((config.model, settings, own, of_epochs, steps))
        if key not in _traced:
            trainer = make(config, flow, phases, steps)
            state = tf.nest.flatten([state_of(trainer)])
            _traced[key] = trainer, state, [variable.numpy() for variable in state]
        trainer, state, values = _traced[key]
        for variable, value in zip(state, values, strict=True):
            variable.assign(value)
        trainer.phases = tuple(phases)
        return trainer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "compiled_trainer", shared)
        yield


def export_traced(flow, path):
    """Exports a model from an eager run: what TensorFlow writes to a file must be traced."""
    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    try:
        export(flow, path)
    finally:
        tf.config.run_functions_eagerly(eager)


def train(settings, *callbacks, anew=False, eager=False):
    """Trains in this process, `anew` with nothing traced yet, as a new process would go on.

    A run of few steps is sooner over `eager`, with nothing traced at all.
    """
    with eagerly() if eager else contextlib.nullcontext() if anew else traced_once():
        return lifecycle.train(settings, export_traced, callbacks)


def reproducible(row):
    """Returns what a row of history.csv says that follows from the seed: all but times and memory."""
    return {name: value for name, value in row.items() if name not in MEASURED_COLUMNS}


def train_until(epoch, settings):
    """Trains in this process until an epoch, from 1, is over; then the run is interrupted."""

    def stop(number, logs):
        if number + 1 == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, keras.callbacks.LambdaCallback(on_epoch_end=stop))


def flags(folder, **changes):
    return [f"--{name}={value}" for name, value in {**SMALL, "workdir": str(folder), **changes}.items()]


def rows_of(folder):
    with (folder / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def workdir_rows(folder):
    try:
        return rows_of(folder)
    except FileNotFoundError:
        return []


def signal_amid(number, folder, arguments, rows):
    """Runs train/main.py, and sends it a signal when history.csv has `rows` rows.

    Returns the process's status and what it wrote to stderr.
    """
    command = [sys.executable, str(ROOT / "train" / "main.py"), *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while len(workdir_rows(folder)) < rows and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1].decode()
    return process.returncode, error


def free_ports(count):
    """Returns addresses of this machine that no process listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in sockets:
            listener.bind(("localhost", 0))
        return [f"localhost:{listener.getsockname()[1]}" for listener in sockets]


def together(*arguments, addresses=(), only=None):
    """Starts train/main.py in two processes of one cluster, or one of them alone, at given addresses."""
    addresses = addresses or free_ports(2)
    started = []
    for index in range(2) if only is None else [only]:
        described = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(described)}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        command = [sys.executable, "train/main.py", *arguments]
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    return started if only is None else started[0]
