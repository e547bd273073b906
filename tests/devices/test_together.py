"""Processes of one run go back together, save together, and end when one of them stands still."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers import KINDS, config, flags, launch, rows_of, train
from small import ROOT

import glow_tf
from glow_tf.commands import launch as launching
from glow_tf.devices import stall
from glow_tf.run import callbacks
from glow_tf.run.epoch import EpochResult
from glow_tf.run.files import checkpoint_files, history

FAST = {"tensorboard": False, "sample_every": 0, "export": False, "batch_size": 8, "train_examples": 160}
FAST |= {"part_epochs": 2, "finetune_epochs": 0, "augment": "none", "warmup_steps": 10}
FAST |= {"num_blocks": 1, "flow_steps": 2, "parts": "1,1", "schedule": "simultaneous"}
STRATEGIES = {"part": "part_parallel", "worker": "multi_worker"}

# What a process of a run does: argv is what it disturbs, whether it does, and the run's flags.
DISTURBED = """
import os, signal, sys
import keras, numpy as np
from glow_tf import export
from glow_tf.commands.run_flags import config_of
from glow_tf.devices import liveness
from glow_tf.run import lifecycle

liveness.SILENCE = 1.0

class Disturbance(keras.callbacks.Callback):
    times = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        if sys.argv[2] == "yes" and (self.epoch, batch + 1) == (2, 3) and not self.times:
            self.times += 1
            if sys.argv[1] == "poison":
                weight = self.model.glow.parts[-1].trainable_variables[1]
                weight.assign(np.full(weight.shape, np.nan))
            else:
                os.kill(int(sys.argv[1]) or os.getpid(), signal.SIGSTOP)

lifecycle.train(config_of(sys.argv[3:]), export, [Disturbance()])
"""


@contextlib.contextmanager
def two(kind, what, disturb, **settings):
    """Starts two processes; `disturb` says which of them disturb the run. `what` may be "the other"."""
    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            listener.bind(("localhost", 0))
        addresses = [f"localhost:{listener.getsockname()[1]}" for listener in (first, second)]
    started = []
    try:
        for index in (1, 0):
            task = {"cluster": {kind: addresses}, "task": {"type": kind, "index": index}}
            own = str(started[0].pid if what == "the other" and started else 0 if what != "poison" else what)
            command = [sys.executable, "-c", DISTURBED, own, "yes" if index in disturb else "no"]
            process = subprocess.Popen(
                [*command, *flags(**settings, strategy=STRATEGIES[kind])],
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": json.dumps(task)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            started.append(process)
        yield started[::-1], addresses
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "disturb", "changes"),
    [
        ("part", [0], {}),
        ("worker", [0, 1], {}),
        # No meeting until the epoch's end: worker 1 alone diverges, and tells worker 0.
        ("worker", [1], {"sync_every": 20}),
    ],
    ids=["parts", "workers", "workers that make steps alone"],
)
def test_processes_go_back_together(kind, disturb, changes, tmp_path):
    with two(kind, "poison", disturb, folder=tmp_path / "run", **FAST, **changes) as ((first, second), _):
        output, _ = first.communicate(timeout=300)
        assert first.returncode == 0, output
        assert second.wait(timeout=60) == 0, second.stdout.read()
    assert "Going back to epoch 1 (1 of at most 3 times); for one epoch the rate of part 2 is 0.5" in output
    assert [row["recoveries"] for row in rows_of(tmp_path / "run")] == ["0", "1"]
    if not changes:

        class Poison(keras.callbacks.Callback):
            times = 0

            def on_train_batch_begin(self, batch, logs=None):
                if int(self.model.optimizers[0].iterations) == 22 and not self.times:
                    self.times += 1
                    weight = self.model.glow.parts[-1].trainable_variables[1]
                    weight.assign(np.full(weight.shape, np.nan))

        train(config(tmp_path / "one", **FAST), Poison())
        one, other = (float(rows_of(tmp_path / name)[-1]["test_bpd"]) for name in ("one", "run"))
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "what", "stands"), [("part", "the other", 1), ("worker", "itself", 0)], ids=KINDS
)
def test_a_process_that_stands_still_ends_the_others(kind, what, stands, tmp_path):
    by = [0]  # parts have no callbacks: process 0 stops the other one
    with two(kind, what, by, folder=tmp_path / "run", **FAST) as (processes, addresses):
        other = processes[1 - stands]
        output, _ = other.communicate(timeout=200)
        assert other.returncode == -stall.ENDS_ITS_RUN
        assert processes[stands].poll() is None
    assert f"Error: Lost the process of {kind} {2 if kind == 'part' else 0} ({addresses[stands]})" in output


@pytest.mark.slow
def test_a_worker_that_saved_within_an_epoch_resumes_to_the_digit(tmp_path):
    settings = {**FAST, "parts": "1", "flow_steps": 1, "schedule": "end_to_end"}
    whole = launch("worker", *flags(tmp_path / "whole", **settings))
    assert whole.wait(timeout=200) == 0, whole.stdout.read()
    run = launch("worker", *flags(tmp_path / "cut", **settings, checkpoint_minutes=1e-9))  # after each step
    within = checkpoint_files.within(tmp_path / "cut" / "checkpoints", 1)
    deadline = time.monotonic() + 120
    while max(checkpoint_files.complete(within), default=0) < 5 and time.monotonic() < deadline:
        time.sleep(0.005)
    run.kill()  # and with it its children
    run.communicate(timeout=60)
    assert 5 <= checkpoint_files.progress(tmp_path / "cut" / "checkpoints")[1] < 20
    again = launch("worker", *flags(tmp_path / "cut", **settings, checkpoint_minutes=1e-9))
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    assert "Resuming after step " in output
    for a, b in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut"), strict=True):
        assert history.reproducible(a) == history.reproducible(b)
    weights = (glow_tf.load(tmp_path / name).get_weights() for name in ("whole", "cut"))
    for a, b in zip(*weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("chief", "saves"), [(True, [100]), (False, [7])], ids=["first", "another"])
def test_workers_look_at_the_first_ones_clock_now_and_then(chief, saves, monkeypatch):
    """A step takes a second, and the first one, which is traced, thirty."""
    now, looks, saved = [0.0], [], []

    def follow(strategy, variables):
        looks.append(int(now[0]))
        if not chief:  # what the first one says
            variables[0].assign([int(len(looks) == 2), 7 if len(looks) == 1 else 999])

    monkeypatch.setattr(callbacks, "in_several_processes", lambda strategy: True)
    monkeypatch.setattr(callbacks, "holds_anywhere", lambda strategy, here: here)
    monkeypatch.setattr(callbacks, "follow_first_worker", follow)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    checkpoints = SimpleNamespace(all_finite=lambda: True, save_within=lambda step, _: saved.append(step))
    settings = SimpleNamespace(checkpoint_minutes=129 / 60)
    run = SimpleNamespace(config=settings, strategy=None, checkpoints=checkpoints)
    own = callbacks.SaveCheckpoints(run, EpochResult(), SimpleNamespace(waiting=False, release=lambda: None))
    monitor = SimpleNamespace(steps_outside=0)
    steps = SimpleNamespace(empty_queues=lambda *_: None)
    model = {"phase": None, "train_function": None, "training_steps": steps}
    own.set_model(SimpleNamespace(steps_before=0, divergence_monitor=monitor, **model))
    own.set_params({"steps": 400})
    own.on_train_begin()
    own.on_epoch_begin(0)
    for batch in range(210):
        now[0] += 1 if batch else 30
        own.on_train_batch_end(batch)
    assert saved == saves
    assert len(looks) <= 3


@pytest.mark.parametrize("number", [signal.SIGKILL, stall.ENDS_ITS_RUN], ids=["killed", "by its watch"])
def test_launch_names_who_was_killed_but_not_who_has_ended_by_itself(number, monkeypatch):
    """The first process stands still, or does not notice."""
    program = "import os, sys, time; '\"index\": 1' in os.environ['TF_CONFIG'] and os.kill(os.getpid(), {})"
    command = [sys.executable, "-c", f"{program.format(int(number))}; time.sleep(60)"]
    monkeypatch.setattr(launching, "GRACE", 0.5)
    monkeypatch.setattr(launching.children, "command", lambda name: command)
    monkeypatch.setattr(launching.children, "ends_by_sigterm", lambda: None)
    if number == signal.SIGKILL:
        with pytest.raises(OSError, match=r"Lost the process of worker 1 \(localhost:"):
            launching._run([], "multi_worker", 2)
    else:
        assert launching._run([], "multi_worker", 2) == 1
