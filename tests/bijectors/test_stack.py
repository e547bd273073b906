"""A stack computes what a chain of its copies does, is traced once, and may recompute activations."""

import numpy as np
import pytest
import tensorflow as tf
from small import copy_of, make_flow_step, perturb

from glow_tf.bijectors import Chain, FlowStep, Stack
from glow_tf.bijectors.mode import Context, Mode

SHAPE = (3, 4, 4, 6)


def make_stack(count=3, dtype="float64", spread=0.1, **settings):
    stack = Stack(make_flow_step(8, dtype=dtype, name="step", **settings), count, dtype=dtype)
    stack.build((None, *SHAPE[1:]))
    perturb(stack, spread)
    return stack


@pytest.fixture
def x(rng):
    return tf.constant(rng.normal(size=SHAPE))


def test_a_stack_computes_what_the_chain_of_its_copies_does(x):
    stack = make_stack()
    steps = [make_flow_step(8, dtype="float64") for _ in range(3)]
    chain = Chain(steps, dtype="float64")
    chain.build(x.shape)
    for k, step in enumerate(steps):
        with copy_of(stack, k) as copy:
            weights = [v.value for v in copy.weights]
        step.set_weights(weights)
    compiled = tf.function(stack.forward_and_log_det, autograph=False)
    for mine in (stack.forward_and_log_det(x), compiled(x)):
        for a, b in zip(mine, chain.forward_and_log_det(x), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_copies_start_as_bijectors_of_consecutive_seeds(x):
    stack = Stack(make_flow_step(8, seed=5), 2)
    stack.build(x.shape)
    for k in range(2):
        alone = make_flow_step(8, seed=5 + k)
        alone.build(x.shape)
        with copy_of(stack, k) as copy:
            for a, b in zip(copy.weights, alone.weights, strict=True):
                np.testing.assert_array_equal(a.value, b.value)


def test_initialisation_is_that_of_the_chain(rng):
    x = tf.constant(rng.normal(2, 3, size=(16, 4, 4, 6)), tf.float32)
    stack = Stack(make_flow_step(8, seed=0), 3)
    chain = Chain([make_flow_step(8, seed=k) for k in range(3)])
    np.testing.assert_allclose(stack.initialize(x), chain.initialize(x), atol=1e-5)
    np.testing.assert_allclose(stack.forward_and_log_det(x)[0], chain.forward_and_log_det(x)[0], atol=1e-5)
    before = stack.get_weights()
    stack.initialize(2 * x)
    for a, b in zip(before, stack.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("recompute", [False, True])
def test_what_is_traced_does_not_grow_with_depth(x, recompute, monkeypatch):
    traces = []
    forward = FlowStep.forward_folded
    monkeypatch.setattr(FlowStep, "forward_folded", lambda *args: traces.append(1) or forward(*args))
    stack = make_stack(count=6)
    context = Context(mode=Mode(recompute=recompute))

    @tf.function(autograph=False)
    def gradient(x):
        variables = [v.value for v in stack.trainable_variables]
        with tf.GradientTape() as tape:
            loss = tf.add_n(tf.nest.map_structure(tf.reduce_sum, stack.forward_and_log_det(x, context)))
        return tape.gradient(loss, variables)

    gradient(x)
    assert len(traces) == 1 + recompute  # once more for the backward pass


SETTINGS = {
    "affine": {},
    "sigmoid": {"scale": "sigmoid"},
    "exp": {"scale": "exp", "permutation": "plain"},
    "additive": {"kind": "additive", "permutation": "shuffle"},
    "bias": {"norm": "bias", "permutation": "reverse"},
}


def _gradients(stack, x, recompute, compiled):
    context = Context(mode=Mode(recompute=recompute))
    weights = [v.value for v in stack.trainable_variables]

    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y, log_det = stack.forward_and_log_det(x, context)
            loss = tf.reduce_sum(tf.sin(y)) + tf.reduce_sum(log_det * tf.range(1.0, 4.0, dtype=x.dtype))
        return tape.gradient(loss, [x, *weights])

    return (tf.function(run, autograph=False) if compiled else run)(x)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_recomputed_gradients_are_the_plain_ones(settings, compiled, x):
    stack = make_stack(**settings)
    plain = _gradients(stack, x, False, compiled)
    recomputed = _gradients(stack, x, True, compiled)
    for a, b in zip(plain, recomputed, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_recomputed_gradients_in_float32_agree_to_five_digits_of_the_largest(x):
    stack = make_stack(dtype="float32", count=8, spread=0.02)
    x = tf.cast(x, tf.float32)
    plain, recomputed = _gradients(stack, x, False, True), _gradients(stack, x, True, True)
    for a, b in zip(plain, recomputed, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(tf.reduce_max(tf.abs(a))))


def test_the_inverse_clips_between_copies_only_when_asked(x):
    stack = make_stack()
    y, _ = stack.forward_and_log_det(x)
    np.testing.assert_allclose(stack.inverse_and_log_det(y)[0], x, atol=1e-10)
    within, _ = stack.inverse_in_part(y, (), lambda h: tf.clip_by_value(h, -1e3, 1e3))
    np.testing.assert_allclose(within, x, atol=1e-10)
    clipped, _ = stack.inverse_in_part(1e9 * y, (), lambda h: tf.clip_by_value(h, -2.0, 2.0))
    assert float(tf.reduce_max(tf.abs(clipped))) <= 2.0


def test_each_mode_has_a_trace_of_its_own(x):
    stack, x = make_stack(dtype="float32", network_dtype="mixed_bfloat16"), tf.cast(x, tf.float32)
    contexts = Context(), Context(mode=Mode(full_precision=True)), Context(mode=Mode(training=True))
    compiled = tf.function(lambda: [stack.forward_and_log_det(x, own)[0] for own in contexts])
    plain, exact, training = compiled()
    assert np.abs(plain - exact).max() > 1e-4
    np.testing.assert_array_equal(plain, training)
    np.testing.assert_allclose(exact, stack.forward_and_log_det(x, contexts[1])[0], atol=1e-4)


def test_a_stack_needs_a_copy():
    with pytest.raises(ValueError, match=r"at least one copy. Received: count=0"):
        Stack(make_flow_step(8), 0)
