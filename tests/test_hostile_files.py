"""Model files that an attacker crafted: nothing that they name is run, read or written."""

import json

import keras
import numpy as np
import pytest
from small import small_glow

import glow_tf
from glow_tf.config.cuts import read_cuts
from glow_tf.errors import ConfigError
from lab.benchmarks import hostile_files, hostile_inputs


@pytest.fixture(scope="module")
def crafted(tmp_path_factory):
    return hostile_files.crafted(tmp_path_factory.mktemp("crafted"))


@pytest.mark.parametrize(("kind", "least"), [("crafted .keras files", 300), ("crafted presets", 25)])
def test_crafted_files_are_refused_with_a_sentence(kind, least, crafted, tmp_path):
    tried = 0
    for number, (name, make) in enumerate(crafted[kind], start=1):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert hostile_inputs.outcome_of(make(folder)) == "refused", name
        tried = number
    assert tried >= least


def saved_trainer(glow, folder, optimizer="adam"):
    trainer = glow_tf.PartsTrainer(glow)
    trainer.compile(optimizer)
    trainer.save(folder / "trainer.keras")
    return folder / "trainer.keras"


@pytest.fixture(scope="module")
def glow():
    return small_glow(parts="1", num_blocks=1)


def test_settings_are_refused_before_keras_sees_them(glow, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: pytest.fail("Keras was asked"))
    rate = keras.optimizers.schedules.CosineDecay(0.1, 10)
    members = hostile_files.members_of(saved_trainer(glow, tmp_path, keras.optimizers.Adam(rate)))
    found = hostile_files.payloads(tmp_path, tmp_path / "secret")
    for name, content in hostile_files.with_payloads(members, found):
        (tmp_path / "crafted.keras").write_bytes(content)
        with pytest.raises(
            ConfigError, match=r"(must hold|settings of a model|does not know|must be).*Received: "
        ):
            pytest.fail(f"{name} was loaded: {glow_tf.load(tmp_path / 'crafted.keras')}")


@keras.saving.register_keras_serializable(package="test_hostile_files")
class OwnAdam(keras.optimizers.Adam):
    pass


def test_own_optimizers_must_be_named_to_be_loaded(glow, tmp_path, small_images):
    path = saved_trainer(glow, tmp_path, OwnAdam(0.1))
    with pytest.raises(ConfigError, match=r"in custom_objects.* Received: .*test_hostile_files>OwnAdam"):
        glow_tf.load(path)
    loaded = glow_tf.load(path, custom_objects={"OwnAdam": OwnAdam})
    np.testing.assert_array_equal(loaded.encode(small_images[:4]), glow.encode(small_images[:4]))


@pytest.mark.parametrize(
    "name", ["Adam", "AdamW", "Adamax", "Lion", "Lamb", "Nadam", "RMSprop", "SGD", "Muon"]
)
def test_keras_optimizers_reach_keras(name, glow, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: glow)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([10, 20], [0.1, 0.01, 0.001])
    optimizer = getattr(keras.optimizers, name)(learning_rate=rate, global_clipnorm=1.0)
    assert glow_tf.load(saved_trainer(glow, tmp_path, optimizer)) is glow


def test_what_an_own_class_is_said_to_be_is_checked_too(glow, tmp_path):
    """Where the caller allows a class, its name lets nothing else in, nor does its configuration."""
    members = hostile_files.members_of(saved_trainer(glow, tmp_path, OwnAdam(0.1)))
    content = json.loads(members["config.json"])
    (own,) = content["compile_config"]["optimizers"]
    other = {"module": "x", "class_name": "Registered", "config": {}, "registered_name": "hostile>Registered"}
    for changed in ({**own, "class_name": "__lambda__"}, {**own, "config": {**own["config"], "a": [other]}}):
        content["compile_config"]["optimizers"] = [changed]
        path = tmp_path / "crafted.keras"
        path.write_bytes(hostile_files.zipped({**members, "config.json": json.dumps(content).encode()}))
        with pytest.raises(ConfigError, match=r"in custom_objects.* Received: a class of"):
            glow_tf.load(path, custom_objects={"OwnAdam": OwnAdam})


def test_weights_that_are_not_those_of_the_checksum_are_refused(glow, tmp_path):
    for seed in (0, 1):
        small_glow(seed=seed, parts="1").save_to_preset(tmp_path / str(seed))
    (tmp_path / "1" / "model.weights.h5").replace(tmp_path / "0" / "model.weights.h5")
    with pytest.raises(ConfigError, match=r"weights_sha256 must be '\w{64}'. Received: '\w{64}'"):
        glow_tf.Glow.from_preset(tmp_path / "0")


def test_the_weights_of_shipped_presets_have_checksums():
    for name in glow_tf.Glow.presets:
        assert "weights_sha256" in (glow_tf.presets.find(name) / "config.json").read_text()


def test_cuts_whose_balance_takes_long_are_refused():
    with pytest.raises(ConfigError, match=r"at most 512 flow steps.* Received: parts='balanced:4'"):
        read_cuts("balanced:4", 3, 200)
