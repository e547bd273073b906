"""The autoregressive opponent: what a pixel's distribution depends on, and that it is one."""

import types

import numpy as np
import pytest
import tensorflow as tf
from small import perturb

from lab.benchmarks.autoregressive import Autoregressive, ByTheClock, bits, log_probs

SHAPE = (5, 6, 3)


@pytest.fixture(scope="module")
def model():
    made = Autoregressive(width=6, depth=2, mixtures=3)
    made(np.zeros((1, *SHAPE), np.uint8))
    perturb(made, 0.2)
    return made


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.uint8)


def test_no_byte_has_an_effect_on_those_before_it_and_each_has_on_what_follows(model, images):
    order = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    before = log_probs(images, model(images)).numpy()
    for row, column, channel in np.ndindex(SHAPE):
        changed = images.copy()
        changed[:, row, column, channel] ^= 128
        after = log_probs(changed, model(changed)).numpy()
        earlier = order < order[row, column, channel]
        np.testing.assert_array_equal(after[:, earlier], before[:, earlier])
        later = (after != before)[:, order > order[row, column, channel]]
        assert later.any() or order[row, column, channel] == order.max()


def test_parameters_of_a_pixel_do_not_depend_on_it(model, images):
    before = model(images).numpy()
    for row, column in np.ndindex(SHAPE[:2]):
        changed = images.copy()
        changed[:, row, column] ^= 255
        np.testing.assert_array_equal(model(changed)[:, row, column], before[:, row, column])


def test_the_probabilities_of_all_values_of_a_byte_add_up_to_1(model, images):
    for channel in range(3):
        copies = np.repeat(images[:1], 256, axis=0)
        copies[:, 2, 3, channel] = np.arange(256)
        parameters = tf.repeat(model(images[:1]), 256, axis=0)  # at the place, they are the same for all
        found = log_probs(copies, parameters)[:, 2, 3, channel]
        np.testing.assert_allclose(tf.reduce_sum(tf.exp(tf.cast(found, tf.float64))), 1, rtol=1e-5)


def test_narrow_logistics_far_from_a_byte_have_finite_bits_and_gradients(images):
    extreme = tf.constant(np.random.default_rng(0).normal(0, 100, (2, 5, 6, 30)), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(extreme)
        found = bits(images, extreme)
    assert np.isfinite(found).all()
    assert np.isfinite(tape.gradient(found, extreme)).all()


def test_bits_are_those_of_all_bytes(model, images):
    nats = log_probs(images, model(images)).numpy().sum(axis=(1, 2, 3))
    np.testing.assert_allclose(bits(images, model(images)), -nats / np.log(2) / 90, rtol=1e-6)


def test_the_rate_rises_and_falls_with_the_time_that_training_takes_and_ends_it(monkeypatch):
    clock, seconds, rates = ByTheClock(learning_rate=2.0, seconds=100), iter([50, 60, 70, 120, 160]), []
    monkeypatch.setattr("time.process_time", lambda: next(seconds, None))
    model = types.SimpleNamespace(optimizer=types.SimpleNamespace(), stop_training=False)
    clock.set_model(model)
    for batch in range(5):
        assert not model.stop_training
        clock.on_train_batch_begin(batch)
        rates.append(model.optimizer.learning_rate)
        clock.on_train_batch_end(batch)
    assert model.stop_training
    assert clock.spent == 100
    assert rates[0] == rates[1] < 0.2
    np.testing.assert_allclose(rates[3:], [1 + np.cos(np.pi * 0.1), 1 + np.cos(np.pi * 0.6)])
