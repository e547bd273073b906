"""Upscaling: the details that levels draw given an image, and a Glow's finest latents."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small import perturb, preset_once, small_glow

import glow_tf
from glow_tf import data
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.run.pictures import enlarged
from glow_tf.use import previews, psnr, reduced, repeated, upscale
from glow_tf.use.restore.upscaling import with_means

pytestmark = pytest.mark.long


def make_levels(**changes):
    settings = {"num_blocks": 2, "flow_steps": 1, "width": 8, "seed": 3} | changes
    glow = glow_tf.Glow(glow_tf.ModelConfig((16, 16, 3), architecture="levels", **settings))
    glow.initialize(np.random.default_rng(0).integers(60, 200, (64, 16, 16, 3), np.uint8))
    return glow


@pytest.fixture(scope="module")
def levels():
    return make_levels()


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((5, 7), np.int64(2)),
        pytest.param((8, 8), 2, marks=pytest.mark.slow),
        pytest.param((10, 6), 4, marks=pytest.mark.slow),
    ],
)
def test_details_are_added_to_images_of_any_size_and_keep_every_mean(levels, rng, size, factor):
    small = rng.integers(60, 200, (3, *size, 3), np.uint8)
    large = upscale(levels, small, temperature=0.1, factor=factor)
    assert (large.dtype, large.shape) == (np.uint8, (3, size[0] * factor, size[1] * factor, 3))
    assert np.abs(reduced(large, factor) - small).max() <= 0.5  # pixels are rounded down
    assert not np.array_equal(large, repeated(small, factor))
    np.testing.assert_array_equal(large, upscale(levels, small, 0.1, factor=factor))
    assert not np.array_equal(large, upscale(levels, small, 0.1, seed=1, factor=factor))


@pytest.mark.parametrize(("n_bits", "equalize"), [(5, 0.0), (3, 0.0), (5, 0.5)])
def test_means_are_kept_with_fewer_bits(n_bits, equalize, rng, eager):
    glow = make_levels(n_bits=n_bits, equalize=equalize)
    small = rng.integers(60, 200, (3, 8, 8, 3), np.uint8)
    width = 0 if equalize else glow.dequantize.bin_width  # equalized means are set after the drawing
    difference = reduced(upscale(glow, small)) - small
    assert np.abs(difference).max() <= max(width / 2, 0.5)
    assert np.abs(difference.mean()) <= 0.1 + width / 16


def test_details_are_those_of_the_finest_latents(levels, eager):
    """The same map as `decode`: an image whose finest latents are 0 is its own likeliest enlargement."""
    eps = np.array(levels.encode(np.full((1, 16, 16, 3), 117, np.uint8)))
    eps[:, : 8 * 8 * 9] = 0
    image = levels.decode(eps).numpy()
    found = upscale(levels, np.round(reduced(image)).astype(np.uint8))
    assert np.abs(found.astype(int) - image).max() <= 2


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_previews_are_the_means_of_what_comes_after_them(precision, rng, eager):
    levels = make_levels(precision=precision)
    perturb(levels)
    eps = np.array(levels.encode(rng.integers(60, 200, (3, 16, 16, 3), np.uint8)))
    found = list(previews(levels, eps))
    assert [images.shape for images in found] == [(3, 4, 4, 3), (3, 8, 8, 3), (3, 16, 16, 3)]
    np.testing.assert_array_equal(found[-1], levels.decode(eps).numpy())
    for small, large in itertools.pairwise(found):
        assert np.abs(reduced(large) - small).max() <= 1.0  # both are rounded down
    for other in (eps.astype(np.float64), tf.constant(eps)):
        for images, expected in zip(previews(levels, other), found, strict=True):
            np.testing.assert_array_equal(images, expected)


def test_a_glow_keeps_the_mean_of_each_square(rng, eager):
    glow = small_glow(image_shape=(16, 16, 3), n_bits=8, flow_steps=1, parts="1", perturbed=False)
    glow.initialize(rng.integers(60, 200, (64, 16, 16, 3), np.uint8))
    small = rng.integers(60, 200, (3, 8, 8, 3), np.uint8)
    large = upscale(glow, small, temperature=0.1)
    assert large.shape == (3, 16, 16, 3)
    inside = ((large > 0) & (large < 255)).reshape(3, 8, 2, 8, 2, 3).all(axis=(2, 4))
    assert np.abs(reduced(large) - small)[inside].max() <= 1
    assert inside.mean() > 0.5
    assert not np.array_equal(large, upscale(glow, small, temperature=0.1, seed=1))


@pytest.mark.parametrize("factor", [2, 4])
def test_a_mean_moves_only_where_its_square_is_clipped(levels, rng, factor):
    small = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    large = upscale(levels, small, temperature=1.0, factor=factor)
    moved = abs(reduced(large, factor) - small) > 0.5
    clipped = reduced(((large == 0) | (large == 255)).astype(np.float32), factor) > 0
    assert moved.any()
    assert not (moved & ~clipped).any()


def test_means_are_given_to_squares(rng):
    small = rng.integers(10, 246, (2, 3, 3, 1), np.uint8)
    moved = with_means(repeated(small) + np.uint8(5), small)
    np.testing.assert_array_equal(moved, repeated(small))


def test_what_cannot_be_enlarged_is_refused(levels):
    digits = data.load(glow_tf.DataConfig("digits")).test[:2]
    small = np.zeros((1, 8, 8, 3), np.uint8)
    two = small_glow(image_shape=(16, 16, 1))
    for call, message in (
        (lambda: upscale(preset_once("digits"), digits), "a model of levels, or factor=2 and a Glow of two"),
        (lambda: previews(preset_once("digits"), digits), "previews need a model of levels"),
        (lambda: [*previews(levels, np.zeros((1, 5)))], r"shape \(N, 768\).*Received: \(1, 5\)"),
        (lambda: upscale(levels, small, factor=3), "factor must be a power of two, 2 or more"),
        (lambda: upscale(levels, small, factor=1), "Received: factor=1"),
        (lambda: upscale(levels, small, factor=2**15), r"what images of \d+×\d+ need must fit"),
        (lambda: upscale(levels, small[..., :1]), r"upscale needs images, uint8 \(N, height, width, 3\)"),
        (lambda: upscale(levels, small / 255), "Received: float64"),
        (lambda: upscale(two, digits[:, :4]), "images of 8×8×1"),
        (lambda: upscale(two, digits / np.float32(255)), "needs images, uint8 .*Received: float32 of shape"),
        (lambda: upscale(two, digits[..., 0]), r"uint8 \(N, height, width, 1\).*Received: uint8 of shape"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


def test_the_command_draws_details_for_pictures_of_any_size(
    levels, tmp_path, monkeypatch, capsys, rng, eager
):
    monkeypatch.chdir(tmp_path)
    levels.save_to_preset(tmp_path / "levels")
    (tmp_path / "pictures").mkdir()
    for k in range(2):
        Image.fromarray(rng.integers(0, 256, (10, 6, 3), np.uint8)).save(tmp_path / f"pictures/{k}.png")
    arguments = ["upscale", "--model=levels", "--dataset=folder:pictures"]
    assert cli.run("restore", [*arguments, "--factor=4", "--draws=2", "--temperature=0.5"]) == 0
    rows = np.load("restored.npy")
    assert rows.shape == (2, 3, 40, 24, 3)
    assert not np.array_equal(rows[:, 1], rows[:, 2])
    for draw, k in itertools.product((1, 2), range(2)):
        np.testing.assert_array_equal(Image.open(f"restored/draw_{draw}/{k}.png"), rows[k, draw])
    Image.fromarray(rng.integers(0, 256, (5, 9, 3), np.uint8)).save("pictures/2.png")
    assert cli.run("restore", [*arguments, "--output=mixed.png"]) == 0
    assert [Image.open(f"mixed/{k}.png").size for k in range(3)] == [(12, 20), (12, 20), (18, 10)]
    (tmp_path / "pictures/2.png").unlink()
    assert cli.run("restore", [*arguments, "--simulate", "--factor=4"]) == 0
    rows = np.load("restored.npy")
    assert rows.shape == (2, 3, 8, 4, 3)
    printed = capsys.readouterr().out
    assert f"{psnr(rows[:, 1], rows[:, 2]).mean():.2f} dB restored" in printed
    small = np.round(reduced(rows[:, 2], 4)).astype(np.uint8)
    for name, resampling in (("bicubic", "BICUBIC"), ("Lanczos", "LANCZOS")):
        large = enlarged(small, 4, resampling)
        assert f"{psnr(large, rows[:, 2]).mean():.2f} dB {name}" in printed
    assert cli.run("restore", [*arguments, "--factor=3"]) != 0
    assert "factor must be a power of two" in capsys.readouterr().err
    small = {"flow_steps": 1, "parts": "1"}
    small_glow(image_shape=(16, 16, 1), **small).save_to_preset(tmp_path / "two")
    assert cli.run("restore", ["upscale", "--model=two", "--dataset=digits", "--examples=2"]) == 0
    assert np.load("restored.npy").shape == (2, 2, 16, 16, 1)
    (tmp_path / "grey").mkdir()
    Image.fromarray(rng.integers(0, 256, (5, 9), np.uint8)).save("grey/odd.png")
    assert cli.run("restore", ["upscale", "--model=two", "--dataset=folder:grey"]) == 0
    assert Image.open("restored/odd.png").size == (18, 10)
    assert "Images of 5×9 (1) keep their size; the model's is 16×16." in capsys.readouterr().out
