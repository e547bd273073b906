"""Runs that are killed go on after their last epoch; `--steps_per_epoch` makes epochs shorter."""

import keras
import numpy as np
import pytest
from helpers import config, reproducible, rows_of, train

import glow_tf
from glow_tf import ConfigError, TrainConfig
from glow_tf.store import checkpoints

FAST = {"tensorboard": False, "sample_every": 0, "export": False, "finetune_epochs": 0}
FAST |= {"train_examples": 160, "schedule": "end_to_end", "num_blocks": 1, "parts": "1"}
STEPS = 3  # of the five of a pass


class Killed(BaseException):
    """The end of a process."""


class At(keras.callbacks.Callback):
    """Ends the process before a step of an epoch (both from 1)."""

    def __init__(self, epoch, step, error=Killed):
        super().__init__()
        self.place, self.error = (epoch, step), error

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.place:
            raise self.error


def assert_same(one, other):
    assert [*map(reproducible, rows_of(one))] == [*map(reproducible, rows_of(other))]
    for a, b in zip(glow_tf.load(one).get_weights(), glow_tf.load(other).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five epochs of three steps: three passes over the images."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(config(folder, **FAST, part_epochs=5, steps_per_epoch=STEPS))
    return folder


def test_epochs_of_any_length_take_the_same_steps(whole, tmp_path):
    """The images, the noise and the rates are those of three epochs of five steps."""
    train(config(tmp_path, **FAST, part_epochs=3))
    assert (len(rows_of(whole)), len(rows_of(tmp_path))) == (5, 3)
    for a, b in zip(glow_tf.load(whole).get_weights(), glow_tf.load(tmp_path).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert rows_of(whole)[-1]["test_bpd"] == rows_of(tmp_path)[-1]["test_bpd"]


@pytest.mark.parametrize("step", [1, 2])
def test_a_killed_run_goes_on_after_its_last_epoch_with_the_same_rows(step, whole, tmp_path, capsys):
    settings = config(tmp_path, **FAST, part_epochs=5, steps_per_epoch=STEPS)
    for epoch in (2, 4):
        with pytest.raises(Killed):
            train(settings, At(epoch, step))
    train(settings, anew=True)
    assert "Resuming after epoch 3." in capsys.readouterr().out
    assert_same(whole, tmp_path)
    assert checkpoints.complete(tmp_path / "checkpoints") == [4, 5]


def test_what_cannot_be_counted_in_steps_is_refused():
    with pytest.raises(ConfigError, match=r"steps_per_epoch must be 0 with cache_prefix.* Received: "):
        TrainConfig(steps_per_epoch=3, cache_prefix=True)
    flow = glow_tf.Flow(glow_tf.ModelConfig((4, 4, 1), num_blocks=1, flow_steps=1, width=4))
    with pytest.raises(ConfigError, match="steps_per_epoch is a setting of runs"):
        glow_tf.PartsTrainer(flow).compile(TrainConfig(steps_per_epoch=3))
