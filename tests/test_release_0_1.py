"""What release 0.1 wrote is read: a workdir, `.keras` files, an export."""

import pathlib
import shutil
import tarfile

import keras
import numpy as np
import pytest
import tensorflow as tf

import glow_tf
from glow_tf import ConfigError
from glow_tf.commands.run_flags import config_of
from glow_tf.run import lifecycle
from glow_tf.use import load

pytestmark = pytest.mark.long

ARCHIVE = pathlib.Path(__file__).parent / "release_0_1" / "release_0_1.tar.gz"


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "release_0_1"


def same_numbers(model, expected, images):
    np.testing.assert_allclose(model.bits_per_dim(images, 5), expected["bits_per_dim"], rtol=1e-5)
    np.testing.assert_allclose(model.encode(images), expected["encode"], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(model.sample(4, 0.7, 1), expected["sample"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("glow.keras", "expected.npz"),
        ("finished", "expected_workdir.npz"),
    ],
)
def test_models_load_with_their_numbers(old, name, expected, eager):
    same_numbers(glow_tf.load(old / name), np.load(old / expected), np.load(old / "images.npy"))


def test_the_model_of_a_trainer_is_that_of_the_other_file(old):
    found, expected = (glow_tf.load(old / f"{name}.keras") for name in ("trainer", "glow"))
    assert found.config == expected.config
    for a, b in zip(found.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_checkpoint_loads(old, eager):
    found = glow_tf.load(old / "finished", "best").bits_per_dim(np.load(old / "images.npy"), 5)
    np.testing.assert_allclose(found, np.load(old / "expected_workdir.npz")["best"], rtol=1e-5)


@pytest.fixture(scope="module")
def old_export(old):
    return tf.saved_model.load(str(old / "finished" / "export"))


def test_an_export_loads_with_its_numbers(old, old_export):
    same_numbers(old_export, np.load(old / "expected_workdir.npz"), np.load(old / "images.npy"))


def test_a_trainer_loads_with_its_optimizers(old):
    trainer = keras.saving.load_model(old / "trainer.keras")
    assert [int(optimizer.iterations.value) for optimizer in trainer.optimizers] == [2, 0]
    assert trainer.options.clip_norm == 1.0
    assert any(np.abs(v.numpy()).max() > 0 for v in trainer.optimizers[0].variables[2:])


def test_what_only_release_0_5_reads_is_refused_with_a_sentence(old, old_export, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(old / "interrupted", folder)
    flags = [f"--flagfile={folder / 'flags.cfg'}", f"--workdir={folder}", "--noexport"]
    for deed in (
        lambda: lifecycle.train(config_of(flags), glow_tf.export),
        lambda: glow_tf.load_trainer(old / "finished"),
    ):
        with pytest.raises(OSError, match=r"is of release 0\.4 or an earlier one\. Release 0\.5 goes on"):
            deed()
    monkeypatch.setattr(tf.saved_model, "load", lambda path: old_export)  # as the test before has it
    with pytest.raises(ConfigError, match=r"those of release 0\.4 and before .* export the model again"):
        load(old / "finished" / "export")
