"""Runs that start from a prior, which stands for the presets of photographs: what they take, and when not."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags as absl_flags
from helpers import config, reproducible, rows_of, train
from PIL import Image

import glow_tf
from glow_tf import data
from glow_tf.commands import cli, parsing
from glow_tf.commands import train as train_command
from glow_tf.run import start
from glow_tf.run.checksums import fingerprints
from glow_tf.run.flags_file import read_config
from glow_tf.run.settings import IMAGES

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
    monkeypatch.setattr(train_command.configuration, "PRIORS", {3: str(preset)})
    monkeypatch.setattr(train_command.store, "names", lambda: [str(preset)])


def asked(*flags):
    values = absl_flags.FlagValues()
    train_command.define(values)
    parsing.parse(values, flags)
    return train_command.asked(values)


def decided(flags, images):
    """Returns the run that flags and images make, without training it."""
    found, cut, flow = start.decide(asked("--workdir=unused", *flags), images)
    return found.config, cut, flow


def of(pictures, test=None):
    pictures = np.asarray(pictures)
    return data.ImageData(pictures, pictures[:0], pictures[:2] if test is None else test)


def test_a_run_without_a_flagfile_starts_from_the_prior_and_goes_on_with_it(
    pictures, preset, tmp_path, capsys, eager
):
    flags = [f"--dataset=folder:{pictures}", f"--workdir={tmp_path / 'run'}", "--part_epochs=2", *QUIET]
    assert cli.run("train", flags) == 0
    stdout = capsys.readouterr().out
    assert f"This run starts from the prior {preset}: untouched it needs " in stdout
    assert "Decided for 40 images of 8×8×3; what is typed wins:\n" in stdout
    for name, value in {"validation_examples": 8, "learning_rate": "5e-3", "patience": 2}.items():
        assert [name, str(value), IMAGES] in [line.split(maxsplit=2) for line in stdout.splitlines()]
    assert "WARNING: only 8 images are held out to choose the best epoch" in stdout
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


def test_a_flagfile_that_holds_no_images_out_leaves_it_to_the_prior(pictures, tmp_path, capsys, eager):
    flags = ["--flagfile=own_images", f"--dataset=folder:{pictures}", "--image_size=8", "--part_epochs=1"]
    assert cli.run("train", [*flags, f"--workdir={tmp_path / 'run'}", *QUIET]) == 0
    assert "32 training + 8 validation + 8 test images" in capsys.readouterr().out


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.slow
def test_a_run_from_a_prior_that_is_killed_resumes_to_the_digit(pictures, tmp_path, capsys, eager):
    def of_run(name):
        flags = [f"--dataset=folder:{pictures}", f"--workdir={tmp_path / name}", "--part_epochs=3", *QUIET]
        return asked(*flags, "--patience=3")

    def killed(epoch, logs):
        raise KilledError

    def killed_at_once(batch, logs):
        raise KilledError

    whole = train(of_run("whole"), eager=True)
    with pytest.raises(KilledError):
        train(of_run("cut"), keras.callbacks.LambdaCallback(on_train_batch_end=killed_at_once), eager=True)
    assert not of_run("cut").needs_images  # it is decided
    with pytest.raises(KilledError):
        train(of_run("cut"), keras.callbacks.LambdaCallback(on_epoch_end=killed), eager=True)
    cut = train(of_run("cut"), eager=True)
    for name in ("best_epoch", "test_bpd", "untouched"):
        assert cut[name] == whole[name]
    for a, b in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut"), strict=True):
        assert reproducible(a) == reproducible(b)


def test_images_that_are_unlike_the_prior_make_a_run_start_anew(capsys):
    flat = np.zeros([20, 8, 8, 3], np.uint8)
    flat[:, :4], flat[:, :, 4:] = 255, 7
    assert decided([], of(flat))[0].init_from == ""
    assert "bits/dim for these images, and a trivial density 1." in capsys.readouterr().out
    coarse = smooth(20, 1) // 32 * 32
    assert decided([], of(coarse))[0].init_from == ""
    assert "it is of 8 bits, and 3 suffice for these images." in capsys.readouterr().out


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
