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

UNKNOWN = {
    "known": (5, 8, 8, 1),
    "batch": (None, 8, 8, 1),
    "everything": (None, None, None, None),
    "rank": None,
}


@pytest.fixture(scope="module")
def glow():
    """For tests that do not change it."""
    return small_glow("float64", num_blocks=1, flow_steps=1, parts="1")


@pytest.fixture(scope="module")
def two_blocks():
    return small_glow("float64", flow_steps=1, parts="1")


@pytest.fixture(scope="module")
def plain():
    return small_glow("float32", num_blocks=1, flow_steps=1, parts="1", perturbed=False)


@pytest.fixture
def values(glow, small_images):
    return glow.dequantized(small_images[:5], seed=4)


def graph(function, *specs, **settings):
    return tf.function(function, autograph=False, input_signature=specs or None, **settings)


# The bijector


@pytest.mark.parametrize(
    "batch", [(), (2, 3), (2, 0), *(pytest.param(b, marks=pytest.mark.slow) for b in ((3,), (0,)))]
)
def test_any_number_of_batch_dimensions(two_blocks, rng, batch):
    glow = two_blocks
    view, density = glow_tf.as_tfp_bijector(glow), glow_tf.as_distribution(glow)
    v = tf.constant(rng.uniform(0, 17, size=(*batch, 8, 8, 1)))
    flat = tf.reshape(v, [-1, 8, 8, 1])
    eps, log_det = glow.forward_and_log_det(flat)
    np.testing.assert_allclose(view.forward(v), tf.reshape(eps, [*batch, 64]))
    np.testing.assert_allclose(view.forward_log_det_jacobian(v), tf.reshape(log_det, batch))
    np.testing.assert_allclose(view.inverse(view.forward(v)), v, atol=1e-8)
    back = view.inverse_log_det_jacobian(view.forward(v))
    np.testing.assert_allclose(back, tf.reshape(-log_det, batch), rtol=1e-8)
    np.testing.assert_allclose(density.log_prob(v), tf.reshape(glow.dequantized_log_prob(flat), batch))
    assert density.sample(batch, seed=(0, 1)).shape == (*batch, 8, 8, 1)


def test_empty_batches_of_single_precision(plain):
    density = glow_tf.as_distribution(plain)
    empty = tf.zeros((2, 0, *plain.image_shape))
    assert density.log_prob(empty).shape == (2, 0)
    assert graph(density.log_prob, tf.TensorSpec((None, None, *plain.image_shape)))(empty).shape == (2, 0)
    assert density.sample(0, seed=1).shape == (0, *plain.image_shape)


def test_the_log_determinant_is_that_of_the_jacobian(glow, values):
    view = glow_tf.as_tfp_bijector(glow)
    v = values[0]
    with tf.GradientTape() as tape:
        tape.watch(v)
        eps = view.forward(v)
    jacobian = tf.reshape(tape.jacobian(eps, v), [64, 64])
    expected = tf.linalg.slogdet(jacobian)[1]
    np.testing.assert_allclose(view.forward_log_det_jacobian(v), expected, rtol=1e-9)
    np.testing.assert_allclose(view.inverse_log_det_jacobian(eps), -expected, rtol=1e-9)


def test_more_event_dimensions_are_summed(glow, values):
    view = glow_tf.as_tfp_bijector(glow)
    v = tf.stack([values, values + 1])  # [2, 5, 8, 8, 1]
    each = view.forward_log_det_jacobian(v)
    np.testing.assert_allclose(view.forward_log_det_jacobian(v, event_ndims=4), tf.reduce_sum(each, 1))
    np.testing.assert_allclose(view.forward_log_det_jacobian(v, event_ndims=5), tf.reduce_sum(each))
    eps = view.forward(v)
    np.testing.assert_allclose(view.inverse_log_det_jacobian(eps, event_ndims=3), -tf.reduce_sum(each))
    assert view.forward_event_ndims(4) == 2
    assert view.inverse_event_ndims(2) == 4


def test_event_shapes_of_a_glow(two_blocks):
    glow = two_blocks
    view = glow_tf.as_tfp_bijector(glow)
    assert (view.forward_min_event_ndims, view.inverse_min_event_ndims) == (3, 1)
    assert view.forward_event_shape([8, 8, 1]) == (64,)
    assert view.inverse_event_shape([64]) == (8, 8, 1)
    assert view.forward_event_shape([7, 8, 8, 1]) == (7, 64)  # seven images are one event
    assert view.inverse_event_shape([7, 64]) == (7, 8, 8, 1)
    assert view.inverse_event_shape(tf.TensorShape(None)).rank is None
    np.testing.assert_array_equal(view.forward_event_shape_tensor([7, 8, 8, 1]), [7, 64])
    np.testing.assert_array_equal(view.inverse_event_shape_tensor([7, 64]), [7, 8, 8, 1])
    shape = tf.TensorSpec([None], tf.int32)
    np.testing.assert_array_equal(graph(view.forward_event_shape_tensor, shape)([7, 8, 8, 1]), [7, 64])
    np.testing.assert_array_equal(graph(view.inverse_event_shape_tensor, shape)([7, 64]), [7, 8, 8, 1])


def test_what_cannot_be_seen_as_tfp_is_refused():
    for view in (glow_tf.as_tfp_bijector, glow_tf.as_distribution):
        for other in (ActNorm(), "digits.keras"):
            with pytest.raises(TypeError, match=r"are of a Glow\. Received: .*class (ActNorm|str)"):
                view(other)


# The distribution


def test_the_distribution_scores_as_the_glow(glow, small_images):
    density = glow_tf.as_distribution(glow)
    assert density.event_shape == (8, 8, 1)
    assert density.batch_shape == ()
    v = glow.dequantized(small_images, seed=4)
    np.testing.assert_allclose(density.log_prob(v), glow.log_prob(small_images, seed=4), rtol=1e-12)
    np.testing.assert_allclose(density.prob(v), np.exp(density.log_prob(v)))


def test_the_distribution_scores_as_tfps_own_transformed_distribution(glow, values):
    density = glow_tf.as_distribution(glow)
    composed = tfd.TransformedDistribution(density.distribution, density.bijector)
    assert composed.event_shape == density.event_shape
    np.testing.assert_allclose(density.log_prob(values), composed.log_prob(values), rtol=1e-9)
    drawn = [d.sample([3, 2], seed=(0, 1)) for d in (density, composed)]
    np.testing.assert_array_equal(*drawn)


def test_the_distribution_samples_what_it_scores(glow):
    density = glow_tf.as_distribution(glow)
    samples = density.sample([3, 2], seed=1)
    assert samples.shape == (3, 2, 8, 8, 1)
    expected = tf.reshape(glow.dequantized_log_prob(tf.reshape(samples, [6, 8, 8, 1])), [3, 2])
    np.testing.assert_allclose(density.log_prob(samples), expected)
    samples, log_prob = density.experimental_sample_and_log_prob(4, seed=1)
    np.testing.assert_allclose(log_prob, glow.dequantized_log_prob(samples))


def test_log_prob_runs_the_model_once(glow, values, monkeypatch):
    density = glow_tf.as_distribution(glow)
    runs = []
    forward, inverse = glow.parts[0].call, glow.parts[0].inverse
    monkeypatch.setattr(glow.parts[0], "call", lambda *a: (runs.append("forward"), forward(*a))[1])
    monkeypatch.setattr(glow.parts[0], "inverse", lambda *a: (runs.append("inverse"), inverse(*a))[1])
    density.log_prob(values)
    assert runs == ["forward"]
    density.sample(3, seed=1)
    assert runs == ["forward", "inverse"]


# Conditions

SHAPES = {"map": (4, 4, 1), "vector": (5,), "named": {"a": (5,), "b": (4, 4, 1)}}


# "named" has a map, too.
@pytest.fixture(
    scope="module", params=[pytest.param(s, marks=pytest.mark.slow if s == "map" else ()) for s in SHAPES]
)
def conditional(request):
    """A model, three values, and what they are given: bytes, numbers, and both by name."""
    rng, shape = np.random.default_rng(0), SHAPES[request.param]
    settings = {"flow_steps": 1, "num_blocks": 1, "parts": "1", "condition_features": 2}
    glow = small_glow(**settings, condition_shape=shape)
    of_kind = {3: rng.integers(0, 256, (3, 4, 4, 1)).astype(np.uint8), 1: rng.normal(size=(3, 5))}
    given = {k: of_kind[len(s)] for k, s in shape.items()} if isinstance(shape, dict) else of_kind[len(shape)]
    return glow, glow.dequantized(rng.integers(0, 256, (3, 8, 8, 1)).astype(np.uint8)), given


def some(given, which):
    return tf.nest.map_structure(lambda own: own[which], given)


def test_one_condition_is_that_of_all_values(conditional):
    glow, values, given = conditional
    density = glow_tf.as_distribution(glow, condition=some(given, 1))
    assert (density.batch_shape, density.event_shape) == ([], (8, 8, 1))
    expected = glow.dequantized_log_prob(values, condition=some(given, [1, 1, 1]))
    np.testing.assert_allclose(density.log_prob(values), expected, rtol=1e-5)
    assert density.sample(2, seed=1).shape == (2, 8, 8, 1)


def test_a_bijector_has_the_condition(conditional):
    glow, values, given = conditional
    view = glow_tf.as_tfp_bijector(glow, condition=some(given, 1))
    latents = view.forward(values)
    np.testing.assert_allclose(view.inverse(latents), values, atol=1e-3)
    log_det = view.forward_log_det_jacobian(values, event_ndims=3)
    np.testing.assert_allclose(-view.inverse_log_det_jacobian(latents, event_ndims=1), log_det, rtol=1e-4)
    base = tfd.Sample(tfd.Normal(0.0, 1.0), glow.dimensions)
    own = tfd.TransformedDistribution(base, tfb.Invert(view))
    expected = glow_tf.as_distribution(glow, condition=some(given, 1)).log_prob(values)
    np.testing.assert_allclose(own.log_prob(values), expected, rtol=1e-5)


def test_conditions_in_a_graph(conditional):
    glow, values, given = conditional
    given = tf.nest.map_structure(tf.constant, some(given, 1))
    scored = graph(lambda c, v: glow_tf.as_distribution(glow, condition=c).log_prob(v))
    expected = glow_tf.as_distribution(glow, condition=given).log_prob(values)
    np.testing.assert_allclose(scored(given, values), expected, rtol=1e-5)


def test_a_condition_that_does_not_fit_is_refused(conditional, glow):
    needing, _, batch = conditional
    given = some(batch, 1)
    nan = tf.nest.map_structure(lambda own: own * np.float32(np.nan), given)
    for view in (glow_tf.as_distribution, glow_tf.as_tfp_bijector):
        with pytest.raises(ValueError, match=r"the model needs a condition.*Received: None"):
            view(needing)
        with pytest.raises(ValueError, match=r"the model needs a condition.*Received"):
            view(needing, condition=batch)
        with pytest.raises(ValueError, match=r"the model needs a condition.*Received"):
            view(needing, condition=tf.nest.map_structure(lambda own: own[..., :0], given))
        with pytest.raises(ValueError, match="must be finite"):
            view(needing, condition=nan)
        with pytest.raises(ValueError, match="the model needs no condition"):
            view(glow, condition=given)


# Graphs


@pytest.mark.parametrize(
    "known", [pytest.param(k, marks=() if k in ("batch", "rank") else pytest.mark.slow) for k in UNKNOWN]
)
def test_log_prob_and_its_gradient_in_a_graph(glow, values, known):
    density = glow_tf.as_distribution(glow)
    spec = tf.TensorSpec(UNKNOWN[known], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(values)
        expected = glow.dequantized_log_prob(values)
    gradient = tape.gradient(expected, values)
    log_prob = graph(density.log_prob, spec)
    np.testing.assert_allclose(log_prob(values), expected, rtol=1e-12)
    np.testing.assert_allclose(graph(density.prob, spec)(values), np.exp(expected))
    both = graph(lambda v: tfp.math.value_and_gradient(density.log_prob, v), spec)
    for found, right in zip(both(values), (expected, gradient), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9, atol=1e-12)
    if known == "rank":
        np.testing.assert_allclose(log_prob(values[0]), expected[0], rtol=1e-12)
        np.testing.assert_allclose(log_prob(values[None]), expected[None], rtol=1e-12)


@pytest.mark.slow  # the other tests trace the methods, too
def test_tf_function_as_users_write_it(glow, values):
    density = glow_tf.as_distribution(glow)
    np.testing.assert_allclose(tf.function(density.log_prob)(values), density.log_prob(values), rtol=1e-12)
    sample = tf.function(lambda n: density.sample(n, seed=(0, 1)))
    np.testing.assert_allclose(sample(tf.constant(3)), density.sample(3, seed=(0, 1)), rtol=1e-9, atol=1e-9)
    made_inside = tf.function(lambda v: glow_tf.as_distribution(glow).log_prob(v))
    np.testing.assert_allclose(made_inside(values), density.log_prob(values), rtol=1e-12)
    drawn, log_prob = graph(lambda: density.experimental_sample_and_log_prob(3, seed=(0, 1)))()
    np.testing.assert_allclose(density.log_prob(drawn), log_prob, rtol=1e-9)


def test_vectorized_map(glow, values):
    density = glow_tf.as_distribution(glow)
    found = graph(lambda v: tf.vectorized_map(density.log_prob, v))(values)
    np.testing.assert_allclose(found, density.log_prob(values), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("permutation", ["lu", "shuffle"])
def test_xla(permutation, small_images):
    glow = small_glow(permutation=permutation, flow_steps=1, parts="1")
    density, view = glow_tf.as_distribution(glow), glow_tf.as_tfp_bijector(glow)
    v = glow.dequantized(small_images[:5], seed=4)

    def everything(v):
        value, gradient = tfp.math.value_and_gradient(density.log_prob, v)
        eps = view.forward(v)
        return value, gradient, view.inverse(eps), view.inverse_log_det_jacobian(eps)

    spec = tf.TensorSpec([None, 8, 8, 1])
    found = graph(everything, spec, jit_compile=True)(v)
    for one, other in zip(found, everything(v), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    # XLA draws other random numbers, for TFP's own distributions too.
    draw = graph(lambda: density.experimental_sample_and_log_prob(3, seed=(0, 1)), jit_compile=True)
    drawn, log_prob = draw()
    np.testing.assert_allclose(log_prob, density.log_prob(drawn), rtol=1e-3)


@pytest.mark.slow
def test_xla_has_no_determinant_for_plain_matrices(small_images):
    """The guide says so; if this begins to work, the guide must change."""
    glow = small_glow(permutation="plain", flow_steps=1, num_blocks=1, parts="1")
    density = glow_tf.as_distribution(glow)
    v = glow.dequantized(small_images[:5], seed=4)
    assert graph(density.log_prob)(v).shape == 5
    with pytest.raises(tf.errors.InvalidArgumentError, match="LogMatrixDeterminant"):
        graph(density.log_prob, jit_compile=True)(v)
    assert graph(lambda: density.sample(3, seed=(0, 1)), jit_compile=True)().shape == (3, 8, 8, 1)


# Weights that change, and the results that TFP remembers


def test_results_follow_the_weights(values):
    glow = small_glow("float64", num_blocks=1, flow_steps=1, parts="1")
    density, view = glow_tf.as_distribution(glow), glow_tf.as_tfp_bijector(glow)
    composed = tfd.TransformedDistribution(density.distribution, tfb.Chain([tfb.Invert(view)]))

    def numbers():
        return density.log_prob(values), composed.log_prob(values), view.forward_log_det_jacobian(values)

    kept = view.forward(values), view.inverse(view.forward(values)), numbers()
    perturb(glow, seed=7)
    eps, log_det = glow.forward_and_log_det(values)
    expected = glow.dequantized_log_prob(values)
    for found, right in zip(numbers(), (expected, expected, log_det), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-9)
    np.testing.assert_allclose(view.forward(values), eps)
    assert np.abs(view.forward(values) - kept[0]).max() > 1e-3


def test_gradients_reach_a_value_that_the_view_itself_made(glow):
    """TFP's cache would return the latents that a sample came from, without a gradient to the sample."""
    density, view = glow_tf.as_distribution(glow), glow_tf.as_tfp_bijector(glow)
    sample = density.sample(2, seed=(0, 1))
    _, expected = tfp.math.value_and_gradient(glow.dequantized_log_prob, sample)
    with tf.GradientTape() as tape:
        tape.watch(sample)
        log_prob = density.log_prob(sample)
    np.testing.assert_allclose(tape.gradient(log_prob, sample), expected)
    eps = view.forward(sample)
    with tf.GradientTape() as tape:
        tape.watch(eps)
        again = view.inverse(eps)
    assert tape.gradient(again, eps) is not None


def test_the_variables_are_those_of_the_glow(values):
    glow = small_glow("float64", parts="1")
    density = glow_tf.as_distribution(glow)
    brighter = tfd.TransformedDistribution(density, tfb.Shift(np.float64(3)))
    expected = {id(v.value) for v in glow.trainable_variables}
    for distribution in (density, brighter, tfd.Sample(density, 3)):
        assert {id(v) for v in distribution.trainable_variables} == expected
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(brighter.log_prob(values + 3))
    gradients = tape.gradient(loss, brighter.trainable_variables)
    for variable, gradient in zip(brighter.trainable_variables, gradients, strict=True):
        variable.assign_sub(1e-4 * gradient)
    assert -tf.reduce_mean(brighter.log_prob(values + 3)) < loss


# Compositions


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
    np.testing.assert_allclose(graph(joint.log_prob)(draw), expected)


def test_a_chain_with_other_bijectors_in_a_graph(glow, values):
    view = glow_tf.as_tfp_bijector(glow)
    two, one = np.float64(2), np.float64(1)
    chain = tfb.Chain([tfb.Reshape([8, 8], [64]), tfb.Scale(two), view, tfb.Shift(one)])
    assert (chain.forward_min_event_ndims, chain.inverse_min_event_ndims) == (3, 2)
    assert chain.forward_event_shape([8, 8, 1]) == (8, 8)
    assert chain.inverse_event_shape([8, 8]) == (8, 8, 1)
    eps, log_det = glow.forward_and_log_det(values + 1)
    spec = tf.TensorSpec([None, 8, 8, 1], tf.float64)
    np.testing.assert_allclose(graph(chain.forward, spec)(values), tf.reshape(2 * eps, [-1, 8, 8]))
    expected = log_det + 64 * np.log(2)
    found = graph(lambda v: chain.forward_log_det_jacobian(v, event_ndims=3), spec)(values)
    np.testing.assert_allclose(found, expected)
    back = graph(tfb.Invert(chain).forward, tf.TensorSpec([None, 8, 8], tf.float64))
    np.testing.assert_allclose(back(chain.forward(values)), values, atol=1e-8)
    inverted = tfb.Chain([tfb.Invert(view), tfb.Scale(two)])  # latents → twice the latents → images
    np.testing.assert_allclose(inverted.forward(eps / 2), values + 1, atol=1e-8)
    found = inverted.forward_log_det_jacobian(eps / 2, event_ndims=1)
    np.testing.assert_allclose(found, 64 * np.log(2) - log_det)


def test_another_density_of_the_latents(glow, values):
    """A learned density of the latents replaces the standard normal one; several images are one event."""
    to_images = tfb.Invert(glow_tf.as_tfp_bijector(glow))
    latents = tfd.Sample(tfd.StudentT(np.float64(5), np.float64(0), np.float64(1)), [5, 64])
    together = tfd.TransformedDistribution(latents, to_images)
    assert together.event_shape == (5, 8, 8, 1)
    eps, log_det = glow.forward_and_log_det(values)
    expected = latents.log_prob(eps) + tf.reduce_sum(log_det)
    np.testing.assert_allclose(together.log_prob(values), expected)
    spec = tf.TensorSpec([None, 5, 8, 8, 1], tf.float64)
    np.testing.assert_allclose(graph(together.log_prob, spec)(values[None]), expected[None])


def test_a_batch_of_exposures(glow, values):
    """The batch shape of another bijector becomes that of the transformed distribution."""
    density = glow_tf.as_distribution(glow)
    shift = np.arange(3.0)
    shifted = tfd.TransformedDistribution(density, tfb.Shift(shift[:, None, None, None]))
    assert shifted.batch_shape == (3,)
    assert shifted.sample(2, seed=1).shape == (2, 3, 8, 8, 1)
    expected = np.stack([density.log_prob(values - s) for s in shift], axis=1)
    np.testing.assert_allclose(graph(shifted.log_prob)(values[:, None]), expected)
    all_images = tfd.Sample(shifted, 5)
    np.testing.assert_allclose(graph(all_images.log_prob)(values), expected.sum(0))
    mixture = tfd.MixtureSameFamily(tfd.Categorical(logits=np.zeros(3)), shifted)
    expected = tf.reduce_logsumexp(expected - np.log(3), axis=1)
    np.testing.assert_allclose(graph(mixture.log_prob)(values), expected)


@pytest.mark.slow
def test_an_autobatched_joint_distribution(glow):
    density = glow_tf.as_distribution(glow)

    @tfd.JointDistributionCoroutineAutoBatched
    def joint():
        shift = yield tfd.Normal(np.float64(0), np.float64(1), name="shift")
        yield tfd.TransformedDistribution(density, tfb.Shift(shift), name="image")

    shift, image = joint.sample(3, seed=(0, 1))
    assert image.shape == (3, 8, 8, 1)
    expected = tfd.Normal(np.float64(0), 1).log_prob(shift)
    expected += density.log_prob(image - shift[:, None, None, None])
    found = graph(lambda *draw: joint.log_prob(draw))(shift, image)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


# Markov chains


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])
def test_compiled_hamiltonian_monte_carlo(small_images, jit_compile):
    """A latent brightness, two chains: the posterior is around the brightness that was added."""
    glow = small_glow("float64", flow_steps=1, num_blocks=1, parts="1")
    density = glow_tf.as_distribution(glow)
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


@pytest.mark.slow
def test_markov_chains_over_the_latents_of_an_image(small_images):
    """The missing half of an image: a chain over the latents, whose gradient goes through the inverse."""
    glow = small_glow("float64", flow_steps=1, num_blocks=1, parts="1")
    to_image = tfb.Invert(glow_tf.as_tfp_bijector(glow))
    density = glow_tf.as_distribution(glow)
    seen = glow.dequantized(small_images[:1], noise=0.5)[0, :4]
    one = np.float64(1)

    def target(eps):
        noise = tfd.Independent(tfd.Normal(to_image.forward(eps)[..., :4, :, :], one), 3)
        return density.distribution.log_prob(eps) + noise.log_prob(seen)

    @tf.function(autograph=False)
    def run(start):
        kernel = tfp.mcmc.HamiltonianMonteCarlo(target, step_size=np.float64(1e-3), num_leapfrog_steps=2)
        return tfp.mcmc.sample_chain(10, start, kernel=kernel, trace_fn=None, seed=(0, 1))

    start = density.distribution.sample(2, seed=(0, 1))
    states = run(start)
    assert states.shape == (10, 2, 64)
    assert np.all(target(states[-1]) > target(start))


# What is given


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes_are_tf_dtypes(dtype):
    glow = small_glow(dtype)
    view, density = glow_tf.as_tfp_bijector(glow), glow_tf.as_distribution(glow)
    expected = tf.as_dtype(dtype)
    for found in (view.dtype, view.forward_dtype(), view.inverse_dtype(), density.dtype):
        assert isinstance(found, tf.DType)
        assert found == expected
    assert density.sample(2, seed=1).dtype == density.log_prob(density.sample(2)).dtype == expected


def test_numpy_and_lists_are_cast_as_tfp_casts_them(small_images):
    glow = small_glow("float32")
    view, density = glow_tf.as_tfp_bijector(glow), glow_tf.as_distribution(glow)
    v = glow.dequantized(small_images[:2])
    expected = density.log_prob(v)
    for given in (v.numpy().astype(np.float64), v.numpy().astype(np.float64).tolist(), tf.Variable(v)):
        np.testing.assert_array_equal(density.log_prob(given), expected)
        np.testing.assert_array_equal(view.forward(given), view.forward(v))
    assert tfd.Normal(0.0, 1.0).log_prob(np.zeros(2)).dtype == tf.float32  # so does TFP
    assert small_glow("float64").dequantized(small_images[:2]).dtype == tf.float64
    wide = glow_tf.as_distribution(small_glow("float64"))
    assert wide.log_prob(v.numpy()).dtype == tf.float64


@pytest.mark.parametrize("method", ["log_prob", "forward"])
@pytest.mark.parametrize("kind", ["numpy", "tensor", "levels", "list", "graph"])
def test_bytes_are_refused(method, kind, plain, small_images):
    images = small_images[:2]
    given = {
        "numpy": images,
        "tensor": tf.constant(images),
        "levels": images.astype(np.int64) // 8,
        "list": images.tolist(),
        "graph": images,
    }[kind]
    view = glow_tf.as_tfp_bijector(plain) if method == "forward" else glow_tf.as_distribution(plain)
    function = getattr(view, method)
    if kind == "graph":
        function = graph(function)
    dtype = {"levels": "int64", "list": "int32"}.get(kind, "uint8")
    with pytest.raises(
        ValueError,
        match=r"the Glow takes float32 of shape \[..., 8, 8, 1\]; "
        r"glow.dequantized\(images\) makes values from images of bytes. "
        rf"Received: {dtype} of shape \(2, 8, 8, 1\)",
    ):
        function(given)


def test_a_byte_tensor_in_a_joint_distribution_is_refused(plain, small_images):
    joint = tfd.JointDistributionNamed({"image": glow_tf.as_distribution(plain), "x": tfd.Normal(0.0, 1.0)})
    with pytest.raises(ValueError, match="makes values from images of bytes"):
        joint.log_prob(image=tf.constant(small_images[:2]), x=tf.zeros(2))


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (2, 8, 8, 3),
            "float32",
            r"float32 of shape \[..., 8, 8, 1\]; .* Received: float32 of shape \(2, 8, 8, 3",
        ),
        ((8, 8), "float32", r"Received: float32 of shape \(8, 8\)"),
        ((2, 8, 8, 1), "float64", r"the Glow takes float32 .*Received: float64 of"),
        ((2, 8, 8, 1), "float16", r"the Glow takes float32 .*Received: float16 of"),
    ],
)
def test_a_tensor_of_another_shape_or_dtype_is_refused(shape, dtype, message, plain):
    view, density = glow_tf.as_tfp_bijector(plain), glow_tf.as_distribution(plain)
    for function in (density.log_prob, view.forward, view.forward_log_det_jacobian):
        with pytest.raises(ValueError, match=message):
            function(tf.zeros(shape, dtype))


def test_latents_of_another_shape_or_dtype_are_refused(plain):
    view = glow_tf.as_tfp_bijector(plain)
    with pytest.raises(
        ValueError, match=r"the Glow takes float32 of shape \[..., 64\]; .*Received: float32 of"
    ):
        view.inverse(tf.zeros([2, 63]))
    with pytest.raises(ValueError, match=r"\[..., 64\]; .*Received: int32 of shape \(2, 64\)"):
        view.inverse_log_det_jacobian(tf.zeros([2, 64], tf.int32))


def test_unknown_sizes_that_turn_out_wrong_are_noticed(glow):
    log_prob = graph(glow_tf.as_distribution(glow).log_prob, tf.TensorSpec(None, tf.float64))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"8,8,1"):
        log_prob(tf.zeros([2, 4, 4, 4], tf.float64))
