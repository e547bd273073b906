"""Levels: conditional flows of Haar details, parts that share nothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import (
    assert_density_is_of_the_jacobian,
    eagerly,
    fit_phases,
    only_endpoints,
    perturb,
    small_levels,
)

import glow_tf
from glow_tf import ConfigError, ModelConfig, PartsTrainer, export, load
from glow_tf.architectures.schedule import end_to_end, simultaneous
from glow_tf.model.endpoints import ActivationLimit
from glow_tf.run.callbacks import bits_of_levels
from glow_tf.training import ScaledSGD


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (32, 8, 8, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def perturbed(images):
    flow = small_levels(dtype="float64")
    flow.initialize(images)
    perturb(flow)
    return flow


def trained(images, phases, **options):
    """Returns a trainer after its phases; without clipping, whose norm is over parts that train together."""
    keras.utils.set_random_seed(0)
    trainer = PartsTrainer(small_levels(flow_steps=1), seed=3)
    sgd = [ScaledSGD(1e-3) for _ in trainer.flow.parts]
    trainer.compile(sgd, clip_norm=0, phases=phases, **options)
    with eagerly():
        fit_phases(trainer, images[:16], batch_size=8)
    return trainer


@pytest.fixture(scope="module")
def at_once(images):
    """A trainer after an epoch of all parts at once."""
    return trained(images, [simultaneous(3)])


def test_a_level_has_a_part_and_the_coarsest_image_another(perturbed):
    assert [part.output_event_shape for part in perturbed.parts] == [(4, 4, 3), (2, 2, 3), (1, 1, 12)]
    assert [part.latent_shapes for part in perturbed.parts] == [[(4, 4, 9)], [(2, 2, 9)], []]
    assert perturbed.design.num_parts == 3
    assert perturbed.design.cuts == (2, 2, 2)
    counts = [small_levels(flow_steps=steps).design.cuts for steps in (1, 3, 5, 8)]
    assert counts == [(1, 1, 1), (3, 2, 2), (5, 3, 3), (8, 4, 4)]


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((12, 4, 5), 2),
        ((6, 6, 1), 1),
    ],
    ids=str,
)
def test_any_size_that_halves_will_do(shape, blocks, eager):
    flow = small_levels(image_shape=shape, num_blocks=blocks, dtype="float64")
    images = np.random.default_rng(0).integers(0, 256, (4, *shape)).astype(np.uint8)
    flow.initialize(images)
    perturb(flow)
    np.testing.assert_array_equal(flow.decode(flow.encode(images)), images)
    assert np.isfinite(flow.bits_per_dim(images)).all()


def test_the_log_likelihood_is_that_of_the_whole_jacobian(perturbed, images):
    assert_density_is_of_the_jacobian(perturbed, perturbed.dequantized(images[:1], noise=0.3))


def test_the_terms_of_the_parts_add_up_to_the_log_likelihood(perturbed, images):
    passage = perturbed.enter(images, 0.3 * np.ones(images.shape))
    whole = perturbed.dequantized_log_prob(perturbed.dequantized(images, 0.3))
    terms = passage.log_likelihood
    for k, part in enumerate(perturbed.parts):
        passage, view = perturbed.through_part(k, passage)
        terms += view.log_likelihood_term if part is not perturbed.parts[-1] else -view.truncated_nll
    np.testing.assert_allclose(terms, whole, rtol=1e-8)


def test_no_part_has_a_gradient_from_the_loss_of_another(images):
    trainer = PartsTrainer(small_levels())
    trainer.compile("adamax", run_eagerly=True)
    flow = trainer.flow
    flow.initialize(images)
    perturb(flow)
    for k in range(3):
        with tf.GradientTape() as tape:
            passage = flow.enter(images[:4], 0.5)
            for before in range(k + 1):  # nothing stops a gradient here
                passage, view = flow.through_part(before, passage)
            loss = view.truncated_nll
        weights = [[v.value for v in part.trainable_variables] for part in flow.parts]
        for j, gradients in enumerate(tape.gradient(loss, weights)):
            assert all((gradient is not None) == (j == k) for gradient in gradients)


def test_an_image_s_smaller_version_is_a_fixed_function_of_it(perturbed, images):
    h = perturbed.enter(images, 0.5).h
    output = perturbed.parts[0].call(h)
    means = tf.nn.avg_pool2d(h, 2, 2, "VALID")
    np.testing.assert_allclose(output.h, means, atol=1e-12)
    np.testing.assert_allclose(perturbed.parts[0].pass_on(h), means, atol=1e-12)
    assert perturbed.fixed_parts == (True, True, False)


def test_a_level_is_given_the_smaller_image_and_not_one_that_is_smaller_still(perturbed, rng):
    details = perturbed.parts[0].bijectors[1]
    h, z = (tf.constant(rng.normal(size=(1, 4, 4, channels))) for channels in (3, 9))
    swapped = tf.gather(h, [1, 0, 3, 2], axis=1)  # the same means of all squares of 2×2 pixels
    eps, other = (details.whiten(own, z)[0] for own in (h, swapped))
    assert np.abs(eps - other).max() > 1e-3
    np.testing.assert_array_equal(eps, details.whiten(h, z)[0])


def test_no_level_is_given_an_image_beyond_the_range_of_pixels(perturbed, rng, eager):
    """Of what is drawn. Without a bound the flow stays the exact map that it is."""
    eps = tf.constant(10 * rng.standard_normal((4, 192)))
    for stop in (1, 2):
        free = perturbed.inverse(eps, stop=stop).numpy()
        bounded = perturbed.inverse(eps, ActivationLimit(), stop=stop).numpy()
        assert free.min() < 0
        assert free.max() > 256
        assert bounded.min() >= 0
        assert bounded.max() <= 256
    coarse = perturbed.inverse(eps, stop=2).numpy()
    np.testing.assert_array_equal(perturbed.inverse(eps, ActivationLimit(), stop=2), np.clip(coarse, 0, 256))


def test_trained_at_once_or_together_the_weights_are_the_same(images, at_once):
    together = trained(images, [end_to_end(3)]).flow
    for mine, others in zip(at_once.flow.get_weights(), together.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, others)


@pytest.mark.long
def test_recomputation_gives_the_same_steps(images, at_once):
    trainer = trained(images, [simultaneous(3)], reversible=True)
    for mine, others in zip(trainer.flow.get_weights(), at_once.flow.get_weights(), strict=True):
        np.testing.assert_allclose(mine, others, atol=1e-5)


@pytest.mark.long
def test_files_and_exports_hold_levels(images, tmp_path):
    flow = small_levels(num_blocks=1, level_steps="1,2", level_widths=(6, 4), equalize=0.5)
    flow.initialize(images)
    perturb(flow)
    flow.save(tmp_path / "glow.keras")
    glow_tf.save(flow, tmp_path / "preset")
    with only_endpoints("bits_per_dim", "encode", "decode"):
        export(flow, tmp_path / "export")
    with eagerly():
        expected = flow.bits_per_dim(images, 0)
        for again in (load(tmp_path / "glow.keras"), glow_tf.load(tmp_path / "preset")):
            np.testing.assert_array_equal(again.bits_per_dim(images, 0), expected)
    exported = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_allclose(exported.bits_per_dim(images, 0), expected, rtol=1e-6)
    np.testing.assert_array_equal(exported.decode(exported.encode(images)), images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": "by_block:2"}, r"parts is for architecture=glow. Received: parts='by_block:2'"),
        ({"local_prior": "learned"}, r"local_prior is for architecture=glow.*='learned'"),
        ({"level_steps": "2,2"}, r"level_steps must be 3 integers.*Received: level_steps='2,2'"),
        ({"level_widths": "2,0,2"}, r"level_widths must be 3 integers.*Received"),
        (
            {"architecture": "glow", "level_widths": "x"},
            r"for architecture=levels. Rec.*='x', arch.*='glow'",
        ),
        ({"condition_features": 0}, r"levels need condition_features.*Received: 0"),
        ({"image_shape": (3, 6, 3)}, r"must be 4 or more with num_blocks=2.*Received: image of 3×6"),
    ],
    ids=str,
)
def test_settings_that_make_no_levels_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        small_levels(**settings)


def test_the_bits_of_levels_are_the_terms_that_training_reports(at_once):
    config = at_once.flow.config
    means = {name: values[-1] for name, values in at_once.history.history.items()}
    found = bits_of_levels(means, config)
    assert sorted(found) == [1, 2, 3]
    assert 8 + sum(found.values()) == pytest.approx(means["bpd"], abs=1e-5)
    alone = bits_of_levels({"local_bpd_2": means["local_bpd_2"]}, config)
    assert alone == {2: means["local_bpd_2"] - 8}
    assert bits_of_levels(means, ModelConfig((8, 8, 3))) == {}
