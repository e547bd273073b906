"""Upscaling: the details that levels draw given an image."""

import numpy as np
import pytest
from PIL import Image
from small import preset_once

import glow_tf
from glow_tf import data
from glow_tf.commands import cli, model_flags
from glow_tf.core.errors import ConfigError
from glow_tf.use import upscale
from glow_tf.use.upscaling import reduced, repeated

pytestmark = pytest.mark.long


def make_levels(**changes):
    settings = {"num_blocks": 2, "flow_steps": 1, "width": 8, "seed": 3} | changes
    flow = glow_tf.Flow(glow_tf.ModelConfig((16, 16, 3), architecture="levels", **settings))
    flow.initialize(np.random.default_rng(0).integers(60, 200, (64, 16, 16, 3), np.uint8))
    return flow


@pytest.fixture(scope="module")
def levels():
    return make_levels()


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((5, 7), np.int64(2)),
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
    flow = make_levels(n_bits=n_bits, equalize=equalize)
    small = rng.integers(60, 200, (3, 8, 8, 3), np.uint8)
    width = 0 if equalize else flow.dequantize.bin_width  # equalized means are set after the drawing
    difference = reduced(upscale(flow, small)) - small
    assert np.abs(difference).max() <= max(width / 2, 0.5)
    assert np.abs(difference.mean()) <= 0.1 + width / 16


def test_details_are_those_of_the_finest_latents(levels, eager):
    """The same map as `decode`: an image whose finest latents are 0 is its own likeliest enlargement."""
    eps = np.array(levels.encode(np.full((1, 16, 16, 3), 117, np.uint8)))
    eps[:, : 8 * 8 * 9] = 0
    image = levels.decode(eps).numpy()
    found = upscale(levels, np.round(reduced(image)).astype(np.uint8))
    assert np.abs(found.astype(int) - image).max() <= 2


@pytest.mark.parametrize("factor", [2, 4])
def test_a_mean_moves_only_where_its_square_is_clipped(levels, rng, factor):
    small = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    large = upscale(levels, small, temperature=1.0, factor=factor)
    moved = abs(reduced(large, factor) - small) > 0.5
    clipped = reduced(((large == 0) | (large == 255)).astype(np.float32), factor) > 0
    assert moved.any()
    assert not (moved & ~clipped).any()


def test_what_cannot_be_enlarged_is_refused(levels):
    digits = data.load(glow_tf.DataConfig("digits")).test[:2]
    small = np.zeros((1, 8, 8, 3), np.uint8)
    for call, message in (
        (lambda: upscale(preset_once("digits"), digits), "upscale needs a model of levels"),
        (lambda: upscale(levels, small, factor=3), "factor must be a power of two, 2 or more"),
        (lambda: upscale(levels, small, factor=1), "Received: factor=1"),
        (lambda: upscale(levels, small, factor=2**15), r"what images of \d+×\d+ need must fit"),
        (lambda: upscale(levels, small[..., :1]), r"images must be uint8 of shape \(batch, None, None, 3\)"),
        (lambda: upscale(levels, small / 255), "Received: float64"),
        (lambda: upscale(levels, small[0]), r"uint8 of shape \(batch, .*Received: uint8 of shape"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.fixture
def photos(levels, tmp_path, monkeypatch, rng):
    monkeypatch.chdir(tmp_path)
    glow_tf.save(levels, tmp_path / "levels")
    sizes = {
        "a.png": (10, 6, 3),
        "in/b.jpg": (10, 6, 3),
        "in/deep/c.bmp": (5, 9),
        "in/deep/a.png": (10, 6, 3),
    }
    for name, size in sizes.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(60, 200, size, np.uint8)).save(tmp_path / name)
    (tmp_path / "in/notes.txt").write_text("no picture")
    return tmp_path


def enlarge(*arguments):
    return cli.run("enlarge", ["--model=levels", *arguments])


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_the_command_makes_one_file_of_each_photograph_and_nothing_else(levels, photos, capsys, eager):
    before = files_below(photos)
    assert enlarge("in", "--factor=4", "a.png", "--output=large") == 0
    expected = ["a.png", "b.png", "deep/a.png", "deep/c.png"]
    assert files_below(photos / "large") == expected
    assert files_below(photos) == sorted([*before, *(f"large/{name}" for name in expected)])
    for name, given in (("a.png", "a.png"), ("deep/a.png", "in/deep/a.png")):
        small = np.asarray(Image.open(photos / given))[None]
        found = np.asarray(Image.open(photos / "large" / name))[None]
        np.testing.assert_array_equal(found, upscale(levels, small, factor=4))
    assert np.asarray(Image.open(photos / "large/deep/c.png")).shape == (20, 36, 3)
    assert sorted(capsys.readouterr().out.splitlines()) == [f"large/{name}" for name in expected]


def test_photographs_of_one_name_are_all_written(photos, eager):
    Image.open(photos / "a.png").save(photos / "a.jpg")
    assert enlarge("a.png", "a.jpg", "in/deep/a.png", "--output=large") == 0
    assert files_below(photos / "large") == ["a.jpg.png", "a.png.png", "a.png_2.png"]


def test_nothing_is_made_where_photographs_are_bad_or_the_output_is_in_use(photos, capsys, monkeypatch):
    monkeypatch.setattr(model_flags, "model_of", None)  # no time is spent before
    (photos / "in/bad.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (photos / "empty").mkdir()
    (photos / "thesis").mkdir()
    (photos / "thesis/thesis.txt").write_text("mine")
    before = files_below(photos)
    for arguments, message in (
        (("in", "absent.jpg"), "every photograph must be readable. Received: "),
        (("in",), "in/bad.png: "),
        (("absent.jpg",), "absent.jpg: "),
        (("empty",), "a folder must have photographs. Received: 'empty'"),
        ((), "enlarge needs photographs, files or folders of them. Received: none"),
        (("in/deep", "--output=in/deep"), "output must not be what is read, nor lie in a folder of it"),
        (("in", "--output=in/deep/large"), "output must not be what is read, nor lie in a folder of it"),
        (
            ("a.png", "--output=../" + photos.name),
            "output must not be what is read, nor lie in a folder of it",
        ),
        (
            ("in/deep/a.png", "--output=in/deep", "--overwrite"),
            "output must not be what is read, nor lie in a folder of it",
        ),
        (("a.png", "--output=thesis"), "output must be new or empty; with --overwrite"),
        (("a.png", "--output=a.png"), "output must be a folder with a name"),
    ):
        assert enlarge(*arguments) == 1
        assert message in capsys.readouterr().err
    assert files_below(photos) == before


def test_files_are_replaced_only_if_that_is_asked_for(photos, capsys, eager):
    assert enlarge("a.png", "--output=large") == 0
    (photos / "large/mine.txt").write_text("mine")
    first = (photos / "large/a.png").read_bytes()
    assert enlarge("a.png", "--output=large", "--temperature=1") == 1
    assert (photos / "large/a.png").read_bytes() == first
    assert enlarge("a.png", "--output=large", "--temperature=1", "--overwrite") == 0
    assert (photos / "large/a.png").read_bytes() != first
    assert files_below(photos / "large") == ["a.png", "mine.txt"]


def test_an_interrupted_command_leaves_whole_files_and_says_how_to_go_on(photos, capsys, eager, monkeypatch):
    write, written = model_flags.write, []

    def interrupted(path, content):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, content)

    monkeypatch.setattr(model_flags, "write", interrupted)
    assert enlarge("in", "--output=large") == 130
    said = "Interrupted. What there is in large is whole; the same command with --overwrite writes"
    assert said in capsys.readouterr().err
    assert [photos / "large" / name for name in files_below(photos / "large")] == [photos / written[0]]
    assert not (photos / ".large.lock").exists()
