"""What single bijectors promise in addition to the contract."""

import numpy as np
import pytest
import tensorflow as tf
from small import make_coupling, make_flow_step, perturb

from glow_tf.bijectors import (
    ActNorm,
    Dequantize,
    GaussianBase,
    InvertibleConv,
    LastLine,
    Split,
    Standardize,
)
from glow_tf.bijectors.bijector import PartOutput
from glow_tf.bijectors.condition import brought_to
from glow_tf.bijectors.likelihood import standard_normal_log_prob
from glow_tf.bijectors.mode import Context
from glow_tf.bijectors.networks import ConditionNetwork
from glow_tf.bijectors.squeeze import squeeze


@pytest.mark.parametrize("n_bits", range(1, 9))
def test_every_byte_survives_dequantisation_with_its_low_bits_cleared(n_bits):
    layer = Dequantize(n_bits)
    images = tf.reshape(tf.range(256), [1, 16, 16, 1])
    images = tf.cast(images, tf.uint8)
    kept = images // 2 ** (8 - n_bits) * 2 ** (8 - n_bits)
    for noise in (0.0, 0.5, 0.999):
        y, _ = layer.forward_and_log_det(layer.grey_values(images) + noise)
        assert -0.5 <= float(tf.reduce_min(y)) <= float(tf.reduce_max(y)) < 0.5
        np.testing.assert_array_equal(layer.to_output(layer.inverse_and_log_det(y)[0]), kept)


def test_to_output_clips_what_lies_outside():
    np.testing.assert_array_equal(Dequantize(8).to_output(tf.constant([-3.2, 255.9, 400.0])), [0, 255, 255])


def test_actnorm_initialisation_gives_mean_0_and_variance_1(rng):
    layer = ActNorm()
    x = tf.constant(rng.normal(3, 5, size=(64, 4, 4, 3)), tf.float32)
    y = layer.initialize(x)
    np.testing.assert_allclose(tf.reduce_mean(y, [0, 1, 2]), 0, atol=1e-5)
    np.testing.assert_allclose(tf.math.reduce_std(y, [0, 1, 2]), 1, atol=1e-4)


def test_a_constant_channel_warns_and_stays_finite():
    layer = ActNorm()
    with pytest.warns(UserWarning, match="channels are constant"):
        y = layer.initialize(tf.ones([8, 4, 4, 3]))
    assert np.isfinite(y).all()
    assert np.isfinite(layer.log_scale.numpy()).all()


@pytest.mark.parametrize("kind", ["lu", "plain"])
def test_conv_starts_as_a_rotation(kind):
    layer = InvertibleConv(kind, seed=5, dtype="float64")
    layer.build((None, 4, 4, 12))
    matrix = layer.matrix().numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(12), atol=1e-10)
    np.testing.assert_allclose(layer.log_det_per_pixel(), 0, atol=1e-10)


def test_lu_signs_are_fixed_and_log_scales_bounded():
    layer = InvertibleConv("lu", dtype="float64")
    layer.build((None, 4, 4, 6))
    signs = np.sign(np.linalg.det(layer.matrix().numpy()))
    for extreme in (-1e4, 1e4):
        layer.raw_log_scale.assign(np.full(6, extreme))
        assert abs(float(layer.log_det_per_pixel())) <= 6 * 8.0
        assert np.sign(np.linalg.det(layer.matrix().numpy())) == signs
    assert "sign" not in {v.name for v in layer.trainable_variables}


@pytest.mark.parametrize("scale", ["sigmoid", "exp", "tanh", "tanh:1"])
def test_coupling_starts_as_the_identity(scale, rng):
    layer = make_coupling(8, scale=scale)
    x = tf.constant(rng.normal(size=(2, 4, 4, 6)), tf.float32)
    y, log_det = layer(x)
    np.testing.assert_allclose(y, x, atol=1e-6)
    np.testing.assert_allclose(log_det, 0, atol=1e-4)


BOUNDS = {"sigmoid": 4.6, "exp": 8.0, "tanh": 2.0, "tanh:1": 1.0, "tanh:0.25": 0.25}


@pytest.mark.parametrize("scale", BOUNDS)
@pytest.mark.parametrize("output", [-1e4, -30.0, 30.0, 1e4])
def test_coupling_scale_is_bounded_at_extreme_network_outputs(scale, output, rng):
    layer = make_coupling(8, scale=scale)
    x = tf.constant(rng.normal(size=(2, 4, 4, 6)), tf.float32)
    layer.build(x.shape)
    layer.network.last.bias.assign(tf.concat([tf.zeros([3]), tf.fill([3], output)], 0))
    y, log_det = layer.forward_and_log_det(x)
    assert (np.abs(log_det) <= 48 * BOUNDS[scale] + 1e-2).all()
    np.testing.assert_allclose(layer.inverse_and_log_det(y)[0], x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("base", ["learned", "standard"])
def test_split_scores_its_latent_as_a_conditional_gaussian(base, rng):
    layer = Split(base, dtype="float64")
    x = tf.constant(rng.normal(size=(3, 4, 4, 6)))
    layer.build(x.shape)
    perturb(layer)
    h, (eps,), log_prob, _ = layer.forward_in_part(PartOutput.start(x))
    np.testing.assert_array_equal(h, x[..., :3])
    mean, deviation = np.zeros((3, 4, 4, 3)), np.ones((3, 4, 4, 3))
    if base == "learned":
        mean, raw = np.split(layer.network(h).numpy(), 2, axis=-1)
        deviation = np.exp(5 * np.tanh(raw / 5))
    z = x[..., 3:].numpy()
    density = -0.5 * ((z - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_prob, density.sum((1, 2, 3)), atol=1e-9)
    np.testing.assert_allclose(layer.inverse_and_log_det(tf.concat([h, eps], axis=-1))[0], x, atol=1e-12)
    np.testing.assert_allclose(log_prob - standard_normal_log_prob(eps), layer.forward_and_log_det(x)[1])


@pytest.mark.parametrize(("own", "other"), [((6, 9), (4, 7)), ((3, 5), (7, 4)), ((28, 28), (24, 20))])
def test_a_condition_is_resized_as_tensorflow_does_where_sides_do_not_divide(own, other, rng):
    given = tf.constant(rng.normal(size=(2, *own, 3)), tf.float32)
    x = tf.zeros((2, *other, 1))
    found = tf.function(brought_to, jit_compile=True)(given, x, 3)  # XLA cannot compile TensorFlow's
    np.testing.assert_allclose(found, tf.image.resize(given, other, antialias=True), atol=1e-5)


@pytest.mark.parametrize("bounded", [True, False])
def test_bounded_features_shifts_and_deviations_stay_small_where_the_input_is_huge(bounded, rng):
    huge = tf.constant(1e4 * rng.normal(size=(2, 4, 4, 6)), tf.float32)
    network = ConditionNetwork(5, activation="silu", bounded=bounded)
    network.build(huge.shape)
    features = network.call(huge)
    coupling = make_coupling(bounded=bounded)
    coupling.build(huge.shape)
    perturb(coupling, 0.3)
    shift, _ = coupling.parameters(huge[..., :3])
    base = GaussianBase("learned", 5, bounded)
    base.build(huge.shape)
    perturb(base, 0.3)
    _, log_deviation = base.moments(huge, Context(1e3 * features))
    found = [float(tf.reduce_max(tf.abs(values))) for values in (features, shift, log_deviation)]
    if bounded:
        assert max(f / bound for f, bound in zip(found, (3, 10, 3), strict=True)) <= 1
    else:
        assert min(f / bound for f, bound in zip(found, (3, 10, 3), strict=True)) > 1.5


def test_a_haar_squeeze_keeps_lengths_and_its_first_channels_are_means(rng):
    x = tf.constant(rng.normal(size=(2, 4, 6, 3)), tf.float64)
    y, log_det = squeeze("haar", dtype="float64").forward_and_log_det(x)
    np.testing.assert_allclose(tf.norm(y), tf.norm(x))
    np.testing.assert_array_equal(log_det, 0)
    np.testing.assert_allclose(y[..., :3], 2 * tf.nn.avg_pool2d(x, 2, 2, "VALID"))


def test_the_last_line_of_a_far_off_latent_has_a_finite_log_det():
    layer, eps = LastLine(1), np.linspace(-32, 32, 65)
    y = tf.constant(
        np.stack([np.zeros_like(eps), np.zeros_like(eps), eps], axis=1)[..., None, None], tf.float32
    )
    x, log_det = layer.inverse_and_log_det(y)
    assert np.isfinite(log_det).all()
    near = np.abs(eps) <= 8
    np.testing.assert_allclose(log_det[near], -layer.forward_and_log_det(x)[1][near], rtol=1e-4)


@pytest.mark.parametrize("make", [ActNorm, make_flow_step, lambda: GaussianBase("learned"), Standardize])
def test_unknown_height_and_width_are_named(make):
    layer = make()
    layer.build((None, 4, 4, 6))
    function = tf.function(layer.forward_and_log_det, input_signature=[tf.TensorSpec([None, None, None, 6])])
    with pytest.raises(ValueError, match="height and width must be known"):
        function.get_concrete_function()


def test_a_constant_channel_of_real_data_has_deviation_1():
    layer = Standardize(dtype="float64")
    layer.build((None, 5, 5, 1))
    layer.adapt(np.full((100, 5, 5, 1), 0.1))
    assert float(layer.deviation.value[0]) == 1.0
