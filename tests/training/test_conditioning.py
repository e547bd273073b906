"""How far a flow amplifies, and how exact its round trip is."""

import numpy as np
import pytest
import tensorflow as tf
from small import small_glow, weight_of

from glow_tf.bijectors import Stack
from glow_tf.bijectors.bijector import soft_bound
from glow_tf.training.conditioning import Probe, largest_log_scales


def test_a_probe_finds_the_largest_scales_and_where_they_are(small_images, eager):
    glow = small_glow()
    raw = weight_of(glow.parts[1], "block_2_flow_steps/conv_raw_log_scale")
    values = raw.numpy()
    values[1, 3] = -4.0
    raw.assign(values)
    probe = Probe(glow, small_images[:8])
    found = probe()
    assert found.convolution.log_scale == pytest.approx(float(-soft_bound(tf.constant(-4.0), 8.0)), rel=1e-5)
    assert (found.convolution.part, found.convolution.bijector) == (2, "block_2_flow_steps (number 2 of 2)")
    assert found.largest_log_scale == found.convolution.log_scale
    assert "in part 2, block_2_flow_steps" in str(found.convolution)
    values[1, 3] = 6.0
    raw.assign(values)
    assert probe().convolution.log_scale == pytest.approx(float(soft_bound(tf.constant(6.0), 8.0)), rel=1e-5)


def test_the_scales_of_couplings_are_those_that_the_images_meet(small_images):
    glow = small_glow(flow_steps=1, num_blocks=1, parts="1")
    v = glow.dequantized(small_images[:8], noise=0.5)
    squeeze, stack = glow.parts[0].bijectors
    with stack.copy(0) as step:
        mixed = step.conv.forward(step.actnorm.forward(squeeze.forward(glow.dequantize.forward(v))))
        _, log_scale = step.coupling.parameters(tf.split(mixed, 2, axis=-1)[0])
    _, coupling = largest_log_scales(glow, v)
    assert coupling.log_scale == pytest.approx(np.abs(log_scale).max(), rel=1e-6)


def test_what_does_not_scale_has_no_scale(small_images):
    glow = small_glow(permutation="reverse", coupling="additive", flow_steps=1, parts="1")
    found = Probe(glow, small_images[:4])()
    assert (found.convolution.log_scale, found.coupling.log_scale) == (0.0, 0.0)


def test_a_plain_convolution_has_the_scales_of_its_singular_values(small_images):
    glow = small_glow(permutation="plain", flow_steps=1, num_blocks=1, parts="1")
    (stack,) = [b for b in glow.parts[0].bijectors if isinstance(b, Stack)]
    kernel = weight_of(glow, "conv_kernel").numpy()[0]
    expected = np.abs(np.log(np.linalg.svd(kernel, compute_uv=False))).max()
    assert largest_log_scales(glow, glow.dequantized(small_images[:4]))[0].log_scale == pytest.approx(
        expected, rel=1e-4
    )
    assert stack.count == 1


def test_walking_step_by_step_is_encoding(small_images, eager):
    """What the probe decodes is what `encode` returns."""
    glow = small_glow()
    glow.initialize(small_images)
    found = Probe(glow, small_images[:8])()
    assert 0 < found.round_trip_error < 1e-3
    back = glow.inverse(glow.encode(small_images[:8]))
    error = float(np.abs(back - glow.dequantized(small_images[:8], noise=0.5)).max())
    assert 0.2 < found.round_trip_error / error < 5


def test_a_round_trip_that_is_being_lost_is_seen(small_images, eager):
    glow = small_glow(num_blocks=1, parts="1")
    glow.initialize(small_images)
    probe = Probe(glow, small_images[:8])
    before = probe().round_trip_error
    for part in glow.parts:
        for weight in part.trainable_variables:
            if weight.path.endswith("conv_raw_log_scale"):
                weight.assign(np.where(np.arange(weight.shape[-1]) % 2, 9.0, -9.0) * np.ones(weight.shape))
    assert probe().round_trip_error > 100 * before


def test_a_weight_that_is_not_a_number_is_larger_than_any(small_images):
    glow = small_glow()
    log_scale = weight_of(glow.parts[1], "block_2_flow_steps/conv_raw_log_scale")
    log_scale.assign(np.full(log_scale.shape, np.nan))
    found = largest_log_scales(glow, glow.dequantized(small_images[:4]))[0]
    assert np.isnan(found.log_scale)
    assert found.part == 2
