"""A run that diverges stops with a sentence; what is on disk is its last good epoch."""

import keras
import numpy as np
import pytest
from helpers import config, reproducible, rows_of, train

import glow_tf
from glow_tf import DivergedError
from glow_tf.store import checkpoints

FAST = {"tensorboard": False, "sample_every": 0, "export": False, "batch_size": 8, "train_examples": 160}
FAST |= {"part_epochs": 4, "finetune_epochs": 0, "augment": "none", "warmup_steps": 10}
FAST |= {"num_blocks": 1, "flow_steps": 1, "parts": "1", "schedule": "end_to_end"}


class Poison(keras.callbacks.Callback):
    """Poisons the only part before one step of one epoch (both from 1)."""

    def __init__(self, kind, epoch, step):
        super().__init__()
        self.kind, self.place = kind, (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.place:
            POISONS[self.kind](self.model)


def weight_of(model):
    return model.flow.parts[0].trainable_variables[0]


def spoil(variable, value):
    variable.assign(np.full(variable.shape, value))


def slot_of(model):
    shape = weight_of(model).shape
    return next(v for v in model.optimizers[0].variables if v.shape == shape)


POISONS = {
    "far": lambda model: weight_of(model).assign(weight_of(model).numpy() + 1e4),
    "nan": lambda model: spoil(weight_of(model), np.nan),
    "slot": lambda model: spoil(slot_of(model), np.nan),
}
SAID = {
    "far": "it diverged in phase 'end to end', step 59 of part 1, at a learning rate of .* bits/dim of the",
    "nan": "not finite in phase 'end to end', step 59 of part 1, at a .*last of 11 such steps in a row",
    "slot": "a moment of an optimizer is not finite",
}


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "run"
    train(config(folder, **FAST))
    return folder


@pytest.mark.long
@pytest.mark.parametrize(("kind", "step"), [("far", 20), ("nan", 10), ("slot", 20)])
def test_a_run_that_diverges_keeps_its_last_good_epoch(kind, step, sound_run, tmp_path):
    """The same command, where nothing poisons it, ends as a run that was never disturbed."""
    settings = config(tmp_path, **FAST)
    kept = "The checkpoint of epoch 2 is kept; the same command goes on. It would diverge there again: a new"
    with pytest.raises(DivergedError, match=rf"Training stopped: .*{SAID[kind]}.* {kept}"):
        train(settings, Poison(kind, 3, step))
    assert checkpoints.complete(tmp_path / "checkpoints") == [1, 2]
    train(settings)
    assert [*map(reproducible, rows_of(tmp_path))] == [*map(reproducible, rows_of(sound_run))]
    weights = (glow_tf.load(folder).get_weights() for folder in (sound_run, tmp_path))
    for mine, expected in zip(*weights, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_what_diverges_before_the_first_checkpoint_speaks_of_none(tmp_path):
    with pytest.raises(DivergedError, match=r"not finite .* No epoch is finished yet; the same") as error:
        train(config(tmp_path, **FAST), Poison("nan", 1, 4))
    assert "checkpoint" not in str(error.value)
