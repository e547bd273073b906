"""What a detector chooses to look at, by damaged copies, and how it sees that images come in groups."""

import glow_tf  # noqa: F401 - before Keras

# isort: split
import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from small import small_levels

from glow_tf.commands import cli
from glow_tf.use import NoveltyDetector
from glow_tf.use.score import choice
from glow_tf.use.score.choice import View
from glow_tf.use.score.damage import KINDS, damaged
from glow_tf.use.score.others import others


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (3, np.float32)])
def test_damage_changes_what_its_mask_says_and_little_far_from_it(rng, channels, dtype):
    images = rng.integers(80, 120, (len(KINDS), 160, 224, channels)).astype(dtype)
    copies, masks = damaged(images, seed=0)
    assert copies.dtype == dtype
    assert copies.min() >= (0 if dtype == np.uint8 else images.min())
    for image, copy, mask in zip(images, copies, masks, strict=True):
        changed = (np.abs(copy.astype(float) - image) > 10).any(axis=-1)
        assert changed[mask].mean() > 0.1
        assert changed.sum() < 3 * mask.sum() + 200
    np.testing.assert_array_equal(copies, damaged(images, seed=0)[0])
    assert (copies != damaged(images, seed=1)[0]).any()


def test_damage_fits_into_small_images_and_there_may_be_none(rng):
    images = rng.integers(0, 256, (10, 8, 8, 1)).astype(np.uint8)
    assert damaged(images, 0)[1].any(axis=(1, 2)).sum() >= 8
    assert damaged(images[:0].astype(np.float32), 0)[0].shape == (0, 8, 8, 1)


@pytest.mark.parametrize(("count", "copies", "different"), [(20, 100, 20), (60, 180, 60), (626, 157, 157)])
def test_few_images_are_copied_several_times_and_of_many_some(count, copies, different):
    which = choice.copied(np.arange(count) + 5)
    assert len(which) == copies
    assert len(set(which)) == different
    assert set(which) <= set(np.arange(count) + 5)


def maps(rng, shift, count=200):
    """What was said of images at 8×8 places: one of them is less likely by `shift`."""
    found = rng.normal(size=(count, 8, 8, 1))
    found[:, 3, 3] -= shift
    return found.astype(np.float32)


def kinds(rng):
    """What features say of images as a whole."""
    return rng.normal(size=(200, 1)).astype(np.float32)


def test_maps_that_only_disturb_are_left_out_and_others_stay(rng):
    good, copies = ([4 * maps(rng, 0), maps(rng, own), maps(rng, own), kinds(rng)] for own in (0, 5))
    view, areas = choice.chosen(good, copies, 3)
    assert view == View(False, (1, 2))
    assert next(iter(areas)) == view
    assert areas[view] > areas[View(False, (0, 1, 2))] + 0.02
    assert areas[View(False, (0,))] < 0.6
    alike = [[*[maps(rng, shift)] * 2, kinds(rng)] for shift in (0, 2)]
    assert choice.chosen(*alike, 2)[0] == View(False, (0, 1))
    assert str(View(True, (0, 1))) == "pixels and features 1 + 2"


def test_pixels_that_only_disturb_are_left_out_and_features_that_do(rng):
    pixels = [[rng.normal(size=(200, 4, 4, 3)).astype(np.float32)] for _ in range(2)]
    features = [[maps(rng, shift), kinds(rng)] for shift in (0, 5)]
    assert choice.chosen(*(a + b for a, b in zip(pixels, features, strict=True)), 1)[0] == View(False, (0,))
    pixels[1][0][:, 1, 1] += 2
    blind = [[4 * maps(rng, 0), kinds(rng)] for _ in range(2)]
    assert choice.chosen(*(a + b for a, b in zip(pixels, blind, strict=True)), 1)[0] == View(True, ())


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images * 8).astype(np.uint8)[..., None]
    return np.random.default_rng(0).permutation(images)[:60]


@pytest.fixture(scope="module")
def network():
    """Of two maps the first is noise of its own, whatever it is given."""
    inputs = keras.Input((8, 8, 1))
    seen = keras.layers.Conv2D(4, 1, use_bias=False, kernel_initializer="ones")(inputs)
    hashed = keras.ops.sin(1e4 * keras.ops.sum(inputs, axis=(1, 2, 3), keepdims=True) + 1e3 * seen)
    return keras.Model(inputs, [hashed, keras.layers.Rescaling([1.0, 2.0, 0.5, 1.0])(seen)])


@pytest.mark.long
@pytest.mark.parametrize("left_out", ["pixels", "features"])
def test_what_is_left_out_is_neither_computed_nor_saved(left_out, network, digits, monkeypatch, tmp_path):
    view = View(left_out != "pixels", (1,) if left_out == "pixels" else ())
    monkeypatch.setattr("glow_tf.use.score.models.chosen", lambda *_: (view, {view: 0.9}))
    prior = small_levels(n_bits=5, image_shape=(8, 8, 1), num_blocks=1, flow_steps=1)
    prior.initialize(digits)
    detector = NoveltyDetector(prior, epochs=0, features=network).fit(digits)
    scores, heat = detector.score_and_heat(digits[:5])
    detector.save(tmp_path / "d")
    assert (tmp_path / "d" / "prior").exists() == view.pixels
    loaded = NoveltyDetector.load(tmp_path / "d", network if view.maps else None)
    np.testing.assert_array_equal(loaded.score_and_heat(digits[:5])[0], scores)
    np.testing.assert_array_equal(loaded.heat(digits[:5]), heat)
    assert len(detector.models_(digits[:5])) == 2  # levels, or what is said of the map and of all maps
    assert (detector.prior_ is None) == (not view.pixels)


def test_photographs_of_the_same_objects_are_known_and_other_images_are_not(rng, digits):
    assert choice.akin(digits) < 0.1
    light = rng.uniform(0.6, 1, (60, 1, 1, 1)) * digits[np.repeat(np.arange(20), 3)]
    assert choice.akin(light.astype(np.uint8)) > 0.9
    assert choice.akin(np.zeros((20, 8, 8, 1), np.uint8)) == 0  # nothing to see


def test_it_warns_of_groups_that_are_not_told(network, digits):
    several = digits[np.repeat(np.arange(20), 2)]
    with pytest.warns(UserWarning, match=r"100% of the good images have another that is nearly the same"):
        NoveltyDetector(None, features=network).fit(several)


@pytest.mark.parametrize("shape", [(8, 8, 1), (30, 20, 3)])
def test_images_of_other_kinds_are_of_the_size_and_the_colours_of_good_ones(shape):
    found = others(shape, seed=1)
    assert [*found] == ["handwritten digits", "pieces of photographs"]
    assert all(own.shape == (60, *shape) and own.dtype == np.uint8 for own in found.values())
    for one, two in zip(found.values(), others(shape, seed=1).values(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert found["handwritten digits"].max(axis=(1, 2, 3)).min() > 150
    assert found["pieces of photographs"].std(axis=(1, 2, 3)).min() > 1


def test_it_says_how_many_images_of_other_kinds_it_flags_and_warns_where_they_pass(network, digits):
    good = others((8, 8, 1), seed=5)["handwritten digits"]
    with pytest.warns(UserWarning, match=r"only \d+% of handwritten digits would be flagged at a rate of 0"):
        detector = NoveltyDetector(None, features=network).fit(good)
    shares = detector.others_
    assert shares["handwritten digits"] < 0.3 < shares["pieces of photographs"]
    assert not NoveltyDetector(None, features=network).fit(digits[:20].astype(np.float32)).others_  # no bytes


def test_the_command_takes_groups_from_names(network, digits, tmp_path, monkeypatch, capsys):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").mkdir()
    for k, image in enumerate(digits[:24]):
        Image.fromarray(image[..., 0]).save(tmp_path / "good" / f"part{k // 2}_{k % 2}.png")
    network.save("n.keras")
    seen = []
    monkeypatch.setattr(choice, "folds_of", lambda groups, *_: seen.append(groups) or groups % 3)
    given = ["fit", "--features=n.keras", "--model=", "--dataset=folder:good"]
    assert cli.run("score", [*given, "--groups=^[^_]*"]) == 0
    np.testing.assert_array_equal(np.bincount(seen[0]), [2] * 12)
    said = capsys.readouterr().out
    assert "It looks at features" in said
    assert "Flagged at 0.05, as images of other kinds: " in said
    for pattern, said in (("[", "be a regular expression"), ("x", "match in each name")):
        assert cli.run("score", [*given, f"--groups={pattern}", "--overwrite"]) == 1
        assert f"groups must {said}" in capsys.readouterr().err
