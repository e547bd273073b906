import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small import ROOT

from glow_tf import data
from glow_tf.config import ConfigError, DataConfig
from glow_tf.data import sources
from glow_tf.data.arrays import fingerprint, in_memory
from glow_tf.data.loading import load_split
from glow_tf.data.named import check_named

TFDS = ROOT.parent / "shared" / "tfds"


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


# Sources


def test_digits_are_the_17_levels_times_8():
    images = data.load(DataConfig())
    assert images.train.shape == (1437, 8, 8, 1)
    assert images.test.shape == (360, 8, 8, 1)
    assert set(np.unique(images.train)) == set(range(0, 129, 8))


def test_validation_is_cut_from_the_end_of_the_training_data():
    whole = data.load(DataConfig())
    cut = data.load(DataConfig(validation_examples=100, train_examples=50, test_examples=7))
    assert (len(cut.train), len(cut.validation), len(cut.test)) == (50, 100, 7)
    np.testing.assert_array_equal(cut.validation, whole.train[-100:])
    np.testing.assert_array_equal(cut.train, whole.train[:50])


INVALID = {
    "too_many_train": (DataConfig(train_examples=10_000), "train_examples must be at most 1437"),
    "too_many_test": (DataConfig(test_examples=10_000), "test_examples must be at most 360"),
    "too_many_validation": (DataConfig(validation_examples=1437), "validation_examples must leave"),
    "unknown": (DataConfig(dataset="no_such_set"), "digits, folder:PATH, file:PATH.npy or an image data set"),
    "not_there": (DataConfig(dataset="folder:/no/such/folder"), "needs an existing folder"),
}


@pytest.mark.parametrize(("config", "match"), INVALID.values(), ids=INVALID.keys())
def test_what_cannot_be_loaded_is_named(config, match):
    with pytest.raises(ConfigError, match=rf"{match}.*Received"):
        data.load(config)


def test_what_runs_write_below_a_folder_is_no_data(tmp_path):
    for k in range(20):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k:02d}.png")
    config = DataConfig(f"folder:{tmp_path}")
    before = data.load(config)
    (tmp_path / "run" / "samples").mkdir(parents=True)
    (tmp_path / "run" / "flags.cfg").touch()
    Image.new("L", (8, 8)).save(tmp_path / "run" / "samples" / "epoch_0001.png")
    found = data.load(config)
    np.testing.assert_array_equal(found.train, before.train)
    assert "Not used: 1 images in hidden folders and in those of runs, such as run" in " ".join(found.notes)


def test_a_data_set_that_is_not_there_is_named_at_once_without_a_network(tmp_path, monkeypatch):
    def offline(*args):
        raise OSError("Name or service not known")

    monkeypatch.setattr(sources.socket, "getaddrinfo", offline)
    with pytest.raises(ConfigError, match=r"OSError: Name or service.*Received: dataset='cifar10'"):
        data.load(DataConfig(dataset="cifar10", data_dir=str(tmp_path)))


def test_a_data_set_of_ones_own_is_one_function(monkeypatch):
    """It is found by its name before training, and split and counted as others are."""
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] + np.zeros((40, 4, 4, 1), np.uint8)
    monkeypatch.setitem(data.SOURCES, "steps", lambda config: data.DataSet(data.Examples(images)))
    config = DataConfig(dataset="steps", validation_examples=6)
    check_named(config)
    found = data.load(config)
    np.testing.assert_array_equal(found.test, images[9::10])
    assert (len(found.train), len(found.validation)) == (30, 6)
    np.testing.assert_array_equal(load_split(config, "test")[0].images, found.test)


def test_digits_resize():
    assert data.load(DataConfig(image_size=16)).image_shape == (16, 16, 1)


def write_images(folder: pathlib.Path, count: int, rng, modes=("RGB", "L", "RGBA", "LA", "P", "I;16")):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        height, width = rng.integers(20, 60, size=2)
        mode = modes[i % len(modes)]
        if mode == "I;16":
            image = Image.fromarray(rng.integers(0, 2**16, size=(height, width)).astype(np.uint16))
        else:
            image = Image.fromarray(rng.integers(0, 256, size=(height, width, 3)).astype(np.uint8))
            image = image.convert(mode if mode != "P" else "RGB")
            image = image.convert("P") if mode == "P" else image
        image.save(folder / f"{i:03d}.png")


def test_a_folder_of_odd_images_trains_after_the_broken_one_is_named(tmp_path, rng):
    write_images(tmp_path, 40, rng)
    broken = tmp_path / "007.png"
    broken.write_bytes(broken.read_bytes()[:100])
    images = data.load(DataConfig(dataset=f"folder:{tmp_path}", image_size=32))
    assert images.train.shape == (36, 32, 32, 3)
    assert images.test.shape == (3, 32, 32, 3)
    assert any(str(broken) in note for note in images.notes)
    with pytest.raises(
        ConfigError, match=r"one size: resize them first; .*--image_size=32 does it.*Received"
    ):
        data.load(DataConfig(dataset=f"folder:{tmp_path}"))


def test_a_grey_folder_stays_grey_and_train_and_test_are_kept_apart(tmp_path, rng):
    write_images(tmp_path / "train", 6, rng, modes=("L", "I;16"))
    write_images(tmp_path / "test", 2, rng, modes=("L",))
    images = data.load(DataConfig(dataset=f"folder:{tmp_path}", image_size=16))
    assert images.train.shape == (6, 16, 16, 1)
    assert images.test.shape == (2, 16, 16, 1)
    assert images.train[1].std() > 20  # 16 bits are scaled, not cut off


def test_a_test_folder_is_held_out_even_without_a_train_folder(tmp_path, rng):
    write_images(tmp_path, 6, rng, modes=("RGB",))
    write_images(tmp_path / "test", 3, rng, modes=("L",))
    images = data.load(DataConfig(dataset=f"folder:{tmp_path}", image_size=16))
    assert (len(images.train), len(images.test)) == (6, 3)
    assert images.notes == ()


def test_what_macos_writes_beside_pictures_is_no_picture(tmp_path, rng):
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / name)
    for name in ("._cover.png", "__MACOSX/cat/._1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"attributes")
    found = load_split(DataConfig(dataset=f"folder:{tmp_path}", test_examples=1), "")
    assert found[1] == ("cat", "dog")
    assert not any("Left out" in note for note in found[2])


def test_every_tenth_image_of_a_tfds_set_without_a_test_split_is_held_out(monkeypatch):
    class Builder:
        info = types.SimpleNamespace(
            features={"image": None}, splits={"train": types.SimpleNamespace(num_examples=25)}
        )

        def as_dataset(self, split, shuffle_files):
            pictures = np.arange(25, dtype=np.uint8).reshape(25, 1, 1, 1) * np.ones((8, 8, 1), np.uint8)
            return tf.data.Dataset.from_tensor_slices({"image": pictures})

    monkeypatch.setattr(sources, "_tfds_builder", lambda config: Builder())
    found = data.load(DataConfig(dataset="flowers", train_examples=20))
    assert found.test[:, 0, 0, 0].tolist() == [9, 19]
    assert found.train[:, 0, 0, 0].tolist() == [k for k in range(22) if k not in (9, 19)]
    assert found.notes == ("No test split: every tenth image, 2 in all, is held out for testing.",)
    chosen, _, notes = load_split(DataConfig(dataset="flowers", test_examples=1), "test")
    assert chosen.images[:, 0, 0, 0].tolist() == [9]
    assert notes == found.notes
    Builder.info.splits = {"test": None}
    with pytest.raises(ConfigError, match=r"must have a train split.*Received.*\['test'\]"):
        data.load(DataConfig(dataset="flowers"))


@pytest.mark.slow
@pytest.mark.skipif(not TFDS.exists(), reason="the prepared CIFAR-10 is not here")
def test_cifar10_from_tfds():
    config = DataConfig("cifar10", str(TFDS), train_examples=64, test_examples=32)
    images = data.load(config)
    assert images.train.shape == (64, 32, 32, 3)
    assert images.test.shape == (32, 32, 32, 3)
    assert images.train.std() > 30
    validated = data.load(DataConfig("cifar10", str(TFDS), train_examples=64, validation_examples=10))
    np.testing.assert_array_equal(validated.train, images.train)
    assert len(validated.validation) == 10


# Pipelines


def images_of(count, rng):
    return rng.integers(0, 256, size=(count, 8, 8, 3)).astype(np.uint8)


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own(rng):
    images = np.arange(24, dtype=np.uint8).reshape(24, 1, 1, 1) * np.ones((1, 2, 2, 1), np.uint8)
    batches = take(data.training_batches(images, 8, seed=1), 6)
    orders = [np.concatenate([b["images"][:, 0, 0, 0] for b in batches[i : i + 3]]) for i in (0, 3)]
    for order in orders:
        assert sorted(order) == list(range(24))
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], np.arange(24))


def test_a_stream_that_starts_at_a_later_epoch_goes_on_with_the_same_data(rng):
    images = images_of(20, rng)
    whole = take(data.training_batches(images, 8, seed=1, augment="flip_shift"), 6)
    later = take(data.training_batches(images, 8, seed=1, augment="flip_shift", epochs=data.Epochs(4)), 2)
    for expected, got in zip(whole[4:6], later, strict=True):
        for name, own in expected.items():
            np.testing.assert_array_equal(own, got[name])


def test_seeds_change_order_and_noise(rng):
    images = images_of(20, rng)
    a, b = (take(data.training_batches(images, 8, seed=s), 1)[0] for s in (1, 2))
    assert not np.array_equal(a["images"], b["images"])
    assert not np.array_equal(a["noise"], b["noise"])


def test_noise_is_uniform_and_fresh_for_every_example_and_epoch():
    images = np.zeros((64, 8, 8, 1), np.uint8)
    noise = np.concatenate([b["noise"] for b in take(data.training_batches(images, 64, seed=1), 2)])
    assert noise.min() >= 0
    assert noise.max() < 1
    assert abs(noise.mean() - 0.5) < 0.01
    assert len(np.unique(noise[:, 0, 0, 0])) == 128


def test_evaluation_noise_does_not_depend_on_the_batch_size(rng):
    images = images_of(20, rng)
    by_8 = take(data.evaluation_batches(images, 8, seed=1), 3)
    by_20 = take(data.evaluation_batches(images, 20, seed=1), 1)
    for name in ("images", "noise"):
        np.testing.assert_array_equal(np.concatenate([b[name] for b in by_8])[:20], by_20[0][name])
    weights = np.concatenate([b["weight"] for b in by_8])
    np.testing.assert_array_equal(weights, [1] * 20 + [0] * 4)


def test_what_belongs_to_images_stays_with_them_in_an_evaluation(rng):
    images = rng.integers(0, 256, (5, 4, 4, 1)).astype(np.uint8)
    given = {"a": images[:, 0, :, 0].astype(np.float32), "b": np.arange(5)}
    batches = list(data.evaluation_batches(images, 2, seed=0, others={"condition": given}))
    assert len(batches) == 3
    for batch in batches:
        np.testing.assert_array_equal(batch["condition"]["a"], batch["images"][:, 0, :, 0])
    np.testing.assert_array_equal([k for batch in batches for k in batch["weight"].numpy()], [1] * 5 + [0])
    places = [k for batch in batches for k in batch["condition"]["b"].numpy()]
    np.testing.assert_array_equal(places, [0, 1, 2, 3, 4, 4])


def test_augmentations(rng):
    images = images_of(16, rng)
    for augment, check in {
        "none": lambda image: any(np.array_equal(image, i) for i in images),
        "flip": lambda image: any(np.array_equal(image, j) for i in images for j in (i, i[:, ::-1])),
    }.items():
        batch = take(data.training_batches(images, 16, seed=1, augment=augment), 1)[0]["images"]
        assert all(check(image) for image in batch)
    shifted = take(data.training_batches(images, 16, seed=1, augment="shift"), 1)[0]["images"]
    assert shifted.shape == images.shape
    assert not all(any(np.array_equal(a, b) for b in images) for a in shifted)
    with pytest.raises(ConfigError, match=r"augment must be one of none, .* Received: augment='noflip'"):
        data.training_batches(images, 16, seed=1, augment="noflip")


def test_a_batch_that_cannot_be_filled_is_an_error(rng):
    with pytest.raises(
        ConfigError, match=r"at most the number of training images, 20. Received: batch_size=21"
    ):
        data.training_batches(images_of(20, rng), 21, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("replicas", [2, 4])  # one or two a process
def test_slices_of_the_batches_are_together_the_batches(small_images, replicas):
    def joined(make, take):
        slices = [
            list(make(data.DataSlice(k, 2, replicas)).take(take * replicas // 2).as_numpy_iterator())
            for k in range(2)
        ]
        per_step = replicas // 2
        steps = [
            [batch for one in slices for batch in one[s * per_step : (s + 1) * per_step]] for s in range(take)
        ]
        return [{name: np.concatenate([own[name] for own in step]) for name in step[0]} for step in steps]

    def training(data_slice=data.WHOLE):
        return data.training_batches(
            small_images, 12, 3, augment="flip_shift", epochs=data.Epochs(10), data_slice=data_slice
        )

    def evaluation(data_slice=data.WHOLE):
        return data.evaluation_batches(small_images, 12, 3, data_slice=data_slice)

    for make, take in ((training, 7), (evaluation, 6)):
        whole = list(make().take(take).as_numpy_iterator())
        for got, expected in zip(joined(make, take), whole, strict=True):
            for name, own in expected.items():
                np.testing.assert_array_equal(got[name], own)


@pytest.fixture
def large_file(tmp_path, monkeypatch, rng):
    """A data set in a file that memory has no room for, and its array."""
    images = rng.integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    monkeypatch.setattr("glow_tf.core.machine.free_memory", lambda: 10_000)
    return f"file:{tmp_path / 'images.npy'}", images


def test_a_file_larger_than_memory_stays_on_the_disk_with_the_same_splits(large_file):
    name, images = large_file
    found = data.load(DataConfig(name, validation_examples=8, train_examples=40))
    rest = np.delete(images, range(9, 60, 10), axis=0)
    expected = {"train": rest[:40], "validation": rest[-8:], "test": images[9::10]}
    for split, own in expected.items():
        assert not in_memory(getattr(found, split))
        np.testing.assert_array_equal(getattr(found, split), own)
        assert fingerprint(getattr(found, split)) == fingerprint(own)
    np.testing.assert_array_equal(load_split(DataConfig(name, test_examples=7), "train")[0].images, rest[:7])
    assert found.values_used == np.bitwise_or.reduce(np.concatenate([rest[:40], images[9::10]]), None)
    assert found.top == rest[:40].max()
    assert found.overlaps == {"validation": (0, 8), "test": (0, 6)}


def test_what_is_resized_or_used_by_a_model_must_fit_into_memory(large_file):
    name, _ = large_file
    with pytest.raises(ConfigError, match=r"must fit in .* file:PATH.npy of the model's type may be larger"):
        data.load(DataConfig(name, image_size=4096))
    with pytest.raises(ConfigError, match=r"must fit in .*Received: "):
        load_split(DataConfig(name), "train")


def test_batches_of_a_file_larger_than_memory_are_those_of_memory(large_file):
    name, images = large_file
    rows, held = data.load(DataConfig(name)).train, np.delete(images, range(9, 60, 10), axis=0)
    for make in (
        lambda images: data.training_batches(images, 8, 3, augment="flip_shift", crop=data.Crop(4, 2)),
        lambda images: data.with_members(data.training_batches(images, 8, 3), {"own": images}, len(images)),
        lambda images: data.prefix_batches(images, 8, 3, 1),
        lambda images: data.evaluation_batches(images, 8, 3),
    ):
        batches, others = make(rows), make(held)
        assert batches.element_spec == others.element_spec
        pairs = zip(take(batches, 9), take(others, 9), strict=True)
        for one, other in pairs:
            for member, own in one.items():
                np.testing.assert_array_equal(own, other[member])


def test_an_empty_array_is_called_empty(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((0, 8, 8, 1), np.uint8))
    with pytest.raises(ConfigError, match=r"it is empty, of shape \(0, 8, 8, 1\)"):
        data.load(DataConfig(f"file:{tmp_path / 'images.npy'}"))
