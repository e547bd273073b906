"""Runs of several processes, which TensorFlow's own strategy joins: the same numbers as in one."""

import json
import os
import signal
import time

import numpy as np
import pytest
from helpers import config, flags, free_ports, rows_of, together, train, workdir_rows
from small import run_main

import glow_tf
from glow_tf.core.errors import ConfigError
from glow_tf.devices import workers

FAST = {
    "schedule": "simultaneous",
    "part_epochs": 3,
    "finetune_epochs": 1,
    "export": False,
    "tensorboard": False,
    "sample_every": 0,
    "validation_examples": 40,
    "patience": 3,
}


def ended(processes, timeout=200):
    """What processes printed when all have ended; those that have not are killed."""
    try:
        return [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run in one process, with nothing that happens to it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_main(*flags(folder, **FAST))
    return folder


def assert_alike(one, other):
    for a, b in zip(rows_of(one), rows_of(other), strict=True):
        for name in ("test_bpd", "train_bpd", "local_bpd_1", "validation_bpd"):
            assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-3)
    for a, b in zip(glow_tf.load(one).get_weights(), glow_tf.load(other).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


@pytest.mark.slow
def test_two_processes_end_with_the_numbers_of_one_and_one_of_them_writes(whole, tmp_path):
    processes = together(*flags(tmp_path / "two", **FAST, strategy="multi_worker"))
    outputs = ended(processes)
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "retracing" not in outputs[0]
    assert_alike(whole, tmp_path / "two")
    assert list((tmp_path / "two" / "checkpoints" / "best").glob("*.index"))
    made = os.stat(tmp_path / "two" / "summary.json").st_mtime_ns
    again = together(*flags(tmp_path / "two", **FAST, strategy="multi_worker"))
    assert all("This run is finished: test " in said for said in ended(again))
    assert os.stat(tmp_path / "two" / "summary.json").st_mtime_ns == made


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
def test_when_a_process_is_killed_the_other_ends_and_the_run_goes_on(index, whole, tmp_path):
    folder = tmp_path / "cut"
    processes = together(*flags(folder, **FAST, strategy="multi_worker"))
    deadline = time.monotonic() + 200
    while len(workdir_rows(folder)) < 2 and time.monotonic() < deadline:
        assert processes[0].poll() is None
        time.sleep(0.01)
    processes[index].send_signal(signal.SIGKILL)
    outputs = ended(processes, timeout=120)
    assert processes[1 - index].returncode != 0, outputs
    assert not (folder / "summary.json").exists()
    if index:
        processes = together(*flags(folder, **FAST, strategy="multi_worker"))
        outputs = ended(processes)
        assert [process.returncode for process in processes] == [0, 0], outputs
    else:  # on one device, for a change
        outputs = [run_main(*flags(folder, **FAST)).stdout]
    assert all("Resuming after epoch " in said for said in outputs)
    assert_alike(whole, folder)


@pytest.mark.slow
def test_processes_with_other_flags_are_told(tmp_path):
    addresses = free_ports(2)
    processes = [
        together(
            *flags(tmp_path / "run", **FAST, strategy="multi_worker", seed=k), addresses=addresses, only=k
        )
        for k in range(2)
    ]
    for said in ended(processes):
        assert (
            "all processes of a run must have the same flags, data and checkpoints. Received: in this" in said
        )
    assert not (tmp_path / "run" / "flags.cfg").exists()


def environment(monkeypatch, **variables):
    for name in list(os.environ):
        if name.startswith("SLURM_") or name == "TF_CONFIG":
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_the_environment_describes_the_cluster(monkeypatch):
    def read(**task):
        described = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1} | task}
        environment(monkeypatch, TF_CONFIG=json.dumps(described))
        return workers.cluster_of("multi_worker")

    assert read().cluster_spec().as_dict() == {"worker": ["a:1", "b:2"]}
    assert not workers.is_chief(read())
    assert workers.is_chief(read(index=0))
    assert workers.cluster_of("mirrored") is None
    assert workers.is_chief(None)
    for wrong in ({"index": 2}, {"type": "ps"}, {"index": None}, {"index": "x"}):
        with pytest.raises(
            ConfigError, match=r"multi_worker needs a TF_CONFIG of .* Received: TF_CONFIG='\{"
        ):
            read(**wrong)
    for text in ("{", "[]", "{}", '{"cluster": 3}'):
        environment(monkeypatch, TF_CONFIG=text)
        with pytest.raises(ConfigError, match="multi_worker needs a TF_CONFIG"):
            workers.cluster_of("multi_worker")


@pytest.mark.parametrize("rank", [0, 2])
def test_srun_describes_the_cluster_too(rank, monkeypatch):
    of_srun = {"PROCID": str(rank), "STEP_NUM_TASKS": "3", "STEP_NODELIST": "n[1-2]"}
    of_srun |= {"STEP_TASKS_PER_NODE": "2,1"}
    environment(monkeypatch, **{f"SLURM_{name}": value for name, value in of_srun.items()})
    cluster = workers.cluster_of("multi_worker")
    assert cluster.cluster_spec().as_dict() == {"worker": ["n1:8888", "n1:8889", "n2:8888"]}
    assert (cluster.task_id, workers.is_chief(cluster)) == (rank, rank == 0)
    environment(monkeypatch)
    with pytest.raises(ConfigError, match=r"or the variables that srun sets. Received: TF_CONFIG=''"):
        workers.cluster_of("multi_worker")


def test_a_process_says_what_is_wrong_before_the_others_are_there(tmp_path, monkeypatch):
    described = {"cluster": {"worker": ["localhost:1", "localhost:2"]}}
    described["task"] = {"type": "worker", "index": 0}
    environment(monkeypatch, TF_CONFIG=json.dumps(described))
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(OSError, match=r"summary.json is damaged"):
        train(config(tmp_path, strategy="multi_worker"))
