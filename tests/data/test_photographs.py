"""A folder as a photographer has it: turned, mixed, damaged, small and large pictures."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from glow_tf import data
from glow_tf.config import ConfigError, DataConfig
from glow_tf.data import loading, pictures
from glow_tf.data.arrays import resize

ORIENTATION = 0x0112


def load(folder, **settings):
    return data.load(DataConfig(dataset=f"folder:{folder}", **settings))


def everything(images):
    return np.concatenate([images.train, images.test])


def quadrants(width=96, height=96):
    """A picture whose four quarters differ, so that every turn shows."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 0, 0)
    pixels[: height // 2, width // 2 :] = (0, 250, 0)
    pixels[height // 2 :, : width // 2] = (0, 0, 250)
    pixels[height // 2 :, width // 2 :] = (250, 250, 250)
    return Image.fromarray(pixels)


def smooth(rng, width, height):
    """A random picture without noise, as JPEG likes it."""
    seed = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return seed.resize((width, height), Image.Resampling.BICUBIC)


def save_turned(upright, path, orientation):
    """Saves a picture so that a viewer who applies its EXIF orientation shows it upright."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    # Turning three more times by the same orientation undoes one turn by it.
    turned = upright
    for _ in range(3):
        turned.getexif()[ORIENTATION] = orientation
        turned = ImageOps.exif_transpose(turned)
    turned.save(path, exif=exif)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    quadrants().save(tmp_path / "test" / "t.png")
    return tmp_path


# Turned by EXIF


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(folder, suffix, orientation):
    save_turned(quadrants(), folder / "train" / f"a.{suffix}", orientation)
    images = load(folder, image_size=8)
    np.testing.assert_allclose(images.train[0].astype(int), images.test[0].astype(int), atol=12)
    turned = [note for note in images.notes if note.startswith("Turned upright")]
    assert turned == ([] if orientation == 1 else ["Turned upright, as their EXIF data say: 1 of 2 images."])


def test_damaged_exif_data_do_not_lose_the_picture(folder):
    quadrants().save(folder / "train" / "a.jpg", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\xff")
    assert load(folder, image_size=8).train.shape == (1, 8, 8, 3)


# Formats


def test_the_first_frame_of_a_gif_is_read(folder):
    frames = [quadrants(), Image.new("RGB", (96, 96), "black")]
    frames[0].save(folder / "train" / "a.gif", save_all=True, append_images=frames[1:])
    images = load(folder, image_size=8)
    np.testing.assert_allclose(images.train[0].astype(int), images.test[0].astype(int), atol=12)


def test_tiff_files_of_usual_kinds_are_read(folder, rng):
    quadrants().save(folder / "train" / "a.tiff", save_all=True, append_images=[Image.new("RGB", (96, 96))])
    quadrants().convert("CMYK").save(folder / "train" / "b.tif", compression="tiff_lzw")
    quadrants().convert("1").save(folder / "train" / "c.TIF")
    deep = rng.integers(0, 2**16, (96, 96)).astype(np.uint16)
    Image.fromarray(deep).save(folder / "train" / "d.tif")
    images = load(folder)
    assert images.train.shape == (4, 96, 96, 3)
    np.testing.assert_array_equal(images.train[0], images.test[0])
    np.testing.assert_array_equal(images.train[3, ..., 0], (deep / 257).round())


def test_what_links_in_test_lead_to_is_not_trained_on(tmp_path):
    (tmp_path / "held_out").mkdir()
    for name in ("a.png", "held_out/b.png", "held_out/c.png"):
        quadrants().save(tmp_path / name)
    (tmp_path / "test").symlink_to("held_out")
    images = load(tmp_path)
    assert images.names == {"train": ("a.png",), "validation": (), "test": ("test/b.png", "test/c.png")}
    assert "Not trained on: 2 images that are test images under another name." in images.notes


def test_the_first_images_of_a_set_or_of_both_are_read(tmp_path):
    for name in ("train/a/1", "train/a/2", "train/b/1", "test/a/1", "test/a/2", "test/b/1"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        quadrants(32, 32).save(path)
    config = DataConfig(dataset=f"folder:{tmp_path}", test_examples=1)
    examples, class_names, _ = loading.load_split(config, "")
    assert (len(examples), class_names, list(examples.labels)) == (1, ("a", "b"), [0])
    assert len(loading.load_split(dataclasses.replace(config, test_examples=6), "all")[0]) == 6
    with pytest.raises(ConfigError, match="examples must be at most 3 here"):
        loading.load_split(dataclasses.replace(config, test_examples=9), "test")


def test_a_folder_of_test_images_alone_can_be_scored(tmp_path):
    (tmp_path / "test").mkdir()
    quadrants(32, 32).save(tmp_path / "test" / "1.png")
    config = DataConfig(dataset=f"folder:{tmp_path}")
    assert len(loading.load_split(config, "test")[0]) == len(loading.load_split(config, "")[0]) == 1
    with pytest.raises(ConfigError, match="in which there are none"):
        data.load(config)


def test_float_pixels_are_left_out_with_what_to_do(folder, rng):
    quadrants().save(folder / "train" / "a.png")
    Image.fromarray(rng.random((96, 96)).astype(np.float32)).save(folder / "train" / "b.tif")
    (note,) = load(folder).notes
    assert "b.tif: its pixels are floats of unknown range; save it with 8 or 16 bits" in note


def test_other_files_are_counted_by_extension(folder):
    quadrants().save(folder / "train" / "a.png")
    for name in ("a.heic", "b.HEIC", "notes.txt", "README", ".DS_Store"):
        (folder / "train" / name).write_bytes(b"x")
    (note,) = load(folder).notes
    assert note.startswith("Not read: 2 × .heic, 1 × .txt, 1 × no extension.")
    (folder / "train" / "a.png").unlink()
    with pytest.raises(ConfigError, match=r"in which there are only 2 × .heic, 1 × .txt"):
        load(folder)


def test_images_beside_train_and_test_are_counted(folder):
    quadrants().save(folder / "train" / "a.png")
    (folder / "validation").mkdir()
    quadrants().save(folder / "validation" / "a.png")
    assert load(folder).notes == ("Not used: 1 images that are neither in train/ nor in test/.",)


@pytest.mark.parametrize("split", ["", "train", "test"])
def test_images_in_hidden_folders_are_no_class_and_are_counted(tmp_path, split):
    write_classes(tmp_path / split, {"cat": 5, "dog": 5, ".ipynb_checkpoints": 3, "cat/.thumbnails": 2})
    if split == "test":
        write_classes(tmp_path / "train", {"cat": 5, "dog": 5})
    images = load(tmp_path)
    assert images.class_names == ("cat", "dog")
    assert not any("/." in name or name[0] == "." for split in images.names.values() for name in split)
    note = "Not used: 5 images in hidden folders and in those of runs, such as "
    assert any(own.startswith(note) and own.endswith(".ipynb_checkpoints/.") for own in images.notes)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train": 0, "": 12}, "none in train/ and 12 images beside train/"),
        (
            {"train": 0, "other": 2, "test": 3},
            "none in train/ and 2 images beside train/ and 3 images in test/",
        ),
        ({".hidden": 4}, "none and 4 images in hidden folders and in those of runs"),
    ],
)
def test_a_folder_without_images_to_train_on_says_where_there_are_some(tmp_path, folders, message):
    for name, count in folders.items():
        (tmp_path / name).mkdir(exist_ok=True)
        for k in range(count):
            quadrants().save(tmp_path / name / f"{k}.png")
    with pytest.raises(ConfigError, match=f"in which there are {message}$"):
        load(tmp_path)


# Damaged files


def test_ten_damaged_files_are_named_and_the_rest_counted(folder):
    quadrants().save(folder / "train" / "zzz.png")
    for k in range(13):
        (folder / "train" / f"{k:02d}.jpg").write_bytes(b"no picture")
    notes = load(folder).notes
    assert len(notes) == 11
    assert notes[9].endswith("09.jpg: it is not a PNG, JPEG, WebP, BMP, GIF or TIFF image.")
    assert notes[10] == "Left out 3 more files that could not be read."


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_no_damage_stops_the_reading(folder, rng, kind):
    stream = io.BytesIO()
    smooth(rng, 80, 60).save(stream, kind)
    whole = np.frombuffer(stream.getvalue(), np.uint8)
    for k in range(40):
        damaged = whole.copy()
        places = rng.integers(0, min(len(damaged), 200 if k % 2 else len(damaged)), 6)
        damaged[places] = rng.integers(0, 256, 6)
        path = folder / "train" / f"{k:02d}.{kind.lower()}"
        path.write_bytes(damaged[: rng.integers(1, len(damaged))] if k % 5 == 0 else damaged)
    quadrants().save(folder / "train" / "whole.png")
    images = load(folder, image_size=8)
    left_out = [note for note in images.notes if note.startswith("Left out")]
    assert left_out
    assert "train/whole.png" in images.names["train"]


def test_a_cut_off_large_jpeg_is_left_out(folder, rng):
    quadrants().save(folder / "train" / "a.png")
    smooth(rng, 640, 480).save(folder / "train" / "b.jpg")
    whole = (folder / "train" / "b.jpg").read_bytes()
    (folder / "train" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    images = load(folder, image_size=8)
    assert images.names["train"] == ("train/a.png",)
    assert "b.jpg: image file is truncated" in images.notes[0]


# Sizes


def test_enlarged_pictures_are_counted_with_the_largest_factor(folder):
    for k, side in enumerate((96, 20, 10)):
        quadrants(side, side + 6).save(folder / "train" / f"{k}.png")
    notes = load(folder, image_size=32).notes
    assert notes == ("Enlarged: 2 of 4 images, which are smaller than 32×32, by a factor of up to 3.2.",)


def test_small_pictures_are_resized_as_tensorflow_does(folder, rng):
    expected = []
    for k in range(12):
        picture = smooth(rng, int(rng.integers(9, 200)), int(rng.integers(9, 120)))
        suffix = "jpg" if k % 2 else "png"
        picture.save(folder / "train" / f"{k:02d}.{suffix}")
        with Image.open(folder / "train" / f"{k:02d}.{suffix}") as saved:
            expected.append(resize(np.asarray(saved.convert("RGB")), 16).numpy())
    np.testing.assert_array_equal(load(folder, image_size=16).train, expected)
    assert pictures._resizer("uint8").experimental_get_tracing_count() == 1


def test_large_jpegs_are_decoded_small_and_look_the_same(folder, rng):
    """They take a fraction of the time, and differ from the exact average by about one level."""
    smooth(rng, 1600, 1200).save(folder / "train" / "a.jpg", quality=92)
    with Image.open(folder / "train" / "a.jpg") as saved:
        expected = resize(np.asarray(saved), 16).numpy().astype(int)
    difference = np.abs(load(folder, image_size=16).train[0].astype(int) - expected)
    assert difference.mean() < 1
    assert difference.max() <= 8


# Memory


def test_a_folder_larger_than_memory_is_refused_with_what_helps(folder, monkeypatch):
    quadrants().save(folder / "train" / "a.png")
    monkeypatch.setattr("glow_tf.core.machine.free_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"must fit in .*--image_size, and an array file:PATH.npy"):
        load(folder)


# Names and classes


def write_classes(folder, counts):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for k in range(count):
            quadrants().save(folder / name / f"{k:02d}.png")


def test_every_image_keeps_its_file_name(tmp_path):
    for k in range(25):
        Image.new("L", (8, 8), k).save(tmp_path / f"{k:02d}.png")
    (tmp_path / "07.png").write_bytes(b"broken")
    images = load(tmp_path, validation_examples=3, train_examples=15, test_examples=1)
    assert {split: len(names) for split, names in images.names.items()} == {
        "train": 15,
        "validation": 3,
        "test": 1,
    }
    for split, names in images.names.items():
        values = [int(name.removesuffix(".png")) for name in names]
        np.testing.assert_array_equal(getattr(images, split)[:, 0, 0, 0], values)
    assert images.labels == {}
    assert images.class_names == ()


def test_class_folders_give_labels(tmp_path):
    write_classes(tmp_path / "train", {"cat": 3, "dog/puppies": 2})
    write_classes(tmp_path / "test", {"cat": 1, "owl": 1})
    images = load(tmp_path)
    assert images.class_names == ("cat", "dog", "owl")
    np.testing.assert_array_equal(images.labels["train"], [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(images.labels["test"], [0, 2])
    assert images.labels["validation"].shape == (0,)
    Image.new("L", (96, 96)).save(tmp_path / "train" / "logo.png")
    without = load(tmp_path)
    assert without.class_names == ()
    assert "No classes: 1 images are in no class folder, such as logo.png." in without.notes
    assert images.names["train"][-1] == "train/dog/puppies/01.png"


def test_class_folders_without_train_and_test_are_held_out_with_their_labels(tmp_path):
    write_classes(tmp_path, {"a": 10, "b": 10})
    images = load(tmp_path)
    np.testing.assert_array_equal(images.labels["test"], [0, 1])
    np.testing.assert_array_equal(images.labels["train"], [0] * 9 + [1] * 9)


# Threads and progress


def test_the_number_of_threads_changes_nothing(folder, rng, monkeypatch):
    for k in range(30):
        smooth(rng, int(rng.integers(9, 300)), int(rng.integers(9, 300))).save(
            folder / "train" / f"{k:02d}.jpg"
        )
    results = []
    for cores in (1, 7):
        monkeypatch.setattr("glow_tf.core.machine.usual_threads", lambda cores=cores: cores)
        results.append(load(folder, image_size=16))
    one, many = results
    np.testing.assert_array_equal(everything(one), everything(many))
    assert (one.names, one.notes) == (many.names, many.notes)


def test_folders_that_are_meant_to_be_train_and_test_are_named(tmp_path):
    write_classes(tmp_path, {"Train": 10, "Test": 10})
    assert (
        "Read like any folder: Test, Train. Those of the sets are named train and test."
        in load(tmp_path).notes
    )
