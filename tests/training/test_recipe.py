"""`compile()` and `compile(TrainConfig(...))`: the recipe that the command has, from Python."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import fit_phases, small_config

from glow_tf import ConfigError, Flow, PartsTrainer, TrainConfig, data, export, load, phases
from glow_tf.commands.train import config_of
from glow_tf.run import lifecycle
from glow_tf.training import FusedAdamax, make_optimizers

BATCH = 16  # of 32 small images: 2 steps per epoch

pytestmark = pytest.mark.usefixtures("eager_module")


@pytest.fixture
def small_images(small_images):
    return small_images[:32]


def make_trainer(train=None, own=(), parts="by_block:2", devices=(), num_blocks=2, **options):
    config = small_config(flow_steps=1, num_blocks=num_blocks, parts=parts)
    trainer = PartsTrainer(Flow(config, devices), seed=7)
    trainer.compile(
        train, **{"run_eagerly": True, "phases": own, **options}
    )  # sooner than to trace a few steps
    return trainer


def settings(**changes):
    return TrainConfig(**{"part_epochs": 2, "finetune_epochs": 1, "batch_size": BATCH, **changes})


def weights(trainer):
    return [weight.numpy() for weight in trainer.flow.weights]


def rates_of(trainer):
    return [optimizer._learning_rate for optimizer in trainer.optimizers]


def assert_equal(left, right):
    for a, b in zip(left, right, strict=True):
        np.testing.assert_array_equal(a, b)


def test_nothing_given_is_the_recipe_of_the_command():
    trainer, expected = make_trainer(), TrainConfig()
    options = ("clip_norm", "reversible", "max_skipped_steps", "rate_scaling", "batch_size")
    for name in options:
        assert getattr(trainer.options, name) == getattr(expected, name), name
    assert trainer.phases == phases("end_to_end", 2, expected.part_epochs, expected.finetune_epochs)
    for optimizer, rate in zip(trainer.optimizers, rates_of(trainer), strict=True):
        assert isinstance(optimizer, FusedAdamax)
        assert (rate.learning_rate, rate.warmup_steps, rate.cosine, rate.steps) == (0.1, 100, True, 90)


def test_fit_finds_the_steps_of_an_epoch(small_images):
    train = settings(schedule="alternating", beta_2="oai", ema=0.9, finetune_learning_rate="1e-2")
    steps = len(small_images) // BATCH
    batches = tf.data.Dataset.from_tensor_slices(small_images).batch(BATCH)
    sources = ({"x": small_images}, {"x": batches}, {"x": batches.repeat(), "steps_per_epoch": steps})
    for source in sources:
        trainer = make_trainer(train)
        trainer.fit(**source, epochs=0, verbose=0)
        known = make_optimizers(train, trainer.phases, 2, steps)
        for found, expected in zip(trainer.optimizers, known, strict=True):
            assert found.get_config() == {**expected.get_config(), "name": found.name}


@pytest.mark.long
def test_the_command_and_python_train_the_same(tmp_path):
    values = {"dataset": "digits", "n_bits": 5, "num_blocks": 1, "flow_steps": 2, "width": 4, "streams": 1}
    values |= {"train_examples": 64, "test_examples": 16, "parts": "across_block:2"}
    values |= {"schedule": "simultaneous", "part_epochs": 2, "finetune_epochs": 0, "batch_size": 32}
    values |= {"strategy": "one_device"}
    values |= {"tensorboard": False, "sample_every": 0, "export": False, "workdir": tmp_path}
    config = config_of([f"--{name}={value}" for name, value in values.items()])
    lifecycle.train(config, export)
    images = data.load(config.data)
    trainer = PartsTrainer(Flow(load(tmp_path).config, name="glow"), seed=config.seed)
    trainer.compile(config.train)
    trainer.fit(images.train, verbose=0)
    for path, value in {w.path: w.numpy() for w in load(tmp_path).weights}.items():
        (own,) = (w for w in trainer.flow.weights if w.path == path)
        np.testing.assert_array_equal(own.numpy(), value, err_msg=path)


@pytest.mark.long
@pytest.mark.parametrize("trained", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_saved_trainer_goes_on_with_the_recipe(trained, small_images, tmp_path):
    train = settings(schedule="alternating", beta_2="oai", finetune_learning_rate="1e-2")
    trainer, whole = make_trainer(train), make_trainer(train)
    small_images = small_images[:BATCH]
    if trained:
        trainer.fit(small_images, epochs=1, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert loaded.options.to_config() == trainer.options.to_config()
    loaded.run_eagerly = True
    fit_phases(loaded, small_images, initial_epoch=int(trained))
    fit_phases(whole, small_images)
    assert_equal(weights(loaded), weights(whole))


def test_options_win_over_the_settings():
    trainer = make_trainer(settings(clip_norm=0.5), clip_norm=2.0, reversible=True, batch_size=4)
    assert (trainer.options.clip_norm, trainer.options.reversible, trainer.options.batch_size) == (2, True, 4)
    with pytest.raises(ConfigError, match=r"compile takes .*clip_norm.* Received: steps_per_epoch"):
        trainer.compile("sgd", steps_per_epoch=4)


def test_the_phases_of_compile_win_over_the_schedule_of_the_settings():
    own = phases("sequential", 2, 4, 2)
    trainer = make_trainer(TrainConfig(finetune_learning_rate="1e-2"), own)
    assert trainer.phases == own
    assert [(rate.steps, rate.finetune_from) for rate in rates_of(trainer)] == [(4, 2), (4, 2)]
    assert make_trainer(TrainConfig(part_epochs=5), own).phases == own
    for others in (phases("end_to_end", 2, 4), phases("sequential", 2, 4)):
        with pytest.raises(ConfigError, match=r"finetune_learning_rate needs phases that end end to end"):
            make_trainer(TrainConfig(finetune_learning_rate="1e-2"), others)


@pytest.mark.parametrize("setting", [{"cache_prefix": True}, {"objective": "none:Such"}], ids=str)
def test_a_setting_of_runs_is_refused(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=rf"{name} is a setting of runs; a trainer has.*Received: {name}="):
        make_trainer(settings(schedule="sequential", **setting))


# Rates that do not suit


@pytest.fixture(scope="module")
def trainer():
    return make_trainer()


def adamax(rate):
    return lambda: [FusedAdamax(rate) for _ in range(2)]


@pytest.mark.parametrize(
    ("given", "options", "warning"),
    [
        (lambda: "adamax", {}, "0.001 is 100 times below the default, 0.1"),
        (adamax(0.1), {}, "0.1 from the first step on can make training run away.*100 steps"),
        (lambda: settings(warmup_steps=0), {}, "0.1 from the first step on can make training run away"),
        (lambda: "adamax", {"rate_scaling": "none"}, None),
        (adamax(keras.optimizers.schedules.ExponentialDecay(1e-4, 10, 0.5)), {}, None),
        (lambda: None, {}, None),
    ],
)
def test_rates_that_do_not_suit_are_warned_of(given, options, warning, trainer):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer.compile(given(), **options)
    found = [w for w in found if "learning rate" in str(w.message)]
    if warning is None:
        assert not found
    else:
        (only,) = found
        assert only.filename == __file__
        with pytest.warns(UserWarning, match=warning):
            trainer.compile(given(), **options)
