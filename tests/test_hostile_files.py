"""Model files that an attacker crafted: presets are refused, and nothing of them is run or read further."""

import json
import os
import shutil
import struct
import tracemalloc

import keras
import numpy as np
import pytest
from small import small_glow

import glow_tf
from glow_tf import store
from glow_tf.core.errors import ConfigError

pytestmark = pytest.mark.long

MOST_MEGABYTES = 50
NAME = "part_1/prior/mean"  # of the digits' preset: 4 numbers


@pytest.fixture
def preset(tmp_path):
    return shutil.copytree(store.folder_of("digits"), tmp_path / "preset")


def parts_of(path):
    """Returns the header of a file of safetensors, and its numbers."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def joined(header, numbers):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def with_entry(**changes):
    """Returns what changes the header's entry of a weight."""

    def craft(path):
        header, numbers = parts_of(path)
        header[NAME] |= changes
        path.write_bytes(joined(header, numbers))

    return craft


def with_header(make):
    """Returns what replaces the header by another text."""

    def craft(path):
        header, numbers = parts_of(path)
        path.write_bytes(joined(make(header), numbers))

    return craft


def with_size(size):
    """Returns what changes the length that the file gives its header."""
    return lambda path: path.write_bytes(struct.pack("<Q", size) + path.read_bytes()[8:])


def a_hole(path):
    header, numbers = parts_of(path)
    start = len(numbers)
    header["part_1/hole"] = {"dtype": "F32", "shape": [2**36], "data_offsets": [start, start + 2**38]}
    content = joined(header, numbers)
    path.write_bytes(content)
    os.truncate(path, len(content) + 2**38)  # the file takes no room on the disk


def settings_with(**changes):
    def craft(path):
        config = path.with_name("config.json")
        content = json.loads(config.read_text())
        content["model"] |= changes
        config.write_text(json.dumps(content))

    return craft


def config_of(text):
    return lambda path: path.with_name("config.json").write_bytes(text)


CRAFTED = {
    "an empty file": lambda path: path.write_bytes(b""),
    "another format": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(512)),
    "a header of 16 EiB": with_size(2**64 - 1),
    "a header of 1 GiB": with_size(2**30),
    "a short header": with_size(40),
    "a header that is no JSON": with_header(lambda header: b"{" * 1000),
    "a deep header": with_header(lambda header: b"[" * 10**6),
    "a header that is a list": with_header(lambda header: list(header)),
    "an array that overlaps another": with_entry(data_offsets=[0, 8]),
    "an array beyond the end": with_entry(data_offsets=[2**40, 2**40 + 8]),
    "an array that ends before it begins": with_entry(data_offsets=[8, 0]),
    "a shape of too many numbers": with_entry(shape=[2**62, 2**62]),
    "a shape below 0": with_entry(shape=[-4]),
    "a shape of another rank": with_entry(shape=[4, 1]),
    "a shape of no numbers": with_entry(shape=[0]),
    "numbers of another kind": with_entry(dtype="I16"),
    "numbers that NumPy lacks": with_entry(dtype="BF16"),
    "a type that there is not": with_entry(dtype="object"),
    "other names": with_header(lambda header: {f"{name}/": own for name, own in header.items()}),
    "a hole of 256 GiB": a_hole,
    "a wide model": settings_with(width=8192),
    "a deep model": settings_with(flow_steps=10_000),
    "a model of many blocks": settings_with(num_blocks=60),
    "a large image": settings_with(image_shape=[2**20, 2**20, 1]),
    "many channels": settings_with(image_shape=[8, 8, 2**20]),
    "an unknown setting": settings_with(run="rm"),
    "code": settings_with(coupling_network="os:system"),
    "settings of a layer": settings_with(top_prior={"class_name": "Lambda", "module": "keras.layers"}),
    "long settings": config_of(b'{"format": 1, "model": {}, "about": {"data": "' + b"x" * 2**22 + b'"}}'),
    "deep settings": config_of(b"[" * 10**6),
    "settings that are no text": config_of(b"\xff\xfe"),
    "settings that are a list": config_of(b"[]"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_preset_is_refused_with_a_sentence_and_little_memory(name, preset):
    CRAFTED[name](preset / "model.safetensors")
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError, match="Received: ") as refusal:
            glow_tf.load(preset)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEGABYTES * 2**20
    finally:
        tracemalloc.stop()
    assert str(preset) in str(refusal.value) or name == "code"
    assert len(str(refusal.value)) < 2000


def test_a_preset_of_pipes_is_none(preset):
    for name in ("config.json", "model.safetensors"):
        (preset / name).unlink()
        os.mkfifo(preset / name)  # would wait for whoever writes to it
    with pytest.raises(FileNotFoundError, match="There is no last checkpoint"):
        glow_tf.load(preset)


@pytest.fixture(scope="module")
def flow():
    return small_glow(parts="1", num_blocks=1)


@keras.saving.register_keras_serializable(package="test_hostile_files")
class OwnAdam(keras.optimizers.Adam):
    """One that the package does not know."""


def test_the_model_of_a_trainers_file_loads_whatever_its_optimizer(flow, tmp_path, small_images):
    for optimizer in (OwnAdam(0.1), keras.optimizers.Lion(keras.optimizers.schedules.CosineDecay(0.1, 10))):
        trainer = glow_tf.PartsTrainer(flow)
        trainer.compile(optimizer, rate_scaling="none")
        trainer.save(tmp_path / "trainer.keras")
        loaded = glow_tf.load(tmp_path / "trainer.keras")
        np.testing.assert_array_equal(loaded.encode(small_images[:4]), flow.encode(small_images[:4]))


def test_code_in_a_keras_file_is_not_run(tmp_path):
    inputs = keras.Input((8,))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save(tmp_path / "code.keras")
    keras.Model(inputs, keras.layers.Dense(1)(inputs)).save(tmp_path / "other.keras")
    (tmp_path / "bytes.keras").write_bytes(b"x")
    for load in (glow_tf.load, glow_tf.load_trainer):
        for name, said in (
            ("code", "Lambda"),
            ("other", "a Flow or a PartsTrainer"),
            ("bytes", "bytes.keras"),
        ):
            with pytest.raises(ConfigError, match=rf"{name}\.keras .*{said}.*") as refusal:
                load(tmp_path / f"{name}.keras")
            assert "Received: " in str(refusal.value)


def test_a_trainer_comes_back_with_its_optimizers(tmp_path, small_images):
    trainer = glow_tf.PartsTrainer(small_glow(parts="1", num_blocks=1))
    trainer.compile(keras.optimizers.Lion(0.01), rate_scaling="none")
    trainer.fit(small_images[:8], batch_size=4, epochs=1, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    again = glow_tf.load_trainer(tmp_path / "trainer.keras")
    assert isinstance(glow_tf.load(tmp_path / "trainer.keras"), glow_tf.Flow)
    pairs = zip(trainer.optimizers[0].variables, again.optimizers[0].variables, strict=True)
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)
    assert int(again.optimizers[0].iterations.numpy()) == 2


@pytest.mark.parametrize("path", ["a" * 5000, "a" * 300 + ".keras"], ids=len)
def test_a_path_that_is_too_long_is_told_in_a_sentence(path):
    for load in (glow_tf.load, glow_tf.load_trainer, glow_tf.Flow.from_preset):
        with pytest.raises(ConfigError, match=r"names of at most 255 bytes.*Received"):
            load(path)


def test_a_message_does_not_repeat_all_that_a_file_says():
    with pytest.raises(ConfigError, match=r"parts must be 1, by_block:N") as raised:
        glow_tf.Flow(glow_tf.ModelConfig(parts="x," * 10**6))
    assert len(str(raised.value)) < 4000
