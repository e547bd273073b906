"""Hostile input ends with a sentence: no traceback, no hang, no more memory than the input needs."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from glow_tf import data
from glow_tf.commands import cli
from glow_tf.commands import train as train_command
from glow_tf.config import DataConfig, ModelConfig
from glow_tf.core import machine
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import MOST_BYTES, parse_json, read_text
from glow_tf.data import loading, pictures
from glow_tf.data.pictures import read_picture
from glow_tf.model.flow import Flow

pytestmark = pytest.mark.long


# Pictures


def saved(picture, kind, **options):
    """Returns a picture as a file; as PNG if the kind cannot hold it."""
    content = io.BytesIO()
    try:
        picture.save(content, kind, **options)
    except (OSError, ValueError, KeyError):
        content = io.BytesIO()
        picture.convert("RGB").save(content, "PNG")
    return content.getvalue()


def bomb(width, height):
    """Returns a PNG that claims a size, with one row."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    row = zlib.compress(bytes(3 * min(width, 2**16) + 1), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def one_picture(folder, content, suffix="png"):
    path = folder / f"a.{suffix}"
    path.write_bytes(content)
    return pictures.read_picture(path, 8)


def test_a_container_has_the_memory_of_its_group(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "GROUP", tmp_path)
    whole = machine.free_memory()
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 500\n")
    for limit, left in (("4000\n", 1500), ("max\n", whole)):
        (tmp_path / "memory.max").write_text(limit)
        assert machine.free_memory() == pytest.approx(left, rel=0.2)
    (tmp_path / "memory.max").write_text("4000\n")
    with pytest.raises(ConfigError, match="must fit in 60% of the free memory"):
        machine.check_memory(1000, "it", "take less")


def test_a_decompression_bomb_is_left_out_before_it_is_decoded(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    config = DataConfig(f"folder:{tmp_path}", image_size=8)
    for width, height in ((13_000, 13_000), (2**31 - 1, 2**31 - 1)):
        content = bomb(width, height)
        assert len(content) < 1000
        (tmp_path / "a.png").write_bytes(content)
        examples, _, notes = loading.load_split(config, "")
        assert (len(examples), list(examples.names)) == (1, ["good.png"])
        assert "a.png: Image size" in notes[0]


def test_files_whose_content_pil_would_hand_to_other_programs_are_no_images(tmp_path):
    for kind in ("EPS", "PDF", "PPM", "ICO"):
        problem = one_picture(tmp_path, saved(Image.new("RGB", (32, 32)), kind)).problem
        assert problem == "it is not a PNG, JPEG, WebP, BMP, GIF or TIFF image"
    assert not one_picture(tmp_path, saved(Image.new("RGB", (9, 9)), "GIF"), "jpg").problem


def test_links_in_a_circle_pipes_and_strange_names_do_not_stop_the_reading(tmp_path, capsys):
    names = ["a", "ü😀", "\udcff", "-b", " c ", "d\n"]
    for k in range(12):
        Image.new("L", (8, 8), k).save(tmp_path / f"{names[k % len(names)]}{k}.png")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    for target in ("self.png", "nowhere", "/dev/zero"):
        (tmp_path / ("self.png" if target == "self.png" else f"{target[1:4]}.png")).symlink_to(target)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "\udcfe.png").write_bytes(b"")
    images = data.load(DataConfig(dataset=f"folder:{tmp_path}"))
    assert len(images.train) + len(images.test) == 12
    (note, _) = images.notes
    assert "is not a PNG" in note


def test_classes_that_are_links_to_folders_are_read(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "elsewhere" / name).mkdir(parents=True)
        for k in range(5):
            Image.new("L", (8, 8), k).save(tmp_path / "elsewhere" / name / f"{k}.png")
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).symlink_to(tmp_path / "elsewhere" / name)
    config = DataConfig(dataset=f"folder:{tmp_path / 'mine'}")
    assert data.load(config).class_names == ("cats", "dogs")


def test_a_size_that_does_not_fit_into_memory_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    for k in range(10):
        (tmp_path / f"{k}.png").write_bytes(b"not read")
    for dataset in ("digits", f"folder:{tmp_path}"):
        with pytest.raises(ConfigError, match=r"must fit in 60% of the free memory.* Received: .* GiB"):
            data.load(DataConfig(dataset=dataset, image_size=2**16))


# Text


def test_a_line_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_bytes(b"one\r\ntwo\xff\n")
    with pytest.raises(ValueError, match=r"line 2 is not UTF-8 text \(byte 0xff\)"):
        read_text(path)
    path.write_bytes(b"one\r\ntwo\rthree")
    assert read_text(path) == "one\ntwo\nthree"
    with pytest.raises(ValueError, match="it has more than"):
        read_text(path, 5)
    assert MOST_BYTES > 2**20
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


def test_the_line_of_a_wrong_flag_in_a_flagfile_is_named(tmp_path):
    (tmp_path / "inner.cfg").write_text("# a comment\n--width=8\n--seed=x\n--batch_size=4\n")
    (tmp_path / "outer.cfg").write_text(f"--flow_steps=2\n--flagfile={tmp_path}/inner.cfg\n")
    with pytest.raises(ConfigError, match=r"an integer. Received: --seed=x \(.*inner\.cfg, line 3\)$"):
        train_command.config_of([f"--flagfile={tmp_path}/outer.cfg"])
    (tmp_path / "inner.cfg").write_text("--flagfile=none\n")
    with pytest.raises(ConfigError, match=r"Received: flagfile='none' \(.*inner\.cfg, line 1\)$"):
        train_command.config_of([f"--flagfile={tmp_path}/outer.cfg"])
    (tmp_path / "inner.cfg").write_bytes(b"--width=8\n\xff")
    with pytest.raises(ConfigError, match=r"must be text: line 2 .*outer\.cfg, line 2\)$"):
        train_command.config_of([f"--flagfile={tmp_path}/outer.cfg"])


def test_names_that_are_no_text_are_printed(tmp_path, capfd):
    for k in range(10):
        Image.new("L", (8, 8)).save(tmp_path / f"{k}.png")
    (tmp_path / "\udcff.png").write_bytes(b"")
    assert cli.run("evaluate", ["--model=digits", f"--dataset=folder:{tmp_path}"]) == 0
    assert "\\udcff.png: it is not" in capfd.readouterr().out


# Models


def test_a_model_that_does_not_fit_into_memory_is_refused():
    with pytest.raises(
        ConfigError, match=r"the model's weights must fit .* smaller width.* Received: .* GiB"
    ):
        Flow(ModelConfig((8, 8, 1), num_blocks=1, flow_steps=8, width=2**18))
    for name, value in {
        "num_blocks": 17,
        "flow_steps": 513,
        "width": 2**21,
        "image_shape": (2**17, 8, 1),
    }.items():
        with pytest.raises(ConfigError, match=rf"{name} must be .* Received: {name}="):
            ModelConfig(**{name: value})


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with_profiles(count):
    """A PNG of 8×8 pixels that inflates to as many MiB."""
    rows = zlib.compress(b"".join(bytes(25) for _ in range(8)))
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))]
    chunks += [chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20), 9))] * count
    return b"\x89PNG\r\n\x1a\n" + b"".join([*chunks, chunk(b"IDAT", rows), chunk(b"IEND", b"")])


def jpeg_with(comments, behind=b""):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    start, rest = file.getvalue()[:2], file.getvalue()[2:]
    return start + (b"\xff\xfe" + struct.pack(">H", 4) + b"ab") * comments + rest + behind


def tiff_of_strips(count):
    """A grey TIFF of one column, whose every pixel is a strip of its own."""
    start = 8 + 2 + 9 * 12 + 4
    tags = [(256, 4, 1, 1), (257, 4, 1, count), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, count, start), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, count, start + 4 * count)]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    head += b"".join(struct.pack("<HHII", *tag) for tag in tags) + struct.pack("<I", 0)
    places = np.arange(count, dtype="<u4") + start + 8 * count
    return head + places.tobytes() + np.ones(count, "<u4").tobytes() + bytes(count)


COSTLY = {
    "profiles that inflate": (png_with_profiles(2000), "too much stands before its pixels"),
    "a million comments": (jpeg_with(10**6), "too much stands before its pixels"),
    "a million strips": (tiff_of_strips(10**6), "too much stands before its pixels"),
    "a tail": (jpeg_with(0, behind=bytes(2**23)), "its file is far larger than its pixels"),
}


@pytest.mark.parametrize(("content", "message"), COSTLY.values(), ids=COSTLY)
def test_a_picture_that_costs_far_more_than_its_pixels_is_left_out(content, message, tmp_path):
    (tmp_path / "costly").write_bytes(content)
    assert message in read_picture(tmp_path / "costly", 0).problem


def test_a_picture_that_no_program_can_make_smaller_is_read(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    for suffix, how in (("png", {}), ("tif", {"compression": "tiff_lzw"}), ("jpg", {"quality": 100})):
        path = tmp_path / f"noise.{suffix}"
        Image.fromarray(noise).save(path, exif=b"Exif\0\0" + bytes(60_000) if suffix == "jpg" else b"", **how)
        assert read_picture(path, 0).pixels.shape == noise.shape
