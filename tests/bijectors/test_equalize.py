"""Levels that fill flat regions get room."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import perturb

import glow_tf
from glow_tf import ConfigError, Flow, ModelConfig
from glow_tf.bijectors import Dequantize, Equalize
from glow_tf.bijectors.entrance import rooms


def drawing(count=40, side=8, channels=1, seed=0):
    """Returns images whose left half is black, and the rest of any level."""
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, channels)).astype(np.uint8)
    images[:, :, : side // 2] = 0
    return images


def adapted(images, share):
    layer = Equalize(8, share)
    layer.build((None, *images.shape[1:]))
    layer.adapt(images)
    return layer


def test_frequent_levels_have_a_share_of_the_range_by_their_counts_and_the_others_the_rest_evenly():
    counts = np.array([[50, 1, 3, 0, 4, 2, 0, 0, 20, 0], [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])
    room = rooms(counts, 0.7)
    np.testing.assert_allclose(room[0, 0], 0.7 * 50 / 80 + 0.03)
    np.testing.assert_allclose(room[0, 1:], 0.7 * 30 / 80 / 9 + 0.03)
    np.testing.assert_allclose(room[1], 0.1)
    np.testing.assert_allclose(room.sum(1), 1)


def test_each_channel_has_rooms_of_its_own():
    images = np.concatenate([drawing(), np.full((40, 8, 8, 1), 255, np.uint8)], axis=-1)
    room = adapted(images, share=0.5).room.numpy()
    assert room[0].argmax() == 0
    assert room[1].argmax() == 255


def test_where_all_levels_are_as_frequent_it_is_dequantize():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    layer, plain = adapted(images, share=0.5), Dequantize(8)
    v = tf.constant(images, tf.float32) + 0.25
    for own, there in zip(layer.forward_and_log_det(v), plain.forward_and_log_det(v), strict=True):
        np.testing.assert_allclose(own, there, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("n_bits", [1, 5, 8])
def test_every_level_comes_back_at_any_place_in_its_bin(n_bits, share):
    levels = np.arange(2**n_bits).repeat(64)
    layer = Equalize(n_bits, share)
    layer.build((None, 1, 1, 1))
    layer.adapt((np.r_[levels, np.zeros(20_000, int)][:, None, None, None] << (8 - n_bits)).astype(np.uint8))
    places = np.tile(np.linspace(0.01, 0.99, 64), 2**n_bits)
    v = tf.constant((levels + places)[:, None, None, None], tf.float32)
    y, log_det = layer.forward_and_log_det(v)
    back, inverse_log_det = layer.inverse_and_log_det(y)
    np.testing.assert_array_equal(np.floor(back), np.floor(v))
    np.testing.assert_allclose(log_det, -inverse_log_det, rtol=1e-6)
    assert float(tf.reduce_min(y)) >= -0.5
    assert float(tf.reduce_max(y)) <= 0.5


LEVELS = {"architecture": "levels", "level_steps": "2,1,1"}


@pytest.mark.parametrize("settings", [{"num_blocks": 2}, {"num_blocks": 2, **LEVELS}])
def test_a_model_with_it_decodes_what_it_encodes(settings, eager):
    images = drawing()
    flow = Flow(ModelConfig((8, 8, 1), flow_steps=2, width=4, equalize=0.5, **settings), name="glow")
    flow.initialize(images)
    perturb(flow)
    np.testing.assert_array_equal(flow.decode(flow.encode(images)), images)
    v = flow.dequantized(images, seed=1)
    eps, log_det = flow.forward_and_log_det(v)
    back, inverse_log_det = flow.inverse_and_log_det(eps)
    np.testing.assert_allclose(back, v, atol=0.1)
    np.testing.assert_allclose(log_det, -inverse_log_det, rtol=1e-4)


def test_it_is_saved_and_loaded(tmp_path):
    flow = Flow(ModelConfig((8, 8, 1), num_blocks=1, flow_steps=2, width=4, equalize=0.5), name="glow")
    flow.initialize(drawing())
    flow.save(tmp_path / "glow.keras")
    glow_tf.save(flow, tmp_path / "preset", weights_dtype="float16")
    there = (keras.saving.load_model(tmp_path / "glow.keras"), glow_tf.load(tmp_path / "preset"))
    for other in there:
        np.testing.assert_array_equal(other.dequantize.room.numpy(), flow.dequantize.room.numpy())


@pytest.mark.parametrize(
    "settings", [{"data": "real"}, {"n_bits": 12}, {"equalize": -0.1}, {"equalize": 0.95}]
)
def test_what_cannot_be_equalised_is_refused(settings):
    with pytest.raises(ConfigError, match=r"equalize .*Received: equalize="):
        ModelConfig(**{"equalize": 0.5} | settings)
