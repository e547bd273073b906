"""Restoration: the climb rises, known pixels stay, and images come nearer to the truth."""

import numpy as np
import pytest
from PIL import Image
from small import preset_once, small_glow, small_levels

import glow_tf
from glow_tf import data
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.use import denoise, encode, inpaint, psnr
from glow_tf.use.restore.restoring import harmonic
from glow_tf.use.sized import check_fits, extended, of_size

pytestmark = pytest.mark.long


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


@pytest.mark.slow
def test_the_likeliest_filling_is_not_behind_a_harmonic_one(model, digits):
    unknown = np.zeros((8, 8), bool)
    unknown[2:6, 2:6] = True
    start = harmonic(digits, unknown)
    restored = inpaint(model, digits, unknown, steps=20)
    assert psnr(restored, digits).mean() > psnr(start, digits).mean() + 0.6  # 0.4 with steps of single pixels
    assert (model.score(restored)["log_prob"].numpy() > model.score(start)["log_prob"].numpy()).mean() > 0.9


def test_each_pixel_of_a_harmonic_filling_is_the_mean_of_its_neighbours(rng):
    images = rng.integers(0, 256, (2, 6, 7, 3), np.uint8)
    unknown = np.zeros((2, 6, 7), bool)
    unknown[0, 1:4, 2:7] = True  # to the edge, where a pixel has three neighbours; the other has no hole
    filled = harmonic(images, unknown).astype(float)
    np.testing.assert_array_equal(filled[~unknown], images[~unknown])
    padded = np.pad(filled[0], ((1, 1), (1, 1), (0, 0)), constant_values=np.nan)
    around = np.nanmean([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
    assert np.abs(around - filled[0])[unknown[0]].max() <= 1  # rounded
    line = np.array([[[10], [0], [0], [40]]], np.uint8)[None]
    assert harmonic(line, np.array([[False, True, True, False]])).ravel().tolist() == [10, 20, 30, 40]


def test_a_model_of_other_sizes_has_the_same_weights(eager):
    digits, model = (preset_once(name) for name in ("digits", "cifar10_small"))
    assert of_size(digits, 15, 9).image_shape == (16, 12, 1)
    assert of_size(digits, 7, 8) is digits
    larger = of_size(model, 63, 33)
    assert larger.image_shape == (63, 33, 3)  # levels have every size
    flat = [own.bits_per_dim(np.full((1, *own.image_shape), 77, np.uint8)).numpy() for own in (model, larger)]
    assert abs(flat[0] - flat[1]) < 0.5  # edges differ
    assert extended(np.arange(6).reshape(1, 2, 3), 3, 5).tolist() == [
        [[0, 1, 2, 2, 1], [3, 4, 5, 5, 4], [3, 4, 5, 5, 4]]
    ]


def test_models_that_have_one_size_alone_name_the_image():
    check_fits(preset_once("digits"), (50, 40), "a.png", gradient=True, larger=True)
    with pytest.raises(ConfigError, match=r"images of 8×8 alone.*Received: sub/a.png of 9×8"):
        check_fits(preset_once("digits_classes"), (9, 8), "sub/a.png", gradient=True, larger=True)
    with pytest.raises(ConfigError, match=r"must be 4 or more .*Received: a.png of 3×50"):
        check_fits(preset_once("cifar10_small"), (3, 50), "a.png", gradient=True, larger=True)
    with pytest.raises(ConfigError, match=r"gradient of a.png, 90000×90000, needs must fit in"):
        check_fits(preset_once("digits"), (90_000, 90_000), "a.png", gradient=True, larger=True)


def test_the_gradient_of_levels_is_that_of_the_steps_of_the_finest():
    check_fits(small_levels(flow_steps=256, level_steps="2,1,1"), (2000, 2000), "a.png", gradient=True)
    with pytest.raises(ConfigError, match=r"gradient of a.png, 20000×20000, needs must fit in"):
        check_fits(small_levels(flow_steps=256), (20_000, 20_000), "a.png", gradient=True)


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
        (["inpaint", "--mask=absent.png"], "mask must be a picture of the images' size"),
        (["denoise", "--sigma=-1", "--simulate"], "sigma must be one or more numbers from 0"),
        (["denoise", "--sigma=0"], "sigma must be above 0"),
        (["paint"], "needs an action first: denoise or inpaint or upscale"),
    ):
        assert cli.run("restore", [wrong[0], *arguments, *wrong[1:]]) == 1
        assert message in capsys.readouterr().err
    assert encode(model, rows[:, 1]).shape == (4, 64)


def test_the_command_gives_every_file_back_with_its_name_and_size(
    tmp_path, monkeypatch, capsys, rng, presets_loaded_once, eager
):
    monkeypatch.chdir(tmp_path)
    sizes = {"a.png": (16, 16), "b.jpg": (7, 10), "sub/c.png": (8, 8), "sub/d.bmp": (16, 16)}
    for name, (height, width) in sizes.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 128, (height, width), np.uint8)).save(path)
    arguments = ["--model=digits", "--dataset=folder:in", "--steps=2", "--output=out.png"]
    assert cli.run("restore", ["denoise", *arguments, "--simulate"]) == 0
    printed = capsys.readouterr().out
    assert "Images of 16×16 (2) keep their size; the model's is 8×8" in printed
    assert "means of 4 images" in printed
    assert "3 sizes, so that out.png is not written" in printed
    restored = {path.relative_to(tmp_path / "out"): path for path in (tmp_path / "out").rglob("*.png")}
    found = {name.with_suffix("").as_posix(): Image.open(path).size for name, path in restored.items()}
    assert found == {name.partition(".")[0]: size[::-1] for name, size in sizes.items()}
    Image.new("L", (8, 8), 255).save("white.png")
    (tmp_path / "in/a.jpg").write_bytes((tmp_path / "in/b.jpg").read_bytes())
    assert cli.run("restore", ["inpaint", *arguments, "--simulate"]) == 0
    assert (tmp_path / "out/a.png.png").exists()
    assert (tmp_path / "out/a.jpg.png").exists()
    assert "dB by a harmonic filling" in capsys.readouterr().out
    for wrong, message in (
        (["inpaint", "--mask=white.png"], "mask must be a picture of the images' size, 7×10 for a.jpg"),
        (
            ["inpaint", "--model=digits_classes"],
            "takes images of 8×8 alone: resize the others first. Received",
        ),
        (["denoise", "--output=in.png"], "output must leave in for the images"),
    ):
        assert cli.run("restore", [wrong[0], *arguments, *wrong[1:]]) == 1
        assert message in capsys.readouterr().err
