"""Small runs, and what they leave behind."""

import csv
import subprocess
import sys
import time

from conftest import ROOT

from glow_tf import RunConfig, export
from glow_tf.run import lifecycle

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
    "rate_schedule": "cosine",
    "batch_size": 32,
    "augment": "flip_shift",
    "sample_every": 3,
}


def config(folder, **changes):
    own = {"strategy": "one_device", "workdir": str(folder)}  # `auto` would take both devices of the tests
    return RunConfig.from_settings({**SMALL, **own, **changes})


def train(settings, *callbacks):
    return lifecycle.train(settings, export, callbacks)


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


KINDS = {"part": "--parts", "worker": "--workers=2"}


def launch(kind, *arguments):
    command = [sys.executable, "train/launch.py", KINDS[kind], "--", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
