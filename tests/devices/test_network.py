"""Two network namespaces, joined by a slow link: what is sent is what is accounted for, and it may fail."""

import contextlib
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import rows_of, workdir_rows
from PIL import Image
from small import ROOT, run_main

from glow_tf.devices.processes import ProcessGroup
from lab.benchmarks.slow_link import ADDRESSES, DEVICE, in_namespace, run, slow_link

pytestmark = pytest.mark.slow

BATCH, STEPS = 192, 16
FLAGS = {
    "image_size": 32,
    "train_examples": BATCH * STEPS,
    "test_examples": BATCH,
    "num_blocks": 3,
    "flow_steps": 2,
    "width": 16,
    "parts": "across_block:2",
    "schedule": "simultaneous",
    "part_epochs": 4,
    "finetune_epochs": 0,
    "batch_size": BATCH,
    "learning_rate": "1e-3",
    "strategy": "part_parallel",
    "tensorboard": False,
    "sample_every": 0,
    "export": False,
}


@contextlib.contextmanager
def narrow(mbit, latency_ms=0.0):
    with contextlib.ExitStack() as stack:
        try:
            names = stack.enter_context(slow_link(mbit, latency_ms))
        except OSError as error:
            pytest.skip(f"a slow link between network namespaces cannot be made here: {error}")
        yield names


@pytest.fixture
def link():
    """Two namespaces with a link of 20 Mbit/s and 40 ms there and back between them."""
    with narrow(20, latency_ms=20) as names:
        yield names


def sent(namespace):
    return int(run(*in_namespace(namespace), "cat", f"/sys/class/net/{DEVICE}/statistics/tx_bytes"))


def start(kind, folder, images, link, **changes):
    """Starts a process in each namespace; of `kind` part or worker."""
    addresses = tuple(f"{address}:4711" for address in ADDRESSES)
    flags = {**FLAGS, "dataset": f"folder:{images}", "workdir": folder, **changes}
    processes = []
    for index, namespace in enumerate(link):
        command = [*in_namespace(namespace), sys.executable, "train/main.py"]
        command += [f"--{name}={value}" for name, value in flags.items()]
        processes.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": ProcessGroup(kind, addresses, index).tf_config},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return processes


def finish(processes):
    try:
        output, _ = processes[0].communicate(timeout=300)
        assert processes[0].returncode == 0, output
        assert processes[1].wait(timeout=60) == 0
    finally:
        for process in processes:
            process.kill()


def counted(processes, folder, link):
    """What each side sent in epochs 3 and 4, evaluations included: [side, epoch]."""
    counters = []
    for epoch in (2, 3, 4):
        wait_for_row(folder, epoch, processes[0])
        counters.append([sent(namespace) for namespace in link])
    return np.diff(counters, axis=0).T


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", BATCH * STEPS), ("test", BATCH)):
        (tmp_path / "images" / split).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / split / f"{i}.png")
    return tmp_path / "images"


def wait_for_row(folder, count, process):
    deadline = time.monotonic() + 300
    while len(workdir_rows(folder)) < count:
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_sent_over_a_slow_link_is_what_is_accounted_for(link, images, tmp_path):
    parts = tmp_path / "parts"
    processes = start("part", parts, images, link)
    forward, back = counted(processes, parts, link)
    finish(processes)
    row = rows_of(parts)[-1]
    # An epoch and an evaluation of as many images as a batch has. Besides, a step tells the other process
    # what to run on which variables, and an epoch ends with a checkpoint: some 30 and 600 kB here.
    expected = (STEPS + 1) * BATCH * int(row["forward_bytes"])
    print(f"parts sent {forward} of {expected} accounted for; back {back}; {row['seconds']} s")
    np.testing.assert_allclose(np.mean(forward), expected, rtol=0.05)
    assert int(row["backward_bytes"]) == 0
    assert np.mean(back) < 0.1 * expected  # acknowledgements, metrics

    wide = {"width": 96, "strategy": "multi_worker", "schedule": "end_to_end"}
    for every in (1, 8):
        workers = tmp_path / f"workers {every}"
        processes = start("worker", workers, images, link, **wide, sync_every=every)
        there, here = counted(processes, workers, link)
        finish(processes)
        row = rows_of(workers)[-1]
        expected = STEPS * int(row["all_reduce_bytes"])  # of two, each sends as much as there is
        print(f"workers sent {there} and {here} of {expected} accounted for; {row['seconds']} s")
        np.testing.assert_allclose(np.mean([there, here]), expected, rtol=0.1)


def test_a_link_that_goes_down_for_ten_seconds_only_costs_time(link, images, tmp_path):
    folder = tmp_path / "run"
    processes = start("part", folder, images, link, part_delay=1)
    wait_for_row(folder, 2, processes[0])
    run(*in_namespace(link[1]), "ip", "link", "set", DEVICE, "down")
    time.sleep(10)
    run(*in_namespace(link[1]), "ip", "link", "set", DEVICE, "up")
    finish(processes)
    run_main(
        *[f"--{name}={value}" for name, value in {**FLAGS, "strategy": "one_device"}.items()],
        f"--dataset=folder:{images}",
        f"--workdir={tmp_path / 'one'}",
    )
    for a, b in zip(rows_of(folder), rows_of(tmp_path / "one"), strict=True):
        assert float(a["test_bpd"]) == pytest.approx(float(b["test_bpd"]), abs=1e-3)


def test_weights_may_take_longer_over_a_link_than_heartbeats_are_awaited(images, tmp_path):
    changes = {"width": 96, "strategy": "multi_worker", "schedule": "end_to_end", "part_epochs": 0}
    with narrow(1.0) as namespaces:
        wide = {**changes, "finetune_epochs": 1, "train_examples": BATCH}
        finish(start("worker", tmp_path / "run", images, namespaces, **wide))
    assert len(rows_of(tmp_path / "run")) == 1
