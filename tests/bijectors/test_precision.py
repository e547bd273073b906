"""bfloat16 networks: float32 everywhere else, the same likelihood, exact round trips."""

import functools
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from small import make_flow_step, perturb, small_glow

from glow_tf.bijectors import Stack
from glow_tf.bijectors.mode import Context, Mode
from glow_tf.bijectors.networks import CouplingNetwork, convolve
from glow_tf.use.exports import export

MIXED = "mixed_bfloat16"


def _dtypes_of(function, kinds, *specs):
    graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
    return {operation.outputs[0].dtype for operation in graph.get_operations() if operation.type in kinds}


def test_only_the_convolutions_of_the_network_are_bfloat16():
    step = make_flow_step(8, network_dtype=MIXED)
    step.build((None, 4, 4, 6))
    spec = tf.TensorSpec((2, 4, 4, 6))
    assert _dtypes_of(step.forward_and_log_det, {"Conv2D", "Relu"}, spec) == {tf.bfloat16}
    linear = {"MatMul", "Sum", "Exp", "Tanh", "MatrixTriangularSolve"}
    assert _dtypes_of(step.forward_and_log_det, linear, spec) == {tf.float32}
    assert _dtypes_of(step.inverse_and_log_det, {"Conv2D"}, spec) == {tf.bfloat16}
    assert {v.dtype for v in step.trainable_variables} == {"float32"}


def test_full_precision_overrides_the_policy(rng):
    network = CouplingNetwork(8, 6, dtype=MIXED)
    network.build((None, 4, 4, 3))
    perturb(network)
    exact = CouplingNetwork(8, 6)
    exact.build((None, 4, 4, 3))
    exact.set_weights(network.get_weights())
    a = tf.constant(rng.normal(size=(2, 4, 4, 3)), tf.float32)
    exactly = Context(mode=Mode(full_precision=True))
    np.testing.assert_array_equal(network.call(a, exactly), exact.call(a))
    assert np.abs(network.call(a) - exact.call(a)).max() > 0
    np.testing.assert_allclose(network.call(a), exact.call(a), atol=0.1)


def test_the_same_weights_score_alike(small_images, eager):
    exact = small_glow(width=16, flow_steps=4, perturbed=False)
    exact.initialize(small_images)
    perturb(exact, 0.02)
    mixed = small_glow(width=16, flow_steps=4, precision=MIXED)
    mixed.set_weights(exact.get_weights())
    difference = mixed.bits_per_dim(small_images, 3) - exact.bits_per_dim(small_images, 3)
    assert np.abs(difference).max() > 0
    assert abs(float(tf.reduce_mean(difference))) < 0.01


@pytest.mark.slow
def test_decode_undoes_encode_exactly_through_the_savedmodel_too(small_images, tmp_path):
    flow = small_glow(n_bits=8, width=16, flow_steps=4, precision=MIXED)
    flow.initialize(small_images)
    np.testing.assert_array_equal(flow.decode(flow.encode(small_images)), small_images)
    export(flow, tmp_path / "export")
    loaded = tf.saved_model.load(tmp_path / "export")
    np.testing.assert_array_equal(loaded.decode(loaded.encode(small_images)), small_images)
    np.testing.assert_array_equal(loaded.log_prob(small_images, 1), flow.log_prob(small_images, 1))


@pytest.mark.parametrize("recomputed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_point_where_those_in_float32_do(rng, recomputed):
    x = tf.constant(rng.normal(size=(8, 4, 4, 6)), tf.float32)
    flat = []
    for network_dtype, recompute in ((None, False), (MIXED, recomputed)):
        stack = Stack(make_flow_step(16, network_dtype=network_dtype), 4)
        context = Context(mode=Mode(recompute=recompute))
        stack.build(x.shape)
        perturb(stack, 0.02)
        weights = [v.value for v in stack.trainable_variables]

        @tf.function(autograph=False)
        def gradient(x, stack=stack, weights=weights, context=context):
            with tf.GradientTape() as tape:
                y, log_det = stack.forward_and_log_det(x, context)
                loss = tf.reduce_sum(tf.square(y)) / 2 - tf.reduce_sum(log_det)
            return tape.gradient(loss, weights)

        flat.append(np.concatenate([np.ravel(g) for g in gradient(x)]))
    cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    assert cosine > 0.999


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_has_the_gradients_of_tensorflows_own(size, dtype, rng):
    def found(convolution):
        @tf.function
        def gradients(given):
            with tf.GradientTape() as outer:
                outer.watch(given)
                with tf.GradientTape() as tape:
                    tape.watch(given)
                    y = convolution(*given)
                    loss = tf.reduce_sum(tf.cast(y, tf.float32) ** 2)
                first = tape.gradient(loss, given)
                norm = tf.add_n([tf.reduce_sum(tf.cast(gradient, tf.float32) ** 2) for gradient in first])
            return [y, *first, *outer.gradient(norm, given)]

        return gradients(given)

    shapes = (3, 5, 4, 7), (size, size, 7, 6), (6,)
    given = [tf.cast(tf.constant(rng.normal(size=shape)), dtype) for shape in shapes]
    # As stacks are traced: its gradient is that of a function.
    once = tf.function(functools.partial(convolve, mode=Mode(training=True)))
    with mock.patch("tensorflow.matmul", wraps=tf.matmul) as products:
        own = found(once)
    assert bool(products.called) == (size == 1)
    theirs = found(lambda x, kernel, bias: tf.nn.conv2d(x, kernel, 1, "SAME") + bias)
    for a, b in zip(own, theirs, strict=True):
        a, b = (tf.cast(tensor, tf.float32).numpy() for tensor in (a, b))
        tolerance = 2e-5 if dtype == tf.float32 else 0.03
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max(), rtol=0)


def test_products_on_a_gpu_are_not_rounded_to_ten_bits():
    """A flow would not invert itself; TensorFlow's default is to round."""
    assert not tf.config.experimental.tensor_float_32_execution_enabled()
