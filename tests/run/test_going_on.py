"""More epochs in the same workdir, runs that start from a model, and trainers loaded from a workdir."""

import dataclasses
import shutil
import signal

import keras
import numpy as np
import pytest
from helpers import config, flags, rows_of, signal_amid, train
from small import small_glow

import glow_tf
from glow_tf import ConfigError, data
from glow_tf.commands.run_flags import config_of
from glow_tf.config import RunConfig
from glow_tf.run.files.flags_file import flagfile
from glow_tf.run.files.history import reproducible
from glow_tf.run.files.workdir import epochs_obstacle
from glow_tf.run.pictures import png
from glow_tf.use.loading import load_trainer

FAST = {"rate_schedule": "constant", "augment": "none", "tensorboard": False, "sample_every": 0}
FAST |= {"export": False, "part_epochs": 1, "finetune_epochs": 2, "train_examples": 32, "test_examples": 32}
FAST |= {"num_blocks": 1, "flow_steps": 2, "parts": "1,1"}

pytestmark = pytest.mark.usefixtures("eager_module")


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """A run of 1 + 2 epochs, which the others are compared with."""
    folder = tmp_path_factory.mktemp("longer") / "run"
    train(config(folder, **FAST))
    return folder


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    """The same run with 1 + 1 epochs."""
    folder = tmp_path_factory.mktemp("shorter") / "run"
    train(config(folder, **{**FAST, "finetune_epochs": 1}))
    return folder


def numbers(folder):
    return [reproducible(row) for row in rows_of(folder)]


def copy(folder, to):
    shutil.copytree(folder, to)
    return to


# More epochs


def test_a_finished_run_goes_on_as_if_it_had_had_more_epochs_from_the_start(shorter, longer, tmp_path):
    folder = copy(shorter, tmp_path / "run")
    summary = train(config(folder, **FAST))
    assert summary["epochs"] == 3
    assert numbers(folder) == numbers(longer)
    assert "--finetune_epochs=2\n" in (folder / "flags.cfg").read_text()
    for a, b in zip(glow_tf.load(folder).get_weights(), glow_tf.load(longer).get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_killed_extension_resumes_and_keeps_the_summary_until_its_end(shorter, tmp_path):
    folder = copy(shorter, tmp_path / "run")
    more = {**FAST, "finetune_epochs": 30}
    signal_amid(signal.SIGKILL, folder, flags(folder, **more), rows=6)
    assert '"epochs": 2' in (folder / "summary.json").read_text()
    finished = len(rows_of(folder))
    more["finetune_epochs"] = finished
    assert train(config(folder, **more))["epochs"] == finished + 1
    assert f'"epochs": {finished + 1}' in (folder / "summary.json").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part_epochs": 4}, r"--part_epochs=4 \(was 1\): epoch 2 is finished and was 'end to end'; in the"),
        ({"part_epochs": 0, "finetune_epochs": 2}, r"epoch 1 is finished and was 'part 1'"),
        ({"finetune_epochs": 0}, r"2 epochs are finished, and the new schedule has 1\. .*--init_from=.*run"),
    ],
)
def test_epochs_that_do_not_continue_the_run_are_refused(changes, message, shorter):
    with pytest.raises(ConfigError, match=message):
        train(config(shorter, **{**FAST, "finetune_epochs": 1, **changes}))
    assert len(rows_of(shorter)) == 2


def settings(**changes):
    fixed = {"workdir": "w", "parts": "across_block:2", "flow_steps": 2, "rate_schedule": "constant"}
    return RunConfig.from_settings({**fixed, **changes})


ALLOWED = {
    "end to end, part_epochs": ({"part_epochs": 4, "finetune_epochs": 0}, {"part_epochs": 9}, 4),
    "simultaneous, finetune_epochs": (
        {"schedule": "simultaneous", "part_epochs": 4, "finetune_epochs": 0},
        {"finetune_epochs": 3},
        4,
    ),
    "alternating, part_epochs before any end-to-end epoch": (
        {"schedule": "alternating", "part_epochs": 4, "finetune_epochs": 2},
        {"part_epochs": 8},
        4,
    ),
    "fewer, but not fewer than finished": (
        {"schedule": "alternating", "part_epochs": 8, "finetune_epochs": 2},
        {"part_epochs": 4},
        3,
    ),
    "a finetune rate that has not begun": (
        {"part_epochs": 4, "finetune_epochs": 2, "finetune_learning_rate": "1e-4"},
        {"part_epochs": 6},
        4,
    ),
    "more epochs at the finetune rate": (
        {"part_epochs": 4, "finetune_epochs": 2, "finetune_learning_rate": "1e-4"},
        {"finetune_epochs": 6},
        6,
    ),
    "a cosine that is over, before a finetune rate": (
        {"part_epochs": 4, "rate_schedule": "cosine", "finetune_learning_rate": "1e-4"},
        {"finetune_epochs": 6},
        4,
    ),
    "nothing is finished": ({"rate_schedule": "cosine"}, {"part_epochs": 9}, 0),
}
REFUSED = {
    "a cosine": (
        {"part_epochs": 4, "finetune_epochs": 0, "rate_schedule": "cosine"},
        {"part_epochs": 9},
        4,
        "cosine rate of part 1 in its finished epochs",
    ),
    "a finetune rate that has begun": (
        {"part_epochs": 4, "finetune_epochs": 2, "finetune_learning_rate": "1e-4"},
        {"part_epochs": 6},
        5,
        "finetune_learning_rate would have begun in another epoch of part 1",
    ),
    "the shares of sequential": (
        {"schedule": "sequential", "part_epochs": 4, "finetune_epochs": 0},
        {"part_epochs": 8},
        4,
        "epoch 3 is finished and was 'part 2'; in the new schedule it would have been 'part 1'",
    ),
}


@pytest.mark.parametrize(("before", "changes", "finished"), ALLOWED.values(), ids=ALLOWED.keys())
def test_a_run_goes_on_where_its_finished_epochs_stay_what_they_were(before, changes, finished):
    assert epochs_obstacle(settings(**before), settings(**{**before, **changes}), finished) == ""


@pytest.mark.parametrize(("before", "changes", "finished", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_otherwise_the_reason_is_said(before, changes, finished, why):
    assert why in epochs_obstacle(settings(**before), settings(**{**before, **changes}), finished)


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
    glow = glow_tf.load(shorter)
    glow.save(tmp_path / "model.keras")
    slow = {**FAST, "init_from": str(tmp_path / "model.keras"), "learning_rate": "1e-12", "part_epochs": 0}
    train(config(tmp_path / "run", **{**slow, "parts": "1"}))
    assert "parts of 1 + 1 flow steps (this run: 2); local priors" in capsys.readouterr().out
    own = glow_tf.load(tmp_path / "run")
    assert len(own.parts) == 1
    for a, b in zip(glow.get_flow_weights(), own.get_flow_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_command_takes_the_settings_of_the_model_that_it_starts_from(shorter, tmp_path):
    """From a workdir, a model's file or a trainer's. What is typed wins over them, they over flagfiles."""
    glow = glow_tf.load(shorter)
    glow.save(tmp_path / "model.keras")
    load_trainer(shorter).save(tmp_path / "trainer.keras")
    for start in (shorter, tmp_path / "model.keras", tmp_path / "trainer.keras"):
        given = [f"--init_from={start}", "--workdir=unused", "--dataset=digits", "--scale=exp"]
        for arguments in (given, [*given, "--flagfile=own_images"]):
            found = config_of(arguments)
            own = {"image_shape": found.model.image_shape, "scale": "exp", "parts": "1"}
            assert found.model == dataclasses.replace(glow.config, seed=0, **own)
            assert (found.data.image_size, found.init_from) == (8, str(start))
        assert "num_blocks" not in config_of(given).left_open


def test_a_command_goes_on_from_its_start_model_when_that_is_there_no_more(shorter, tmp_path):
    start = copy(shorter, tmp_path / "start")
    arguments = [f"--init_from={start}", f"--workdir={tmp_path / 'run'}", "--finetune_epochs=1"]
    began = config_of([*arguments, "--part_epochs=0"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "flags.cfg").write_text(flagfile(began))
    shutil.rmtree(start)
    assert config_of(arguments) == began
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
        ("dense.keras", r"must hold a Glow or a PartsTrainer\. Received: Sequential"),
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
    assert [str(phase) for phase in trainer.phases] == ["part 1", "end to end"]
    trainer.fit(images.train, batch_size=32, initial_epoch=trainer.finished_epochs, epochs=3, verbose=0)
    found = trainer.evaluate(images.test, verbose=0, return_dict=True)
    assert found["bpd"] == pytest.approx(float(rows_of(longer)[-1]["test_bpd"]), abs=1e-4)
    for a, b in zip(trainer.glow.get_weights(), glow_tf.load(longer).get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_a_trainers_rates_and_moments_are_those_of_the_run(tmp_path):
    folder = tmp_path / "run"
    changes = {"part_epochs": 1, "finetune_epochs": 1, "rate_schedule": "cosine", "beta_2": "oai"}
    changes |= {"warmup_steps": 0}
    train(config(folder, **{**FAST, **changes, "clip_norm": 0.5, "learning_rate": "1e-3,2e-3"}))
    trainer = load_trainer(folder)
    assert [optimizer.beta_2 for optimizer in trainer.optimizers] == [1 - 1 / 2] * 2
    rates = [float(optimizer._learning_rate(0)) for optimizer in trainer.optimizers]
    assert rates == pytest.approx([1e-3, 2e-3])
    assert [optimizer._learning_rate.steps for optimizer in trainer.optimizers] == [2, 1]
    assert trainer.options.clip_norm == 0.5
    assert all(np.abs(o.variables[2].numpy()).max() > 0 for o in trainer.optimizers)


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
    train(config(folder, **{**own, "finetune_epochs": 1}))
    before = (folder / "flags.cfg").read_bytes()
    write_pictures(pictures, 41)
    with pytest.raises(
        ConfigError, match=r"must be what the run began with, .*: train images=36 .*--init_from=.*images=37"
    ):
        train(config(folder, **own))
    assert (folder / "flags.cfg").read_bytes() == before
    (pictures / "40.png").unlink()
    assert train(config(folder, **own))["epochs"] == 3
    changed = np.zeros([8, 8, 3], np.uint8)
    (pictures / "00.png").write_bytes(png(changed))
    with pytest.raises(ConfigError, match=r"what the run began with, .*: (train|test) images=.*checksum"):
        train(config(folder, **{**own, "finetune_epochs": 3}))
    for name in ("data.json", "model.json"):  # as a backup without them left it
        (folder / "checkpoints" / name).unlink()
    assert train(config(folder, **{**own, "finetune_epochs": 3}))["epochs"] == 4


@pytest.mark.long
def test_a_run_goes_on_where_its_images_lie_elsewhere_now_if_they_are_the_same(tmp_path, capsys):
    pictures, folder = tmp_path / "pictures", tmp_path / "run"
    write_pictures(pictures, 40)
    own = {**FAST, "train_examples": 0, "test_examples": 0, "parts": "1", "flow_steps": 1, "part_epochs": 1}
    own |= {"schedule": "end_to_end", "finetune_epochs": 0}
    train(config(folder, **own, dataset=f"folder:{pictures}"))
    test_bpd = rows_of(folder)[-1]["test_bpd"]
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
    assert train(config(folder, **{**own, "part_epochs": 2}, dataset=f"folder:{moved}"))["epochs"] == 2
    assert rows_of(folder)[0]["test_bpd"] == test_bpd
    for content in ("[1]", "{}", "damaged"):  # without checksums nothing can be compared
        (folder / "checkpoints" / "data.json").write_text(content)
        with pytest.raises(ConfigError, match="another configuration"):
            train(config(folder, **{**own, "part_epochs": 2}, dataset=f"folder:{other}"))


def write_pictures(folder, count):
    folder.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, [count, 8, 8, 3], np.uint8)
    for number, image in enumerate(images):
        (folder / f"{number:02d}.png").write_bytes(png(image))
