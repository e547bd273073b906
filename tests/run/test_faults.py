"""Foreseeable faults of a run: each is one sentence, and nothing that was trained is lost."""

import errno
import os
import pathlib
import shutil
import signal
import time

import numpy as np
import pytest
import tensorflow as tf
from helpers import config, flags, rows_of, signal_amid, train
from small import small_glow

import glow_tf
from glow_tf import ConfigError, PartsTrainer
from glow_tf.core import durable_files
from glow_tf.run import lifecycle, workdir
from glow_tf.run.checkpoints import Checkpoints
from glow_tf.run.interrupts import AGAIN_AFTER, interrupts
from glow_tf.store.checkpoints import complete
from glow_tf.training import ScaledSGD

FAST = {"tensorboard": False, "sample_every": 0, "export": False, "rate_schedule": "constant"}
FAST |= {"part_epochs": 2, "finetune_epochs": 1}
FAST |= {"schedule": "end_to_end", "num_blocks": 1, "parts": "1"}  # one phase, so that there is less to trace
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "run"
    train(config(folder, **FAST))
    return folder


@pytest.fixture
def unfinished(finished, tmp_path):
    """Three epochs and their checkpoint; the end is missing."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").unlink()
    return folder


# Damaged files


def test_a_run_goes_on_whatever_is_left_of_the_pointer(unfinished):
    (unfinished / "checkpoints" / "checkpoint").write_bytes(b"\x00\xff\n")
    assert train(config(unfinished, **FAST))["epochs"] == 3


def test_a_history_without_any_checkpoint_stops_the_run(unfinished):
    shutil.rmtree(unfinished / "checkpoints")
    with pytest.raises(
        OSError, match=r"history.csv has 3 epochs, and there is no checkpoint.* Put a copy of .*checkpoints"
    ):
        train(config(unfinished, **FAST))
    assert len(rows_of(unfinished)) == 3


def damage(path, how):
    content = path.read_bytes()
    if how == "truncated":
        path.write_bytes(content[:100])
    elif how == "one bit is wrong":
        path.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["one bit is wrong", "removed"])
def test_a_damaged_checkpoint_costs_an_epoch_and_says_so(how, unfinished, finished, capsys):
    (data,) = (unfinished / "checkpoints").glob("ckpt-3.data-*")
    damage(data, how)
    assert train(config(unfinished, **FAST))["epochs"] == 3
    output = capsys.readouterr().out
    assert "ckpt-3 is damaged, and epoch 2 is next" in output
    assert "Resuming after epoch 2." in output
    for a, b in zip(
        glow_tf.load(finished).get_weights(), glow_tf.load(unfinished).get_weights(), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    numbers = [[row["test_bpd"] for row in rows_of(run)] for run in (finished, unfinished)]
    assert numbers[0] == numbers[1]


def test_where_all_checkpoints_are_damaged_the_newest_is_named(unfinished):
    for data in (unfinished / "checkpoints").glob("ckpt-*.data-*"):
        damage(data, "truncated")
    with pytest.raises(OSError, match=r"the checkpoint \S*ckpt-3 cannot be read; put an intact copy"):
        train(config(unfinished, **FAST))


class Cut(BaseException):
    """The end of a process, wherever it is."""


def raising(error):
    def function(*_):
        raise error

    return function


@pytest.fixture(scope="module")
def small_checkpoints():
    """Makes checkpoints of one trainer, whose first weight tells its epoch."""
    trainer = PartsTrainer(small_glow(flow_steps=1, num_blocks=1, parts="1"))
    trainer.compile([ScaledSGD(1e-3)])
    weight = trainer.flow.trainable_variables[0]

    def make(folder):
        return Checkpoints(folder, trainer), weight

    return make


def test_a_link_stays_when_the_folder_that_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "disk" / "kept")
    for text in ("1", "2", "3"):
        with durable_files.replaced_folder(link, "preset", {"a"}) as new:
            (new / "a").write_text(text)
        assert link.is_symlink()
        assert (link / "a").read_text() == text
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["kept"]


def test_a_folder_that_lost_its_name_to_a_kill_is_kept_until_the_new_one_has_it(tmp_path, monkeypatch):
    for name in ("new", ".kept.old"):  # a kill came between the two renames
        (tmp_path / name).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", raising(Cut()))
        with pytest.raises(Cut):
            durable_files.put_in_place(tmp_path / "new", tmp_path / "kept")
    assert (tmp_path / ".kept.old").exists()
    durable_files.put_in_place(tmp_path / "new", tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_folder_has_its_name_again_if_the_new_one_cannot_have_it(tmp_path, monkeypatch):
    for name in ("new", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace = pathlib.Path.replace

    def fails_once(path, target):
        if path.name == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(pathlib.Path, "replace", fails_once)
    with pytest.raises(OSError, match="No space left"):
        durable_files.put_in_place(tmp_path / "new", tmp_path / "kept")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["kept"]


def test_a_folder_is_kept_where_an_interrupt_comes_before_the_new_one(tmp_path, monkeypatch):
    for name in ("new", "kept"):
        (tmp_path / name).mkdir()
    replace = pathlib.Path.replace

    def interrupted(path, target):
        replace(path, target)
        if path.name == "kept":
            raise KeyboardInterrupt

    monkeypatch.setattr(pathlib.Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        durable_files.put_in_place(tmp_path / "new", tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "new"]


# What TensorFlow does in a save, once it has written the files.
CALLS = [("_record_state", 1), ("_sweep", 1), ("_record_state", 2)]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("name", "last"), CALLS)
def test_whenever_a_save_is_cut_off_a_checkpoint_is_left(
    name, last, after, small_checkpoints, tmp_path, monkeypatch
):
    checkpoints, weight = small_checkpoints(tmp_path)
    for epoch in (1, 2):
        weight.assign(tf.fill(weight.shape, float(epoch)))
        checkpoints.save(epoch, 3.0 - epoch)
    function, count = getattr(tf.train.CheckpointManager, name), 0

    def cut_off(manager):
        nonlocal count
        count += 1
        if count < last or after:
            function(manager)
        if count == last:
            raise Cut

    weight.assign(tf.fill(weight.shape, 3.0))
    monkeypatch.setattr(tf.train.CheckpointManager, name, cut_off)
    with pytest.raises(Cut):
        checkpoints.save(3)
    monkeypatch.undo()
    weight.assign(tf.zeros(weight.shape))
    again, weight = small_checkpoints(tmp_path)
    assert again.restore() == 3
    np.testing.assert_array_equal(weight, tf.fill(weight.shape, 3.0))
    assert complete(tmp_path / "best") == [2]
    again.save(4)
    assert len(complete(tmp_path)) == 2
    assert complete(tmp_path)[-1] == 4


def test_files_of_a_checkpoint_without_an_index_are_none_and_written_again(small_checkpoints, tmp_path):
    """As a kill leaves them while TensorFlow writes."""
    checkpoints, _ = small_checkpoints(tmp_path)
    checkpoints.save(1)
    (tmp_path / "ckpt-2.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "ckpt-2_temp").mkdir()
    assert checkpoints.restore() == 1
    checkpoints.save(2)
    assert complete(tmp_path) == [1, 2]
    assert small_checkpoints(tmp_path)[0].restore() == 2


def test_a_run_that_stopped_before_its_first_checkpoint_starts_again(tmp_path):
    settings = config(tmp_path / "run", **FAST)
    folder = workdir.Workdir(settings)
    row = {"seconds": 1, "total_seconds": 1, "test_bpd": 4, "test_bpd_se": 1}
    folder.write_history([{"epoch": 1, **row}])
    assert folder.check_progress() == 0
    folder.write_history([{"epoch": 1, **row}, {"epoch": 2, **row}])
    with pytest.raises(OSError, match=r"history.csv has 2 epochs"):
        folder.check_progress()
    folder.close()


DAMAGES = {
    "a line that ends early": (lambda text: text[:-60], r"history.csv is damaged: line 4 must have"),
    "an epoch twice": (lambda text: text.replace("\n2,", "\n1,"), "line 3 must be of epoch 2, not 1"),
    "empty": (lambda text: "", "its first line must name epoch"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_history_is_one_line_and_is_found_at_the_start(damage, message, unfinished, capsys):
    path = unfinished / "history.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(OSError, match=message) as error:
        train(config(unfinished, **FAST))
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_damaged_summary_is_named_and_written_again(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (folder / "summary.json").write_text('{"test_bpd": 4')
    with pytest.raises(OSError, match=r"summary.json is damaged. Remove it.* Received: b'{\"test_bpd"):
        train(config(folder, **FAST))
    (folder / "summary.json").unlink()
    assert train(config(folder, **FAST))["epochs"] == 3


@pytest.mark.parametrize("name", ["export", "checkpoints", "logs", "samples"])
def test_a_file_in_the_place_of_a_folder_is_found_before_training(name, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).touch()
    with pytest.raises(ConfigError, match=r"workdir must be a folder that can be written, .*Received"):
        train(config(tmp_path / "run", **FAST))


# A full disk


def kept_epochs(settings):
    """Checks a workdir that is not in use, and returns how many epochs are kept."""
    holder = workdir.Workdir(settings)
    try:
        return holder.check_progress()
    finally:
        holder.close()


def test_a_disk_that_fills_up_is_named_with_the_file_and_the_epoch_that_is_kept(tmp_path, monkeypatch):
    settings, write = config(tmp_path / "run", **FAST), workdir.write_atomically

    def full_in_the_second_epoch(path, content):
        if path.name == "history.csv" and content.count(b"\n") > 2:
            monkeypatch.setattr(os, "fsync", raising(FULL))
        write(path, content)

    monkeypatch.setattr(workdir, "write_atomically", full_in_the_second_epoch)
    with pytest.raises(
        OSError,
        match=r"^\S+history.csv could not be written: No space left on device\. The checkpoint of epoch 1 is "
        r"kept; the same command goes on\.$",
    ):
        train(settings)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.tmp"))
    assert kept_epochs(settings) == 1


def test_a_checkpoint_that_cannot_be_written_leaves_no_rest(tmp_path, monkeypatch):
    write = tf.train.Checkpoint._write

    def write_or_fail(self, path, options=None):
        if path.endswith("ckpt-2"):
            rest = tmp_path / "run" / "checkpoints" / "ckpt-2_temp"
            rest.mkdir()
            (rest / "part").touch()
            raise tf.errors.ResourceExhaustedError(None, None, "{{node x}} part; No space left on device")
        return write(self, path, options)

    settings = config(tmp_path / "run", **FAST)
    monkeypatch.setattr(tf.train.Checkpoint, "_write", write_or_fail)
    with pytest.raises(
        OSError,
        match=r"^the checkpoint of epoch 2 could not be written: part; No space left on device\. "
        r"The checkpoint of epoch 1 is kept; the same command goes on\.$",
    ):
        train(settings)
    assert not list(tmp_path.rglob("*ckpt-2*"))
    assert kept_epochs(settings) == 1


# Interrupted runs


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl_c", "sigterm"])
def test_a_stopped_run_says_which_epoch_is_kept_without_a_traceback(number, tmp_path):
    folder = tmp_path / "run"
    long = {**FAST, "part_epochs": 500, "validation_examples": 0}
    status, error = signal_amid(number, folder, flags(folder, **long), rows=2)
    assert status == 130
    kept = max(complete(folder / "checkpoints"), default=0)
    assert kept >= 1
    said = f"Interrupted. The checkpoint of epoch {kept} is kept; the same command goes on."
    assert error.splitlines()[-1] == said
    assert "Traceback" not in error
    assert train(config(folder, **{**long, "part_epochs": kept, "finetune_epochs": 0}))["epochs"] == kept


def test_an_interrupt_that_tensorflow_turns_into_an_error_is_still_an_interrupt():
    class Interrupted(list):
        def __len__(self):
            signal.raise_signal(signal.SIGTERM)
            return 0

    with pytest.raises(KeyboardInterrupt), interrupts():
        tf.convert_to_tensor(Interrupted())
    with pytest.raises(RuntimeError, match="another"), interrupts():
        raise RuntimeError("another")


def test_an_interrupt_that_python_drops_comes_again_unless_another_ends_the_command():
    class Dropping:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), interrupts():  # noqa: PT012
        Dropping()
        time.sleep(10)
    with pytest.raises(KeyboardInterrupt), interrupts():  # noqa: PT012
        Dropping()
        raise KeyboardInterrupt
    time.sleep(3 * AGAIN_AFTER)  # no more comes


def test_ctrl_c_before_the_first_epoch_says_so(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "prepare", interrupt)
    with pytest.raises(KeyboardInterrupt, match="No epoch is finished yet; the same command starts again"):
        train(config(tmp_path / "run", **FAST))
    workdir.Workdir(config(tmp_path / "run", **FAST)).close()
