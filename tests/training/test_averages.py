"""Moving averages of the parts' weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config, rows_of, train
from small import fit_phases, only_endpoints, small_config

import glow_tf
from glow_tf import ConfigError, Flow, PartsTrainer, data, phases
from glow_tf.config import DataConfig, TrainConfig
from glow_tf.run.checkpoints import Checkpoints
from glow_tf.training.optimizers import FusedAdamax
from glow_tf.use import evaluate

DECAY = 0.5


def make_trainer(schedule="alternating", epochs=2, run_eagerly=True, **changes):
    flow = Flow(small_config(**{"flow_steps": 1, "parts": "by_block:2", **changes}), name="glow")
    n = len(flow.parts)
    trainer = PartsTrainer(flow, seed=3)
    optimizers = [FusedAdamax(5e-3, use_ema=True, ema_momentum=DECAY) for _ in range(n)]
    trainer.compile(optimizers, run_eagerly=run_eagerly, phases=phases(schedule, n, epochs))
    return trainer


def test_averages_of_parts_that_made_no_step_are_their_weights(small_images, eager):
    trainer = make_trainer()
    trainer.train_on_batch(small_images[:16])  # part 1
    before = [weight.numpy() for weight in trainer.flow.parts[1].trainable_variables]
    with trainer.averages.in_place():
        for a, weight in zip(before, trainer.flow.parts[1].trainable_variables, strict=True):
            np.testing.assert_array_equal(a, weight.numpy())
    trainer = make_trainer()
    before = trainer.flow.get_weights()
    with trainer.averages.in_place():
        for a, b in zip(before, trainer.flow.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


class Follow(keras.callbacks.Callback):
    """Averages the weights of every part in NumPy, over the steps that train it, as Keras does."""

    def on_train_begin(self, logs=None):
        self.averages = {}

    def on_train_batch_end(self, batch, logs=None):
        for k in self.model.phase.active:
            weights = [w.numpy() for w in self.model.flow.parts[k].trainable_variables]
            before = self.averages.get(k, weights)
            self.averages[k] = [DECAY * a + (1 - DECAY) * w for a, w in zip(before, weights, strict=True)]


class Swapped(keras.callbacks.Callback):
    """Notes the weights and what is in their place, after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        before = self.model.flow.get_weights()
        with self.model.averages.in_place():
            self.found = [[w.numpy() for w in part.trainable_variables] for part in self.model.flow.parts]
        for a, b in zip(before, self.model.flow.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.long
def test_each_part_has_the_average_over_its_own_steps(small_images, eager):
    trainer, follow, swapped = make_trainer(epochs=3), Follow(), Swapped()
    fit_phases(trainer, small_images[:32], batch_size=16, callbacks=[follow, swapped])
    for k, found in enumerate(swapped.found):
        for a, b in zip(follow.averages[k], found, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    trainer.averages.swap()
    for part, expected in zip(trainer.flow.parts, swapped.found, strict=True):
        for weight, average in zip(part.trainable_variables, expected, strict=True):
            np.testing.assert_array_equal(weight.numpy(), average)


def test_a_checkpoint_gives_back_the_weights_and_their_averages(small_images, tmp_path, eager):
    def made():
        trainer = make_trainer("end_to_end", 1, num_blocks=1, parts="1")
        return trainer, Checkpoints(tmp_path, trainer)

    def both(trainer):
        with trainer.averages.in_place():
            averages = trainer.flow.get_weights()
        return trainer.flow.get_weights(), averages

    trainer, checkpoints = made()
    for _ in range(2):
        trainer.train_on_batch(small_images[:16])
    checkpoints.save(1)
    again, restored = made()
    assert restored.restore() == 1
    (weights, averages), found = both(trainer), both(again)
    assert any((w != a).any() for w, a in zip(weights, averages, strict=True))
    for mine, others in zip((*weights, *averages), (*found[0], *found[1]), strict=True):
        np.testing.assert_array_equal(mine, others)


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_a_decay_is_below_1(value):
    with pytest.raises(ConfigError, match="ema must be 0, or a number below 1"):
        TrainConfig(ema=value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averages") / "run"
    fast = {"schedule": "end_to_end", "num_blocks": 1, "parts": "1", "part_epochs": 1, "finetune_epochs": 0}
    fast |= {"train_examples": 64}
    with only_endpoints("serving_default"):
        train(config(folder, ema=0.9, **fast, tensorboard=False, sample_every=0), eager=True)
    return folder


def test_a_run_evaluates_keeps_and_exports_the_averages(run, eager):
    expected = float(rows_of(run)[-1]["test_bpd"])
    test = data.load(DataConfig("digits", test_examples=50)).test
    assert evaluate(glow_tf.load(run), test).per_image.mean() == pytest.approx(expected, abs=1e-5)
    exported = tf.saved_model.load(run / "export")
    found = exported.serving_default(test)["log_prob"]
    np.testing.assert_allclose(found, glow_tf.load(run).score(test)["log_prob"], rtol=1e-5)
    trainer = glow_tf.load_trainer(run)
    raw = trainer.evaluate(test, return_dict=True, verbose=0)["bpd"]
    with trainer.averages.in_place():
        averaged = trainer.evaluate(test, return_dict=True, verbose=0)["bpd"]
    assert averaged == pytest.approx(expected, abs=1e-5)
    assert raw != pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_averages(run, tmp_path):
    settings = {"ema": 0.9, "part_epochs": 2}
    train(config(tmp_path, finetune_epochs=0, rate_schedule="constant", **settings))
    train(config(tmp_path, finetune_epochs=1, rate_schedule="constant", **settings))
    whole = tmp_path / "whole"
    train(config(whole, finetune_epochs=1, rate_schedule="constant", **settings))
    for name in ("test_bpd", "local_bpd_1"):
        assert [row[name] for row in rows_of(tmp_path)] == [row[name] for row in rows_of(whole)]
    # A run that only has its end left to write exports the averages, too.
    images = np.zeros((1, 8, 8, 1), np.uint8)
    exported = tf.saved_model.load(whole / "export")  # its functions need its variables
    scores = exported.log_prob(images, 0).numpy()
    (whole / "summary.json").unlink()
    train(config(whole, finetune_epochs=1, rate_schedule="constant", **settings))
    again = tf.saved_model.load(whole / "export")
    np.testing.assert_array_equal(scores, again.log_prob(images, 0).numpy())
