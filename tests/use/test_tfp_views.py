"""Models in TFP: eagerly, in graphs, under XLA, in compositions and in Markov chains."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from small import perturb, small_glow

import glow_tf
from glow_tf.bijectors import ActNorm

pytestmark = pytest.mark.long

tfb, tfd = tfp.bijectors, tfp.distributions


@pytest.fixture(scope="module")
def flow():
    """For tests that do not change it."""
    return small_glow("float64", num_blocks=1, flow_steps=1, parts="1")


@pytest.fixture(scope="module")
def two_blocks():
    return small_glow("float64", flow_steps=1, parts="1")


@pytest.fixture(scope="module")
def plain():
    return small_glow("float32", num_blocks=1, flow_steps=1, parts="1", perturbed=False)


@pytest.fixture
def values(flow, small_images):
    return flow.dequantized(small_images[:5], seed=4)


def graph(function, *specs, **settings):
    return tf.function(function, autograph=False, input_signature=specs or None, **settings)


@pytest.mark.parametrize("batch", [(), (2, 3), (2, 0)])
def test_any_number_of_batch_dimensions(two_blocks, rng, batch):
    flow = two_blocks
    view, density = glow_tf.as_tfp_bijector(flow), glow_tf.as_distribution(flow)
    v = tf.constant(rng.uniform(0, 17, size=(*batch, 8, 8, 1)))
    flat = tf.reshape(v, [-1, 8, 8, 1])
    eps, log_det = flow.forward_and_log_det(flat)
    np.testing.assert_allclose(view.forward(v), tf.reshape(eps, [*batch, 64]))
    np.testing.assert_allclose(view.forward_log_det_jacobian(v), tf.reshape(log_det, batch))
    np.testing.assert_allclose(view.inverse(view.forward(v)), v, atol=1e-8)
    back = view.inverse_log_det_jacobian(view.forward(v))
    np.testing.assert_allclose(back, tf.reshape(-log_det, batch), rtol=1e-8)
    np.testing.assert_allclose(density.log_prob(v), tf.reshape(flow.dequantized_log_prob(flat), batch))
    assert density.sample(batch, seed=(0, 1)).shape == (*batch, 8, 8, 1)


def test_what_cannot_be_seen_as_tfp_is_refused():
    for view in (glow_tf.as_tfp_bijector, glow_tf.as_distribution):
        for other in (ActNorm(), "digits.keras"):
            with pytest.raises(TypeError, match=r"are of a Flow\. Received: .*class (ActNorm|str)"):
                view(other)


def test_the_distribution_scores_as_the_glow_and_as_tfps_own(flow, values, small_images):
    density = glow_tf.as_distribution(flow)
    assert (density.event_shape, density.batch_shape) == ((8, 8, 1), ())
    expected = flow.log_prob(small_images[:5], seed=4)
    np.testing.assert_allclose(density.log_prob(values), expected, rtol=1e-12)
    composed = tfd.TransformedDistribution(density.distribution, density.bijector)
    np.testing.assert_allclose(composed.log_prob(values), expected, rtol=1e-9)
    drawn = [d.sample([3, 2], seed=(0, 1)) for d in (density, composed)]
    np.testing.assert_array_equal(*drawn)


def test_the_distribution_samples_what_it_scores(flow):
    density = glow_tf.as_distribution(flow)
    samples = density.sample([3, 2], seed=1)
    assert samples.shape == (3, 2, 8, 8, 1)
    expected = tf.reshape(flow.dequantized_log_prob(tf.reshape(samples, [6, 8, 8, 1])), [3, 2])
    np.testing.assert_allclose(density.log_prob(samples), expected)


# Conditions


@pytest.fixture(scope="module")
def conditional():
    """A model that is given numbers and a map, three values, and what they are given."""
    rng = np.random.default_rng(0)
    settings = {"flow_steps": 1, "num_blocks": 1, "parts": "1", "condition_features": 2}
    flow = small_glow(**settings, condition_shape={"a": (5,), "b": (4, 4, 1)})
    given = {"a": rng.normal(size=(3, 5)), "b": rng.integers(0, 256, (3, 4, 4, 1)).astype(np.uint8)}
    return flow, flow.dequantized(rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)), given


def some(given, which):
    return {name: own[which] for name, own in given.items()}


def test_one_condition_is_that_of_all_values(conditional):
    flow, values, given = conditional
    density = glow_tf.as_distribution(flow, condition=some(given, 1))
    expected = flow.dequantized_log_prob(values, condition=some(given, [1, 1, 1]))
    np.testing.assert_allclose(density.log_prob(values), expected, rtol=1e-5)
    assert density.sample(2, seed=1).shape == (2, 8, 8, 1)


def test_a_bijector_has_the_condition(conditional):
    flow, values, given = conditional
    view = glow_tf.as_tfp_bijector(flow, condition=some(given, 1))
    np.testing.assert_allclose(view.inverse(view.forward(values)), values, atol=1e-3)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), flow.dimensions)
    own = tfd.TransformedDistribution(base, tfb.Invert(view))
    expected = glow_tf.as_distribution(flow, condition=some(given, 1)).log_prob(values)
    np.testing.assert_allclose(own.log_prob(values), expected, rtol=1e-5)


def test_a_condition_that_does_not_fit_is_refused(conditional, flow):
    needing, _, batch = conditional
    given = some(batch, 1)
    for view in (glow_tf.as_distribution, glow_tf.as_tfp_bijector):
        for wrong in (None, batch):
            with pytest.raises(ValueError, match=r"the model needs a condition.*Received"):
                view(needing, condition=wrong)
        with pytest.raises(ValueError, match="must be finite"):
            view(needing, condition=given | {"a": np.full(5, np.nan)})
        with pytest.raises(ValueError, match="the model needs no condition"):
            view(flow, condition=given)


# Graphs


@pytest.mark.parametrize("shape", [(None, 8, 8, 1), None], ids=str)
def test_log_prob_and_its_gradient_in_a_graph(flow, values, shape):
    density, spec = glow_tf.as_distribution(flow), tf.TensorSpec(shape, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(values)
        expected = flow.dequantized_log_prob(values)
    gradient = tape.gradient(expected, values)
    both = graph(lambda v: tfp.math.value_and_gradient(density.log_prob, v), spec)
    for found, right in zip(both(values), (expected, gradient), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_xla(small_images):
    flow = small_glow(flow_steps=1, parts="1")
    density, view = glow_tf.as_distribution(flow), glow_tf.as_tfp_bijector(flow)
    v = flow.dequantized(small_images[:5], seed=4)

    def everything(v):
        value, gradient = tfp.math.value_and_gradient(density.log_prob, v)
        eps = view.forward(v)
        return value, gradient, view.inverse(eps), view.inverse_log_det_jacobian(eps)

    spec = tf.TensorSpec([None, 8, 8, 1])
    found = graph(everything, spec, jit_compile=True)(v)
    for one, other in zip(found, everything(v), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


# Weights that change, and the results that TFP remembers


def test_results_follow_the_weights(values):
    flow = small_glow("float64", num_blocks=1, flow_steps=1, parts="1")
    density, view = glow_tf.as_distribution(flow), glow_tf.as_tfp_bijector(flow)
    composed = tfd.TransformedDistribution(density.distribution, tfb.Chain([tfb.Invert(view)]))

    def numbers():
        return density.log_prob(values), composed.log_prob(values), view.forward_log_det_jacobian(values)

    kept = view.forward(values), numbers()
    perturb(flow, seed=7)
    eps, log_det = flow.forward_and_log_det(values)
    expected = flow.dequantized_log_prob(values)
    for found, right in zip(numbers(), (expected, expected, log_det), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9)
    np.testing.assert_allclose(view.forward(values), eps)
    assert np.abs(view.forward(values) - kept[0]).max() > 1e-3


def test_gradients_reach_a_value_that_the_view_itself_made(flow):
    """TFP's cache would return the latents that a sample came from, without a gradient to the sample."""
    density = glow_tf.as_distribution(flow)
    sample = density.sample(2, seed=(0, 1))
    _, expected = tfp.math.value_and_gradient(flow.dequantized_log_prob, sample)
    with tf.GradientTape() as tape:
        tape.watch(sample)
        log_prob = density.log_prob(sample)
    np.testing.assert_allclose(tape.gradient(log_prob, sample), expected)


def test_the_variables_are_those_of_the_glow(flow, values):
    density = glow_tf.as_distribution(flow)
    brighter = tfd.TransformedDistribution(density, tfb.Shift(np.float64(3)))
    expected = {id(v.value) for v in flow.trainable_variables}
    for distribution in (density, brighter, tfd.Sample(density, 3)):
        assert {id(v) for v in distribution.trainable_variables} == expected
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(brighter.log_prob(values + 3))
    assert all(g is not None for g in tape.gradient(loss, brighter.trainable_variables))


# Compositions


def test_it_passes_through_tfd_code(flow):
    density = glow_tf.as_distribution(flow)
    brighter = tfd.TransformedDistribution(density, tfb.Shift(np.float64(3)))
    v = brighter.sample(2, seed=1)
    np.testing.assert_allclose(brighter.log_prob(v), density.log_prob(v - 3))
    joint = tfd.JointDistributionNamed(
        {"image": density, "noisy": lambda image: tfd.Independent(tfd.Normal(image, np.float64(0.1)), 3)}
    )
    draw = joint.sample(4, seed=2)
    noise = tfd.Independent(tfd.Normal(draw["image"], np.float64(0.1)), 3)
    expected = density.log_prob(draw["image"]) + noise.log_prob(draw["noisy"])
    np.testing.assert_allclose(joint.log_prob(draw), expected)
    np.testing.assert_allclose(graph(joint.log_prob)(draw), expected)


def test_another_density_of_the_latents(flow, values):
    """A learned density of the latents replaces the standard normal one; several images are one event."""
    to_images = tfb.Invert(glow_tf.as_tfp_bijector(flow))
    latents = tfd.Sample(tfd.StudentT(np.float64(5), np.float64(0), np.float64(1)), [5, 64])
    together = tfd.TransformedDistribution(latents, to_images)
    assert together.event_shape == (5, 8, 8, 1)
    eps, log_det = flow.forward_and_log_det(values)
    expected = latents.log_prob(eps) + tf.reduce_sum(log_det)
    np.testing.assert_allclose(together.log_prob(values), expected)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_hamiltonian_monte_carlo(flow, jit_compile):
    """A latent brightness, two chains: the posterior is around the brightness that was added."""
    density = glow_tf.as_distribution(flow)
    prior = tfd.Normal(np.float64(0), np.float64(1))
    images = density.sample(20, seed=(0, 1)) + 0.5

    def target(brightness):
        shift = brightness[..., None, None, None]
        likelihood = tfd.Sample(tfd.TransformedDistribution(density, tfb.Shift(shift)), 20)
        return prior.log_prob(brightness) + likelihood.log_prob(images)

    @tf.function(autograph=False, jit_compile=jit_compile)
    def run():
        kernel = tfp.mcmc.HamiltonianMonteCarlo(target, step_size=np.float64(0.1), num_leapfrog_steps=2)
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(kernel, num_adaptation_steps=20)
        return tfp.mcmc.sample_chain(
            num_results=20,
            num_burnin_steps=20,
            current_state=tf.zeros(2, tf.float64),
            kernel=kernel,
            trace_fn=lambda _, results: results.inner_results.is_accepted,
            seed=(0, 1),
        )

    states, accepted = run()
    assert np.mean(accepted) > 0.4
    grid = np.linspace(-4, 4, 401)  # a posterior of one number can be summed up
    weights = tf.nn.softmax(target(tf.constant(grid)))
    mean = np.sum(weights * grid)
    deviation = np.sqrt(np.sum(weights * (grid - mean) ** 2))
    assert abs(np.mean(states) - mean) < deviation


# What is given


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_are_tf_dtypes(dtype):
    flow = small_glow(dtype)
    view, density = glow_tf.as_tfp_bijector(flow), glow_tf.as_distribution(flow)
    for found in (view.dtype, view.forward_dtype(), view.inverse_dtype(), density.dtype):
        assert isinstance(found, tf.DType)
        assert found == tf.as_dtype(dtype)
    assert density.sample(2, seed=1).dtype == density.log_prob(density.sample(2)).dtype == dtype


def test_bytes_are_refused(plain, small_images):
    images = small_images[:2]
    view, density = glow_tf.as_tfp_bijector(plain), glow_tf.as_distribution(plain)
    message = (
        r"\[..., 8, 8, 1\]; flow.dequantized\(images\) makes values .*: u?int\d+ of shape \(2, 8, 8, 1\)"
    )
    for function in (view.forward, density.log_prob, graph(density.log_prob)):
        for given in (images, tf.constant(images), images.tolist()):
            with pytest.raises(ValueError, match=message):
                function(given)


@pytest.mark.parametrize(
    ("shape", "dtype", "received"),
    [
        ((2, 8, 8, 3), "float32", r"\(2, 8, 8, 3"),
        ((8, 8), "float32", r"\(8, 8\)"),
        ((2, 8, 8, 1), "float64", ""),
    ],
)
def test_a_tensor_of_another_shape_or_dtype_is_refused(shape, dtype, received, plain):
    view, density = glow_tf.as_tfp_bijector(plain), glow_tf.as_distribution(plain)
    for function in (density.log_prob, view.forward, view.forward_log_det_jacobian):
        with pytest.raises(ValueError, match=rf"float32 of shape .* Received: {dtype} of shape {received}"):
            function(tf.zeros(shape, dtype))
    with pytest.raises(ValueError, match=r"float32 of shape \[..., 64\]; .*Received: float32 of"):
        view.inverse(tf.zeros([2, 63]))


def test_unknown_sizes_that_turn_out_wrong_are_noticed(flow):
    log_prob = graph(glow_tf.as_distribution(flow).log_prob, tf.TensorSpec(None, tf.float64))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"8,8,1"):
        log_prob(tf.zeros([2, 4, 4, 4], tf.float64))
