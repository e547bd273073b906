"""What is given with each image, by data set."""

import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from glow_tf import data
from glow_tf.commands import input_flags
from glow_tf.config import ConfigError, DataConfig
from glow_tf.data import sources
from glow_tf.data.loading import load_split
from glow_tf.run.checksums import fingerprints


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def pairs(tmp_path, rng):
    """20 targets of 8×8, and inputs of 4×4 of another kind: the means of 2×2 squares."""
    for k, image in enumerate(rng.integers(0, 256, (20, 8, 8)).astype(np.uint8)):
        write(tmp_path / "target" / f"{k:02d}.png", image)
        write(tmp_path / "input" / f"{k:02d}.bmp", halved(image))
    return tmp_path


def halved(images):
    return images.reshape(*images.shape[:-2], 4, 2, 4, 2).mean((-3, -1)).astype(np.uint8)


def of_folder(folder, condition="input", **settings):
    return DataConfig(f"folder:{folder}", condition=condition, **settings)


def refused(config, *messages):
    with pytest.raises(ConfigError) as raised:
        data.load(config)
    for message in (*messages, "Received: "):
        assert message in str(raised.value)


# Pairs


def test_pairs_stay_together_however_they_are_cut(pairs):
    found = data.load(of_folder(pairs, validation_examples=4, train_examples=10))
    assert {name: own.shape for name, own in found.conditions.items()} == {
        "train": (10, 4, 4, 1),
        "validation": (4, 4, 4, 1),
        "test": (2, 4, 4, 1),
    }
    assert found.condition_shape == (4, 4, 1)
    assert found.names["test"] == ("09.png", "19.png")
    for split, own in found.conditions.items():
        assert own.dtype == np.uint8
        np.testing.assert_array_equal(own[..., 0], halved(getattr(found, split)[..., 0]))


def test_pairs_with_their_own_test_images(pairs):
    for name, suffix in (("target", "png"), ("input", "bmp")):
        for k in range(20):
            where = pairs / name / ("test" if k < 5 else "train")
            where.mkdir(exist_ok=True)
            (pairs / name / f"{k:02d}.{suffix}").rename(where / f"{k:02d}.{suffix}")
    found = data.load(of_folder(pairs))
    assert (len(found.train), len(found.test)) == (15, 5)
    np.testing.assert_array_equal(found.conditions["test"][..., 0], halved(found.test[..., 0]))
    chosen, _, _ = load_split(of_folder(pairs, test_examples=3), "")
    np.testing.assert_array_equal(chosen.condition[..., 0], halved(chosen.images[..., 0]))


def test_unpaired_images_are_named(pairs):
    for k in range(12):
        (pairs / "input" / f"{k:02d}.bmp").unlink()
    write(pairs / "input" / "more.png", np.zeros((4, 4), np.uint8))
    named = ", ".join(f"{k:02d}.png" for k in range(10))
    refused(
        of_folder(pairs),
        f"12 in target/ without one in input/ ({named} and 2 more)",
        "1 in input/ without one in target/ (more.png)",
    )


def test_pairs_that_cannot_be_are_named(pairs):
    refused(of_folder(pairs / "target"), "needs the folders target/", "without input/")
    write(pairs / "target" / "00.bmp", np.zeros((8, 8), np.uint8))
    refused(of_folder(pairs), "names that differ in more than their suffix", "00.bmp", "00.png")
    (pairs / "target" / "00.bmp").unlink()
    write(pairs / "input" / "03.bmp", np.zeros((4, 5), np.uint8))
    refused(of_folder(pairs), "all images must have one size", "input")
    (pairs / "input" / "03.bmp").write_bytes(b"none")
    refused(of_folder(pairs), "every image in input/ must be readable", "03.bmp")


# Other data sets


def test_digits_are_given_their_class():
    found = data.load(DataConfig(condition="label", test_examples=7))
    np.testing.assert_array_equal(found.conditions["test"], np.eye(10)[found.labels["test"]])
    assert found.condition_shape == (10,)


def test_images_of_class_folders_are_given_their_class(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        for k in range(20):
            Image.new("L", (4, 4), k).save(tmp_path / name / f"{k}.png")
    found = data.load(DataConfig(f"folder:{tmp_path}", condition="label"))
    for split in ("train", "test"):
        np.testing.assert_array_equal(found.conditions[split], np.eye(3)[found.labels[split]])
    (tmp_path / "d.png").write_bytes((tmp_path / "a" / "0.png").read_bytes())
    with pytest.raises(ConfigError, match=r"condition=label needs classes.*in one of two or more subfolders"):
        data.load(DataConfig(f"folder:{tmp_path}", condition="label"))


def builder(**features):
    class Builder:
        info = types.SimpleNamespace(
            features={
                name: types.SimpleNamespace(num_classes=3 if name == "kind" else None) for name in features
            },
            splits={"train": types.SimpleNamespace(num_examples=20)},
        )

        def as_dataset(self, split, shuffle_files):
            return tf.data.Dataset.from_tensor_slices(features)

    return lambda config: Builder()


IMAGES = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1) * np.ones((8, 8, 1), np.uint8)
FEATURES = {
    "kind": (np.arange(20) % 3, (3,), np.float32),
    "depth": (np.ones((20, 4, 4, 1), np.float32), (4, 4, 1), np.float32),
    "mask": (IMAGES[:, :4, :4], (4, 4, 1), np.uint8),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_of_a_tfds_set_is_given(monkeypatch, name):
    values, shape, dtype = FEATURES[name]
    monkeypatch.setattr(sources, "_tfds_builder", builder(image=IMAGES, **{name: values}))
    monkeypatch.setattr(sources, "_class_names", lambda _: ())
    found = data.load(DataConfig("flowers", condition=name))
    assert (found.condition_shape, found.conditions["test"].dtype) == (shape, dtype)
    if name == "mask":
        np.testing.assert_array_equal(found.conditions["test"], found.test[:, :4, :4])
    large = data.load(DataConfig("flowers", condition=name, image_size=16))
    assert (large.image_shape, large.condition_shape) == ((16, 16, 1), shape)
    if len(shape) == 3:
        refused(
            DataConfig("flowers", condition=name, augment="flip"), "augment moves images, and not the maps"
        )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["x"] * 20), "a map, a vector, a number or a class"),
        (np.zeros((20, 2, 2)), "a map, a vector, a number or a class"),
        (np.full(20, np.nan), "must be known and finite"),
    ],
)
def test_a_feature_that_cannot_be_given_is_named(monkeypatch, values, message):
    monkeypatch.setattr(sources, "_tfds_builder", builder(image=IMAGES, own=values))
    monkeypatch.setattr(sources, "_class_names", lambda _: ())
    refused(DataConfig("flowers", condition="own"), message, "condition='own'")


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": "digits", "condition": "input"},
        {"dataset": "cifar10", "condition": "image"},
        {"dataset": "folder:a", "condition": "kind"},
    ],
)
def test_a_condition_that_the_kind_of_data_set_does_not_have_is_named_at_once(settings):
    with pytest.raises(
        ConfigError, match=f"condition must be empty, or, of .*: condition='{settings['condition']}'"
    ):
        DataConfig(**settings)


def test_other_conditions_are_other_data(pairs):
    before = fingerprints(data.load(of_folder(pairs)))
    write(pairs / "input" / "00.bmp", np.zeros((4, 4), np.uint8))
    after = fingerprints(data.load(of_folder(pairs)))
    assert {name for name in after if after[name] != before[name]} == {"train conditions"}


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_inputs_in_arrays_keep_their_own_type(tmp_path, rng, kind):
    for k in range(10):
        write(tmp_path / "target" / f"{k}.png", rng.integers(0, 256, (8, 8), dtype=np.uint8))
        (tmp_path / "input").mkdir(exist_ok=True)
        np.save(tmp_path / "input" / f"{k}.npy", rng.integers(0, 256, (8, 8, 2)).astype(kind))
    assert data.load(of_folder(tmp_path)).conditions["train"].dtype == kind
    paths = sorted((tmp_path / "input").iterdir())
    assert input_flags._images(tmp_path / "input", paths, "").dtype == kind
