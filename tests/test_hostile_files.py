"""Model files that an attacker crafted: nothing that they name is run, read or written."""

import json

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from small import small_glow

import glow_tf
from glow_tf.commands.run_flags import config_of
from glow_tf.config.notations import read_cuts
from glow_tf.core.errors import ConfigError
from glow_tf.run.files.checkpoint_content import DamagedCheckpointError, read_into, readable
from lab.benchmarks import hostile_files

pytestmark = pytest.mark.long


@pytest.fixture
def crafted(tmp_path_factory):  # generators, which end
    return hostile_files.crafted(tmp_path_factory.mktemp("crafted"))


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 120])
@pytest.mark.parametrize(("kind", "least"), [("crafted .keras files", 300), ("crafted presets", 25)])
def test_crafted_files_are_refused_with_a_sentence(kind, least, every, crafted, tmp_path):
    tried = 0
    for number, (name, make) in enumerate(crafted[kind], start=1):
        tried = number
        if number % every and not name.startswith(hostile_files.GUARDED):
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        # What is not read cannot do harm: `make(folder)` fails where anything that the file names was run.
        expected = ("fine", "refused") if name.endswith(hostile_files.NOT_READ) else ("refused",)
        assert hostile_files.outcome_of(make(folder)) in expected, name
    assert tried >= least


def saved_trainer(glow, folder, optimizer="adam"):
    trainer = glow_tf.PartsTrainer(glow)
    trainer.compile(optimizer)
    trainer.save(folder / "trainer.keras")
    return folder / "trainer.keras"


@pytest.fixture(scope="module")
def glow():
    return small_glow(parts="1", num_blocks=1)


def test_keras_sees_no_settings(glow, tmp_path, monkeypatch):
    def asked(*_, **__):
        pytest.fail("Keras was asked")

    members = hostile_files.members_of(saved_trainer(glow, tmp_path))
    for name in ("load_model", "deserialize_keras_object"):
        monkeypatch.setattr(keras.saving, name, asked)
    (tmp_path / "again.keras").write_bytes(hostile_files.zipped(members))
    assert glow_tf.load(tmp_path / "again.keras").config == glow.config


@keras.saving.register_keras_serializable(package="test_hostile_files")
class OwnAdam(keras.optimizers.Adam):
    pass


def test_a_keras_file_without_settings_is_refused_with_a_sentence(tmp_path):
    path, content = tmp_path / "bad.keras", b'{"registered_name": "glow_tf>Glow", "config": {"name": "glow"}}'
    members = {"config.json": content, "metadata.json": b"{}", "model.weights.h5": b""}
    path.write_bytes(hostile_files.zipped(members))
    with pytest.raises(ConfigError, match=r"must hold a Glow .* Received: ValueError: .*'name': 'glow'"):
        glow_tf.load(path)
    # The run itself says why it cannot start from it.
    assert config_of([f"--init_from={path}", "--workdir=unused"]).init_from == str(path)


def test_the_model_loads_whatever_its_optimizer(glow, tmp_path, small_images):
    for optimizer in (OwnAdam(0.1), keras.optimizers.Lion(keras.optimizers.schedules.CosineDecay(0.1, 10))):
        loaded = glow_tf.load(saved_trainer(glow, tmp_path, optimizer))
        np.testing.assert_array_equal(loaded.encode(small_images[:4]), glow.encode(small_images[:4]))


def test_weights_that_are_not_those_of_the_checksum_are_refused(glow, tmp_path):
    for seed in (0, 1):
        small_glow(seed=seed, parts="1").save_to_preset(tmp_path / str(seed))
    (tmp_path / "1" / "model.weights.h5").replace(tmp_path / "0" / "model.weights.h5")
    with pytest.raises(ConfigError, match=r"weights_sha256 must be '\w{64}'. Received: '\w{64}'"):
        glow_tf.Glow.from_preset(tmp_path / "0")


def test_the_weights_of_shipped_presets_have_checksums():
    for name in glow_tf.Glow.presets:
        assert "weights_sha256" in (glow_tf.presets.find(name) / "config.json").read_text()


def test_weights_that_no_training_gives_are_named(glow, tmp_path):
    """In each kind of file; the benchmark's crafted files are refused, too, but it does not read why."""
    saved_trainer(glow, tmp_path)
    for name, make in (("trainer.keras", None), ("glow.keras", glow.save), ("preset", glow.save_to_preset)):
        if make:
            make(tmp_path / name)
        path = tmp_path / name / "model.weights.h5" if name == "preset" else tmp_path / name
        with_first_weight_of_nan(path)
        with pytest.raises(
            ConfigError, match=r"finite, and at most 1,000,000\. Received: glow/\S+, from nan to"
        ):
            glow_tf.load(tmp_path / name)


def with_first_weight_of_nan(path):
    members = hostile_files.members_of(path) if path.suffix == ".keras" else {"": path.read_bytes()}
    weights = path.with_name("weights.h5")
    weights.write_bytes(members.get("model.weights.h5", members.get("")))
    with h5py.File(weights, "r+") as file:
        names = []
        file.visititems(lambda n, i: names.append(n) if isinstance(i, h5py.Dataset) else None)
        file[next(name for name in names if "stack/vars/0" in name)][...] = np.nan
    if path.suffix == ".keras":
        path.write_bytes(hostile_files.zipped({**members, "model.weights.h5": weights.read_bytes()}))
    else:
        weights.replace(path)
        settings = json.loads((path.parent / "config.json").read_text())
        del settings["weights_sha256"]
        (path.parent / "config.json").write_text(json.dumps(settings))


def test_a_checkpoint_with_a_weight_of_nan_is_refused(tmp_path):
    content = {"model": {"glow/part_1/bias": tf.Variable([0.0, np.nan])}}
    path = tf.train.Checkpoint(**content).write(str(tmp_path / "ckpt"))
    with (
        pytest.raises(
            DamagedCheckpointError, match=r"cannot be read.* Received: model/glow/part_1/bias, from nan"
        ),
        readable(path),
    ):
        read_into(content, path)


def test_the_mean_of_real_data_may_be_large(tmp_path):
    glow = glow_tf.Glow(glow_tf.ModelConfig((4, 4, 1), data="real", num_blocks=1, flow_steps=1, width=2))
    glow.dequantize.set_weights([np.float32([3e30]), np.float32([1e29]), np.int64(1)])
    glow.save(tmp_path / "glow.keras")
    assert glow_tf.load(tmp_path / "glow.keras").dequantize.mean.numpy() == np.float32(3e30)


def test_a_trainer_comes_back_with_its_optimizers(tmp_path, small_images):
    trainer = glow_tf.PartsTrainer(small_glow(parts="1", num_blocks=1))
    trainer.compile(keras.optimizers.Lion(0.01), rate_scaling="none")
    trainer.fit(small_images[:8], batch_size=4, epochs=1, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    again = glow_tf.load_trainer(tmp_path / "trainer.keras")
    assert isinstance(glow_tf.load(tmp_path / "trainer.keras"), glow_tf.Glow)
    pairs = zip(trainer.optimizers[0].variables, again.optimizers[0].variables, strict=True)
    assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)
    assert int(again.optimizers[0].iterations.numpy()) == 2
    members = hostile_files.members_of(tmp_path / "trainer.keras")
    other = {**members, "config.json": members["config.json"].replace(b'"Lion"', b'"Adam"')}
    (tmp_path / "trainer.keras").write_bytes(hostile_files.zipped(other))
    with pytest.raises(ConfigError, match=r"trainer.keras must be whole.*Received"):
        glow_tf.load_trainer(tmp_path / "trainer.keras")


def test_cuts_whose_balance_takes_long_are_refused():
    with pytest.raises(ConfigError, match=r"at most 512 flow steps.* Received: parts='balanced:4'"):
        read_cuts("balanced:4", 3, 200)


@pytest.mark.parametrize("path", ["a" * 5000, "a" * 300 + ".keras"], ids=len)
def test_a_path_that_is_too_long_is_told_in_a_sentence(path):
    for load in (glow_tf.load, glow_tf.load_trainer, glow_tf.use.open_model, glow_tf.Glow.from_preset):
        with pytest.raises(ConfigError, match=r"names of at most 255 bytes.*Received"):
            load(path)
