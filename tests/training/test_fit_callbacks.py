"""The callbacks that Keras ships, with a trainer of several parts and optimizers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import fit_phases, rewound, small_config, small_glow

from glow_tf import ConfigError, Flow, PartsTrainer, phases, simultaneous
from glow_tf.data.batches import untuned
from glow_tf.training import FusedAdamax

PARTS = 2

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("eager_module")]


def make_trainer(phases=()):
    flow = small_glow(perturbed=False, num_blocks=1, parts="1,1", seed=3)
    trainer = PartsTrainer(flow, seed=7)
    trainer.compile([FusedAdamax(5e-3) for _ in range(PARTS)], phases=phases)
    return trainer


usual_trainer = rewound(make_trainer)


def fit(images, *callbacks, trainer=None, **kwargs):
    trainer = trainer or usual_trainer()
    kwargs.setdefault("validation_data", images if isinstance(images, tf.data.Dataset) else images[:32])
    kwargs.setdefault(
        "batch_size", len(images) if isinstance(images, np.ndarray) else 32
    )  # one step an epoch
    trainer.fit(images, callbacks=list(callbacks), verbose=0, **kwargs)
    return trainer


def rates_of(trainer):
    return [float(optimizer.learning_rate.numpy()) for optimizer in trainer.optimizers]


# Callbacks that Keras ships, and that set rates or weights or keep them: one check each.


def check_backup_and_restore(images, folder):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    # A dataset keeps its own order; the order of an array begins anew.
    data = untuned(tf.data.Dataset.from_tensor_slices(images).batch(32))
    uninterrupted = fit(data, trainer=make_trainer([simultaneous(PARTS)] * 5))
    backup = keras.callbacks.BackupAndRestore(folder)
    with pytest.raises(KeyboardInterrupt):
        fit(data, backup, Interrupt(), trainer=make_trainer([simultaneous(PARTS)] * 5))
    resumed = fit(
        data, keras.callbacks.BackupAndRestore(folder), trainer=make_trainer([simultaneous(PARTS)] * 5)
    )
    for name, values in uninterrupted.history.history.items():
        np.testing.assert_allclose(resumed.history.history[name], values[2:], rtol=1e-6)
    steps = [[int(o.iterations) for o in t.optimizers] for t in (uninterrupted, resumed)]
    assert steps[0] == steps[1] == [10, 10]


def check_early_stopping(images, folder):
    stop = keras.callbacks.EarlyStopping(min_delta=100.0, patience=2, restore_best_weights=True)
    trainer = fit(images, stop, epochs=6)  # val_loss, by default
    assert stop.stopped_epoch == 2
    assert stop.best == trainer.history.history["val_loss"][0]
    again = trainer.evaluate(images[:32], verbose=0, batch_size=32, return_dict=True)
    assert again["bpd"] == pytest.approx(stop.best, rel=1e-6)


def check_learning_rate_scheduler(images, folder):
    trainer = usual_trainer()
    trainer.optimizers[1].learning_rate = 1e-2
    rates = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: rates.append(rates_of(trainer)))
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    fit(images, halve, record, trainer=trainer, epochs=3)
    np.testing.assert_allclose(rates, [[5e-3 / 2**k, 1e-2 / 2**k] for k in (1, 2, 3)], rtol=1e-6)


def check_model_checkpoint(images, folder):
    path = folder / "best.keras"
    trainer = fit(images, keras.callbacks.ModelCheckpoint(path, save_best_only=True), epochs=3)
    best = keras.saving.load_model(path)
    result = best.evaluate(images[:32], batch_size=32, verbose=0, return_dict=True)
    assert result["bpd"] == pytest.approx(min(trainer.history.history["val_bpd"]), rel=1e-6)
    assert [int(o.iterations) for o in best.optimizers] == [int(o.iterations) for o in trainer.optimizers]


def check_reduce_lr_on_plateau(images, folder):
    trainer = usual_trainer()
    plateau = keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=1, min_delta=100.0)
    fit(images, plateau, trainer=trainer, epochs=3)
    np.testing.assert_allclose(rates_of(trainer), [5e-5, 5e-5], rtol=1e-6)


def check_swap_ema_weights(images, folder):
    with pytest.raises(ConfigError, match="SwapEMAWeights swaps the weights of one optimizer"):
        fit(images, keras.callbacks.SwapEMAWeights())


CHECKS = {
    keras.callbacks.BackupAndRestore: check_backup_and_restore,
    keras.callbacks.EarlyStopping: check_early_stopping,
    keras.callbacks.LearningRateScheduler: check_learning_rate_scheduler,
    keras.callbacks.ModelCheckpoint: check_model_checkpoint,
    keras.callbacks.ReduceLROnPlateau: check_reduce_lr_on_plateau,
    keras.callbacks.SwapEMAWeights: check_swap_ema_weights,
}


SET_RATES_OR_WEIGHTS = (  # the others are slow tests; test_trainer.py has some of them at work
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
)


@pytest.mark.parametrize(
    "callback",
    [
        pytest.param(c, id=c.__name__, marks=() if c in SET_RATES_OR_WEIGHTS else pytest.mark.slow)
        for c in CHECKS
    ],
)
def test_callbacks_that_keras_ships(callback, small_images, tmp_path):
    CHECKS[callback](small_images, tmp_path)


# Epochs


def test_epochs_of_the_users_own_length_go_on_where_the_last_one_ended(small_images):
    """Two steps of 32 images are an epoch; the user says three."""
    own = {"batch_size": 32, "steps_per_epoch": 3, "validation_data": None}
    whole = fit(small_images, epochs=2, **own).flow.get_weights()
    trainer = fit(small_images, epochs=1, **own)
    fit(small_images, trainer=trainer, initial_epoch=1, epochs=2, **own)
    for a, b in zip(whole, trainer.flow.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epoch_is_not_cut_by_steps_that_are_made_together(small_images):
    trainer = make_trainer()
    trainer.compile([FusedAdamax(5e-3) for _ in range(PARTS)], steps_per_execution=2)
    with pytest.raises(
        ConfigError, match=r"a multiple of steps_per_execution.* Received: .*=2, steps_per_epoch=3"
    ):
        fit(small_images[:40], trainer=trainer, epochs=1, steps_per_epoch=3, batch_size=32)


# Layers that are not trained


def frozen_trainer():
    flow = small_glow(perturbed=False, num_blocks=1, parts="1,1", seed=3)
    flow.parts[0].trainable = False
    trainer = PartsTrainer(flow, seed=7)
    trainer.compile([FusedAdamax(1e-9) for _ in range(PARTS)], run_eagerly=True)
    return trainer


def test_every_step_draws_other_noise_if_the_first_part_is_not_trained(small_images):
    batches = untuned(tf.data.Dataset.from_tensor_slices(small_images[:32]).batch(32))
    found = frozen_trainer().fit(batches, epochs=2, verbose=0).history["bpd"]
    assert abs(found[0] - found[1]) > 1e-4  # the weights hardly change


def test_optimizers_with_the_state_of_other_weights_are_refused():
    trainer = make_trainer()
    trainer.flow.parts[0].bijectors[1].trainable = False
    with pytest.raises(ConfigError, match=r"new optimizers.* Received: an optimizer for part 1"):
        trainer.compile(trainer.optimizers)
    trainer.compile("adamax")


# Rates


def test_a_rate_set_by_a_callback_of_the_user_reaches_all_parts_before_the_next_step(small_images):
    class SetRate(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.optimizer.learning_rate = 1e-4

    trainer = fit(small_images, SetRate(), epochs=1)
    np.testing.assert_allclose(rates_of(trainer), [1e-4, 1e-4], rtol=1e-6)


def test_a_warm_up_from_zero_keeps_the_ratio_of_the_rates(small_images):
    trainer = usual_trainer()
    trainer.optimizers[1].learning_rate = 1e-2
    warm_up = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 5e-3 * epoch / 2)
    fit(small_images, warm_up, trainer=trainer, epochs=3)
    np.testing.assert_allclose(rates_of(trainer), [5e-3, 1e-2], rtol=1e-6)


def test_a_rate_that_cannot_follow_is_refused(small_images):
    trainer = make_trainer()
    decay = keras.optimizers.schedules.CosineDecay(1e-3, 100)
    trainer.compile([FusedAdamax(1e-3), FusedAdamax(decay)])
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    with pytest.raises(ConfigError, match=r"a number as rate.*a schedule for part 2"):
        fit(small_images, halve, trainer=trainer)


# Compiling, saving, summaries


@pytest.mark.parametrize(
    "given",
    ["nadam", {"class_name": "Nadam", "config": {"learning_rate": 1e-3}}, keras.optimizers.Nadam(1e-3)],
)
def test_one_optimizer_or_its_name_makes_one_per_part(given, small_images):
    trainer = make_trainer()
    trainer.compile(given, run_eagerly=True, rate_scaling="none")
    assert [type(o) for o in trainer.optimizers] == [keras.optimizers.Nadam] * PARTS
    assert len({id(o) for o in trainer.optimizers}) == PARTS
    if given == "nadam":
        fit(small_images, trainer=trainer, epochs=1)
    trainer.compile(optimizer="adamax")
    assert [type(o) for o in trainer.optimizers] == [FusedAdamax] * PARTS
    used = trainer.optimizers[0]
    used.iterations.assign(3)
    trainer.compile(used)  # of all parts alike, a new one
    assert [int(o.iterations) for o in trainer.optimizers] == [0] * PARTS


def test_an_optimizer_of_another_keras_is_refused():
    class Adam:
        """As that of tf_keras: no optimizer of Keras 3."""

        __module__ = "tf_keras.optimizers"

    for given in ([Adam(), Adam()], Adam(), [None, None]):
        with pytest.raises(ConfigError, match="compile needs optimizers of Keras 3"):
            make_trainer().compile(given)


def test_fit_and_evaluate_before_compile_say_what_to_do(small_images):
    flow = small_glow(perturbed=False)
    trainer = PartsTrainer(flow)
    with pytest.raises(ConfigError, match=r"compile the trainer before fit, .*compile\(\)"):
        trainer.fit(small_images)
    with pytest.raises(ConfigError, match="compile the trainer before evaluate"):
        trainer.evaluate(small_images)


@pytest.mark.parametrize("name", ["model.h5", "model", "model.weights.h5"])
def test_a_model_is_saved_only_as_a_keras_file(name, tmp_path):
    for model in (small_glow(), make_trainer()):
        with pytest.raises(ConfigError, match=r"saved as \.keras files"):
            model.save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_mixed_policy_of_all_layers_is_refused_and_named():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        with pytest.raises(ConfigError, match=r"mixed_bfloat16.*Received: dtype policy 'mixed_float16'"):
            Flow(small_config())
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ConfigError, match=r"float32 or float64; .*Received: dtype policy 'bfloat16'"):
        Flow(small_config(), dtype="bfloat16")


# One word for better


@pytest.mark.parametrize("kind", ["wrapped", "factor"])
def test_optimizers_that_scale_the_loss_are_refused(kind):
    scaling = {
        "wrapped": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-2)),
        "factor": lambda: keras.optimizers.SGD(1e-2, loss_scale_factor=1024.0),
    }[kind]
    trainer = usual_trainer()
    with pytest.raises(ConfigError, match=r"do not scale the loss.*Received: "):
        trainer.compile([scaling() for _ in trainer.flow.parts], rate_scaling="none")


def test_a_loss_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match=r"no loss and no metrics.*Received: loss, metrics"):
        usual_trainer().compile("adamax", loss="mse", metrics=["mae"])


def test_an_optimizer_of_an_unregistered_class_is_trained_with_and_its_file_warned_of(tmp_path):
    class Mine(keras.optimizers.SGD):
        pass

    trainer = PartsTrainer(small_glow())
    trainer.compile(Mine(0.5), rate_scaling="none")
    assert [type(optimizer) for optimizer in trainer.optimizers] == [Mine, Mine]
    assert float(trainer.optimizers[1].learning_rate) == 0.5
    with pytest.warns(UserWarning, match=r"registered with Keras, .*custom_objects.*Received: .* class Mine"):
        trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras", custom_objects={"Mine": Mine})
    assert isinstance(again.optimizers[1], Mine)


def test_a_monitor_of_what_an_epoch_does_not_compute_waits(small_images):
    trainer = make_trainer(phases("alternating", PARTS, 4))
    stop = keras.callbacks.EarlyStopping("gradient_norm_1", mode="max", patience=0, start_from_epoch=1)
    with pytest.warns(UserWarning, match="conditioned on metric `gradient_norm_1` which is not available"):
        history = fit_phases(trainer, small_images, batch_size=32, callbacks=[stop])
    assert np.isfinite(history["gradient_norm_1"]).tolist() == [True, False, True, False]


class Heard(keras.callbacks.Callback):
    """What a callback of a user is told of a training."""

    def __init__(self):
        super().__init__()
        self.heard = []

    def on_train_begin(self, logs=None):
        self.heard.append(("begin", self.params["epochs"]))

    def on_epoch_begin(self, epoch, logs=None):
        self.heard.append((epoch, str(self.model.phase)))

    def on_train_end(self, logs=None):
        self.heard.append("end")


def test_a_loop_over_phases_is_one_training_to_callbacks(small_images):
    trainer, heard = make_trainer(phases("alternating", PARTS, 2, 1)), Heard()
    fit_phases(trainer, small_images, batch_size=32, callbacks=[heard])
    turns = [(0, "part 1"), (1, "part 2"), (2, "end to end")]
    assert heard.heard == [("begin", 3), *turns, "end"]
    stop = keras.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    given = {"batch_size": 32, "validation_data": small_images[:32], "callbacks": [stop]}
    assert len(fit_phases(trainer, small_images, **given)["val_loss"]) == 2


def test_monitors_know_that_fewer_bits_are_better(small_images, tmp_path):
    trainer = make_trainer([simultaneous(PARTS)] * 2)
    trainer.compile("adamax", run_eagerly=True)
    names = ("val_bpd", "bpd", "local_bpd_1", "val_loss", "loss")
    stops = [keras.callbacks.EarlyStopping(monitor=name, patience=50, mode="auto") for name in names]
    fit(small_images, *stops, trainer=trainer, epochs=2)
    assert all(stop.monitor_op(1.0, 2.0) for stop in stops)
