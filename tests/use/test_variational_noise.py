"""Noise that lies where the density is high: its density, its bound, and what `evaluate` makes of it."""

import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from glow_tf import ConfigError, DataConfig, data, load
from glow_tf.commands import cli
from glow_tf.config.choices import NOISES
from glow_tf.core import machine
from glow_tf.use import evaluate
from glow_tf.use.evaluation import log_density, mean_of, tilted, variational_noise

pytestmark = pytest.mark.usefixtures("eager_module")

TILTS = (-1e6, -30.0, -2.0, -1e-3, 0.0, 1e-3, 0.09, 0.11, 2.0, 30.0, 1e6, np.inf)


def grid(count: int, dtype: str = "float64") -> tf.Tensor:
    """Evenly spaced uniform noise, one number per image."""
    return tf.constant((np.arange(count) + 0.5) / count, dtype)[:, None, None, None]


@pytest.mark.parametrize("tilt", TILTS)
def test_the_map_from_uniform_noise_has_the_density_that_it_says(tilt):
    uniform = grid(500)
    with tf.GradientTape() as tape:
        tape.watch(uniform)
        tilt = tf.fill(uniform.shape, tf.constant(tilt, uniform.dtype))
        noise = tilted(uniform, tilt)
    slopes, log_q = tape.gradient(noise, uniform)[:, 0, 0, 0], log_density(noise, tilt)
    np.testing.assert_allclose(log_q, -np.log(slopes), rtol=1e-8, atol=1e-8)
    assert (np.diff(noise[:, 0, 0, 0]) > 0).all()
    assert (noise >= 0).numpy().all()
    assert (noise <= 1).numpy().all()


@pytest.mark.parametrize("tilt", TILTS)
def test_noise_has_its_mean_in_float32(tilt):
    uniform = grid(200_000, "float32")
    tilt = tf.constant(tilt)
    noise = tilted(uniform, tf.fill(uniform.shape, tilt))
    log_q = log_density(noise, tf.fill(uniform.shape, tilt))
    assert float(mean_of(tilt)) == pytest.approx(float(tf.reduce_mean(noise)), abs=1e-4)
    assert np.isfinite(log_q).all()


@pytest.mark.parametrize("slope", [-1e6, -20.0, 0.0, 20.0, 1e6])
def test_noise_of_the_ends_is_finite_and_no_level_reaches_the_next_one(slope):
    uniform = tf.constant([0.0, 2.0**-23, 1e-4, 0.5, 1 - 2.0**-23])[:, None, None, None]
    for level in (0.0, 200.0):
        levels = tf.fill(uniform.shape, level)
        noise, log_q = variational_noise(lambda v: slope * v[:, 0, 0, 0], levels, uniform)
        assert np.isfinite(log_q).all()
        np.testing.assert_array_equal(np.floor(levels + noise), levels)


def logistic(scale: float):
    """log p of independent logistic numbers, and minus log of the probability of a level."""

    def log_prob(v):
        return tf.reduce_sum(-v / scale - np.log(scale) - 2 * tf.math.softplus(-v / scale), axis=[1, 2, 3])

    def nats_of(levels):
        cells = tf.sigmoid((levels + 1) / scale) - tf.sigmoid(levels / scale)
        return -tf.reduce_sum(tf.math.log(cells), axis=[1, 2, 3])

    return log_prob, nats_of


@pytest.mark.parametrize(("scale", "share"), [(0.3, 0.15), (1.0, 0.1), (5.0, 0.05)])
def test_the_bound_is_above_the_exact_nats_and_most_of_the_gap_of_uniform_noise_is_gone(scale, share):
    rng = np.random.default_rng(0)
    levels = tf.constant(np.floor(scale * rng.logistic(size=(2000, 4, 4, 1))).clip(-10 * scale, 10 * scale))
    levels = tf.floor(levels)
    uniform = tf.constant(rng.uniform(size=levels.shape))
    log_prob, nats_of = logistic(scale)
    noise, log_q = variational_noise(log_prob, levels, uniform)
    exact = nats_of(levels)
    gap = float(tf.reduce_mean(log_q - log_prob(levels + noise) - exact))
    of_uniform = float(tf.reduce_mean(-log_prob(levels + uniform) - exact))
    assert -0.01 * of_uniform < gap < share * of_uniform


@pytest.mark.parametrize("curvature", [0.1, 1.0, 10.0])
def test_where_the_density_is_strongly_curved_the_bound_is_not_above_that_of_uniform_noise(curvature):
    rng = np.random.default_rng(0)
    levels, uniform = tf.zeros([500, 4, 4, 1], tf.float64), tf.constant(rng.uniform(size=[500, 4, 4, 1]))

    def log_prob(v):
        return -curvature * (tf.reduce_sum(v, axis=[1, 2, 3]) - 5) ** 2  # uniform noise has a sum of 8

    noise, log_q = variational_noise(log_prob, levels, uniform)
    assert tf.reduce_mean(log_q - log_prob(noise)) < 0.9 * tf.reduce_mean(-log_prob(uniform))


def test_where_the_gradient_is_not_finite_the_noise_stays_uniform():
    uniform, levels = grid(8), tf.zeros([8, 1, 1, 1], tf.float64)
    noise, log_q = variational_noise(lambda v: tf.reduce_sum(v * np.nan, [1, 2, 3]), levels, uniform)
    np.testing.assert_allclose(noise, uniform, atol=1e-4)
    np.testing.assert_allclose(log_q, 0, atol=1e-4)


@pytest.mark.long
def test_the_bits_of_a_trained_model_are_fewer_and_their_terms_add_up():
    images = data.load(DataConfig(dataset="digits")).test[:40]
    uniform, found = (evaluate(load("digits"), images, 2, seed=3, noise=noise) for noise in NOISES)
    assert found.draws.shape == (2, 40)
    assert found.per_image.mean() < uniform.per_image.mean() - 0.01
    np.testing.assert_allclose(sum(found.terms.values()), found.per_image, rtol=1e-5)


def test_noise_that_there_is_not_is_refused(exported_once, small_images):
    flow, _ = exported_once
    with pytest.raises(ConfigError, match=r"noise must be uniform or variational.*Received: noise='normal'"):
        evaluate(flow, small_images, noise="normal")


def test_a_gradient_that_does_not_fit_into_memory_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda: 2**29)
    Image.fromarray(np.zeros((400, 400), np.uint8)).save(tmp_path / "a.png")
    given = ["--model=photographs_grey", f"--dataset=folder:{tmp_path}", "--split=all", "--image_size=0"]
    assert cli.run("evaluate", [*given, "--noise=variational"]) == 1
    assert re.search(r"gradient of a.png, 400×400, needs must fit in", capsys.readouterr().err)


def test_the_noise_that_tells_is_the_same_for_every_image(rng):
    """So a score depends neither on the place in a batch nor on the number of streams."""
    seen = []

    def log_prob(v):
        seen.append(v.numpy())
        return tf.reduce_sum(v, axis=[1, 2, 3])

    variational_noise(log_prob, tf.zeros([3, 2, 2, 1]), tf.constant(rng.random((3, 2, 2, 1)), tf.float32))
    common = seen[-1]
    assert len(np.unique(common[0])) == 4
    assert (common == common[:1]).all()
