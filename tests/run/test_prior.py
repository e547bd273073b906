"""Runs that start from a prior, which stands for the presets of photographs: what they take, and when not."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config, reproducible, rows_of, train
from PIL import Image

import glow_tf
from glow_tf import ConfigError, data
from glow_tf.commands import cli
from glow_tf.commands.run_flags import config_of
from glow_tf.config import PRIOR
from glow_tf.run import prior, suited
from glow_tf.run.files.checksums import fingerprints
from glow_tf.run.files.flags_file import read_config

pytestmark = pytest.mark.long

MODEL = {
    "architecture": "levels",
    "n_bits": 8,
    "num_blocks": 1,
    "flow_steps": 2,
    "width": 16,
    "scale": "tanh",
}
QUIET = ["--tensorboard=false", "--export=false", "--sample_every=0", "--strategy=one_device", "--streams=1"]


def smooth(count, seed):
    """Returns pictures whose pixels differ little from their neighbours, uint8 [N, 8, 8, 3]."""
    rng = np.random.default_rng(seed)
    corners = rng.uniform(20, 230, (count, 2, 2, 3)).astype(np.float32)
    large = tf.image.resize(corners, (8, 8)).numpy()
    return np.clip(large + rng.normal(0, 2, large.shape), 0, 255).astype(np.uint8)


def write(folder, pictures):
    folder.mkdir(parents=True)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{k:03d}.png")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write(folder / "train", smooth(40, 1))
    write(folder / "test", smooth(8, 2))
    return folder


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """A model of other such pictures."""
    folder = tmp_path_factory.mktemp("prior")
    write(folder / "pictures" / "train", smooth(160, 3))
    write(folder / "pictures" / "test", smooth(8, 4))
    own = {"parts": "1", "schedule": "simultaneous", "finetune_epochs": 0, "part_epochs": 6}
    own |= {"train_examples": 0, "test_examples": 0, "augment": "none", "learning_rate": "1e-1"}
    quiet = {"export": False, "tensorboard": False, "sample_every": 0, "batch_size": 8}
    train(config(folder / "run", dataset=f"folder:{folder / 'pictures'}", **MODEL, **own, **quiet))
    glow_tf.save(glow_tf.load(folder / "run"), folder / "kept")
    return folder / "kept"


@pytest.fixture(autouse=True)
def installed(preset, monkeypatch):
    monkeypatch.setattr(suited, "PRESETS", {3: str(preset)})
    monkeypatch.setattr(prior.presets, "names", lambda: [str(preset)])


def decided(flags, images):
    """Returns the run that flags and images make, without training it."""
    settings = config_of(["--workdir=unused", *flags])
    return prior.with_start(settings, images, None)


def of(pictures, test=None):
    pictures = np.asarray(pictures)
    return data.ImageData(pictures, pictures[:0], pictures[:2] if test is None else test)


def test_a_run_without_a_flagfile_starts_from_the_prior_and_goes_on_with_it(
    pictures, preset, tmp_path, capsys, eager
):
    flags = [f"--dataset=folder:{pictures}", f"--workdir={tmp_path / 'run'}", "--part_epochs=2", *QUIET]
    assert cli.run("train", flags) == 0
    stdout = capsys.readouterr().out
    assert f"From the prior {preset}, which untouched needs " in stdout
    chosen = "--validation_examples=8 --schedule=simultaneous --finetune_epochs=0 --learning_rate=5e-3 "
    chosen += "--rate_scaling=size --warmup_steps=5 --batch_size=4 --ema=0.995 --patience=2 --augment=flip"
    assert f"{chosen}, which suits 40 images of 8×8×3" in stdout
    assert "WARNING: only 8 images are held out to choose the best epoch" in stdout
    assert "No flagfile" not in stdout
    assert "32 training + 8 validation + 8 test images" in stdout
    found = read_config(tmp_path / "run")
    assert (found.init_from, found.model.width, found.model.equalize) == (str(preset), 16, 0.0)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    scores = [summary["untouched"], *rows_of(tmp_path / "run")]
    best = min(range(len(scores)), key=lambda epoch: float(scores[epoch]["validation_bpd"]))
    assert (summary["best_epoch"], summary["test_bpd"]) == (best, float(scores[best]["test_bpd"]))
    assert cli.run("train", flags) == 0
    assert "This run is finished" in capsys.readouterr().out
    assert cli.run("train", [*flags, "--from_scratch"]) == 1
    assert f"--init_from= (was {preset})" in capsys.readouterr().err


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.slow
def test_a_run_from_a_prior_that_is_killed_resumes_to_the_digit(pictures, tmp_path, capsys, eager):
    def settings(name):
        flags = [f"--dataset=folder:{pictures}", f"--workdir={tmp_path / name}", "--part_epochs=3", *QUIET]
        return config_of([*flags, "--patience=3"])

    def killed(epoch, logs):
        raise KilledError

    def killed_at_once(batch, logs):
        raise KilledError

    whole = train(settings("whole"), eager=True)
    with pytest.raises(KilledError):
        train(settings("cut"), keras.callbacks.LambdaCallback(on_train_batch_end=killed_at_once), eager=True)
    assert settings("cut").init_from != PRIOR  # it is decided
    with pytest.raises(KilledError):
        train(settings("cut"), keras.callbacks.LambdaCallback(on_epoch_end=killed), eager=True)
    cut = train(settings("cut"), eager=True)
    for name in ("best_epoch", "test_bpd", "untouched"):
        assert cut[name] == whole[name]
    for a, b in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut"), strict=True):
        assert reproducible(a) == reproducible(b)


def test_own_images_starts_from_the_prior_and_what_is_typed_wins(preset):
    images = of(smooth(40, 1))
    own = ["--flagfile=own_images", "--dataset=folder:unused", "--image_size=8"]
    found, cut, glow = decided(own, images)
    assert (found.init_from, found.data.validation_examples, len(cut.train)) == (str(preset), 8, 32)
    assert (found.train.learning_rate, found.train.part_epochs, found.patience) == ("5e-3", 30, 10)
    assert glow.config.width == found.model.width == 16
    typed = ["--validation_examples=4", "--learning_rate=3e-2", "--part_epochs=5", "--width=16"]
    found, cut, _ = decided([*own, *typed], images)
    train_settings = found.train
    assert (train_settings.learning_rate, train_settings.rate_scaling) == ("3e-2", "none")
    assert (found.data.validation_examples, train_settings.part_epochs, found.patience) == (4, 5, 2)
    assert found.init_from == str(preset)
    held_out = of(smooth(120, 1)).with_validation(60)  # as loading does with what is typed
    few = decided([*own, "--validation_examples=60"], held_out)[0].train
    assert (few.learning_rate, few.batch_size) == ("1e-2", 8)  # as suits 120
    assert decided([*own, "--finetune_epochs=3"], images)[0].train.part_epochs == 0
    for flags in ([*own, "--from_scratch"], ["--from_scratch"], ["--init_from="]):
        assert decided(flags, images)[0].init_from == ""
    assert config_of(["--workdir=unused", *own, "--from_scratch"]).train.part_epochs == 10  # as it says


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--width=8"], "it has width=16 (this run: 8)."),
        (["--parts=by_block:2"], "architecture=levels (this run: glow)."),
        (["--condition=label"], "it does not know what is given with images."),
        (["--only_part=3"], "only_part needs architecture=levels, and must be a part from 1 to 2. "),
    ],
    ids=str,
)
def test_settings_that_contradict_the_prior_make_a_run_start_anew(flags, said, preset, capsys):
    settings = config_of(["--workdir=unused", *flags])
    found, images, glow = decided(flags, of(smooth(8, 1)))
    assert (found.init_from, found.follows, found.left_open, glow) == ("", (), settings.left_open, None)
    assert len(images.train) == 8
    assert found.model == settings.model
    stdout = capsys.readouterr().out
    assert f"This run starts anew, and not from the prior {preset}: " in stdout
    assert said in stdout


def test_images_that_are_unlike_the_prior_make_a_run_start_anew(capsys):
    flat = np.zeros([20, 8, 8, 3], np.uint8)
    flat[:, :4], flat[:, :, 4:] = 255, 7
    assert decided([], of(flat))[0].init_from == ""
    assert "bits/dim for these images, and a trivial density 1." in capsys.readouterr().out
    coarse = smooth(20, 1) // 32 * 32
    assert decided([], of(coarse))[0].init_from == ""
    assert "it is of 8 bits, and 3 suffice for these images." in capsys.readouterr().out


def test_where_no_prior_is_installed_nothing_is_said(monkeypatch, capsys):
    monkeypatch.setattr(prior.presets, "names", list)
    found, images, glow = decided([], of(smooth(8, 1)))
    assert (found.init_from, glow, len(images.validation)) == ("", None, 0)
    assert found.left_open
    grey = decided([], of(smooth(8, 1)[..., :1]))
    assert grey[0].init_from == ""
    assert capsys.readouterr().out == ""


def test_a_run_starts_from_a_model_or_from_scratch():
    for start in ("--init_from=mine", "--init_from=digits"):
        with pytest.raises(ConfigError, match="a run starts from a model or from scratch"):
            config_of(["--workdir=unused", "--from_scratch", start])


@pytest.mark.parametrize(
    ("images", "validation", "epochs", "rate", "warmup", "patience"),
    [
        (3, 0, 50, "5e-3", 16, 0),
        (20, 5, 37, "5e-3", 37, 13),
        (160, 16, 20, "1e-2", 100, 7),
        (3200, 320, 8, "2e-2", 100, 3),
        (50_000, 1000, 4, "2e-2", 100, 2),
    ],
)
def test_what_follows_the_number_of_images(images, validation, epochs, rate, warmup, patience):
    found = suited.tuned(config_of(["--workdir=unused"]), images)
    assert (found["validation_examples"], found["part_epochs"]) == (validation, epochs)
    assert (found["learning_rate"], found["warmup_steps"], found["patience"]) == (rate, warmup, patience)


def test_images_that_are_held_out_later_are_those_that_loading_holds_out(pictures):
    own = glow_tf.DataConfig(f"folder:{pictures}")
    cut = data.load(own).with_validation(7)
    loaded = data.load(glow_tf.DataConfig(f"folder:{pictures}", validation_examples=7))
    for name, images in loaded.arrays.items():
        np.testing.assert_array_equal(cut.arrays[name], images)
    assert (cut.names, fingerprints(cut)) == (loaded.names, fingerprints(loaded))
    digits = data.load(glow_tf.DataConfig()).with_validation(100)
    for split, labels in data.load(glow_tf.DataConfig(validation_examples=100)).labels.items():
        np.testing.assert_array_equal(digits.labels[split], labels)
