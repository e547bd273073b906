"""Replicas that make steps alone and then meet: local SGD."""

import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import config, flags, launch, rows_of, workdir_rows
from small import ROOT, small_config

import glow_tf
from glow_tf import Glow, PartsTrainer, phases
from glow_tf.core.errors import ConfigError, DivergedError
from glow_tf.data.batches import untuned
from glow_tf.devices.strategies import make_strategy
from glow_tf.run import lifecycle
from glow_tf.run.files import history
from glow_tf.training.optim.optimizers import FusedAdamax

LAUNCH = (sys.executable, "train/launch.py")
BATCH, STEPS, EVERY = 16, 3, 2  # so meetings come after steps 2 and 3


def adamax():
    return FusedAdamax(5e-3)


def make(strategy="mirrored", optimizer=adamax, schedule="end_to_end", parts="1", epochs=2, **options):
    with make_strategy(strategy).scope():
        own = small_config(num_blocks=1, flow_steps=parts.count(",") + 1, width=4, parts=parts)
        glow = Glow(own, dtype="float64", name="glow")
        trainer = PartsTrainer(glow, phases(schedule, len(glow.parts), epochs), seed=5)
        trainer.compile([optimizer() for _ in glow.parts], **options)
    return trainer


@pytest.fixture
def batches(small_images):
    """The steps of an epoch: (images, noise), [STEPS, BATCH, …]."""
    rng = np.random.default_rng(1)
    images = np.stack([rng.permutation(small_images)[:BATCH] for _ in range(STEPS)])
    return images, rng.uniform(0, 1, images.shape)


def fit(trainer, batches, own=slice(None), steps=slice(None), **kwargs):
    """Trains on these steps, an epoch or more; `own` are the examples that are taken of each batch."""
    data = [member[steps, own] for member in batches]
    dataset = untuned(tf.data.Dataset.from_tensor_slices(tuple(data))).repeat()
    return trainer.fit(dataset, steps_per_epoch=len(data[0]), verbose=0, **kwargs).history


def initialized(batches, **settings):
    trainer = make(**settings)
    trainer.initialize(*(member[0] for member in batches))
    return trainer


def assert_alike(expected, found, **tolerance):
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a, b, **(tolerance or {"rtol": 1e-7, "atol": 1e-9}))


def assert_replicas_are_equal(trainer, variables):
    for variable in variables:
        first, second = trainer.distribute_strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first, second, err_msg=variable.path)


HALVES = (slice(None, BATCH // 2), slice(BATCH // 2, None))


def met_by_hand(batches, epochs):
    """Returns a trainer that was trained on half of each batch, and met another one by hand."""
    two = [initialized(batches, strategy="one_device", run_eagerly=True) for _ in HALVES]
    for _ in range(epochs):
        for steps in (slice(0, 2), slice(2, 3)):
            for own, trainer in zip(HALVES, two, strict=True):
                fit(trainer, batches, own, steps, epochs=1)
            average(trainer.glow.trainable_variables for trainer in two)
        average(trainer.optimizers[0].variables[1:] for trainer in two)
    return two[0]


def average(of_each):
    for own in zip(*of_each, strict=True):
        mean = np.mean([variable.numpy() for variable in own], 0)
        for variable in own:
            variable.assign(mean)


@pytest.mark.long
@pytest.mark.parametrize("eager", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_replicas_train_alone_and_meet_in_the_mean(eager, batches):
    expected = met_by_hand(batches, 2)
    local = initialized(batches, sync_every=EVERY, run_eagerly=eager)
    fit(local, batches)
    for of in (lambda t: t.glow.variables, lambda t: t.optimizers[0].variables):
        assert_alike([v.numpy() for v in of(expected)], [v.numpy() for v in of(local)])
        assert_replicas_are_equal(local, of(local))


@pytest.mark.parametrize("every", [2, pytest.param(100, marks=pytest.mark.slow)])
def test_the_mean_of_a_single_replica_is_what_it_has_to_the_digit(every, batches):
    options = {"strategy": "one_device", "run_eagerly": True}
    one, other = (initialized(batches, **options, sync_every=n) for n in (1, every))
    assert fit(one, batches) == fit(other, batches)
    assert_alike(one.glow.get_weights(), other.glow.get_weights(), rtol=0, atol=0)


class StopsAfterOne(keras.callbacks.Callback):
    """Stops amid an epoch, between two meetings; what is then evaluated must be one model."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 0

    def on_test_begin(self, logs=None):
        assert_replicas_are_equal(self.model, self.model.glow.variables)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize(
    "stopped", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["stopped", "out of data"]
)
def test_replicas_meet_where_an_epoch_ends_before_its_last_step(stopped, batches):
    local = initialized(batches, sync_every=EVERY, run_eagerly=True)
    if stopped:
        fit(local, batches, callbacks=[StopsAfterOne()], validation_data=batches[0][0])
    else:
        steps = untuned(tf.data.Dataset.from_tensor_slices(tuple(member[:1] for member in batches)))
        local.fit(steps.filter(lambda *_: True), steps_per_epoch=STEPS, epochs=1, verbose=0)
    assert local.optimizers[0].iterations.numpy() == 1
    assert_replicas_are_equal(local, [*local.glow.variables, *local.optimizers[0].variables])


@pytest.mark.slow
def test_a_phase_that_trains_one_part_meets_over_its_weights_alone(batches):
    local = initialized(batches, schedule="sequential", parts="1,1", sync_every=EVERY, run_eagerly=True)
    before = local.glow.get_weights()
    fit(local, batches, epochs=1)
    second = {v.path for v in local.glow.parts[1].variables}
    for old, variable in zip(before, local.glow.variables, strict=True):
        if variable.path in second:
            np.testing.assert_array_equal(old, variable.numpy())
    assert_replicas_are_equal(local, [*local.glow.variables, *local.optimizers[0].variables])
    weights = 8 * sum(np.size(v) for v in local.glow.parts[0].trainable_variables)
    # Two meetings, the two moments of Adamax and its rate, in three steps.
    assert local.training_steps.traffic(local.phase).all_reduce == round(((2 + 2) * weights + 4) / STEPS)


@pytest.mark.slow
def test_a_replica_skips_a_step_that_is_not_finite_alone(batches):
    images, noise = batches[0], batches[1].copy()
    noise[1:, -1] = 1e300  # on the second replica, in all steps but the first
    local = initialized((images, noise), sync_every=100, run_eagerly=True)
    assert fit(local, (images, noise), epochs=1)["skipped_steps"] == [(STEPS - 1) / 2]
    two = [initialized(batches, strategy="one_device", run_eagerly=True) for _ in HALVES]
    fit(two[0], batches, HALVES[0], epochs=1)
    fit(two[1], batches, HALVES[1], slice(1), epochs=1)
    means = [np.mean(pair, 0) for pair in zip(*(t.glow.get_weights() for t in two), strict=True)]
    assert_alike(means, local.glow.get_weights())


def test_single_steps_that_would_never_meet_are_refused(batches):
    with pytest.raises(ConfigError, match=r"train_on_batch needs sync_every=1.*Received: sync_every=2"):
        initialized(batches, sync_every=2).train_on_batch(batches[0][0])


@pytest.mark.parametrize("here", [True, False], ids=["here", "in another worker"])
def test_a_replica_that_diverges_stops_all_of_them_when_they_meet(here, batches):
    local = initialized(batches, sync_every=EVERY)
    steps, phase = local.training_steps.local_steps, local.phase
    fault = DivergedError("Training stopped: here.", [0], "here") if here else None
    steps.begin_epoch(STEPS, False)
    if not here:
        steps._meetings[phase, False] = lambda own: own + 1
    first, second = (
        steps.end_step(phase, False, local.divergence_monitor, lambda _: fault) for _ in range(EVERY)
    )
    assert first is None
    assert second.reason == ("here" if here else "training of part 1 diverged in another worker")
    assert second.parts == (0,)


class Leaves(keras.optimizers.Optimizer):
    """Leaves updates to another optimizer."""

    def __init__(self):
        super().__init__(1e-3)


REFUSED = {
    "no": ({"sync_every": 0}, "sync_every must be 1 or more"),
    "several at once": ({"steps_per_execution": 2, "sync_every": 2}, "needs steps_per_execution=1"),
    "others' updates": ({"optimizer": Leaves, "rate_scaling": "none", "sync_every": 2}, "Received: Leaves"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_meet_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_epochs_without_a_known_end_are_refused(batches):
    local = initialized(batches, strategy="one_device", sync_every=2)
    with pytest.raises(ConfigError, match=r"needs steps_per_epoch.*Received: steps_per_epoch=None, no init"):
        local.fit(tf.data.Dataset.from_tensors(tuple(m[0] for m in batches)).filter(lambda *_: True))
    with pytest.raises(ConfigError, match=r"Received: steps_per_epoch=3, an initial_step"):
        fit(local, batches, initial_step=1)


WRONG = {
    "no steps": ({"sync_every": 0, "strategy": "multi_worker"}, "sync_every must be an integer from 1 to"),
    "parts": ({"sync_every": 2, "strategy": "part_parallel"}, "sync_every needs strategy=multi_worker"),
    "one process": ({"sync_every": 2}, "Received: sync_every=2, strategy='one_device'"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_settings_under_which_no_workers_meet_are_refused(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **changes)


def test_other_meetings_of_earlier_releases_are_refused():
    step = glow_tf.TrainConfig(outer_step=(0.7, 0.9))
    with pytest.raises(ConfigError, match=r"averages their weights.*Received: outer_step='0.7,0.9'"):
        make().compile(step)
    for same in ((1, 0), "1.0,0.0"):
        make().compile(glow_tf.TrainConfig(outer_step=same))


def test_other_meetings_are_refused_before_images_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lifecycle, "prepare", lambda *_: pytest.fail("the run was prepared"))
    with pytest.raises(ConfigError, match=r"averages their weights.*Received: outer_step='0.7,0.9'"):
        lifecycle.train(config(tmp_path, outer_step="0.7,0.9"), export=pytest.fail)


# Runs

RUN = {
    "schedule": "alternating",
    "part_epochs": 3,
    "finetune_epochs": 2,
    "ema": 0.9,
    "sync_every": 4,  # of 10 steps
    "export": False,
    "tensorboard": False,
    "sample_every": 0,
}


def finished(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_digit(tmp_path):
    finished(launch("worker", *flags(tmp_path / "whole", **RUN)))
    process = launch("worker", *flags(tmp_path / "cut", **RUN))
    deadline = time.monotonic() + 120
    while len(workdir_rows(tmp_path / "cut")) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()  # and with it its children
    process.communicate(timeout=60)
    assert len(rows_of(tmp_path / "cut")) < 5
    assert "Resuming after epoch" in finished(launch("worker", *flags(tmp_path / "cut", **RUN)))
    whole, cut = (glow_tf.load(tmp_path / name) for name in ("whole", "cut"))
    assert_alike(whole.get_weights(), cut.get_weights(), rtol=0, atol=0)
    for a, b in zip(rows_of(tmp_path / "whole"), rows_of(tmp_path / "cut"), strict=True):
        assert history.reproducible(a) == history.reproducible(b)


@pytest.mark.slow
def test_a_run_of_one_worker_that_averages_is_that_of_no_flag_to_the_digit(tmp_path):
    for name, every in (("none", 1), ("four", 4)):
        command = [*LAUNCH, "--workers=1", "--", *flags(tmp_path / name, **RUN | {"sync_every": every})]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=200)
    none, four = (glow_tf.load(tmp_path / name) for name in ("none", "four"))
    assert_alike(none.get_weights(), four.get_weights(), rtol=0, atol=0)
