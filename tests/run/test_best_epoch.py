"""Runs with validation images end with the model of their best epoch, maybe of what they start from."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config, reproducible, rows_of, train
from small import only_endpoints

import glow_tf
from glow_tf import ConfigError, data
from glow_tf.commands import cli
from glow_tf.run.checkpoints import Checkpoints
from glow_tf.use.evaluation import evaluate

pytestmark = pytest.mark.long

SETTINGS = {
    "train_examples": 30,
    "validation_examples": 60,
    "num_blocks": 1,
    "flow_steps": 4,
    "width": 32,
    "parts": "1",
    "schedule": "end_to_end",
    "part_epochs": 8,
    "finetune_epochs": 0,
    "batch_size": 10,
    "learning_rate": "3e-2",
    "rate_schedule": "constant",
    "augment": "none",
    "sample_every": 4,
    "tensorboard": False,
    "export": False,
}


def overfitting(folder, **changes):
    return config(folder, **{**SETTINGS, **changes})


# test_averages.py evaluates, keeps and exports averages, too.
AVERAGES = [0.0, pytest.param(0.5, marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=AVERAGES, ids=["weights", "averages"])
def overfitted(request, tmp_path_factory):
    """A run whose last epoch is much worse than its best, and its summary."""
    folder = tmp_path_factory.mktemp("overfitted") / "run"
    settings = overfitting(folder, ema=request.param, export=True)
    with only_endpoints("bits_per_dim"):
        return folder, train(settings), settings


def best_of(rows):
    return min(rows, key=lambda row: float(row["validation_bpd"]))


def bits(model, settings):
    """Returns test bits/dim as the run's evaluation has them."""
    return float(np.mean(evaluate(model, data.load(settings.data).test, seed=settings.seed).per_image))


def test_the_summary_is_of_the_best_epoch(overfitted):
    folder, summary, _ = overfitted
    rows = rows_of(folder)
    best = best_of(rows)
    assert float(rows[-1]["test_bpd"]) > float(best["test_bpd"]) + 0.01
    assert (summary["best_epoch"], summary["epochs"]) == (int(best["epoch"]), 8)
    assert (summary["test_bpd"], summary["test_bpd_se"]) == (
        float(best["test_bpd"]),
        float(best["test_bpd_se"]),
    )
    assert summary == json.loads((folder / "summary.json").read_text())


def test_the_export_the_samples_and_commands_are_of_the_best_epoch(overfitted, tmp_path, capsys):
    folder, summary, settings = overfitted
    images = data.load(settings.data).test
    exported = tf.saved_model.load(str(folder / "export"))
    found = glow_tf.load(folder)
    np.testing.assert_allclose(exported.bits_per_dim(images, 3), found.bits_per_dim(images, 3), atol=1e-4)
    assert bits(found, settings) == pytest.approx(summary["test_bpd"], abs=1e-4)
    last = glow_tf.load(folder, "last")
    assert bits(last, settings) == pytest.approx(float(rows_of(folder)[-1]["test_bpd"]), abs=1e-4)
    assert (folder / "samples" / f"epoch_{summary['best_epoch']:04d}.png").exists()
    assert cli.run("preset", [f"--workdir={folder}", f"--output={tmp_path / 'kept'}"]) == 0
    about = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert f'"epochs": {summary["best_epoch"]}' in json.dumps(about)


def test_a_run_with_validation_images_goes_on_from_its_last_epoch(overfitted):
    folder, summary, _ = overfitted
    trainer = glow_tf.load_trainer(folder)
    assert trainer.finished_epochs == summary["epochs"] > summary["best_epoch"]


class KilledError(Exception):
    """Stands for a kill: nothing is saved after it."""


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_with_the_same_best_epoch(tmp_path, monkeypatch, capsys):
    whole = train(overfitting(tmp_path / "whole"))
    best, write = whole["best_epoch"], Checkpoints._write

    def killed_after_the_best(self, folder, number, keep):
        if folder.name != "best" and number == best:
            raise KilledError  # the best epoch is kept, and the newest checkpoint is that of the epoch before
        write(self, folder, number, keep)

    def killed_later(epoch, logs):
        if epoch + 1 == best + 1:
            raise KilledError

    monkeypatch.setattr(Checkpoints, "_write", killed_after_the_best)
    with pytest.raises(KilledError):
        train(overfitting(tmp_path / "cut"))
    monkeypatch.setattr(Checkpoints, "_write", write)
    with pytest.raises(KilledError):
        train(overfitting(tmp_path / "cut"), keras.callbacks.LambdaCallback(on_epoch_end=killed_later))
    capsys.readouterr()
    found = train(overfitting(tmp_path / "cut"))
    stdout = capsys.readouterr().out
    assert f"Resuming after epoch {best + 1}." in stdout
    assert f"of epoch {best} of 8 epochs, the best by validation bits (" in stdout
    assert (found["best_epoch"], found["test_bpd"]) == (best, whole["test_bpd"])
    for a, b in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut"), strict=True):
        assert reproducible(a) == reproducible(b)
    models = [glow_tf.load(tmp_path / name).get_weights() for name in ("whole", "cut")]
    for a, b in zip(*models, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_without_validation_images_ends_with_its_last_epoch(tmp_path):
    summary = train(overfitting(tmp_path / "run", validation_examples=0, part_epochs=2))
    assert "best_epoch" not in summary
    assert summary["test_bpd"] == float(rows_of(tmp_path / "run")[-1]["test_bpd"])


# Runs that start from a model


BEGUN = {"flow_steps": 1, "part_epochs": 2}


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """The workdir of a short run, from which others start."""
    folder = tmp_path_factory.mktemp("began") / "run"
    train(overfitting(folder, **BEGUN), eager=True)
    return folder


@pytest.mark.parametrize("ema", AVERAGES)
def test_where_no_epoch_is_better_the_run_ends_with_the_untouched_start(began, tmp_path, capsys, ema):
    absurd = {**BEGUN, "init_from": str(began), "learning_rate": "1.0"}
    settings = overfitting(tmp_path / "run", **absurd, ema=ema, export=True, sample_every=1)
    with only_endpoints("bits_per_dim"):
        summary = train(settings, eager=True)
    assert summary["best_epoch"] == 0
    assert summary["test_bpd"] == summary["untouched"]["test_bpd"] == rows_test_bpd(began)
    models = [
        glow_tf.load(*how) for how in ((began, "best"), (tmp_path / "run",), (tmp_path / "run", "last"))
    ]
    for a, b, changed in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(a, b)
        assert changed.shape == b.shape
    assert any(np.abs(a - b).max() > 0.1 for a, b in zip(*(m.get_weights() for m in models[1:]), strict=True))
    images = np.zeros([1, 8, 8, 1], np.uint8)
    exported = tf.saved_model.load(str(tmp_path / "run" / "export"))
    np.testing.assert_allclose(exported.bits_per_dim(images, 3), models[0].bits_per_dim(images, 3), rtol=1e-5)
    names = [path.name for path in sorted((tmp_path / "run" / "samples").iterdir())]
    assert names == ["epoch_0000.png", "epoch_0001.png", "epoch_0002.png"]
    stdout = capsys.readouterr().out
    assert f"Untouched: test {summary['test_bpd']:.4f} ± " in stdout
    assert f"bpd (untouched {summary['untouched']['validation_bpd']:.4f}) · " in stdout
    assert "of the untouched start: none of 2 epochs was better by validation bits (" in stdout
    trainer = glow_tf.load_trainer(tmp_path / "run", "best")
    assert trainer.finished_epochs == 0


def rows_test_bpd(folder):
    return json.loads((folder / "summary.json").read_text())["test_bpd"]


# Patience


def test_a_run_that_loses_patience_is_finished_also_if_it_was_killed_then(tmp_path, capsys):
    whole = train(overfitting(tmp_path / "whole", patience=2))
    assert (whole["epochs"], whole["best_epoch"]) == (whole["best_epoch"] + 2, whole["best_epoch"])
    assert f"of epoch {whole['best_epoch']} of {whole['epochs']} epochs (8 were planned), " in (
        capsys.readouterr().out
    )
    assert not any("callback" in warning for warning in whole["warnings"])
    (tmp_path / "whole" / "summary.json").unlink()
    assert train(overfitting(tmp_path / "whole", patience=2))["epochs"] == whole["epochs"]
    assert "tracing" not in capsys.readouterr().out
    assert train(overfitting(tmp_path / "whole", patience=2))["epochs"] == whole["epochs"]
    left = 8 - whole["epochs"]
    finished = capsys.readouterr().out
    assert "This run is finished" in finished
    assert f"It ended by patience, {left} epochs early." in finished
    assert train(overfitting(tmp_path / "whole"))["epochs"] == 8  # it goes on without


def test_patience_needs_validation_images():
    with pytest.raises(ConfigError, match=r"patience needs validation_examples.* Received: patience=2"):
        overfitting("unused", patience=2, validation_examples=0)
