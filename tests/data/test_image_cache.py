"""The image cache: decoded once, the same numbers as from memory, and nothing half-written."""

import dataclasses
import os
import pathlib
import shutil
import time
import weakref

import numpy as np
import pytest
from helpers import config, rows_of, train
from PIL import Image

from glow_tf import data
from glow_tf.config import ConfigError, DataConfig
from glow_tf.core.durable_files import put_in_place
from glow_tf.data import arrays, folder, image_cache
from glow_tf.data.pictures import read_picture
from glow_tf.run.files.checksums import fingerprints


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(60):
        own = root / ("ab"[k % 2])
        own.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(own / f"{k:02d}.png")
    (root / "broken.png").write_bytes(b"no picture")
    return root


def of(root, cache="", **changes):
    return DataConfig(f"folder:{root}", image_cache=cache, **changes)


def same(one, other):
    for name in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert (one.names, one.class_names) == (other.names, other.class_names)
    assert one.labels.keys() == other.labels.keys()
    assert all(np.array_equal(one.labels[split], other.labels[split]) for split in one.labels)


def decodes_nothing(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(folder, "read_picture", refuse)


@pytest.mark.parametrize("changes", [{}, {"image_size": 4, "train_examples": 20, "validation_examples": 8}])
def test_images_are_decoded_once_and_are_those_of_memory(pictures, tmp_path, monkeypatch, changes):
    expected = data.load(of(pictures, **changes))
    found = data.load(of(pictures, tmp_path, **changes))
    same(found, expected)
    assert isinstance(found.train, np.memmap)
    assert not isinstance(expected.train, np.memmap)
    assert found.notes[:-1] == expected.notes
    assert found.notes[-1].startswith(f"Image cache: {tmp_path}/")
    assert fingerprints(found) == fingerprints(expected)
    assert len(list(tmp_path.iterdir())) == 1  # nothing unfinished is left
    decodes_nothing(monkeypatch)
    same(data.load(of(pictures, tmp_path, **changes)), expected)
    same(data.load(of(pictures, tmp_path, **changes, augment="flip")), expected)


def test_batches_of_mapped_images_are_those_of_memory(pictures, tmp_path):
    mapped, held = (data.load(of(pictures, cache)).train for cache in (tmp_path, ""))
    for make in (
        lambda images: data.training_batches(images, 8, 3, augment="flip_shift", crop=data.Crop(4, 2)),
        lambda images: data.with_members(
            data.training_batches(images, 8, 3), {"condition": images[:, :2]}, len(images)
        ),
        lambda images: data.prefix_batches(images, 8, 3, 1),
        lambda images: data.evaluation_batches(images, 8, 3, others={"condition": images[..., :1]}),
    ):
        batches, others = make(mapped), make(held)
        assert batches.element_spec == others.element_spec
        pairs = zip(batches.take(9).as_numpy_iterator(), others.take(9).as_numpy_iterator(), strict=True)
        for one, other in pairs:
            for name, member in one.items():
                np.testing.assert_array_equal(member, other[name])


def test_what_changes_the_images_makes_other_files(pictures, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(pictures, root)
    cache = tmp_path / "cache"
    before = data.load(of(root, cache))
    (root / ".DS_Store").touch()
    (root / "a" / "notes.txt").write_text("no picture")
    assert data.load(of(root, cache)).notes == before.notes
    assert data.load(of(root, cache, image_size=4)).image_shape == (4, 4, 3)
    first = root / before.names["train"][0]
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(first)
    os.utime(first, ns=(time.time_ns(), time.time_ns() + 1))
    assert not data.load(of(root, cache)).train[0].any()
    (root / before.names["train"][1]).unlink()
    assert len(data.load(of(root, cache)).test) == len(before.test) - 1
    assert len(list(cache.iterdir())) == 4


@pytest.mark.parametrize("kind", ["folder:pictures", "file:data.npy"])
def test_equal_names_below_two_current_directories_are_two_data_sets(tmp_path, monkeypatch, kind):
    cache = tmp_path / "cache"
    config = DataConfig(kind, image_cache=cache)
    for level, name in enumerate("ab"):
        (tmp_path / name / "pictures").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / name)
        arrays_of = {"data.npy": (20, 8, 8, 1)} | {f"pictures/{k:02d}.npy": (8, 8, 1) for k in range(20)}
        for path, shape in arrays_of.items():
            np.save(path, np.full(shape, level, np.uint8))
            os.utime(path, (1e9, 1e9))
    found = {}
    for name in "ab":
        monkeypatch.chdir(tmp_path / name)
        found[name] = data.load(config)
        in_full = config.dataset.replace(":", f":{tmp_path / name}/")
        assert image_cache._key(config) == image_cache._key(DataConfig(in_full))
        assert data.load(DataConfig(in_full, image_cache=cache)).notes == found[name].notes
    assert [int(own.train.max()) for own in found.values()] == [0, 1]
    assert len(list(cache.iterdir())) == 2


def test_equal_names_of_tables_are_two_tables(tmp_path, monkeypatch):
    settings = []
    for name in "ab":
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        settings.append(image_cache._key(DataConfig("folder:/x", condition="attributes:numbers.csv")))
    assert settings[0] != settings[1]


@pytest.mark.parametrize("damage", ["truncated", "absent", "no header", "empty", "content"])
def test_a_damaged_cache_is_made_anew(pictures, tmp_path, damage):
    expected = data.load(of(pictures, tmp_path))
    (folder_of,) = tmp_path.iterdir()
    path = folder_of / ("content.json" if damage == "content" else "train images.npy")
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes({"truncated": path.read_bytes()[:-1], "empty": b""}.get(damage, b"nothing"))
    found = data.load(of(pictures, tmp_path))
    same(found, data.load(of(pictures)))
    assert found.notes[-1].startswith("The image cache was damaged, and is made anew: ")
    assert data.load(of(pictures, tmp_path)).notes == expected.notes


def test_what_a_killed_process_left_is_removed_after_a_day(pictures, tmp_path):
    name = pathlib.Path(data.load(of(pictures, tmp_path)).notes[-1].split()[2][:-1]).name
    old, new = (tmp_path / f".{name}-{end}" for end in ("old", "new"))
    for left in (old, new):
        left.mkdir()
    os.utime(old, (0, 0))
    data.load(of(pictures, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {name, new.name}


class KilledError(BaseException):
    """What ends a process at once."""


def test_an_interrupted_decoding_leaves_nothing_and_begins_anew(pictures, tmp_path, monkeypatch):
    taken = []

    def read(path, size, dtype):
        taken.append(path)
        if len(taken) > 30:
            raise KilledError
        return read_picture(path, size, dtype)

    with monkeypatch.context() as patch:
        patch.setattr(folder, "read_picture", read)
        with pytest.raises(KilledError):
            data.load(of(pictures, tmp_path))
    assert list(tmp_path.iterdir()) == []
    same(data.load(of(pictures, tmp_path)), data.load(of(pictures)))


@pytest.mark.parametrize("cached", [False, True])
def test_the_pixels_of_a_picture_are_held_once(pictures, tmp_path, monkeypatch, cached):
    made, alive = [], []

    def read(path, size, dtype):
        alive.append(sum(pixels() is not None for pixels in made))
        picture = read_picture(path, size, dtype)
        made.append(weakref.ref(picture.pixels))
        return picture

    monkeypatch.setattr(folder, "in_parallel", lambda work, paths: (work(path) for path in paths))
    monkeypatch.setattr(folder, "read_picture", read)
    data.load(of(pictures, tmp_path if cached else ""))
    assert max(alive) < 5


def test_processes_that_decode_at_once_share_the_files_of_the_first(pictures, tmp_path, monkeypatch):
    found = []

    def load_another(source, target):
        if not found:
            found.append(None)
            found[0] = data.load(of(pictures, tmp_path))
        put_in_place(source, target)

    monkeypatch.setattr(image_cache, "put_in_place", load_another)
    same(data.load(of(pictures, tmp_path)), data.load(of(pictures)))
    same(found[0], data.load(of(pictures)))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_and_a_folder_that_cannot_be_written_are_a_sentence(pictures, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    received = rf"No space left on device. Received: image_cache='{tmp_path}'$"
    for place, name, needs in (
        (arrays.os, "posix_fallocate", "0.00 GiB for decoded images"),
        (image_cache, "with_progress", "room for decoded images"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            with pytest.raises(OSError, match=rf"needs {needs}, .*: {received}"):
                data.load(of(pictures, tmp_path))
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="image_cache must be a folder that can be written"):
        data.load(of(pictures, tmp_path / "file"))


def test_a_set_larger_than_memory_needs_the_cache_and_then_loads(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("glow_tf.core.memory.free_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"must fit in .*--image_cache=FOLDER"):
        data.load(of(pictures))
    assert len(data.load(of(pictures, tmp_path)).train) == 54


@pytest.mark.slow  # the tests above compare the images
def test_a_run_from_the_cache_has_the_numbers_of_one_from_memory(pictures, tmp_path):
    small = {"num_blocks": 1, "parts": "1", "width": 4, "part_epochs": 1, "finetune_epochs": 0}
    small |= {"export": False, "tensorboard": False, "sample_every": 0, "train_examples": 0}
    small |= {"test_examples": 0, "n_bits": 8, "batch_size": 16, "dataset": f"folder:{pictures}"}
    runs = [config(tmp_path / name, **small, image_cache=cache) for name, cache in _caches(tmp_path)]
    summaries = [train(run, eager=True) for run in runs]
    assert summaries[0]["test_bpd"] == summaries[1]["test_bpd"]
    assert rows_of(tmp_path / "held")[0]["train_bpd"] == rows_of(tmp_path / "mapped")[0]["train_bpd"]
    assert dataclasses.asdict(runs[0].data) != dataclasses.asdict(runs[1].data)


def _caches(tmp_path):
    return ("held", ""), ("mapped", str(tmp_path / "cache"))
