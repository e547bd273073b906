"""Steps whose loss or gradient is not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import rewound, small_config

from glow_tf import DivergedError, Flow, PartsTrainer, phases
from glow_tf.data.batches import untuned
from glow_tf.devices.strategies import make_strategy
from glow_tf.run.checkpoints import Checkpoints
from glow_tf.training.optimizers import FusedAdam, FusedAdamax, ScaledSGD

GOOD, BAD = "good", "bad"


def batches(images, steps):
    """A batch per step; a bad one has noise that overflows (only the noise of the first batch is checked)."""
    noise = np.full((len(steps), *images.shape), 0.5, np.float32)
    for own, kind in zip(noise, steps, strict=True):
        own[-1] = 1e30 if kind == BAD else 0.5
    dataset = tf.data.Dataset.from_tensor_slices({"images": np.stack([images] * len(steps)), "noise": noise})
    return untuned(dataset)


def new(optimizer, strategy="one_device", schedule="end_to_end", **options):
    size = (
        {"num_blocks": 1, "flow_steps": 1, "parts": "1"}
        if schedule == "end_to_end"
        else {"num_blocks": 1, "parts": "1,1"}
    )
    with make_strategy(strategy).scope():
        flow = Flow(small_config(n_bits=8, scale="exp", **size), name="glow")
        n = len(flow.parts)
        trainer = PartsTrainer(flow, seed=3)
        trainer.compile([optimizer() for _ in range(n)], phases=phases(schedule, n, 1), **options)
    return trainer


once = rewound(new)


def make_trainer(images, optimizer, make=once, **settings):
    """Makes a trainer, or brings the one of these settings back to its start."""
    trainer = make(optimizer, **settings)
    trainer.initialize(images)
    return trainer


def fit(trainer, images, steps, epochs=1):
    return trainer.fit(batches(images, steps), epochs=epochs, verbose=0).history


KINDS = {
    "one replica": {},
    "two replicas": {"strategy": "mirrored"},
    "compiled": {"jit_compile": True},
    "simultaneous": {"schedule": "simultaneous"},
}
SGD, ADAM = (lambda: ScaledSGD(1e-3)), (lambda: FusedAdam(1e-3))


# One replica is the default; `test_replicas_agree_on_what_they_skip` has two of them. Compiling takes long.
SLOW = set(KINDS) - {"one replica", "simultaneous"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [pytest.param(kind, SGD, id=kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in KINDS]
    + [pytest.param(kind, ADAM, id=f"{kind}, Adam", marks=pytest.mark.slow) for kind in KINDS],
)
def test_a_step_that_overflows_is_as_good_as_left_out_and_counted(kind, optimizer, small_images):
    whole = make_trainer(small_images, optimizer, **KINDS[kind])
    history = fit(whole, small_images, [GOOD, BAD, BAD, GOOD])
    assert history["skipped_steps"] == [2]
    assert [int(optimizer.iterations.numpy()) for optimizer in whole.optimizers] == [4] * len(
        whole.optimizers
    )
    weights = whole.flow.get_weights()
    without = make_trainer(small_images, optimizer, **KINDS[kind])
    fit(without, small_images, [GOOD])
    for optimizer in without.optimizers:
        optimizer.iterations.assign(3)  # a skipped step counts
    history_without = fit(without, small_images, [GOOD])
    assert history_without["skipped_steps"] == [0]
    for a, b in zip(weights, without.flow.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # The means are of the two steps that were applied.
    assert np.isfinite(list(history.values())).all()
    assert history["bpd"][0] > history_without["bpd"][0]


def test_a_mean_of_no_step_is_not_logged(small_images):
    """`EarlyStopping` would keep a loss of 0 as the best, and `TerminateOnNaN` end training at NaN."""
    trainer, seen = make_trainer(small_images, SGD), []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(set(logs)))
    given = {"callbacks": [record, keras.callbacks.TerminateOnNaN()], "verbose": 0}
    two = {"steps_per_epoch": 2, "epochs": 2, **given}
    history = trainer.fit(batches(small_images, [GOOD, GOOD, BAD, GOOD]), **two).history
    assert seen == [set(history), set(history), {"skipped_steps"}, set(history)]
    assert np.isfinite(list(history.values())).all()


@pytest.mark.long
def test_replicas_agree_on_what_they_skip(small_images):
    options = {"strategy": "mirrored", "run_eagerly": True}
    trainer = make_trainer(small_images, lambda: FusedAdamax(1e-2), **options)
    fit(trainer, small_images, [GOOD, BAD, GOOD])  # the second replica alone has the image that overflows
    for variable in [*trainer.flow.variables, *trainer.optimizers[0].variables]:
        first, second = trainer.distribute_strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())
        assert np.isfinite(first.numpy()).all()


@pytest.mark.long
@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "one replica" else pytest.mark.slow) for k in KINDS]
)
def test_too_many_in_a_row_end_the_run(kind, small_images):
    def trained(steps):
        trainer = make_trainer(small_images, SGD, **KINDS[kind], max_skipped_steps=2)
        return fit(trainer, small_images, steps)

    assert trained([GOOD, BAD, BAD, GOOD, BAD, BAD])["skipped_steps"] == [4]
    with pytest.raises(DivergedError, match=r"not finite in phase .*3 (such )?steps in a row"):
        trained([GOOD, BAD, GOOD, BAD, BAD, BAD, GOOD])


def test_an_epoch_that_skips_every_step_ends_the_run(small_images):
    trainer = make_trainer(small_images, SGD)
    trainer.fit(batches(small_images, [GOOD, BAD]), epochs=1, verbose=0)  # which does not count
    weight = trainer.flow.parts[0].trainable_variables[0]
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(DivergedError, match="the last of 2 such steps in a row"):
        trainer.fit(batches(small_images, [GOOD, GOOD]), initial_epoch=1, epochs=2, verbose=0)


@pytest.mark.slow
def test_a_resumed_run_skips_what_an_uninterrupted_one_skips(small_images, tmp_path):
    """Each epoch ends with as many steps that overflow as may be skipped."""
    data = batches(small_images, [GOOD, BAD, GOOD, BAD, BAD])

    def trained(interrupted):
        trainer = make_trainer(small_images, FusedAdamax, new, max_skipped_steps=2)
        skipped = []
        for epoch in range(2):
            if interrupted and epoch:
                Checkpoints(tmp_path, trainer).save(epoch)
                trainer = make_trainer(small_images, FusedAdamax, new, max_skipped_steps=2)
                Checkpoints(tmp_path, trainer).restore()
            history = trainer.fit(data, initial_epoch=epoch, epochs=epoch + 1, verbose=0).history
            skipped += history["skipped_steps"]
        return skipped, [*trainer.flow.get_weights(), *(v.numpy() for v in trainer.optimizers[0].variables)]

    (whole, expected), (parts, found) = trained(False), trained(True)
    assert whole == parts == [3, 3]
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_means_of_an_epoch_are_over_examples_whatever_the_size_of_a_batch(small_images, eager):
    def bpd(dataset):
        trainer = make_trainer(small_images, SGD)
        trainer.optimizers[0].learning_rate = 1e-12
        return trainer.fit(dataset, epochs=1, verbose=0).history["bpd"][0]

    noise = np.full(small_images.shape, 0.5, np.float32)
    dataset = untuned(tf.data.Dataset.from_tensor_slices({"images": small_images, "noise": noise}))
    assert bpd(dataset.batch(48)) == pytest.approx(bpd(dataset.batch(64)), rel=1e-5)
