import functools
import math
import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import fit_phases, make_small_images, perturb, small_config, small_glow, weight_of

from glow_tf import ConfigError, DivergedError, Flow, PartsTrainer, TrainConfig, data, phases
from glow_tf.architectures.schedule import end_to_end, one_part
from glow_tf.training import FusedAdam, FusedAdamax, make_optimizers


def make_trainer(
    schedule="alternating",
    part_epochs=4,
    finetune=2,
    optimizer=None,
    clip_norm=0.0,
    rate_scaling="size",
    run_eagerly=False,
    **changes,
):
    """One flow step a part, unless told otherwise: tracing is what these tests spend their time on."""
    flow = small_glow(perturbed=False, **{"flow_steps": 1, "parts": "by_block:2", **changes})
    n = len(flow.parts)
    trainer = PartsTrainer(flow, seed=7)
    make = optimizer or (lambda: FusedAdamax(5e-3))
    options = {"clip_norm": clip_norm, "rate_scaling": rate_scaling, "run_eagerly": run_eagerly}
    options["phases"] = phases(schedule, n, part_epochs, finetune)
    trainer.compile([make() for _ in range(n)], **options)
    return trainer


@functools.cache
def trained(schedule):
    """What comes of six epochs: several tests look at it."""
    images = make_small_images(np.random.default_rng(0))
    alone = schedule == "simultaneous"  # the others end with end-to-end epochs
    epochs = (6, 0) if alone else (4, 2)
    trainer = make_trainer(schedule, *epochs, num_blocks=1, flow_steps=2, parts="1,1")
    traced, logs = [], []
    trainer.initialize(images)
    before = trainer.evaluate(images, verbose=0, return_dict=True)["bpd"]
    step = trainer.train_step
    trainer.train_step = lambda batch: traced.append(str(trainer.phase)) or step(batch)
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, log: logs.append(dict(log)))
    given = {"validation_data": images, "callbacks": [record]}
    history = fit_phases(trainer, images, batch_size=16, **given)
    return types.SimpleNamespace(before=before, traced=traced, logs=logs, history=history)


@pytest.mark.long
@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param("end_to_end", marks=pytest.mark.slow),
        pytest.param("sequential", marks=pytest.mark.slow),
        "alternating",
        pytest.param("simultaneous", marks=pytest.mark.slow),  # as far as it goes, test_band.py has it
    ],
)
def test_every_schedule_lowers_the_test_bpd(schedule):
    found = trained(schedule)
    assert len(found.history["val_bpd"]) == 6
    assert found.history["val_bpd"][-1] < found.before - 0.1


def test_each_phase_is_traced_once():
    traced = trained("alternating").traced
    # Keras traces a new function twice: once to find the structure of its outputs.
    assert set(traced) == {"part 1", "part 2", "end to end"}
    assert len(traced) <= 2 * 3


def test_a_part_that_was_frozen_first_trains_in_a_later_phase(small_images):
    """As where a run goes on after part 1: its functions are traced before gradients of them are needed."""
    trainer = PartsTrainer(Flow(small_config(num_blocks=1, flow_steps=2, parts="1,1")))
    trainer.compile([FusedAdamax(5e-3) for _ in range(2)])
    trainer.set_phase(one_part(1))
    trainer.fit(small_images[:16], batch_size=16, verbose=0)
    trainer.set_phase(end_to_end(2))
    history = trainer.fit(small_images[:16], batch_size=16, initial_epoch=1, epochs=2, verbose=0).history
    assert history["gradient_norm_1"][0] > 0


def test_an_epoch_logs_what_its_phase_computes():
    logs = [
        {name: value for name, value in log.items() if not name.startswith("val_")}
        for log in trained("alternating").logs
    ]
    every = {
        "local_bpd_1",
        "local_bpd_2",
        "gradient_norm_1",
        "gradient_norm_2",
        "bpd",
        "loss",
        "skipped_steps",
    }
    first = {"local_bpd_1", "gradient_norm_1", "skipped_steps"}
    assert [set(log) for log in logs] == [*[first, every - {"gradient_norm_1"}] * 2, every, every]
    assert logs[-1]["loss"] == logs[-1]["bpd"]


def test_fit_says_how_to_train_in_several_phases(small_images):
    trainer = make_trainer("alternating", 2, 1)
    said = r"fit trains in one phase. Write a loop: .*Received: phase 'part 1', and .* in phase 'part 2'"
    with pytest.raises(ConfigError, match=said):
        trainer.fit(small_images)
    assert not trainer.initialized


def test_parts_under_end_to_end_equal_one_part_step_for_step(small_images, eager):
    weights = []
    for parts in ("1", "across_block:3"):
        trainer = make_trainer("end_to_end", 1, 0, parts=parts, flow_steps=2, clip_norm=0.5, run_eagerly=True)
        trainer.fit(small_images, batch_size=32, verbose=0)
        weights.append(trainer.flow.get_flow_weights())
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_evaluation_is_the_mean_over_uneven_batches_and_its_error(small_images, eager):
    trainer = make_trainer()
    perturb(trainer.flow)
    result = trainer.evaluate(small_images[:50], batch_size=16, verbose=0, return_dict=True)
    (batch,) = data.evaluation_batches(small_images[:50], 50, seed=7)
    v = trainer.flow.dequantized(batch["images"], batch["noise"])
    nll = -trainer.flow.dequantized_log_prob(v).numpy()
    bpd = nll / (64 * np.log(2))
    assert result["bpd"] == pytest.approx(bpd.mean(), rel=1e-5)
    assert result["bpd_se"] == pytest.approx(bpd.std(ddof=1) / np.sqrt(50), rel=1e-3)


@pytest.mark.slow
def test_training_twice_gives_the_same_bits(small_images):
    runs = []
    for _ in range(2):
        trainer = make_trainer("alternating", 2, 1)
        fit_phases(trainer, small_images, batch_size=16)
        runs.append(trainer.flow.get_weights())
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ordinary_callbacks_work(small_images, tmp_path, eager):
    trainer = make_trainer("end_to_end", 1, 1, num_blocks=1, parts="1", run_eagerly=True)
    trainer.fit(
        small_images,
        batch_size=32,
        validation_data=small_images[:32],
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.keras", monitor="val_bpd", mode="min", save_best_only=True
            ),
            keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.weights.h5", save_weights_only=True),
            keras.callbacks.EarlyStopping("val_bpd", mode="min", patience=20),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.TensorBoard(tmp_path / "logs"),
            keras.callbacks.TerminateOnNaN(),
        ],
    )
    loaded = keras.saving.load_model(tmp_path / "best.keras")
    expected = trainer.evaluate(small_images, verbose=0, return_dict=True)["bpd"]
    assert loaded.evaluate(small_images, verbose=0, return_dict=True)["bpd"] == pytest.approx(expected)
    assert [int(o.iterations.value) for o in loaded.optimizers] == [4]
    assert (tmp_path / "2.weights.h5").exists()


def test_clipping_scales_the_gradients_of_one_step(small_images, eager):
    """With SGD at rate 1 the change of the weights is the clipped gradient."""
    batch = (tf.constant(small_images), tf.fill(small_images.shape, 0.5))
    for schedule in ("end_to_end", "simultaneous", "alternating"):
        trainer = make_trainer(
            schedule, 1, 0, lambda: keras.optimizers.SGD(1.0), clip_norm=0.1, rate_scaling="none"
        )
        trainer.initialize(small_images)
        before = [[v.numpy() for v in part.trainable_variables] for part in trainer.flow.parts]
        trainer.train_step(batch)
        norms = [
            np.sqrt(
                sum(np.sum((v.numpy() - b) ** 2) for v, b in zip(part.trainable_variables, old, strict=True))
            )
            for part, old in zip(trainer.flow.parts, before, strict=True)
        ]
        if schedule == "end_to_end":
            assert np.hypot(*norms) == pytest.approx(0.1, rel=1e-3)
        elif schedule == "simultaneous":
            assert norms == pytest.approx([0.1, 0.1], rel=1e-3)
        else:
            assert norms == pytest.approx([0.1, 0.0], rel=1e-3)


def test_a_non_finite_step_names_part_step_and_rate_and_changes_nothing(small_images, eager):
    small = {"parts": "1,1", "flow_steps": 2, "num_blocks": 1, "run_eagerly": True}
    trainer = make_trainer("end_to_end", 1, 0, **small)
    trainer.initialize(small_images)
    log_scale = weight_of(trainer.flow.parts[1], "block_1_flow_steps/actnorm_log_scale")
    log_scale.assign(np.full(log_scale.shape, 200.0))
    before = trainer.flow.get_weights()
    report = r"not finite in phase 'end to end', step 3 of part 2, at a learning rate of [\d.e-]+ \(loss nan "
    with pytest.raises(DivergedError, match=report):
        trainer.fit(small_images, batch_size=16, verbose=0)
    for a, b in zip(before, trainer.flow.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_compile_needs_one_optimizer_per_part():
    trainer = make_trainer()
    with pytest.raises(ValueError, match=r"one optimizer for each of the 2 parts.*Received: 1"):
        trainer.compile([FusedAdam()])
    with pytest.raises(ValueError, match="separate optimizer"):
        trainer.compile([FusedAdam()] * 2)
    with pytest.raises(ValueError, match=r"must name 2 devices, one per part.*Received: \('CPU:0',\)"):
        Flow(trainer.flow.config, ["CPU:0"])


@pytest.mark.parametrize(
    "option",
    [
        {"clip_norm": -1},
        {"clip_norm": math.inf},
        {"max_skipped_steps": 1.5},
    ],
    ids=str,
)
def test_compile_refuses_options_that_no_step_could_have(option):
    flow = small_glow(perturbed=False, flow_steps=1, num_blocks=1, parts="1")
    (name,) = option
    with pytest.raises(ConfigError, match=f"must not be negative. Received: .*{name}="):
        PartsTrainer(flow).compile("adam", **option)


def test_fit_takes_tensors_and_keras_arguments(small_images, eager):
    trainer = make_trainer("end_to_end", 1, 0, run_eagerly=True)
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    trainer.fit(tf.constant(small_images), batch_size=32, shuffle=True, callbacks=callback, verbose=0)
    assert seen == [0]


# Rates


def rates(config, schedule_phases, num_parts, steps_per_epoch=10):
    optimizers = make_optimizers(config, schedule_phases, num_parts, steps_per_epoch)
    return [optimizer._learning_rate for optimizer in optimizers]


def test_constant_rates_with_warmup_per_part():
    config = TrainConfig(learning_rate="1e-2,1e-3", rate_schedule="constant", warmup_steps=4)
    first, second = rates(config, phases("alternating", 2, 4, 2), 2)
    assert [float(first(s)) for s in (0, 1, 3, 39)] == pytest.approx([2.5e-3, 5e-3, 1e-2, 1e-2])
    assert float(second(39)) == pytest.approx(1e-3)


def test_cosine_runs_over_all_the_steps_that_train_the_part():
    config = TrainConfig(learning_rate="1e-2", warmup_steps=0, part_epochs=5, finetune_epochs=2)
    first, second = rates(config, phases("alternating", 2, 5, 2), 2)
    assert (first.steps, second.steps) == (50, 40)
    assert [float(first(s)) for s in (0, 25, 50)] == pytest.approx([1e-2, 5e-3, 0.0], abs=1e-8)


def test_a_finetune_rate_starts_its_own_cosine_without_warmup():
    config = TrainConfig(
        learning_rate="1e-2",
        rate_schedule="cosine",
        warmup_steps=5,
        finetune_learning_rate="4e-3",
        part_epochs=4,
        finetune_epochs=2,
    )
    rate = rates(config, phases("alternating", 2, 4, 2), 2)[0]
    assert [float(rate(s)) for s in (10, 20, 30, 40)] == pytest.approx([5e-3, 4e-3, 2e-3, 0.0], abs=1e-7)


def test_a_trainer_whose_cosine_is_over_says_so_before_a_step(small_images):
    flow = small_glow(perturbed=False, flow_steps=1, num_blocks=1, parts="1")
    trainer, planned = PartsTrainer(flow), phases("end_to_end", 1, 2)
    trainer.compile(make_optimizers(TrainConfig(), planned, 1, steps_per_epoch=4), phases=planned)
    batches = tf.data.Dataset.from_tensor_slices(small_images).batch(16)
    for given in ({"x": small_images, "batch_size": 16}, {"x": batches}):
        with pytest.raises(ConfigError, match="ends with its step 8, and later epochs would change nothing"):
            trainer.fit(**given, epochs=3, verbose=0)
    assert not flow.initialized


@pytest.mark.parametrize(("beta_2", "expected"), [("0.99", 0.99), ("oai", 0.9)])
def test_beta_2_of_adamax(beta_2, expected):
    config = TrainConfig(beta_2=beta_2)
    (optimizer,) = make_optimizers(config, phases("end_to_end", 1, 1), 1, steps_per_epoch=10)
    assert isinstance(optimizer, keras.optimizers.Adamax)
    assert optimizer.beta_2 == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_execution": 0}, "steps_per_execution must be 1 or more, an integer. Received: .*=0"),
    ],
)
def test_options_that_are_no_counts_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PartsTrainer(small_glow()).compile("adam", rate_scaling="none", **options)


def test_optimizers_by_name_are_made_for_the_trainers_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        trainer = PartsTrainer(small_glow())
    trainer.compile("adamax")
    assert trainer.optimizers[0].iterations.value.distribute_strategy is strategy


def test_a_save_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    flow, path = small_glow(flow_steps=1, parts="1"), tmp_path / "model.keras"
    flow.save(path)
    before = path.read_bytes()

    def half(self, filepath, **kwargs):
        pathlib.Path(filepath).write_bytes(before[:1000])
        raise OSError(27, "File too large")

    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "save", half)
        with pytest.raises(OSError, match=r"model\.keras could not be written: File too large"):
            flow.save(path)
    assert [own.name for own in tmp_path.iterdir()] == ["model.keras"]
    assert path.read_bytes() == before
