"""A local objective that the package does not know: it trains, resumes and reports the true bits/dim."""

import importlib
import itertools
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import train
from small import InfoNCE, fit_phases, small_config, small_glow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import glow_tf
from glow_tf.commands.train import config_of
from glow_tf.core.errors import ConfigError
from glow_tf.run.history import MEASURED_COLUMNS, read_rows
from glow_tf.training.batch import seed_of_objective
from glow_tf.training.objective import BaseObjective, imported_objective

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("eager_module")]

MODULE = '''
import keras
import tensorflow as tf

import glow_tf


@keras.saving.register_keras_serializable(package="own")
class Reconstruction(glow_tf.LocalObjective):
    """The part's output, without its latents, must say what its input was; weighed against its likelihood."""

    def build(self, output_shape):
        self.decoder = keras.layers.Conv2DTranspose(1, 2, strides=2)
        self.decoder.build(output_shape)

    def losses(self, view):
        if tuple(view.input.shape[1:3]) == tuple(view.output.shape[1:3]):
            return -view.log_likelihood_term + 0.5 * tf.reduce_sum(view.output**2, axis=(1, 2, 3))
        error = tf.reduce_sum((self.decoder(view.output) - view.input) ** 2, axis=(1, 2, 3))
        return error - view.log_likelihood_term + 0.5 * tf.reduce_sum(view.output**2, axis=(1, 2, 3))
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module of somebody else, as Python finds it."""
    (tmp_path / "their_objective.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("their_objective").Reconstruction
    sys.modules.pop("their_objective")


SMALL = {"parts": "by_block:2", "flow_steps": 1}


def trained(own, images, strategy=None, phases=None, epochs=3, batch_size=16):
    with (strategy or tf.distribute.get_strategy()).scope():
        flow = small_glow(**SMALL)
        trainer = glow_tf.PartsTrainer(flow, objective=own)
        phases = phases or [glow_tf.simultaneous(2)] * epochs
        trainer.compile(glow_tf.TrainConfig(warmup_steps=4), run_eagerly=True, phases=phases)
    return trainer, trainer.fit(images, batch_size=batch_size, epochs=epochs, verbose=0).history


def weights(layer):
    return [variable.numpy() for variable in layer.trainable_variables]


def moved(before, after):
    return any(not np.array_equal(b, a) for b, a in zip(before, after, strict=True))


def test_it_trains_its_part_and_the_bits_reported_are_those_of_the_model(own, small_images):
    trainer, history = trained(own, small_images, batch_size=32)
    first, last = trainer.local_objectives
    assert (type(first), type(last)) == (own, BaseObjective)
    assert history["bpd"][-1] < history["bpd"][0]
    noise = np.random.default_rng(0).random(small_images.shape, np.float32)
    batches = tf.data.Dataset.from_tensor_slices({"images": small_images, "noise": noise}).batch(16)
    found = trainer.evaluate(batches, return_dict=True, verbose=0)
    nats = trainer.flow.dequantized_log_prob(trainer.flow.dequantized(small_images, noise))
    np.testing.assert_allclose(found["bpd"], -np.mean(nats) / (64 * np.log(2)), rtol=1e-5)


class OfTheOutput(glow_tf.LocalObjective):
    """A loss that has nothing to do with the latents of the part, as that of a classifier would."""

    def losses(self, view):
        return tf.reduce_sum(view.output**2, axis=(1, 2, 3))


def test_a_loss_need_not_depend_on_all_of_its_part(small_images):
    for devices in ((), ("CPU:0", "CPU:1")):
        flow = glow_tf.Flow(small_config(**SMALL), devices, name="glow")
        trainer = glow_tf.PartsTrainer(flow, objective=OfTheOutput)
        trainer.compile(run_eagerly=True, phases=[glow_tf.simultaneous(2)])
        assert np.isfinite(trainer.fit(small_images[:16], batch_size=16, verbose=0).history["bpd"]).all()


def test_its_weights_move_with_its_part_alone(own, small_images):
    for k in (0, 1):
        flow = small_glow(**SMALL)
        trainer = glow_tf.PartsTrainer(flow, objective=own)
        trainer.compile(run_eagerly=True, phases=[glow_tf.one_part(k)])
        trainer.initialize(small_images)
        before = [weights(part) for part in flow.parts]
        of_objective = weights(trainer.local_objectives[0])
        trainer.fit(small_images[:16], batch_size=16, verbose=0)
        changes = [moved(b, weights(part)) for b, part in zip(before, flow.parts, strict=True)]
        assert changes == [k == 0, k == 1]
        assert moved(of_objective, weights(trainer.local_objectives[0])) == (k == 0)


def test_its_random_numbers_follow_from_run_step_part_and_replica(small_images):
    seeds = []

    class Seen(InfoNCE):
        def losses(self, view):
            seeds.append(tuple(view.seed.numpy()))
            return super().losses(view)

    def train(seed):
        seeds.clear()
        flow = small_glow(parts="1,1,1", flow_steps=3, num_blocks=1)
        trainer = glow_tf.PartsTrainer(flow, seed, objective=Seen)
        trainer.compile(run_eagerly=True, phases=[glow_tf.simultaneous(3)])
        trainer.fit(small_images[:32], batch_size=16, verbose=0)
        return set(seeds), weights(flow)

    (one, values), (again, same), (other, _) = train(1), train(1), train(2)
    assert one == again
    assert len(one) == 2 * 2  # steps, and parts that it is for
    assert not moved(values, same)
    assert not one & other
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    of_replicas = strategy.run(lambda: seed_of_objective(1, 0, tf.constant(3)))
    assert moved(*([own] for own in strategy.experimental_local_results(of_replicas)))


class Counting(glow_tf.PartsTrainer):
    """A trainer with a metric of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.images = keras.metrics.Sum("images")

    def train_step(self, batch):
        self.images.update_state(tf.shape(batch["images"])[0])
        return super().train_step(batch)


def test_metrics_of_an_objective_and_of_a_trainer_are_in_the_logs(small_images):
    trainer = Counting(small_glow(**SMALL), objective=InfoNCE)
    trainer.compile(run_eagerly=True, phases=[glow_tf.simultaneous(2), glow_tf.one_part(1)])
    history = fit_phases(trainer, small_images[:32], batch_size=16)
    assert history["images"] == [32, 32]
    assert 0 < history["hits_1"][0] <= 1
    assert np.isfinite([history["nce_1"][0], history["bpd"][0]]).all()
    assert np.isnan([history["nce_1"][1], history["hits_1"][1]]).all()
    assert "nce_2" not in history


def test_end_to_end_epochs_do_without_it(own, small_images):
    _, history = trained(own, small_images[:16], phases=[glow_tf.end_to_end(2)], epochs=1)
    _, plain = trained(None, small_images[:16], phases=[glow_tf.end_to_end(2)], epochs=1)
    np.testing.assert_array_equal(history["bpd"], plain["bpd"])


@pytest.mark.slow
def test_replicas_train_as_one(own, small_images):
    # Eagerly, collective operations of a strategy meet the keys of one before it in the same process.
    way = tf.distribute.ReductionToOneDevice()
    _, one = trained(own, small_images[:16], epochs=1)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], way)
    _, two = trained(own, small_images[:16], strategy, epochs=1)
    for name in ("bpd", "gradient_norm_1", "local_bpd_1"):
        np.testing.assert_allclose(one[name], two[name], rtol=2e-4)


def test_it_is_saved_with_its_trainer_and_the_model_loads_without_it(own, small_images, tmp_path):
    trainer, _ = trained(own, small_images[:16], epochs=1)
    trainer.save(tmp_path / "trainer.keras")
    again = keras.saving.load_model(tmp_path / "trainer.keras")
    assert not moved(weights(trainer.local_objectives[0]), weights(again.local_objectives[0]))
    flow = glow_tf.load(tmp_path / "trainer.keras")
    np.testing.assert_array_equal(flow.encode(small_images[:4]), trainer.flow.encode(small_images[:4]))


RUN = (
    *("--dataset=digits", "--n_bits=5", "--train_examples=16", "--test_examples=16", "--num_blocks=2"),
    *("--flow_steps=1", "--width=8", "--parts=by_block:2", "--schedule=simultaneous", "--part_epochs=2"),
    *("--finetune_epochs=0", "--batch_size=8", "--sample_every=0", "--export=false"),
    "--objective=small:InfoNCE",
)


class StopsAfter(keras.callbacks.Callback):
    def __init__(self, epochs):
        super().__init__()
        self.epochs = epochs

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch + 1 == self.epochs


@pytest.mark.slow
def test_a_run_is_resumed_with_it(tmp_path):
    def run(name, *callbacks):
        config = config_of([*RUN, "--strategy=one_device", f"--workdir={tmp_path}/{name}"])
        return train(config, *callbacks, eager=True)

    whole = run("whole")
    run("cut", StopsAfter(1))
    assert run("cut")["test_bpd"] == whole["test_bpd"]
    rows = [read_rows(tmp_path / name / "history.csv") for name in ("whole", "cut")]
    for row in itertools.chain(*rows):
        assert float(row["nce_1"]) > 0 < float(row["hits_1"])
        for name in MEASURED_COLUMNS:
            del row[name]
    assert rows[0] == rows[1]
    events = EventAccumulator(str(tmp_path / "whole" / "logs")).Reload()
    assert len(events.Tensors("nce/part_1")) == len(events.Tensors("hits/part_1")) == 2


class NotBuilt(glow_tf.LocalObjective):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)


class OfTheBatch(glow_tf.LocalObjective):
    def losses(self, view):
        return tf.reduce_mean(view.output)


class Says(OfTheOutput):
    metric_names = ("found",)

    def __init__(self, found, names=("found",)):
        super().__init__()
        self.found, self.metric_names = found, names

    def losses(self, view):
        return super().losses(view), self.found


def test_what_is_no_objective_is_refused(own, small_images):
    for wrong in (own(), [own()], [own(), 3], "Reconstruction"):
        with pytest.raises(ConfigError, match=r"objective must be a LocalObjective class.* Received: "):
            glow_tf.PartsTrainer(small_glow(**SMALL), objective=wrong)
    with pytest.raises(ConfigError, match=r"which must be standard\. Received: local_prior='learned'"):
        glow_tf.PartsTrainer(small_glow(**SMALL, local_prior="learned"), objective=own)
    with pytest.raises(ConfigError, match=r"parts must be 2 or more\. Received: parts=1"):
        glow_tf.PartsTrainer(small_glow(parts="1"), objective=own)
    for objective in (NotBuilt, OfTheBatch):
        with pytest.raises(ConfigError, match=r"must (build its layers|return a loss for each).* Received: "):
            trained(objective, small_images[:16], epochs=1)
    for names in ("found", ("found", "found"), ("local_bpd",), ("a b",)):
        with pytest.raises(ConfigError, match=r"must be a tuple of different.*\. Received: Says with"):
            glow_tf.PartsTrainer(small_glow(**SMALL), objective=[Says({}, names), None])
    for found in ({}, {"other": 0.0}, {"found": [0.0, 1.0]}):
        with pytest.raises(ConfigError, match=r"(metric_names lists|for each exam).* Received: .*Says"):
            trained([Says(found), None], small_images[:16], epochs=1)
    for name in ("math:sqrt", "keras.layers:Dense"):
        with pytest.raises(ConfigError, match=rf"name a LocalObjective class. Received: objective='{name}'"):
            imported_objective(name)
    for name in ("their_objective", "their_objective:Other", "nowhere:Class", ":x"):
        with pytest.raises(ConfigError, match=rf"must be module:Class.*Received: objective='{name}'"):
            imported_objective(name)


def test_one_that_no_phase_uses_is_told(own, small_images):
    trainer = glow_tf.PartsTrainer(small_glow(**SMALL), objective=own)
    trainer.compile()
    with pytest.warns(UserWarning, match="no phase trains a part on its own objective.*Received: phases end"):
        trainer.fit(small_images[:8], batch_size=8, epochs=1, verbose=0)
