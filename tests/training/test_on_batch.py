"""`train_on_batch` and `test_on_batch`: one step, one batch, by the rules of `fit` and `evaluate`."""

import numpy as np
import pytest
import tensorflow as tf
from small import rewound, small_glow

from glow_tf import ConfigError, DivergedError, PartsTrainer
from glow_tf.training import ScaledSGD


def new_trainer(given=()):
    flow = small_glow(perturbed=False, flow_steps=1, num_blocks=1, parts="1", condition_shape=given)
    trainer = PartsTrainer(flow, seed=7)
    trainer.compile([ScaledSGD(1e-2)], max_skipped_steps=0, run_eagerly=bool(given))
    return trainer


make_trainer = rewound(new_trainer)


@pytest.fixture
def noise(small_images, rng):
    return rng.uniform(size=small_images.shape).astype(np.float32)


def by_name(*members):
    return dict(zip(("images", "noise", "condition"), members, strict=False))


def fitted(*members):
    """The weights after one step of `fit` on one batch."""
    trainer = make_trainer((2,) if len(members) == 3 else ())
    trainer.fit(tf.data.Dataset.from_tensors(by_name(*members)), verbose=0)
    return trainer.flow.get_weights()


@pytest.mark.long
def test_a_step_on_one_batch_is_a_step_of_fit(small_images, noise):
    trainer = make_trainer()
    logs = trainer.train_on_batch(by_name(small_images, noise), return_dict=True)
    assert np.isfinite(logs["bpd"])
    assert trainer.flow.initialized
    for a, b in zip(trainer.flow.get_weights(), fitted(small_images, noise), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("apart", [False, True])
def test_what_is_given_is_in_the_batch_or_is_y(small_images, noise, apart):
    given = np.eye(2, dtype=np.float32)[np.arange(len(small_images)) % 2]
    trainer, batch = make_trainer((2,)), by_name(small_images, noise)
    trainer.train_on_batch(*((batch, given) if apart else (batch | {"condition": given},)))
    for a, b in zip(trainer.flow.get_weights(), fitted(small_images, noise, given), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ConfigError, match=r"if any, noise, index, condition;.*\{'images': 'uint8"):
        trainer.train_on_batch(small_images)


def test_a_batch_is_evaluated_by_itself(small_images, noise, eager):
    trainer = make_trainer()
    first, second = by_name(small_images[:8], noise[:8]), by_name(small_images[8:], noise[8:])
    trainer.train_on_batch(first)
    expected = trainer.evaluate(tf.data.Dataset.from_tensors(second), verbose=0, return_dict=True)
    for batch in (first, second, second):
        found = trainer.test_on_batch(batch, return_dict=True)
    assert found["bpd"] == pytest.approx(expected["bpd"], rel=1e-6)
    assert found["bpd"] != pytest.approx(trainer.test_on_batch(first, return_dict=True)["bpd"], rel=1e-4)


@pytest.mark.parametrize("name", ["train_on_batch", "test_on_batch"])
@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        (lambda x: (x, x), {}, "labels are not used otherwise"),
        (lambda x: (x,), {"sample_weight": np.ones(16)}, "sample_weight is not used"),
        (lambda x: (tf.data.Dataset.from_tensors(x),), {}, "one step takes one batch"),
        (lambda x: (by_name(x, x),), {}, "noise must be floating-point"),
        (lambda x: ({"images": x, "labels": x},), {}, "'labels': 'uint8"),
    ],
)
def test_what_fit_refuses_is_refused(small_images, name, arguments, settings, message):
    with pytest.raises(ConfigError, match=rf"Received: .*{message}|{message}.*Received: "):
        getattr(make_trainer(), name)(*arguments(small_images[:16]), **settings)


def test_a_step_that_is_not_finite_says_what_fit_says(small_images):
    trainer = make_trainer()
    trainer.train_on_batch(small_images)
    trainer.flow.trainable_variables[0].assign(np.full(trainer.flow.trainable_variables[0].shape, np.nan))
    with pytest.raises(DivergedError, match="not finite in phase 'end to end'"):
        trainer.train_on_batch(small_images)
