"""Whole runs: what they leave behind, that they resume, that they refuse."""

import contextlib
import errno
import fcntl
import io
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf
from helpers import config, flags, reproducible, rows_of, signal_amid, train
from PIL import Image
from small import only_endpoints, run_main

import glow_tf
from glow_tf import ConfigError, data
from glow_tf.commands import cli
from glow_tf.run import workdir
from glow_tf.run.flags_file import read_config
from glow_tf.run.settings import Decided


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of the command, from flags to export."""
    folder, said = tmp_path_factory.mktemp("finished") / "run", io.StringIO()
    own = {"validation_examples": 40, "streams": 1, "strategy": "one_device"}
    with contextlib.redirect_stdout(said), only_endpoints("serving_default"):
        assert cli.run("train", flags(folder, **own)) == 0
    return folder, said.getvalue()


def test_history_has_the_fixed_columns_and_empty_cells_where_nothing_is_computed(finished):
    folder, _ = finished
    rows = rows_of(folder)
    columns = "epoch phase active_parts seconds total_seconds eval_seconds images_per_second peak_memory_mb "
    columns += "train_bpd local_bpd_1 local_bpd_2 test_bpd test_bpd_se validation_bpd validation_bpd_se "
    assert " ".join(rows[0]) == columns.rstrip()
    assert [(r["epoch"], r["phase"], r["active_parts"]) for r in rows] == [
        ("1", "part", "1"),
        ("2", "part", "2"),
        ("3", "part", "1"),
        ("4", "part", "2"),
        ("5", "end_to_end", "1 2"),
        ("6", "end_to_end", "1 2"),
    ]
    for row in rows:
        part_1_alone = (row["phase"], row["active_parts"]) == ("part", "1")
        assert (row["train_bpd"] == "") == part_1_alone
        assert (row["local_bpd_2"] == "") == part_1_alone
        assert row["train_bpd"] == row["local_bpd_2"]
        for name in ("local_bpd_1", "test_bpd", "test_bpd_se", "seconds", "eval_seconds", "peak_memory_mb"):
            assert float(row[name]) > 0
    totals = [float(r["total_seconds"]) for r in rows]
    np.testing.assert_allclose(totals, np.cumsum([float(r["seconds"]) for r in rows]), atol=0.01)
    assert float(rows[-1]["test_bpd"]) < float(rows[0]["test_bpd"])


def test_the_summary_is_of_the_best_epoch_here_the_last(finished):
    folder, stdout = finished
    summary = json.loads((folder / "summary.json").read_text())
    last = rows_of(folder)[-1]
    assert summary["test_bpd"] == float(last["test_bpd"])
    assert summary["warnings"] == []
    assert "WARNING" not in stdout
    assert summary["test_bpd_se"] == float(last["test_bpd_se"])
    assert summary["total_seconds"] == float(last["total_seconds"])
    assert summary["parts"] == [1, 1]
    assert summary["epochs"] == 6
    assert set(summary["versions"]) >= {"tensorflow", "keras", "glow_tf"}
    assert summary["parameters"] == sum(np.prod(w.shape) for w in glow_tf.load(folder).trainable_variables)
    assert f"test {summary['test_bpd']:.4f}" in stdout.splitlines()[-1]
    assert re.search(r" s of training \(this process ran for \d+ s in all\)", stdout.splitlines()[-1])


def test_the_model_is_described_by_part_before_training(finished):
    _, stdout = finished
    before = stdout[: stdout.index("epoch 1/6")]
    assert "flow steps  parameters  forward cost" in before
    assert "predicted time: 0.7" in before
    assert sum(line.startswith("epoch ") for line in stdout.splitlines()) == 6


def test_samples_are_pictures(finished):
    folder, _ = finished
    assert sorted(p.name for p in (folder / "samples").iterdir()) == ["epoch_0003.png", "epoch_0006.png"]
    with Image.open(folder / "samples" / "epoch_0006.png") as image:
        assert image.size == (8 * 68, 8 * 68)
        assert np.asarray(image).std() > 10


def test_tensorboard_has_every_series(finished):
    folder, _ = finished
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "logs"))
    events.Reload()
    tags = events.Tags()
    series = "flags model bpd/train bpd/test bpd/validation local_bpd/part_1 learning_rate/part_2 "
    series += "gradient_norm/part_2 speed/images_per_second samples training/skipped_steps"
    assert set(tags["tensors"]) >= set(series.split())
    steps = [e.step for e in events.Tensors("bpd/test")]
    assert steps == [1, 2, 3, 4, 5, 6]
    logged = [float(tf.make_ndarray(e.tensor_proto)) for e in events.Tensors("bpd/test")]
    np.testing.assert_allclose(logged, [float(r["test_bpd"]) for r in rows_of(folder)], atol=1e-5)


def test_flags_cfg_repeats_the_run_which_says_that_it_is_finished_and_changes_nothing(finished, capsys):
    folder, _ = finished
    before = {
        p: p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("flags.cfg", ".lock")
    }
    assert cli.run("train", [f"--flagfile={folder}/flags.cfg"]) == 0
    stdout = capsys.readouterr().out
    assert "This run is finished" in stdout
    assert "no export" not in stdout
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_another_configuration_is_refused_naming_the_flags(finished):
    folder, _ = finished
    same = {"validation_examples": 40}
    with pytest.raises(ConfigError, match=r"another configuration.*--width=16 \(was 8\)"):
        train(config(folder, width=16, **same))
    with pytest.raises(ConfigError, match=r"--seed=3 \(was 0\), --part_epochs=9 \(was 4\)"):
        train(config(folder, seed=3, part_epochs=9, **same))
    elsewhere = {"strategy": "mirrored", "tensorboard": False, "sample_every": 0, "export": False}
    assert train(config(folder, **elsewhere, **same))["epochs"] == 6


# Interruptions


EVERYTHING = {"cache_prefix": True, "period": 2, "reversible": True, "precision": "mixed_bfloat16"}


PLACED = {"strategy": "part_parallel", "virtual_devices": 2}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain", marks=pytest.mark.slow),  # .ci/run kills a run too
        pytest.param(EVERYTHING, id="everything", marks=pytest.mark.slow),
        pytest.param({**PLACED, "schedule": "simultaneous"}, id="part_parallel", marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_and_ends_with_the_same_weights(settings, finished, tmp_path):
    """A real kill -9, at a moment the run does not choose; the second one amid a cached turn."""
    whole, cut = finished[0], tmp_path / "cut"
    fast = {"export": False, "tensorboard": False, "sample_every": 0, "validation_examples": 40, **settings}
    if settings:
        whole = tmp_path / "whole"
        run_main(*flags(whole, **fast))
    signal_amid(signal.SIGKILL, cut, flags(cut, **fast), rows=3)
    assert not (cut / "summary.json").exists()
    resumed = run_main(*flags(cut, **fast)).stdout
    assert "Resuming after epoch" in resumed
    for a, b in zip(glow_tf.load(whole).get_weights(), glow_tf.load(cut).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(rows_of(whole), rows_of(cut), strict=True):
        assert reproducible(a) == reproducible(b)


def test_a_trainer_of_a_run_whose_cosine_is_over_does_not_go_on_with_a_rate_of_zero(finished):
    trainer = glow_tf.load_trainer(finished[0])
    images = data.load(read_config(finished[0]).data).train
    with pytest.raises(ConfigError, match=r"the cosine of part 1 ends with its step .* change nothing"):
        trainer.fit(images, batch_size=32, initial_epoch=6, epochs=7, verbose=0)


def test_a_file_in_the_place_of_the_export_is_found_before_the_training(tmp_path):
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "export" / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"the folder must be empty.*Received: \['notes.txt'\].*--export"):
        train(config(tmp_path / "run", export=True))
    assert not (tmp_path / "run" / "flags.cfg").exists()


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt("No space left")]
)
def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch, error):
    path = tmp_path / "history.csv"
    workdir.write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(error))
    with pytest.raises(type(error), match="No space left"):
        workdir.write_atomically(path, b"new")
    assert [(own, own.read_bytes()) for own in tmp_path.iterdir()] == [(path, b"old")]


def test_what_killed_writes_left_in_a_workdir_is_removed_when_a_run_claims_it(tmp_path):
    left = [".history.csv.0123abcd.tmp", "samples/.epoch_0001.png.00000000.tmp"]
    left += ["checkpoints/.checkpoint.ffffffff.tmp", "checkpoints/within/1/.a.0123abcd.tmp"]
    kept = [".history.csv.tmp", "notes.0123abcd.tmp", "export/.a.0123abcd.tmp"]
    for name in (*left, *kept):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    (tmp_path / left[0]).touch()
    settings = config(tmp_path / "run")
    folder = workdir.Workdir(settings)
    folder.claim(Decided(settings, {}))
    folder.close()
    assert [name for name in (*left, *kept) if (tmp_path / "run" / name).exists()] == kept
    assert (tmp_path / left[0]).exists()


def test_a_history_that_lacks_epochs_of_its_checkpoint_is_found_on_resuming(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "summary.json").unlink()
    lines = (folder / "history.csv").read_text().splitlines()
    (folder / "history.csv").write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(OSError, match=r"each of the 6 epochs that .*Received: 4 rows"):
        train(config(folder, validation_examples=40))


# Refusals


def test_a_start_that_failed_leaves_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for folder in ("mine", "made/run"):
        with pytest.raises(ConfigError, match="batch_size must be at most"):
            train(config(tmp_path / folder, batch_size=500))
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["mine", "notes.txt"]


def test_a_start_that_is_refused_leaves_the_run_that_is_there(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError, match="another configuration"):
        train(config(folder, validation_examples=40, width=16))
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_is_found_before_training(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(workdir.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ConfigError, match=r"workdir needs about \d+ MiB.*are free. Received: workdir="):
        train(config(tmp_path / "run"))
    assert not (tmp_path / "run" / "history.csv").exists()


def test_a_workdir_whose_weights_tensorflow_would_not_find_again_is_refused(tmp_path):
    folder = tmp_path / "lr[0.1]" / "run"
    with pytest.raises(ConfigError, match=r"workdir must be a path without \[: .* Received: workdir="):
        workdir.Workdir(config(folder))
    assert not folder.parent.exists()
    folder.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"path must be a path without \["):
        glow_tf.load(folder)


def test_without_locks_no_two_processes_train_in_a_workdir(tmp_path, monkeypatch):
    """As on some network file systems."""

    def flock(handle, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    settings = config(tmp_path / "run")
    expected = r"another process is|on a file system with locks.* Received: w"
    with contextlib.ExitStack() as stack, pytest.raises(ConfigError, match=expected):  # noqa: PT012
        for _ in range(2):
            stack.callback(workdir.Workdir(settings).close)


def test_a_workdir_in_use_is_refused(tmp_path):
    holder = workdir.Workdir(config(tmp_path / "run"))
    with pytest.raises(ConfigError, match="another process is training in this workdir"):
        workdir.Workdir(config(tmp_path / "run"))
    assert (tmp_path / "run" / ".lock").exists()
    holder.close()
    workdir.Workdir(config(tmp_path / "run")).close()
