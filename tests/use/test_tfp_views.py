import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from conftest import make_flow_step, perturb, small_glow

import glow_tf
from glow_tf.bijectors import Chain, Squeeze

tfb, tfd = tfp.bijectors, tfp.distributions


@pytest.fixture
def glow():
    return small_glow("float64")


def test_a_bijector_composes_with_tfp(rng):
    chain = Chain([Squeeze(dtype="float64"), make_flow_step(6, dtype="float64")], dtype="float64")
    chain.build((None, 4, 4, 1))
    perturb(chain)
    view = glow_tf.as_tfp_bijector(chain)
    x = tf.constant(rng.normal(size=(2, 5, 4, 4, 1)))  # two batch dimensions
    y = view.forward(x)
    assert y.shape == (2, 5, 2, 2, 4)
    np.testing.assert_allclose(view.inverse(tf.identity(y)), x, atol=1e-10)
    composed = tfb.Chain([tfb.Scale(np.float64(2)), view])
    expected = chain.forward_and_log_det(x[0])[1] + 16 * np.log(2)
    np.testing.assert_allclose(composed.forward_log_det_jacobian(x[0], 3), expected, atol=1e-9)
    np.testing.assert_array_equal(view.forward_event_shape([4, 4, 1]), [2, 2, 4])
    np.testing.assert_array_equal(view.inverse_event_shape([2, 2, 4]), [4, 4, 1])
    assert view.forward(x[0, 0]).shape == (2, 2, 4)  # no batch dimension


def test_an_unbuilt_bijector_is_refused():
    with pytest.raises(ValueError, match=r"needs a built bijector.*Received: built=False"):
        glow_tf.as_tfp_bijector(make_flow_step(4))


def test_the_distribution_scores_as_the_glow(glow, small_images):
    density = glow_tf.as_distribution(glow)
    assert density.event_shape == (8, 8, 1)
    v = glow.dequantized(small_images, seed=4)
    np.testing.assert_allclose(density.log_prob(v), glow.log_prob(small_images, seed=4), rtol=1e-9)


def test_the_distribution_samples_what_it_scores(glow):
    density = glow_tf.as_distribution(glow)
    samples = density.sample([3, 2], seed=1)
    assert samples.shape == (3, 2, 8, 8, 1)
    fresh = tf.identity(samples)  # TFP remembers where its own samples came from
    np.testing.assert_allclose(
        density.log_prob(fresh),
        tf.reshape(glow.dequantized_log_prob(tf.reshape(fresh, [6, 8, 8, 1])), [3, 2]),
    )


def test_it_passes_through_tfd_code(glow):
    density = glow_tf.as_distribution(glow)
    brighter = tfd.TransformedDistribution(density, tfb.Shift(np.float64(3)))
    v = brighter.sample(2, seed=1)
    np.testing.assert_allclose(brighter.log_prob(v), density.log_prob(v - 3))
    joint = tfd.JointDistributionNamed(
        {"image": density, "noisy": lambda image: tfd.Independent(tfd.Normal(image, np.float64(0.1)), 3)}
    )
    draw = joint.sample(4, seed=2)
    expected = density.log_prob(draw["image"]) + tfd.Independent(
        tfd.Normal(draw["image"], np.float64(0.1)), 3
    ).log_prob(draw["noisy"])
    np.testing.assert_allclose(joint.log_prob(draw), expected)
