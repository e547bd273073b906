"""What stops a training that diverges: the sentence, and the bits that no sound epoch ends with."""

import keras
import numpy as np
import pytest
from small import fit_phases, small_config

from glow_tf import DivergedError, Flow, LocalObjective, PartsTrainer, phases
from glow_tf.training.optimizers import FusedAdamax


def make_trainer(schedule="sequential", objective=None, **settings):
    settings = {"num_blocks": 1, "flow_steps": 2, "parts": "1,1", "scale": "exp", **settings}
    trainer = PartsTrainer(Flow(small_config(**settings)), objective=objective)
    planned = phases(schedule, 2, 2)
    trainer.compile([FusedAdamax(2e-3), FusedAdamax(1e-3)], run_eagerly=True, phases=planned)
    return trainer


class Spoil(keras.callbacks.Callback):
    """Moves the weights of a part (from 0) far away, at the start of an epoch (from 0)."""

    def __init__(self, part, epoch, by=30):
        super().__init__()
        self.part, self.epoch, self.by = part, epoch, by

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            bias = self.model.flow.parts[self.part].trainable_variables[0]
            bias.assign(bias.numpy() + self.by)


@pytest.mark.parametrize(
    ("schedule", "part", "epoch"), [("sequential", 1, 0), ("end_to_end", 2, 1), ("simultaneous", 2, 1)]
)
def test_an_epoch_that_ends_far_above_eight_bits_stops_training(schedule, part, epoch, small_images, eager):
    trainer = make_trainer(schedule)
    ended = []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended.append(epoch))
    rate = 2e-3 if part == 1 else 1e-3
    report = (
        rf"it diverged in phase '.*', step \d+ of part {part}, at a learning rate of {rate:g}: the epoch "
        r"ends with \S+ bits/dim of the training images, and at most 32 are sound\. A lower learning rate or "
    )
    with pytest.raises(DivergedError, match=report):
        fit_phases(trainer, small_images[:16], batch_size=8, callbacks=[Spoil(0, epoch), record])
    assert ended == [*range(epoch)]  # callbacks that save hear nothing of an epoch that diverged


def test_bits_of_validation_images_count_too(small_images, eager):
    trainer = make_trainer()
    with pytest.raises(DivergedError, match=r"bits/dim of the validation images"):
        trainer.fit(
            small_images[:16],
            batch_size=8,
            epochs=1,
            validation_data=small_images[16:24],
            callbacks=[Spoil(1, 0)],  # the first epoch trains part 1
            verbose=0,
        )


def test_real_data_may_have_any_bits_that_are_finite(rng, eager):
    trainer = make_trainer("end_to_end", data="real", n_bits=8)
    images = rng.normal(size=(16, 8, 8, 1)).astype(np.float32)
    history = trainer.fit(images, batch_size=8, epochs=1, callbacks=[Spoil(0, 0)], verbose=0).history
    assert 32 < history["bpd"][0] < np.inf
    for bits in (np.inf, np.nan):
        with pytest.raises(DivergedError, match=rf"ends with {bits} bits/dim of the test images\. A lower"):
            trainer.training_steps.check_bits(trainer.phase, {"test": bits})


class Nothing(LocalObjective):
    """An objective that leaves the likelihood alone."""

    def losses(self, view):
        return 0.0 * view.log_likelihood_term


def test_bits_that_an_objective_of_ones_own_does_not_lower_may_be_high(small_images, eager):
    trainer = make_trainer(objective=Nothing)
    fit = {"batch_size": 8, "epochs": 1, "verbose": 0}
    history = trainer.fit(small_images[:16], callbacks=[Spoil(0, 0)], **fit).history
    assert history["local_bpd_1"][0] > 32
