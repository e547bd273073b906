"""A run that diverges goes back and halves a rate; a killed and resumed run takes the same way."""

import contextlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config, rows_of, train
from small import small_glow

import glow_tf
from glow_tf import DivergedError, NonFiniteError, PartsTrainer, load_trainer, phases
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checkpoints import Checkpoints
from glow_tf.run.files.history import reproducible
from glow_tf.training.step.update import Update

FAST = {"tensorboard": False, "sample_every": 0, "export": False, "batch_size": 8, "train_examples": 160}
FAST |= {"part_epochs": 4, "finetune_epochs": 1, "augment": "none", "warmup_steps": 10}
FAST |= {"num_blocks": 1, "flow_steps": 2, "parts": "1,1"}  # two parts, and little to trace
ONE = {"schedule": "end_to_end", "flow_steps": 1, "parts": "1"}  # one phase of one part


class Poison(keras.callbacks.Callback):
    """Poisons the last trained part before one step of one epoch (from 1), if `when` says so."""

    def __init__(self, kind, epoch, step, when):
        super().__init__()
        self.kind, self.place, self.when = kind, (epoch, step), when
        self.times = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch + 1) == self.place and self.when(self):
            self.times += 1
            POISONS[self.kind](self.model, self.model.phase.last)


def weight_of(model, k):
    return model.glow.parts[k].trainable_variables[1]


def spoil(variable, value):
    variable.assign(np.full(variable.shape, value))


def slot_of(model, k):
    shape = weight_of(model, k).shape
    return next(v for v in model.optimizers[k].variables if v.shape == shape)


POISONS = {
    "weight": lambda model, k: weight_of(model, k).assign(weight_of(model, k).numpy() + 9),
    "weight, nan": lambda model, k: spoil(weight_of(model, k), np.nan),
    "slot": lambda model, k: spoil(slot_of(model, k), 1e4),
    "slot, nan": lambda model, k: spoil(slot_of(model, k), np.nan),
}


def once(poison):
    return not poison.times


def always(_):
    return True


def at_the_full_rate(poison):
    """As a rate that is too high would: in every attempt until it is halved."""
    return float(poison.model.rate_factors[poison.model.phase.last].numpy()) == 1


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "run"
    train(config(folder, **FAST))
    return folder


@pytest.fixture
def undisturbed(sound_run):
    """The test bits/dim of a sound run."""
    return float(rows_of(sound_run)[-1]["test_bpd"])


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("weight", {}),
        pytest.param("slot, nan", {}, marks=pytest.mark.slow),
        *[
            pytest.param(kind, settings, marks=pytest.mark.slow)
            for kind in POISONS
            for settings in (
                {"schedule": "end_to_end"},
                {"schedule": "sequential", "cache_prefix": True},
                {"schedule": "simultaneous"},
                {"schedule": "simultaneous", "strategy": "mirrored"},
                {"schedule": "simultaneous", "strategy": "part_parallel"},
            )
        ],
    ],
)
def test_a_run_recovers_from_a_poisoned_state(kind, settings, undisturbed, tmp_path, capsys):
    settings = {**FAST, **settings}
    poison = Poison(kind, 3, 8, once)
    summary = train(config(tmp_path, **settings), poison)
    assert poison.times == 1
    assert summary["recoveries"] == 1
    assert [row["recoveries"] for row in rows_of(tmp_path)] == ["0", "0", "1", "1", "1"]
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("WARNING: training diverged")]
    assert "Going back to epoch 2 (1 of at most 3 times)" in line
    assert "for one epoch the rate of part " in line
    assert "is 0.5 times what was set" in line
    (closing,) = [line for line in lines if line.startswith("Finished")]
    assert closing.endswith("it diverged and went back 1 time")
    if settings.get("schedule", "alternating") == "alternating":
        assert summary["test_bpd"] < undisturbed + 0.1


@pytest.mark.long
@pytest.mark.parametrize(
    "epoch",
    [pytest.param(1, id="no checkpoint", marks=pytest.mark.slow), pytest.param(3, id="a checkpoint")],
)
def test_what_recurs_is_given_up_after_three_times(epoch, tmp_path, capsys):
    settings = config(tmp_path, **{**FAST, **ONE})
    message = r"Training stopped: not finite .*It went back 3 times, each time with a lower rate\."
    poison = Poison("weight, nan", epoch, 4, always)
    with pytest.raises(NonFiniteError, match=message):
        train(settings, poison)
    assert poison.times == 4
    lines = [line for line in capsys.readouterr().out.splitlines() if "Going back" in line]
    targets = [line.split("Going back to ")[1].split(" (")[0] for line in lines]
    # Where it fails twice from the same checkpoint, that one may be at fault.
    assert targets == (["the start"] * 3 if epoch == 1 else ["epoch 2", "epoch 1", "epoch 2"])
    said = [line.split("times); ")[1].split(" times")[0] for line in lines]
    rates = zip(("for one epoch", "now", "now"), (0.5, 0.25, 0.125), strict=True)
    assert said == [f"{when} the rate of part 1 is {rate}" for when, rate in rates]


@pytest.mark.long
@pytest.mark.parametrize(
    "minutes",
    [
        pytest.param(0, id="saving after epochs"),
        pytest.param(1e-9, id="saving after each step, while it is sound", marks=pytest.mark.slow),
    ],
)
def test_a_run_may_be_told_to_stop(minutes, tmp_path):
    settings, message = {**FAST, **ONE}, "it diverged in phase 'end to end'"
    stops = config(tmp_path, **settings, on_divergence="stop", checkpoint_minutes=minutes)
    with pytest.raises(
        DivergedError, match=rf"{message}.* The checkpoint of .*epoch {3 if minutes else 2} is kept"
    ):
        train(stops, Poison("weight", 3, 8, once))
    assert len(rows_of(tmp_path)) == 2
    assert checkpoint_files.progress(tmp_path / "checkpoints") == (2, 7 if minutes else 0)
    assert train(config(tmp_path, **settings))["recoveries"] == 0  # it was no fault of the run's


def test_what_diverges_before_the_first_checkpoint_speaks_of_none(tmp_path):
    stops = config(tmp_path, **{**FAST, **ONE}, on_divergence="stop")
    with pytest.raises(NonFiniteError, match=r"not finite .* No epoch is finished yet; the same") as error:
        train(stops, Poison("weight, nan", 1, 4, always))
    assert "checkpoint" not in str(error.value)


@pytest.mark.long
def test_what_is_not_finite_is_never_saved(tmp_path, capsys):
    """The last step of epoch 2 is sound, and what it leaves is not; epoch 3 trains another part."""
    summary = train(config(tmp_path, **FAST), Poison("slot, nan", 2, 20, once))
    assert "Going back to epoch 1 (1 of" in capsys.readouterr().out
    assert summary["recoveries"] == 1
    assert np.isfinite(summary["test_bpd"])


@pytest.mark.parametrize(
    ("epoch", "schedule", "phase"),
    [
        pytest.param(5, "alternating", "end to end", marks=pytest.mark.slow),
        pytest.param(2, "alternating", "part 2", marks=pytest.mark.slow),
        pytest.param(2, "sequential", "part 1", marks=pytest.mark.slow),
    ],
)
def test_a_divergence_in_the_last_steps_of_a_phase_is_undone(
    epoch, schedule, phase, undisturbed, tmp_path, capsys
):
    """The next phase starts without those steps: it may train another part, or nothing may follow."""
    summary = train(config(tmp_path, **{**FAST, "schedule": schedule}), Poison("weight", epoch, 17, once))
    assert f"the last 4 steps in phase '{phase}' were outside" in capsys.readouterr().out
    assert summary["recoveries"] == 1
    assert summary["test_bpd"] < undisturbed + 0.1


class Cut(keras.callbacks.Callback):
    """Ends the process at the start of an epoch, or amid it."""

    def __init__(self, epoch, step):
        super().__init__()
        self.place = (epoch, step)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1

    def on_train_batch_end(self, batch, logs=None):
        gone_back = self.epoch > 3 or self.model.rate_factors[0].numpy() != 1
        if (self.epoch, batch + 1) == self.place and gone_back:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(ONE, marks=pytest.mark.slow),  # above, and test_within_epoch.py
        pytest.param({**ONE, "checkpoint_minutes": 1e-9}, marks=pytest.mark.slow),
        pytest.param(
            {"schedule": "sequential", "cache_prefix": True, "learning_rate": "1e-2"}, marks=pytest.mark.slow
        ),
    ],
    ids=["end to end", "saving within epochs", "with a cache"],
)
def test_a_run_that_is_killed_after_going_back_takes_the_same_way(settings, tmp_path):
    settings = {**FAST, **settings}
    cache = "cache_prefix" in settings

    def trained(name, *cuts):
        folder = tmp_path / name
        for cut in cuts:
            poison = Poison("weight", *((4, 8) if cache else (3, 8)), at_the_full_rate)
            with contextlib.suppress(KeyboardInterrupt):
                train(config(folder, **settings), poison, *cut)
        return glow_tf.load(folder).get_weights(), [reproducible(row) for row in rows_of(folder)]

    whole, rows = trained("whole", [])
    cuts = [[]] if cache else [[Cut(3, 15)], []]
    if "checkpoint_minutes" in settings:
        cuts.insert(1, [Cut(5, 3)])
    again, rows_again = trained("cut", *cuts)
    assert rows == rows_again
    assert [row["recoveries"] for row in rows][-1] == "1"
    for a, b in zip(whole, again, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_run_that_is_killed_after_going_back_to_its_start_takes_the_same_way(tmp_path):
    settings = {**FAST, "schedule": "end_to_end"}

    def until_the_rate_is_a_quarter(poison):
        return float(poison.model.rate_factors[0].numpy()) > 0.3

    def trained(folder, *cuts):
        for cut in cuts:
            poison = Poison("weight", 2, 8, until_the_rate_is_a_quarter)
            with contextlib.suppress(KeyboardInterrupt):
                train(config(folder, **settings), poison, *cut)
        return [reproducible(row) for row in rows_of(folder)]

    class CutAtTheStart(Cut):
        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch + 1) == self.place and self.model.rate_factors[0].numpy() == 0.25:
                raise KeyboardInterrupt

    whole = trained(tmp_path / "whole", [])
    assert whole == trained(tmp_path / "cut", [CutAtTheStart(1, 5)], [])
    assert [row["recoveries"] for row in whole] == ["2"] * 5


@pytest.mark.slow
def test_gradients_that_are_not_finite_for_long_end_or_are_undone(tmp_path, monkeypatch):
    bad = tf.Variable(0.0, trainable=False)
    norms = Update.norms

    def spoilt(self, phase, gradients):
        gradients = [[g * tf.where(bad > 0, float("nan"), 1.0) for g in own] for own in gradients]
        bad.assign_sub(1.0)
        return norms(self, phase, gradients)

    monkeypatch.setattr(Update, "norms", spoilt)
    monkeypatch.setitem(POISONS, "gradient", lambda model, k: bad.assign(11.0))
    summary = train(config(tmp_path, **FAST), Poison("gradient", 3, 8, once), anew=True)
    assert summary["recoveries"] == 1
    monkeypatch.setitem(POISONS, "gradient", lambda model, k: bad.assign(5.0))
    summary = train(config(tmp_path / "few", **FAST), Poison("gradient", 3, 8, once), anew=True)
    assert summary["recoveries"] == 0
    assert [row["skipped_steps"] for row in rows_of(tmp_path / "few")] == ["0", "0", "5", "0", "0"]


@pytest.mark.slow
def test_a_rough_run_that_is_sound_does_not_go_back(tmp_path):
    summary = train(config(tmp_path, **{**FAST, "learning_rate": "2e-2", "batch_size": 4, "warmup_steps": 0}))
    assert summary["recoveries"] == 0


def test_a_sound_run_does_not_go_back(sound_run):
    assert json.loads((sound_run / "summary.json").read_text())["recoveries"] == 0
    (last,) = rows_of(sound_run)[-1:]
    assert 0 < float(last["largest_log_scale"]) < 10
    assert 0 < float(last["round_trip_error"]) < 0.01


# Checkpoints


def make_trainer():
    trainer = PartsTrainer(small_glow(flow_steps=1, parts="1"), phases("end_to_end", 1, 9))
    trainer.rate_factors = [tf.Variable(1.0)]
    trainer.compile([keras.optimizers.Adam(1e-3)])
    return trainer


def test_what_is_known_of_divergence_is_kept(tmp_path):
    trainer = make_trainer()
    checkpoints = Checkpoints(tmp_path, trainer)
    trainer.rate_factors[0].assign(0.25)
    trainer.divergence_monitor.variables["recent"].assign(
        tf.fill(trainer.divergence_monitor.variables["recent"].shape, 4.0)
    )
    checkpoints.recoveries.assign(2)
    checkpoints.save(1)
    again = make_trainer()
    restored = Checkpoints(tmp_path, again)
    assert restored.restore() == 1
    assert (float(again.rate_factors[0]), int(restored.recoveries)) == (0.25, 2)
    np.testing.assert_array_equal(
        again.divergence_monitor.variables["recent"], trainer.divergence_monitor.variables["recent"]
    )


def test_a_checkpoint_amid_trouble_is_passed_over_and_removed(tmp_path):
    trainer = make_trainer()
    checkpoints = Checkpoints(tmp_path, trainer)
    weight = trainer.glow.trainable_variables[0]
    for epoch, consecutive in ((1, 0), (2, 4)):
        spoil(weight, float(epoch))
        trainer.divergence_monitor.variables["streak"].assign(consecutive)
        checkpoints.save(epoch)
    assert checkpoints.roll_back() == 1
    assert float(weight.numpy().flat[0]) == 1
    assert not list(tmp_path.glob("ckpt-2*"))
    assert checkpoints.roll_back(before=1) is None


def test_the_best_epoch_is_one_that_a_run_may_go_back_to(tmp_path):
    trainer = make_trainer()
    checkpoints = Checkpoints(tmp_path, trainer)
    for epoch, consecutive, bpd in ((1, 0, 3.5), (2, 4, 3.4)):
        trainer.divergence_monitor.variables["streak"].assign(consecutive)
        checkpoints.save(epoch, validation_bpd=bpd)
    assert checkpoint_files.complete(tmp_path / "best") == [1]
    assert checkpoints.roll_back() == 1
    assert checkpoint_files.complete(tmp_path / "best") == [1]
    assert float(checkpoints.best_bpd) == pytest.approx(3.5)


def test_a_run_that_goes_back_to_its_start_leaves_nothing_that_looks_lost(tmp_path):
    checkpoints = Checkpoints(tmp_path, make_trainer())
    for epoch, bpd in ((1, 3.0), (2, 2.0)):
        checkpoints.save(epoch, validation_bpd=bpd)
    checkpoints.remove_after(1)
    assert checkpoint_files.pointed_to(tmp_path) == 1
    assert checkpoint_files.pointed_to(tmp_path / "best") == 0  # the best was that of epoch 2
    new = Checkpoints(tmp_path, make_trainer())  # of a process that took the place of one killed now
    assert new.restore() == 1
    assert float(new.best_bpd) == float("inf")
    checkpoints.remove_after(0)
    assert checkpoint_files.progress(tmp_path) == checkpoint_files.progress(tmp_path / "best") == (0, 0)


@pytest.mark.slow  # what recurs, above, has the rates; what is known, above, that checkpoints keep them
def test_a_rate_stays_low_from_the_second_time_on_and_a_loaded_trainer_has_it(tmp_path, capsys):
    def twice(poison):
        return poison.times < 2

    train(config(tmp_path, **FAST), Poison("weight", 3, 8, twice))
    lines = [line for line in capsys.readouterr().out.splitlines() if "Going back" in line]
    assert "for one epoch the rate of part 1 is 0.5 times" in lines[0]
    assert "now the rate of part 1 is 0.25 times" in lines[1]
    assert [float(factor) for factor in load_trainer(tmp_path).rate_factors] == [0.25, 1.0]
