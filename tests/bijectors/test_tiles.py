"""Large images are computed in tiles, and the tiles cannot be seen in the result."""

import numpy as np
import pytest
import tensorflow as tf
from small import perturb

import glow_tf
from glow_tf.bijectors import FlowSplit, flow_split
from glow_tf.bijectors.bijector import PartOutput
from glow_tf.config import CouplingConfig
from glow_tf.core import machine
from glow_tf.core.errors import ConfigError
from glow_tf.use.images import check_fits
from glow_tf.use.score.rule import places_in_part


def identity(h):
    return h


@pytest.fixture
def details():
    coupling = CouplingConfig(width=5, condition_channels=4, activation="silu")
    layer = FlowSplit(3, coupling, 2, seed=3, dtype="float64")
    layer.build((None, 31, 26, 12))
    perturb(layer)
    return layer


@pytest.fixture
def x(rng):
    return tf.constant(rng.normal(size=(2, 31, 26, 12)))


def results(layer, x):
    """Returns what a part asks of its details: the terms, the maps, the inverse, and a gradient."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        h, (eps,), log_prob, _ = layer.forward_in_part(PartOutput.start(x))
    by_place = places_in_part(layer, x)[2]
    back = layer.inverse_in_part(h, (eps,), identity)[0]
    return [eps, log_prob, by_place, back, tape.gradient(log_prob, x)]


@pytest.mark.long
@pytest.mark.parametrize("side", [9, 26])
def test_tiles_change_no_number(details, x, side, monkeypatch):
    whole = results(details, x)
    monkeypatch.setattr(flow_split, "SIDE", side)
    monkeypatch.setattr(flow_split, "LARGE", 0)
    for own, expected in zip(results(details, x), whole, strict=True):
        np.testing.assert_allclose(own, expected, atol=1e-10)
    np.testing.assert_allclose(whole[3], x, atol=1e-10)


def test_layers_of_ones_own_get_the_whole_image():
    """They may see further than the package's."""
    coupling = CouplingConfig(width=4, condition_channels=4)
    assert FlowSplit(3, coupling, 1).takes_tiles
    own = CouplingConfig(width=4, condition_channels=4, network="own_layers:Network")
    assert not FlowSplit(3, own, 1).takes_tiles


def test_memory_need_not_hold_the_networks_of_a_large_image(monkeypatch):
    flow = glow_tf.load("photographs")
    monkeypatch.setattr(machine, "free_memory", lambda: 8 * 2**30)
    check_fits(flow, (4000, 6000), "camera.jpg")
    with pytest.raises(ConfigError, match=r"camera\.jpg of 40000×60000"):
        check_fits(flow, (40_000, 60_000), "camera.jpg")
