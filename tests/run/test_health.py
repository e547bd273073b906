"""A run whose numbers are finite and wrong says so: in the epoch's line, at the end, and in summary.json."""

import contextlib
import json
import math

import pytest
from helpers import config, train

from glow_tf.config import TrainConfig
from glow_tf.layout.schedule import end_to_end, phases_of, phases_of_training
from glow_tf.run import health
from glow_tf.run.files.workdir import Workdir


def rows(*train_bpds, test="2.5", error="0.02"):
    return [{"train_bpd": bpd, "test_bpd": test, "test_bpd_se": error} for bpd in train_bpds]


@pytest.mark.parametrize(
    "history",
    [
        rows("4.6", "4.4", "4.9", "4.2"),  # a part's turn, a new phase
        rows("4.6", "", ""),  # epochs of part 1 alone
        [*rows("4.6"), *rows("", test="8.3")],  # the whole has not been trained yet
        rows("4.6", error="0.3"),  # few images
        rows("4.6", error="nan"),  # one image
        [{"train_bpd": "", "test_bpd": "8.3", "test_bpd_se": "3"}],
        [{**rows("4.6")[0], "round_trip_error": "0.12"}],
    ],
)
def test_a_sound_run_has_no_troubles(history):
    assert health.troubles(history, 5) == []


@pytest.mark.parametrize(
    ("history", "trouble"),
    [
        (rows("4.6", "4.2", "48900"), "training diverges: 4.89e+04 bits/dim, after 4.2000"),
        (rows("4.6", "5.3", "5.7"), "training diverges: 5.7 bits/dim, after 4.6000"),
        (rows("4.6", test="5.01"), "worse than a uniform density, which needs 5 bits/dim"),
        (rows("4.6", test="nan"), "the test score is not finite"),
        (rows("", test="inf"), "the test score is not finite"),
        (rows("4.6", error="0.7"), "a few test images carry the mean"),
        (rows("4.6", test="4.65", error="0.83"), "a few test images carry the mean"),
        ([{**rows("4.6")[0], "round_trip_error": "0.13"}], "the round trip is about to be lost"),
        ([{"train_bpd": "", "round_trip_error": "nan"}], "decoded images miss by nan levels"),
    ],
)
def test_what_is_wrong_is_named(history, trouble):
    assert any(trouble in found for found in health.troubles(history, 5))


def of_epochs(*bits, held="test"):
    """Rows of (held-out bits, training bits); the latter are empty where a part was trained alone."""
    scores = {"test_bpd": "2.5", "test_bpd_se": "0.02"}
    return [{**scores, f"{held}_bpd": f"{bpd}", "train_bpd": f"{train or ''}"} for bpd, train in bits]


@pytest.mark.parametrize("held", ["test", "validation"])
def test_a_model_that_overfits_is_told_so_and_since_when(held):
    rising = [(3.0, 3.1), (2.35, 2.4), (2.9, 2.1), (4.72, 1.8)]
    (found,) = health.troubles(of_epochs(*rising, held=held), 8)
    said = f"since epoch 2 {held} bits have risen from 2.3500 to 4.7200, while training bits fell from 2.4000"
    assert said in found
    assert "Fewer epochs, more images, --augment" in found
    assert ("--validation_examples" in found) == (held == "test")
    assert "keeps its best epoch" in found


def test_a_model_that_overfits_is_not_told_to_train_more():
    found = health.troubles(of_epochs((2.4, 2.4), (7.0, 2.0), (9.0, 1.5)), 8)
    assert [sentence.split(":")[0].split(",")[0] for sentence in found] == [
        "the model overfits",
        "the model is worse than a uniform density",
    ]
    assert not any("more training" in sentence for sentence in found)


@pytest.mark.parametrize(
    "history",
    [
        [(2.35, 2.4), (2.39, 2.3), (2.38, 2.2)],  # it rises by too little to say so
        [(2.35, 2.4), (2.9, 2.3)],  # a single epoch
        [(2.35, 2.4), (2.9, 2.3), (2.3, 2.2)],
        [(2.35, 2.4), (2.9, 2.5), (2.9, 2.6)],  # the training bits rise, too
        [(2.35, 2.4), (2.9, ""), (3.0, "")],  # a part alone, by another objective
        [(2.35, 2.4), (2.9, ""), (3.0, 2.3)],
        [("nan", 2.4), (2.9, 2.3), (2.8, 2.2)],
    ],
)
def test_held_out_bits_that_do_not_rise_for_long_are_no_trouble(history):
    assert health.troubles(of_epochs(*history), 8) == []


def test_a_summary_whose_score_is_not_finite_is_json(tmp_path):
    settings = config(tmp_path)
    epochs = len(phases_of(settings))
    with contextlib.closing(Workdir(settings)) as folder:
        folder.write_summary({"test_bpd": math.inf, "test_bpd_se": math.nan, "epochs": epochs})
        assert math.isnan(folder.read_summary()["test_bpd"])
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["test_bpd"] is summary["test_bpd_se"] is None


@pytest.mark.parametrize(
    ("settings", "trouble"),
    [
        ({"learning_rate": "1e-3"}, "times below the default, 0.1"),
        ({"learning_rate": "1e-3,2e-3", "optimizer": "adam"}, "times below the default, 0.1"),
        ({"learning_rate": "1e-3,1e-1"}, ""),
        ({"learning_rate": "1e-3", "optimizer": "sgd"}, ""),
        ({"learning_rate": "1e-3", "rate_scaling": "none"}, ""),
        ({"learning_rate": "32e-3", "rate_scaling": "none"}, ""),
        ({"learning_rate": "64e-3", "rate_scaling": "none"}, "0.064 for every weight of 48 flow steps"),
        ({"learning_rate": "64e-3", "rate_scaling": "none", "optimizer": "sgd"}, ""),
        ({"warmup_steps": 0}, "a learning rate of 0.1 from the first step on"),
        ({"warmup_steps": 0, "learning_rate": "2e-2"}, ""),
        ({}, ""),
    ],
)
def test_rates_that_do_not_suit_are_noticed(settings, trouble):
    found = health.troubles_ahead(TrainConfig(**settings), [end_to_end(2)], 2, 48)
    assert len(found) == bool(trouble)
    assert all(trouble in sentence for sentence in found)


@pytest.mark.parametrize(
    ("epochs", "trouble"),
    [
        ({"part_epochs": 1}, "no epoch trains part 2, 3 of 3"),
        ({"part_epochs": 3}, ""),
        ({"part_epochs": 1, "finetune_epochs": 1}, ""),  # growing
        ({"part_epochs": 3, "only_part": 2}, ""),  # of levels; others train the rest
    ],
    ids=str,
)
def test_parts_that_no_epoch_trains_are_noticed(epochs, trouble):
    train = TrainConfig(schedule="sequential", **{"finetune_epochs": 0, **epochs})
    found = health.troubles_ahead(train, phases_of_training(train, 3), 3, 6)
    assert [sentence.partition(". ")[0] for sentence in found] == ([trouble] if trouble else [])


def test_a_run_in_trouble_says_so_in_each_place(tmp_path, monkeypatch, capsys, eager):
    monkeypatch.setattr(health, "RISE", -10.0)
    changes = {"tensorboard": False, "sample_every": 0, "export": False, "num_blocks": 1, "parts": "1"}
    changes |= {"train_examples": 32}
    train(config(tmp_path, part_epochs=2, finetune_epochs=0, schedule="end_to_end", **changes))
    lines = capsys.readouterr().out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert all("WARNING: training diverges" in line for line in epochs)
    assert lines[-1].startswith("WARNING: training diverges")
    assert "a lower learning rate" in lines[-1].lower()
    (warning,) = json.loads((tmp_path / "summary.json").read_text())["warnings"]
    assert warning.startswith("training diverges")
