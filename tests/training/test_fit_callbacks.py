"""The callbacks that Keras ships, with a trainer of several parts and optimizers."""

import contextlib
import csv
import functools
import http.server
import inspect
import io
import json
import threading
import urllib.parse

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import rewound, small_config, small_glow

from glow_tf import ConfigError, Glow, PartsTrainer, phases
from glow_tf.data.batches import untuned

PARTS = 2

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("eager_module")]


def make_trainer(make=None, schedule="alternating", part_epochs=4, finetune=2):
    glow = small_glow(perturbed=False, num_blocks=1, parts="1,1", seed=3)
    trainer = PartsTrainer(glow, phases(schedule, PARTS, part_epochs, finetune), seed=7)
    trainer.compile([(make or (lambda: keras.optimizers.Adamax(5e-3)))() for _ in range(PARTS)])
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


# Every callback that Keras ships: one check each.


def check_backup_and_restore(images, folder):
    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    # A dataset keeps its own order; the order of an array begins anew.
    data = untuned(tf.data.Dataset.from_tensor_slices(images).batch(32))
    make = functools.partial(make_trainer, schedule="simultaneous", part_epochs=4, finetune=1)
    uninterrupted = fit(data, trainer=make(), epochs=5)
    backup = keras.callbacks.BackupAndRestore(folder)
    with pytest.raises(KeyboardInterrupt):
        fit(data, backup, Interrupt(), trainer=make(), epochs=5)
    resumed = fit(data, keras.callbacks.BackupAndRestore(folder), trainer=make(), epochs=5)
    for name, values in uninterrupted.history.history.items():
        np.testing.assert_allclose(resumed.history.history[name], values[2:], rtol=1e-6)
    steps = [[int(o.iterations) for o in t.optimizers] for t in (uninterrupted, resumed)]
    assert steps[0] == steps[1] == [10, 10]


def check_csv_logger(images, folder):
    fit(images, keras.callbacks.CSVLogger(folder / "log.csv"))
    rows = list(csv.DictReader((folder / "log.csv").open()))
    assert len(rows) == 6
    assert all(None not in row and None not in row.values() for row in rows)
    assert np.isnan(float(rows[0]["loss"]))
    assert float(rows[1]["loss"]) == float(rows[1]["bpd"])


def check_early_stopping(images, folder):
    stop = keras.callbacks.EarlyStopping(min_delta=100.0, patience=2, restore_best_weights=True)
    trainer = fit(images, stop)  # val_loss, by default
    assert stop.stopped_epoch == 2
    assert stop.best == trainer.history.history["val_loss"][0]
    again = trainer.evaluate(images[:32], verbose=0, batch_size=32, return_dict=True)
    assert again["bpd"] == pytest.approx(stop.best, rel=1e-6)


def check_history(images, folder):
    history = fit(images).history.history
    assert {len(values) for values in history.values()} == {6}
    assert {"loss", "val_loss", "bpd", "val_bpd"} <= set(history)


def check_lambda_callback(images, folder):
    seen = []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    fit(images, note, batch_size=32)
    assert seen == [0, 1] * 6


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
    trainer = fit(images, keras.callbacks.ModelCheckpoint(path, save_best_only=True))
    best = keras.saving.load_model(path)
    result = best.evaluate(images[:32], batch_size=32, verbose=0, return_dict=True)
    assert result["bpd"] == pytest.approx(min(trainer.history.history["val_bpd"]), rel=1e-6)
    assert [int(o.iterations) for o in best.optimizers] == [int(o.iterations) for o in trainer.optimizers]


def check_progbar_logger(images, folder):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        make_trainer().fit(images, callbacks=[keras.callbacks.ProgbarLogger()], verbose=2, epochs=2)
    assert "bpd:" in printed.getvalue()


def check_reduce_lr_on_plateau(images, folder):
    trainer = usual_trainer()
    plateau = keras.callbacks.ReduceLROnPlateau(factor=0.1, patience=1, min_delta=100.0)
    fit(images, plateau, trainer=trainer, epochs=3)
    np.testing.assert_allclose(rates_of(trainer), [5e-5, 5e-5], rtol=1e-6)


def check_remote_monitor(images, folder):
    pytest.importorskip("requests")
    received = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            received.append(json.loads(form["data"][0]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        root = f"http://127.0.0.1:{server.server_address[1]}"
        fit(images, keras.callbacks.RemoteMonitor(root), epochs=2)
        server.shutdown()
    assert [set(message) >= {"epoch", "loss", "val_bpd"} for message in received] == [True, True]


def check_swap_ema_weights(images, folder):
    with pytest.raises(ConfigError, match="SwapEMAWeights swaps the weights of one optimizer"):
        fit(images, keras.callbacks.SwapEMAWeights())
    glow = small_glow(perturbed=False, flow_steps=1, parts="1")
    trainer = PartsTrainer(glow, phases("end_to_end", 1, 2, 0), seed=7)
    trainer.compile([keras.optimizers.Adamax(5e-3, use_ema=True)], run_eagerly=True)
    fit(images, keras.callbacks.SwapEMAWeights(swap_on_epoch=True), trainer=trainer)
    assert np.isfinite(trainer.history.history["val_loss"]).all()


def check_tensorboard(images, folder):
    fit(images, keras.callbacks.TensorBoard(folder, histogram_freq=1), epochs=2)
    (file,) = folder.glob("validation/events*")
    events = tf.compat.v1.train.summary_iterator(str(file))
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"epoch_loss", "epoch_bpd"} <= tags


def check_terminate_on_nan(images, folder):
    trainer = fit(images, keras.callbacks.TerminateOnNaN())
    assert len(trainer.history.history["bpd"]) == 6  # NaN for want of a value does not end training


CHECKS = {
    keras.callbacks.BackupAndRestore: check_backup_and_restore,
    keras.callbacks.CSVLogger: check_csv_logger,
    keras.callbacks.EarlyStopping: check_early_stopping,
    keras.callbacks.History: check_history,
    keras.callbacks.LambdaCallback: check_lambda_callback,
    keras.callbacks.LearningRateScheduler: check_learning_rate_scheduler,
    keras.callbacks.ModelCheckpoint: check_model_checkpoint,
    keras.callbacks.ProgbarLogger: check_progbar_logger,
    keras.callbacks.ReduceLROnPlateau: check_reduce_lr_on_plateau,
    keras.callbacks.RemoteMonitor: check_remote_monitor,
    keras.callbacks.SwapEMAWeights: check_swap_ema_weights,
    keras.callbacks.TensorBoard: check_tensorboard,
    keras.callbacks.TerminateOnNaN: check_terminate_on_nan,
}

# Base classes; and callbacks for JAX or for packages that are not among the requirements.
NOT_FOR_US = {"Callback", "CallbackList", "MonitorCallback", "OrbaxCheckpoint"}


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
def test_every_callback_that_keras_ships(callback, small_images, tmp_path):
    CHECKS[callback](small_images, tmp_path)


def test_no_callback_that_keras_ships_is_forgotten():
    shipped = {name for name, value in vars(keras.callbacks).items() if inspect.isclass(value)}
    assert shipped - NOT_FOR_US <= {callback.__name__ for callback in CHECKS}


# Epochs


def test_epochs_of_the_users_own_length_go_on_where_the_last_one_ended(small_images):
    """Two steps of 32 images are an epoch; the user says three."""
    own = {"batch_size": 32, "steps_per_epoch": 3, "validation_data": None}
    whole = fit(small_images, epochs=2, **own).glow.get_weights()
    trainer = fit(small_images, epochs=1, **own)
    fit(small_images, trainer=trainer, initial_epoch=1, epochs=2, **own)
    for a, b in zip(whole, trainer.glow.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_epoch_has_a_step(small_images):
    with pytest.raises(ConfigError, match=r"steps_per_epoch must be 1 or more. Received: steps_per_epoch=0"):
        fit(small_images[:2], epochs=1, batch_size=4, steps_per_epoch=len(small_images[:2]) // 4)


def test_an_epoch_is_not_cut_by_steps_that_are_made_together(small_images):
    trainer = make_trainer()
    trainer.compile([keras.optimizers.Adamax(5e-3) for _ in range(PARTS)], steps_per_execution=2)
    with pytest.raises(
        ConfigError, match=r"a multiple of steps_per_execution.* Received: .*=2, steps_per_epoch=3"
    ):
        fit(small_images[:40], trainer=trainer, epochs=1, steps_per_epoch=3, batch_size=32)


# Layers that are not trained


def frozen_trainer():
    glow = small_glow(perturbed=False, num_blocks=1, parts="1,1", seed=3)
    glow.parts[0].trainable = False
    trainer = PartsTrainer(glow, seed=7)
    trainer.compile([keras.optimizers.Adamax(1e-9) for _ in range(PARTS)], run_eagerly=True)
    return trainer


def test_every_step_draws_other_noise_if_the_first_part_is_not_trained(small_images):
    batches = untuned(tf.data.Dataset.from_tensor_slices(small_images[:32]).batch(32))
    found = frozen_trainer().fit(batches, epochs=2, verbose=0).history["bpd"]
    assert abs(found[0] - found[1]) > 1e-4  # the weights hardly change


def test_a_frozen_model_is_refused_also_without_phases(small_images):
    trainer = frozen_trainer()
    trainer.glow.trainable = False
    for train in (trainer.fit, trainer.train_on_batch):
        with pytest.raises(ConfigError, match="'end to end', whose parts have trainable=False"):
            train(small_images)


def test_what_is_not_trained_stays_so_in_a_file(small_images, tmp_path):
    trainer = frozen_trainer()
    trainer.fit(small_images, verbose=0)
    trainer.save(tmp_path / "trainer.keras")
    loaded = keras.saving.load_model(tmp_path / "trainer.keras")
    assert not loaded.glow.parts[0].trainable_variables
    assert len(loaded.glow.parts[1].trainable_variables) == len(trainer.glow.parts[1].trainable_variables)
    for before, after in zip(trainer.optimizers, loaded.optimizers, strict=True):
        for a, b in zip(before.variables, after.variables, strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_optimizers_with_the_state_of_other_weights_are_refused():
    trainer = make_trainer()
    trainer.glow.parts[0].bijectors[1].trainable = False
    with pytest.raises(ConfigError, match=r"new optimizers.* Received: an optimizer for part 1"):
        trainer.compile(trainer.optimizers)
    trainer.compile("adamax")


# Rates


def test_rates_that_a_callback_sets_for_every_part_stay(small_images):
    class SetRates(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for optimizer in self.model.optimizers:
                optimizer.learning_rate = 1e-3

    np.testing.assert_allclose(rates_of(fit(small_images, SetRates(), epochs=1)), [1e-3, 1e-3], rtol=1e-6)


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


def test_a_rate_set_as_training_begins_reaches_all_parts(small_images):
    class SetRate(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.learning_rate = 1e-3

    trainer = usual_trainer()
    trainer.optimizers[1].learning_rate = 1e-2  # twice that of part 1
    np.testing.assert_allclose(
        rates_of(fit(small_images, SetRate(), trainer=trainer, epochs=1)), [1e-3, 2e-3]
    )


def test_a_rate_set_for_each_part_by_the_user_is_kept(small_images):
    trainer = usual_trainer()
    trainer.optimizers[1].learning_rate = 7e-3
    fit(small_images, trainer=trainer, epochs=1)
    np.testing.assert_allclose(rates_of(trainer), [5e-3, 7e-3], rtol=1e-6)


def test_a_rate_that_cannot_follow_is_refused(small_images):
    trainer = make_trainer()
    decay = keras.optimizers.schedules.CosineDecay(1e-3, 100)
    trainer.compile([keras.optimizers.Adamax(1e-3), keras.optimizers.Adamax(decay)])
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    with pytest.raises(ConfigError, match=r"give every optimizer a number.*a schedule for part 2"):
        fit(small_images, halve, trainer=trainer)


# Averages


@pytest.mark.slow
def test_averages_of_all_parts_replace_their_weights_at_the_end(small_images):
    make = lambda: keras.optimizers.Adamax(5e-3, use_ema=True, ema_momentum=0.5)  # noqa: E731
    trainer = make_trainer(make, schedule="simultaneous", part_epochs=2, finetune=0)
    fit(small_images, trainer=trainer)
    for part, optimizer in zip(trainer.glow.parts, trainer.optimizers, strict=True):
        for variable in part.trainable_variables:
            average = optimizer._model_variables_moving_average[optimizer._get_variable_index(variable)]
            np.testing.assert_array_equal(variable.numpy(), average.numpy())
    plain = fit(small_images, trainer=make_trainer(schedule="simultaneous", part_epochs=2, finetune=0))
    for part, other in zip(trainer.glow.parts, plain.glow.parts, strict=True):
        differs = [(a.numpy() != b.numpy()).any() for a, b in zip(part.weights, other.weights, strict=True)]
        assert any(differs)


# Compiling, saving, summaries


@pytest.mark.parametrize(
    "given",
    ["adam", {"class_name": "Adam", "config": {"learning_rate": 1e-3}}, keras.optimizers.Adam(1e-3)],
)
def test_one_optimizer_or_its_name_makes_one_per_part(given, small_images):
    trainer = make_trainer(schedule="end_to_end")
    trainer.compile(given, run_eagerly=True)
    assert [type(o) for o in trainer.optimizers] == [keras.optimizers.Adam] * PARTS
    assert len({id(o) for o in trainer.optimizers}) == PARTS
    if given == "adam":
        fit(small_images, trainer=trainer, epochs=1)
    trainer.compile(optimizer="adamax")
    assert [type(o) for o in trainer.optimizers] == [keras.optimizers.Adamax] * PARTS
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
    glow = small_glow(perturbed=False)
    trainer = PartsTrainer(glow)
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
            Glow(small_config())
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ConfigError, match=r"float32 or float64; .*Received: dtype policy 'bfloat16'"):
        Glow(small_config(), dtype="bfloat16")


def test_summaries_show_the_shapes_of_every_layer():
    lines = []
    make_trainer().summary(print_fn=lines.append, expand_nested=True, line_length=150)
    text = "\n".join(lines)
    assert "?" not in text
    assert "None, 4, 4" in text


# One word for better


def test_what_a_callback_restores_at_the_end_holds_for_all_parts(small_images):
    """Averages come before: the best weights are those that were evaluated."""

    class Restore(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.kept = self.model.glow.get_flow_weights()

        def on_train_end(self, logs=None):
            self.model.glow.set_flow_weights(self.kept)

    trainer, restore = make_trainer(), Restore()
    trainer.compile([keras.optimizers.Adamax(5e-3, use_ema=True) for _ in range(PARTS)], run_eagerly=True)
    fit(small_images, restore, trainer=trainer, epochs=2)
    for a, b in zip(restore.kept, trainer.glow.get_flow_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["wrapped", "factor"])
def test_optimizers_that_scale_the_loss_are_refused(kind):
    scaling = {
        "wrapped": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-2)),
        "factor": lambda: keras.optimizers.SGD(1e-2, loss_scale_factor=1024.0),
    }[kind]
    trainer = usual_trainer()
    with pytest.raises(ConfigError, match=r"do not scale the loss.*Received: "):
        trainer.compile([scaling() for _ in trainer.glow.parts], rate_scaling="none")


def test_a_loss_is_refused_with_a_sentence():
    with pytest.raises(ConfigError, match=r"no loss and no metrics.*Received: loss, metrics"):
        usual_trainer().compile("adamax", loss="mse", metrics=["mae"])


def test_an_optimizer_of_an_unregistered_class_is_trained_with_and_its_file_warned_of(tmp_path):
    class Mine(keras.optimizers.SGD):
        pass

    trainer = PartsTrainer(small_glow())
    trainer.compile(Mine(0.5))
    assert [type(optimizer) for optimizer in trainer.optimizers] == [Mine, Mine]
    assert float(trainer.optimizers[1].learning_rate) == 0.5
    with pytest.warns(UserWarning, match=r"registered with Keras, .*custom_objects.*Received: .* class Mine"):
        trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras", custom_objects={"Mine": Mine})
    assert isinstance(again.optimizers[1], Mine)


def test_a_trainer_without_optimizers_is_saved(tmp_path):
    trainer = PartsTrainer(small_glow(flow_steps=1, parts="by_block:2"), phases("end_to_end", 2, 1))
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    assert not again.compiled
    for a, b in zip(trainer.glow.get_weights(), again.glow.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_monitor_of_what_the_first_epoch_does_not_compute_is_refused(small_images):
    for name in ("loss", "local_bpd_2"):
        stop = keras.callbacks.EarlyStopping(monitor=name)
        with pytest.raises(
            ConfigError, match=rf"must watch .*EarlyStopping\(monitor='{name}'\), which epoch 1"
        ):
            fit(small_images, stop)
    fit(small_images, keras.callbacks.EarlyStopping(monitor="local_bpd_1", patience=9), epochs=1)


def test_a_monitor_of_validation_needs_validation_data(small_images):
    stop = keras.callbacks.EarlyStopping()  # it watches val_loss
    with pytest.raises(
        ConfigError, match=r"val_loss with validation_data .*monitor='val_loss'\), which epoch 1"
    ):
        usual_trainer().fit(small_images, callbacks=[stop], verbose=0)


def test_a_monitor_with_patience_needs_a_value_in_every_epoch(small_images, tmp_path):
    trainer = usual_trainer()  # alternating: epoch 2 trains part 2, which part 1's norm says nothing of
    stop = keras.callbacks.EarlyStopping(monitor="gradient_norm_1", patience=1)
    with pytest.raises(ConfigError, match=r"gradient_norm_1'\), which epoch 2 does not compute"):
        fit(small_images, stop, trainer=trainer, epochs=3)
    path = tmp_path / "best.keras"  # a later NaN is no improvement
    kept = keras.callbacks.ModelCheckpoint(path, monitor="gradient_norm_1", save_best_only=True)
    fit(small_images, kept, trainer=trainer, epochs=2)
    assert path.exists()


def test_monitors_know_that_fewer_bits_are_better(small_images, tmp_path):
    trainer = make_trainer(schedule="simultaneous")
    trainer.compile("adamax", run_eagerly=True)
    names = ("val_bpd", "bpd", "local_bpd_1", "val_loss", "loss")
    stops = [keras.callbacks.EarlyStopping(monitor=name, patience=50, mode="auto") for name in names]
    fit(small_images, *stops, trainer=trainer, epochs=2)
    assert all(stop.monitor_op(1.0, 2.0) for stop in stops)
