"""Runs that start from a model, trainers loaded from a workdir, and runs that go on with other data."""

import dataclasses
import shutil

import keras
import numpy as np
import pytest
from helpers import config, reproducible, rows_of, train, train_until
from small import small_glow

import glow_tf
from glow_tf import ConfigError, data
from glow_tf.commands.train import config_of
from glow_tf.run.flags_file import flagfile
from glow_tf.run.pictures import png
from glow_tf.use import load_trainer

FAST = {"rate_schedule": "constant", "augment": "none", "tensorboard": False, "sample_every": 0}
FAST |= {"export": False, "part_epochs": 1, "finetune_epochs": 2, "train_examples": 32, "test_examples": 32}
FAST |= {"num_blocks": 1, "flow_steps": 2, "parts": "1,1"}

pytestmark = pytest.mark.usefixtures("eager_module")


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("longer") / "run"
    train(config(folder, **FAST))
    return folder


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shorter") / "run"
    train(config(folder, **{**FAST, "finetune_epochs": 1}))
    return folder


def test_a_finished_run_goes_on_as_if_it_had_had_more_epochs_from_the_start(shorter, longer, tmp_path):
    folder = copy(shorter, tmp_path / "run")
    assert train(config(folder, **FAST))["epochs"] == 3
    for a, b in zip(rows_of(folder), rows_of(longer), strict=True):
        assert reproducible(a) == reproducible(b)


CHANGED = {
    "fewer than are finished": {"finetune_epochs": 0},
    "a rate that depends on the number of epochs": {"rate_schedule": "cosine"},
    "a rate that would have begun elsewhere": {"finetune_learning_rate": "1e-4"},
}


@pytest.mark.parametrize("changes", CHANGED.values(), ids=CHANGED)
def test_epochs_that_would_have_been_others_are_another_configuration(changes, shorter, tmp_path):
    folder = copy(shorter, tmp_path / "run")
    if len(changes) == 1 and "epochs" not in next(iter(changes)):  # as if it had had this rate before
        text = flagfile(config(folder, **{**FAST, "finetune_epochs": 1, **changes}))
        (folder / "flags.cfg").write_text(text)
    with pytest.raises(ConfigError, match=r"another configuration.*--init_from.*_epochs=. \(was "):
        train(config(folder, **{**FAST, **changes}))


# Starting from a model


def test_a_run_starts_from_the_model_of_a_workdir_with_its_actnorms(shorter, tmp_path, capsys):
    start, folder = copy(shorter, tmp_path / "start"), tmp_path / "run"
    slow = {**FAST, "init_from": str(start), "learning_rate": "1e-12", "part_epochs": 0, "seed": 3}
    train(config(folder, **{**slow, "finetune_epochs": 1}))
    assert f"init_from: the weights are those of {start}" in capsys.readouterr().out
    for a, b in zip(glow_tf.load(start).get_weights(), glow_tf.load(folder).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert f"--init_from={start}\n" in (folder / "flags.cfg").read_text()
    with pytest.raises(ConfigError, match=r"another configuration.*--init_from= \(was "):
        train(config(folder, **{**slow, "init_from": ""}))
    # Going on takes the run's own checkpoint, and needs the first model no more.
    shutil.rmtree(start)
    (folder / "summary.json").unlink()
    assert train(config(folder, **{**slow, "finetune_epochs": 1}))["epochs"] == 1
    assert "init_from" not in capsys.readouterr().out


def test_a_run_with_other_cuts_starts_from_a_keras_file(shorter, tmp_path, capsys):
    flow = glow_tf.load(shorter)
    flow.save(tmp_path / "model.keras")
    slow = {**FAST, "init_from": str(tmp_path / "model.keras"), "learning_rate": "1e-12", "part_epochs": 0}
    train(config(tmp_path / "run", **{**slow, "parts": "1"}))
    assert "parts of 1 + 1 flow steps (this run: 2); local priors" in capsys.readouterr().out
    own = glow_tf.load(tmp_path / "run")
    assert len(own.parts) == 1
    for a, b in zip(flow.get_flow_weights(), own.get_flow_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_command_takes_the_settings_of_the_model_that_it_starts_from(shorter, tmp_path):
    """From a workdir, a model's file or a trainer's. What is typed wins over them, they over flagfiles."""
    flow = glow_tf.load(shorter)
    flow.save(tmp_path / "model.keras")
    load_trainer(shorter).save(tmp_path / "trainer.keras")
    for start in (shorter, tmp_path / "model.keras", tmp_path / "trainer.keras"):
        given = [f"--init_from={start}", "--workdir=unused", "--dataset=digits", "--scale=exp"]
        for arguments in (given, [*given, "--flagfile=own_images"]):
            found = config_of(arguments)
            own = {"image_shape": found.model.image_shape, "scale": "exp", "parts": "1"}
            assert found.model == dataclasses.replace(flow.config, seed=0, **own)
            assert (found.data.image_size, found.init_from) == (8, str(start))


def test_a_command_goes_on_from_its_start_model_when_that_is_there_no_more(shorter, tmp_path):
    start = copy(shorter, tmp_path / "start")
    arguments = [f"--init_from={start}", f"--workdir={tmp_path / 'run'}", "--finetune_epochs=1"]
    began = config_of([*arguments, "--part_epochs=0"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "flags.cfg").write_text(flagfile(began))
    shutil.rmtree(start)
    assert config_of(arguments).to_settings() == began.to_settings()
    # Another run says why it cannot start from it.
    assert config_of([f"--init_from={start}", "--workdir=other"]).init_from == str(start)


def test_a_model_of_other_settings_is_refused_naming_them(shorter, tmp_path):
    with pytest.raises(ConfigError, match=r"width=8 \(this run: 16\), scale=tanh:1 \(this run: exp\)$"):
        train(config(tmp_path / "run", **FAST, init_from=str(shorter), width=16, scale="exp"))
    other = tmp_path / "colour.keras"
    small_glow(image_shape=(8, 8, 3), num_blocks=1, parts="1,1").save(other)
    with pytest.raises(ConfigError, match=r"images of its shape .*, 8×8×3\. Received: .*images of 8×8×1$"):
        train(config(tmp_path / "run", **FAST, init_from=str(other)))
    assert not (tmp_path / "run" / "flags.cfg").exists()


def test_what_is_no_model_is_refused(tmp_path):
    (tmp_path / "damaged.keras").write_bytes(b"PK")
    keras.Sequential([keras.layers.Input([2]), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    for name, message in (
        ("absent", "There is no such file or folder"),
        ("", "There is no last checkpoint"),
        ("damaged.keras", r"cannot be read as a \.keras file of this package"),
        ("dense.keras", r"must hold a Flow or a PartsTrainer\. Received: Sequential"),
    ):
        with pytest.raises(ConfigError, match=rf"^init_from must be the workdir .*{message}.*; init_from="):
            train(config(tmp_path / "run", **FAST, init_from=str(tmp_path / name)))


# Trainers


def test_a_trainer_evaluates_to_the_runs_number_and_goes_on_as_the_run_would(shorter, longer):
    trainer = load_trainer(shorter)
    images = data.load(glow_tf.DataConfig(train_examples=32, test_examples=32))
    last = rows_of(shorter)[-1]
    found = trainer.evaluate(images.test, verbose=0, return_dict=True)
    assert (f"{found['bpd']:.6f}", f"{found['bpd_se']:.6f}") == (last["test_bpd"], last["test_bpd_se"])
    assert trainer.finished_epochs == 2
    assert [int(optimizer.iterations.value) for optimizer in trainer.optimizers] == [2, 1]
    assert [str(phase) for phase in (*trainer.phases, trainer.phase)] == ["part 1", *["end to end"] * 2]
    trainer.fit(images.train, batch_size=32, initial_epoch=trainer.finished_epochs, epochs=3, verbose=0)
    found = trainer.evaluate(images.test, verbose=0, return_dict=True)
    assert found["bpd"] == pytest.approx(float(rows_of(longer)[-1]["test_bpd"]), abs=1e-4)
    for a, b in zip(trainer.flow.get_weights(), glow_tf.load(longer).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_what_has_no_trainer_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no such folder. Received: workdir="):
        load_trainer(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="There is no last checkpoint"):
        load_trainer(tmp_path)
    small_glow(num_blocks=1, parts="1").save(tmp_path / "model.keras")
    with pytest.raises(ConfigError, match=r"glow_tf\.load loads what Glow\.save wrote\. Received: '.*model"):
        load_trainer(tmp_path / "model.keras")


# The data


@pytest.mark.long
def test_a_run_does_not_go_on_with_other_images(tmp_path):
    """With one picture more others are held out: some that were trained on would become test images."""
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    write_pictures(pictures, 40)
    own = {**FAST, "dataset": f"folder:{pictures}", "train_examples": 0, "test_examples": 0, "part_epochs": 1}
    own |= {"num_blocks": 1, "parts": "1", "schedule": "end_to_end"}  # one phase of one part
    train_until(2, config(folder, **own))
    before = (folder / "flags.cfg").read_bytes()
    write_pictures(pictures, 41)
    with pytest.raises(
        ConfigError, match=r"must be what the run began with, .*: train images=36 .*--init_from=.*images=37"
    ):
        train(config(folder, **own))
    assert (folder / "flags.cfg").read_bytes() == before
    (pictures / "40.png").unlink()
    changed = np.zeros([8, 8, 3], np.uint8)
    (pictures / "00.png").write_bytes(png(changed))
    with pytest.raises(ConfigError, match=r"what the run began with, .*: (train|test) images=.*checksum"):
        train(config(folder, **own))
    for name in ("data.json", "model.json"):  # as a backup without them left it
        (folder / "checkpoints" / name).unlink()
    assert train(config(folder, **own))["epochs"] == 3


@pytest.mark.long
def test_a_run_goes_on_where_its_images_lie_elsewhere_now_if_they_are_the_same(tmp_path, capsys):
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    write_pictures(pictures, 40)
    own = {**FAST, "train_examples": 0, "test_examples": 0, "parts": "1", "flow_steps": 1, "part_epochs": 1}
    own |= {"schedule": "end_to_end", "finetune_epochs": 0}
    train(config(folder, **own, dataset=f"folder:{pictures}"))
    moved, other = pictures.rename(tmp_path / "moved"), tmp_path / "other"
    write_pictures(other, 41)
    with pytest.raises(ConfigError, match="the data must be what the run began with"):
        train(config(folder, **own, dataset=f"folder:{other}"))
    with pytest.raises(ConfigError, match="another configuration"):  # of another kind: not moved
        train(config(folder, **own, dataset="digits"))
    capsys.readouterr()
    assert train(config(folder, **own, dataset=f"folder:{moved}"))["epochs"] == 1  # compared, then finished
    assert "Resuming after" in capsys.readouterr().out
    assert f"--dataset=folder:{moved}\n" in (folder / "flags.cfg").read_text()
    train(config(folder, **own, dataset=f"folder:{moved}"))
    assert "This run is finished" in capsys.readouterr().out
    for content in ("[1]", "{}", "damaged"):  # without checksums nothing can be compared
        (folder / "checkpoints" / "data.json").write_text(content)
        with pytest.raises(ConfigError, match="another configuration"):
            train(config(folder, **{**own, "part_epochs": 2}, dataset=f"folder:{other}"))


def write_pictures(folder, count):
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, [count, 8, 8, 3], np.uint8)
    for number, image in enumerate(images):
        (folder / f"{number:02d}.png").write_bytes(png(image))
