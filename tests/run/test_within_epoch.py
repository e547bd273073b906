"""Runs that save within an epoch go on there, with the same numbers as if they had not stopped."""

import itertools
import shutil
import signal

import keras
import numpy as np
import pytest
from helpers import config, rows_of, train
from small import small_glow

import glow_tf
from glow_tf import ConfigError, PartsTrainer
from glow_tf.run.callbacks import SaveCheckpoints
from glow_tf.run.epoch import EpochResult
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checkpoints import Checkpoints
from glow_tf.run.files.history import reproducible
from glow_tf.run.interrupts import Interrupts

FAST = {"tensorboard": False, "sample_every": 0, "export": False, "part_epochs": 2, "finetune_epochs": 1}
FAST |= {"train_examples": 160}  # five steps an epoch
ONE = {**FAST, "schedule": "end_to_end", "num_blocks": 1, "parts": "1"}  # one phase of one part
EVERY_STEP = 1e-9  # minutes


class Killed(BaseException):
    """The end of a process."""


def kill():
    raise Killed


class At(keras.callbacks.Callback):
    """Does something before a step of an epoch (both from 1)."""

    def __init__(self, epoch, step, action):
        super().__init__()
        self.place, self.action = (epoch, step), action

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.place:
            self.action()


class AtEnd(keras.callbacks.Callback):
    """Does something as the last step of an epoch (from 1) ends, or passes by."""

    def __init__(self, epoch, action):
        super().__init__()
        self.place, self.action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch + 1) == (self.place, self.params["steps"]):
            self.action()


def train_until(settings, epoch, step, action=kill, error=Killed):
    """Trains until an action before a step ends the run."""
    with pytest.raises(error) as caught:
        train(settings, At(epoch, step, action))
    return caught.value


def numbers(folder):
    return [reproducible(row) for row in rows_of(folder)]


def assert_same(one, other, tolerance=0):
    for a, b in zip(numbers(one), numbers(other), strict=True):
        for name in a:
            near = name.endswith(("bpd", "bpd_1", "bpd_2", "bpd_se")) and a[name] and tolerance
            assert (
                float(a[name]) == pytest.approx(float(b[name]), abs=tolerance) if near else a[name] == b[name]
            )
    for a, b in zip(glow_tf.load(one).get_weights(), glow_tf.load(other).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three epochs of five steps, without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config(folder, **ONE))
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The same, killed after step 3 of epoch 2."""
    folder = tmp_path_factory.mktemp("killed") / "run"
    train_until(config(folder, **ONE, checkpoint_minutes=EVERY_STEP), 2, 4)
    return folder


@pytest.fixture
def cut(killed, tmp_path):
    return shutil.copytree(killed, tmp_path / "cut")


def test_a_run_killed_within_an_epoch_ends_with_the_same_numbers(cut, whole, capsys):
    assert checkpoint_files.progress(cut / "checkpoints") == (1, 3)
    assert checkpoint_files.complete(checkpoint_files.within(cut / "checkpoints", 1)) == [2, 3]
    train(config(cut, **ONE), anew=True)
    assert "Resuming after step 3 of epoch 2." in capsys.readouterr().out
    assert_same(whole, cut)
    assert checkpoint_files.progress(cut / "checkpoints") == (3, 0)
    assert not list(cut.glob("checkpoints/after_*"))


@pytest.mark.slow
def test_a_run_killed_after_the_last_step_of_all_is_evaluated_and_ends(whole, tmp_path):
    """The cosine is over then, and no step is left that would have its rate of 0."""
    settings = config(tmp_path / "run", **ONE, checkpoint_minutes=EVERY_STEP)
    with pytest.raises(Killed):
        train(settings, AtEnd(3, kill))
    assert checkpoint_files.progress(tmp_path / "run" / "checkpoints") == (2, 5)
    train(settings)
    assert_same(whole, tmp_path / "run")


KINDS = {
    "alternating parts": {},
    "a cache, averages": {"schedule": "sequential", "cache_prefix": True, "ema": 0.9},
    "parts on devices of their own": {"schedule": "simultaneous", "strategy": "part_parallel"},
    "replicas": {"schedule": "simultaneous", "strategy": "mirrored"},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_run_keeps_goes_on(kind, tmp_path):
    """Killed within the first epoch, and before the last step of the turn of another part."""
    settings = {**FAST, **KINDS[kind], "part_epochs": 4}
    train(config(tmp_path / "whole", **settings))
    cut = config(tmp_path / "cut", **settings, checkpoint_minutes=EVERY_STEP)
    train_until(cut, 1, 4)
    train_until(cut, 4, 5)
    train(cut)
    # A mean over replicas is restored as equal shares, whose sum may be rounded otherwise.
    assert_same(tmp_path / "whole", tmp_path / "cut", tolerance=1e-6 if kind == "replicas" else 0)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(damaged, cut, capsys):
    within = checkpoint_files.within(cut / "checkpoints", 1)
    for step in (3, 2)[:damaged]:
        (data,) = within.glob(f"ckpt-{step}.data-*")
        data.write_bytes(data.read_bytes()[:100])
    if damaged == 1:
        train_until(config(cut, **ONE, checkpoint_minutes=EVERY_STEP), 2, 3)  # before it saves again
        assert checkpoint_files.complete(within) == [2, 3]
    train(config(cut, **ONE))
    found = {1: "step 2 of epoch 2", 2: "epoch 1"}[damaged]
    output = capsys.readouterr().out
    assert f"ckpt-3 is damaged, and {found} is next" in output
    assert f"Resuming after {found}." in output


def test_what_is_later_than_a_new_checkpoint_was_damaged_and_goes(cut):
    settings = config(cut, **ONE, checkpoint_minutes=EVERY_STEP)
    within = checkpoint_files.within(cut / "checkpoints", 1)
    (data,) = within.glob("ckpt-3.data-*")
    data.write_bytes(b"")
    (within / "ckpt-4.index").write_bytes(b"")
    (within / "ckpt-4.data-00000-of-00001").write_bytes(b"")
    train_until(settings, 2, 4)
    assert checkpoint_files.complete(within) == [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_step_and_goes_on_after_it(number, whole, tmp_path):
    settings = config(tmp_path / "run", **ONE)
    error = train_until(settings, 3, 4, lambda: signal.raise_signal(number), KeyboardInterrupt)
    assert str(error) == "The checkpoint of step 4 of epoch 3 is kept; the same command goes on."
    train(settings)
    assert_same(whole, tmp_path / "run")


@pytest.mark.slow
def test_interrupts_do_not_wait_for_steps_that_pass_by(tmp_path):
    """A run that goes on at the very end of an epoch makes no step in which they could wait."""
    settings = config(tmp_path, **FAST, checkpoint_minutes=EVERY_STEP)
    with pytest.raises(Killed):
        train(settings, AtEnd(1, kill))
    assert checkpoint_files.progress(tmp_path / "checkpoints") == (0, 5)
    with pytest.raises(KeyboardInterrupt, match="The checkpoint of step 5 of epoch 1 is kept"):
        train(settings, AtEnd(1, lambda: signal.raise_signal(signal.SIGTERM)))


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(whole, tmp_path, monkeypatch):
    times = itertools.cycle([4e9, 0.0, 1.7e9])
    monkeypatch.setattr("time.time", lambda: next(times))
    settings = config(tmp_path / "run", **ONE, checkpoint_minutes=EVERY_STEP)
    train_until(settings, 2, 4)
    train(settings)
    assert_same(whole, tmp_path / "run")


def test_who_interrupts_again_does_not_wait(monkeypatch):
    interrupts = Interrupts()
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    interrupts.hold()
    interrupts.arrive()
    now[0] += 0.5
    interrupts.arrive()  # the same, from another program
    assert interrupts.waiting
    now[0] += 1
    with pytest.raises(KeyboardInterrupt):
        interrupts.arrive()
    with pytest.raises(KeyboardInterrupt):
        interrupts.release()


def test_an_interrupt_that_waits_in_a_step_that_diverges_ends_the_run_before_the_next():
    interrupts = Interrupts()
    callback = SaveCheckpoints(None, EpochResult(), interrupts)
    callback.on_train_begin()
    interrupts.hold()
    interrupts.arrive()
    with pytest.raises(KeyboardInterrupt):
        callback.on_train_begin()


@pytest.mark.slow
def test_time_columns_hold_what_the_epoch_took_before(cut):
    seconds = Checkpoints.save_within
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save_within", lambda self, steps, s: seconds(self, steps, s + 1000))
        train_until(config(cut, **ONE, checkpoint_minutes=EVERY_STEP), 2, 5)
    train(config(cut, **ONE))
    first, second, third = rows_of(cut)
    assert float(second["seconds"]) > 1000 > float(third["seconds"])
    assert float(second["total_seconds"]) == pytest.approx(
        float(first["seconds"]) + float(second["seconds"]), abs=0.01
    )


def test_models_are_loaded_from_the_ends_of_epochs(cut):
    assert glow_tf.load_trainer(cut).finished_epochs == 1
    for path in cut.glob("checkpoints/ckpt-*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="There is no last checkpoint"):
        glow_tf.load(cut)


@pytest.mark.slow
def test_a_run_with_other_epochs_goes_on_from_the_end_of_one(tmp_path, capsys, eager):
    settings = {**ONE, "rate_schedule": "constant"}
    train_until(config(tmp_path, **settings, checkpoint_minutes=EVERY_STEP), 2, 2)
    train(config(tmp_path, **{**settings, "part_epochs": 1, "finetune_epochs": 0}))
    assert "Resuming after epoch 1." in capsys.readouterr().out
    assert len(rows_of(tmp_path)) == 1
    assert not list(tmp_path.glob("checkpoints/after_*"))


def test_minutes_are_not_negative(tmp_path):
    with pytest.raises(ConfigError, match=r"checkpoint_minutes must be 0 or a positive number. Received"):
        config(tmp_path, checkpoint_minutes=-1)


def test_a_first_step_must_be_within_the_epoch(small_images):
    trainer = PartsTrainer(small_glow(parts="1"), glow_tf.phases("end_to_end", 1, 2))
    trainer.compile([keras.optimizers.SGD(1e-3)])
    with pytest.raises(ConfigError, match=r"initial_step must be .*initial_step=5, steps_per_epoch=4"):
        trainer.fit(small_images, batch_size=16, initial_step=5, verbose=0)


def test_a_fit_that_is_refused_leaves_no_steps_to_pass_by(small_images):
    trainer = PartsTrainer(small_glow(parts="1"), glow_tf.phases("end_to_end", 1, 2))
    trainer.compile([keras.optimizers.SGD(1e-3)])
    watches = keras.callbacks.EarlyStopping("val_loss")
    with pytest.raises(ConfigError, match="a callback must watch what every epoch computes"):
        trainer.fit(small_images, batch_size=16, initial_step=2, callbacks=[watches], verbose=0)
    assert trainer.steps_before == 0
