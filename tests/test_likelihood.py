import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small import perturb, small_config, small_glow

from glow_tf.bijectors import likelihood
from glow_tf.model.flow import Flow


def test_standard_normal_equals_tfp(rng):
    z = rng.normal(size=(5, 3, 2, 4))
    expected = tfp.distributions.Normal(np.float64(0), 1).log_prob(z).numpy().sum((1, 2, 3))
    np.testing.assert_allclose(likelihood.standard_normal_log_prob(tf.constant(z)), expected)


@pytest.mark.parametrize("n_bits", [1, 5, 8])
def test_a_uniform_density_has_exactly_n_bits_per_dimension(n_bits, small_images):
    flow = small_glow(n_bits=n_bits, perturbed=False)
    _, log_det = flow.dequantize.forward_and_log_det(flow.dequantized(small_images))
    # A density of 1 on the unit cube that the dequantised values fill.
    np.testing.assert_allclose(likelihood.bits_per_dim(-log_det, (8, 8, 1)), n_bits, rtol=1e-6)


@pytest.mark.parametrize(  # the contract of bijectors has the log-determinant of each
    "scale", ["sigmoid", *(pytest.param(s, marks=pytest.mark.slow) for s in ("exp", "tanh", "tanh:1"))]
)
def test_density_of_a_whole_glow_integrates_to_one(scale):
    """Estimates ∫ p(v) dv by importance sampling, in float64 on 2×2×1 images."""
    config = small_config(image_shape=(2, 2, 1), num_blocks=1, n_bits=2, parts="1", scale=scale)
    flow = Flow(config, dtype="float64")
    perturb(flow, scale=0.1)
    proposal = tfp.distributions.StudentT(np.float64(3), np.float64(2), np.float64(5))
    v = proposal.sample((400_000, 2, 2, 1), seed=1)
    log_weight = flow.dequantized_log_prob(v) - tf.reduce_sum(proposal.log_prob(v), [1, 2, 3])
    weights = np.exp(log_weight.numpy())
    error = weights.std() / math.sqrt(len(weights))
    assert error < 0.03
    assert abs(weights.mean() - 1) < 4 * error


def test_images_are_drawn_as_often_as_their_probability_whose_first_and_last_bins_have_no_end():
    """Of 1 bit and 2×2 pixels there are 16 images; no mass lies outside of them."""
    flow = small_glow("float64", image_shape=(2, 2, 1), num_blocks=1, n_bits=1, parts="1")
    proposal = tfp.distributions.StudentT(np.float64(3), np.float64(1), np.float64(2))
    v = proposal.sample((200_000, 2, 2, 1), seed=1)
    weights = np.exp(flow.dequantized_log_prob(v) - tf.reduce_sum(proposal.log_prob(v), [1, 2, 3]))
    number = 2 ** np.arange(4)

    def of_images(images, weights=None):
        """Returns the mean weight of each image."""
        which = (images.numpy().reshape(-1, 4) > 0) @ number
        return np.bincount(which, weights, 16) / len(images)

    expected, drawn = of_images(flow.dequantize.to_output(v), weights), of_images(flow.sample(20_000))
    assert expected.sum() == pytest.approx(1, abs=0.01)
    inside = tf.reduce_all((v >= 0) & (v < 2), axis=[1, 2, 3]).numpy()
    assert np.mean(weights * inside) < 0.9
    error = np.sqrt(expected / 20_000) + 0.002
    assert (np.abs(drawn - expected) < 4 * error).all()


def test_parts_terms_sum_to_the_end_to_end_likelihood(small_images):
    """The log-likelihood and the sum of its terms do not depend on where the model is cut."""
    whole = small_glow("float64", parts="1")
    v = whole.dequantized(small_images, seed=3)
    expected = whole.dequantized_log_prob(v)
    for parts in ("by_block:2", "across_block:3", "1,1,1,1", "3,1"):
        flow = small_glow("float64", perturbed=False, parts=parts)
        flow.set_flow_weights(whole.get_flow_weights())
        h, total = flow.dequantize.forward_and_log_det(v)
        for part in flow.parts:
            output = part(h)
            total += output.log_likelihood_term
            h = output.h
        total += flow.parts[-1].base.log_prob(h)
        np.testing.assert_allclose(total, expected, rtol=1e-12)
        np.testing.assert_allclose(flow.dequantized_log_prob(v), expected, rtol=1e-12)


def test_log_prob_of_reals_is_the_whitened_density(small_images):
    flow = small_glow("float64", parts="across_block:3")
    v = flow.dequantized(small_images)
    eps, log_det = flow.forward_and_log_det(v)
    expected = likelihood.standard_normal_log_prob(eps) + log_det
    np.testing.assert_allclose(flow.dequantized_log_prob(v), expected, rtol=1e-10)
