"""Restoration: the climb rises, known pixels stay, and images come nearer to the truth."""

import numpy as np
import pytest
from PIL import Image
from small import preset_once, small_glow

import glow_tf
from glow_tf import data
from glow_tf.commands import cli
from glow_tf.errors import ConfigError
from glow_tf.use import denoise, encode, inpaint, psnr
from glow_tf.use.restoring import _filled


@pytest.fixture(scope="module")
def model():
    return preset_once("digits")


@pytest.fixture(scope="module")
def digits():
    return data.load(glow_tf.DataConfig("digits")).test[:12]


def test_noise_is_removed(model, digits, rng):
    noisy = np.clip(digits + rng.normal(0, 16, digits.shape), 0, 255).astype(np.uint8)
    restored = denoise(model, noisy, sigma=16, steps=40)
    assert psnr(restored, digits).mean() > psnr(noisy, digits).mean() + 1.5
    assert (model.score(restored)["log_prob"].numpy() > model.score(noisy)["log_prob"].numpy()).all()


def test_little_noise_changes_little(model, digits):
    kept = denoise(model, digits, sigma=0.01, steps=5)
    assert np.abs(kept.astype(int) - digits).max() <= 8  # a level of 5 bits


def test_a_model_of_double_precision_restores_too(digits):
    restored = denoise(small_glow("float64", flow_steps=1, parts="1"), digits[:2], sigma=16, steps=2)
    assert (restored.dtype, restored.shape) == (np.uint8, (2, 8, 8, 1))


def test_unknown_pixels_are_found_and_known_ones_stay(model, digits):
    unknown = np.zeros((12, 8, 8), bool)
    unknown[1:, 2:5, 3:6] = True  # the command gives one mask for all
    damaged = np.where(unknown[..., None], np.uint8(0), digits)
    restored = inpaint(model, damaged, unknown, steps=60)
    np.testing.assert_array_equal(restored[~unknown], digits[~unknown])
    assert psnr(restored[1:], digits[1:]).mean() > psnr(damaged[1:], digits[1:]).mean() + 4


def test_the_climb_starts_from_what_is_around():
    image = np.arange(5, dtype=np.uint8)[None, :, None] * np.ones((5, 1, 1), np.uint8)
    unknown = np.zeros((5, 5), bool)
    unknown[1:4, 1:4] = True
    filled = _filled(image, unknown)[..., 0]
    np.testing.assert_array_equal(filled[0], image[0, :, 0])
    assert filled[2, 2] == 2
    assert filled[2, 1] < filled[2, 3]


def test_psnr_is_that_of_the_mean_square():
    truth = np.full((1, 4, 4, 1), 100, np.uint8)
    assert psnr(truth + 10, truth)[0] == pytest.approx(20 * np.log10(25.5))


def test_what_cannot_be_restored_is_refused(model, digits):
    for call, message in (
        (lambda: denoise(model, digits, sigma=0), "sigma must be above 0"),
        (lambda: denoise(model, digits, sigma=1, steps=0), "steps must be 1 or more"),
        (lambda: inpaint(model, digits, np.ones((8, 8), bool)), "some pixels of every image must be known"),
        (lambda: inpaint(model, digits, np.ones((3, 8), bool)), r"unknown must be bool of shape \(8, 8\)"),
        (lambda: inpaint(model, digits, np.ones((8, 8))), r"unknown must be bool of shape \(8, 8\)"),
        (lambda: denoise(model, digits / np.float32(255), sigma=1), "images must be uint8"),
        (lambda: inpaint(model, digits[:, :4], np.ones((4, 8), bool)), "images must be uint8"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


def test_the_command_restores_and_tells_the_gain(model, tmp_path, monkeypatch, capsys, presets_loaded_once):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model=digits", "--dataset=digits", "--examples=4", "--steps=20"]
    assert cli.run("restore", ["denoise", *arguments, "--simulate", "--sigma=16"]) == 0
    assert "dB as given" in capsys.readouterr().out
    assert np.load("restored.npy").shape == (4, 3, 8, 8, 1)
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save("mask.png")
    assert cli.run("restore", ["inpaint", *arguments, "--mask=mask.png"]) == 0
    rows = np.load("restored.npy")
    assert rows.shape == (4, 2, 8, 8, 1)
    np.testing.assert_array_equal(rows[:, 0, 4:], rows[:, 1, 4:])
    for wrong, message in (
        (["inpaint", "--mask=absent.png"], "mask must be a picture of 8×8"),
        (["denoise", "--sigma=-1", "--simulate"], "sigma must be one or more numbers from 0"),
        (["denoise", "--sigma=0"], "sigma must be above 0"),
        (["paint"], "needs an action first: denoise or inpaint or upscale"),
    ):
        assert cli.run("restore", [wrong[0], *arguments, *wrong[1:]]) == 1
        assert message in capsys.readouterr().err
    assert encode(model, rows[:, 1]).shape == (4, 64)
