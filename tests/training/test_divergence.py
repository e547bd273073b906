"""The band that losses and gradient norms have to stay in."""

import keras
import numpy as np
import pytest
from small import small_config

from glow_tf import DivergedError, Glow, PartsTrainer, phases
from glow_tf.devices.strategies import make_strategy
from glow_tf.layout.schedule import end_to_end, one_part, simultaneous
from glow_tf.training.optim.optimizers import FusedAdamax
from glow_tf.training.step.divergence import FEWEST, DivergenceMonitor

FIRST, LAST, BOTH, WHOLE = (
    one_part(0),
    one_part(1),
    simultaneous(2),
    end_to_end(2),
)


def observed(monitor, phase, losses, norms, finite=True, arrived=None):
    """Shows a step to a monitor, whose losses and norms are those of the phase's parts."""
    values, watched = np.zeros(monitor.rows, np.float32), np.zeros(monitor.rows, bool)
    for rows, own, parts in zip(
        monitor.rows_of(phase), (losses, norms), (phase.ends, phase.active), strict=True
    ):
        values[rows], watched[rows] = own, [arrived is None or arrived[k] for k in parts]
    found = monitor.observe(finite, values, watched)
    monitor.write()
    return found


def consecutive(monitor, losses, phase=FIRST, norms=None, finite=True):
    """Shows steps to a monitor; returns after each how many in a row were outside."""
    norms = np.ones(len(losses)) if norms is None else norms
    return [observed(monitor, phase, *own, finite).consecutive for own in zip(losses, norms, strict=True)]


def sound(steps=40, level=4.0, spread=0.02):
    return level + spread * np.random.default_rng(0).normal(size=steps)


def test_a_sound_loss_stays_in_its_band_from_the_first_step_on():
    falling = 3 + 5 * np.exp(-np.arange(200) / 20)
    assert max(consecutive(DivergenceMonitor(2), falling + sound(200, 0.0, 0.1))) == 0


def test_a_loss_that_rises_is_outside_and_never_its_own_reference():
    monitor = DivergenceMonitor(2)
    consecutive(monitor, sound())
    assert consecutive(monitor, [5.2] * 100) == list(range(1, 101))
    assert consecutive(monitor, [4.0]) == [0]


def test_the_first_steps_have_a_wide_band():
    monitor = DivergenceMonitor(2)
    assert max(consecutive(monitor, [4.0] * FEWEST)) == 0
    assert consecutive(monitor, [9.0]) == [1]
    assert max(consecutive(DivergenceMonitor(2), [*[4.0] * (FEWEST - 1), 9.0])) == 0
    assert consecutive(DivergenceMonitor(2), [4.0, 13.0, 15.0, 1e9]) == [0, 0, 1, 2]
    assert max(consecutive(DivergenceMonitor(2), [1e9, 1e6])) == 0  # nothing is known before the first step


def test_a_start_that_is_far_off_may_vary_as_much_as_it_is():
    """As the first steps of a model that was trained on other images."""
    losses = [77.6, 122.5, 126.2, 107.5, 130.9, 103.6, 112.9, 131.5]
    assert max(consecutive(DivergenceMonitor(2), losses * 5)) == 0
    assert consecutive(DivergenceMonitor(2), [77.6, 160.0, 1e4]) == [0, 1, 2]


def test_a_slow_climb_leaves_the_band():
    found = consecutive(DivergenceMonitor(2), 4 + 0.01 * np.arange(400))
    assert max(found[:150]) == 0
    assert found[-1] > 100


def test_noisy_batches_have_a_wider_band():
    monitor = DivergenceMonitor(2)
    noise = sound(64, 4.0, 0.3)
    assert max(consecutive(monitor, noise)) == 0
    assert consecutive(monitor, [6.0, 11.0]) == [0, 1]


def test_a_norm_is_compared_with_its_median():
    monitor = DivergenceMonitor(2)
    consecutive(monitor, sound())
    assert consecutive(monitor, [4.0, 4.0, 4.0], norms=[99.0, 101.0, 1.0]) == [0, 1, 0]


def test_steps_that_are_not_finite_count_and_leave_no_trace():
    monitor = DivergenceMonitor(2)
    consecutive(monitor, sound())
    before = {name: v.numpy() for name, v in monitor.variables.items() if name != "streak"}
    assert consecutive(monitor, [float("nan")] * 3, finite=False) == [1, 2, 3]
    for name, value in before.items():
        np.testing.assert_array_equal(monitor.variables[name].numpy(), value)


def test_losses_near_the_largest_number_are_compared_without_a_warning():
    monitor = DivergenceMonitor(2)
    assert max(consecutive(monitor, [3e38] * 2 * FEWEST, norms=[3e38] * 2 * FEWEST)) == 0
    assert consecutive(monitor, [float("inf")], finite=False) == [1]


def test_each_part_has_its_own_band_and_the_whole_that_of_the_last():
    monitor = DivergenceMonitor(2)
    consecutive(monitor, sound(level=6.0), FIRST)
    consecutive(monitor, sound(level=4.0), LAST)
    assert consecutive(monitor, [6.0], FIRST) == [0]
    assert consecutive(monitor, [6.0], WHOLE) == [1]
    seen = observed(monitor, BOTH, [6.0, 6.0], [1.0, 1.0])
    assert seen.outside.tolist() == [False, True, False, False, False, False]


def test_a_part_without_a_batch_is_not_watched():
    monitor = DivergenceMonitor(2)
    consecutive(monitor, sound(), BOTH)
    # All losses are of the batch that has come to the last part.
    without = observed(monitor, BOTH, [9.0, 9.0], [1.0, 1.0], arrived=(False, False))
    assert without.consecutive == 0
    assert observed(monitor, BOTH, [9.0, 9.0], [1.0, 1.0]).consecutive == 1
    assert observed(monitor, BOTH, [9.0, 9.0], [1.0, 1.0], arrived=(False, False)).consecutive == 1


def make_trainer(strategy="one_device", schedule="simultaneous", **options):
    with make_strategy(strategy).scope():
        trainer = PartsTrainer(
            Glow(small_config(num_blocks=1, parts="1,1"), name="glow"), phases(schedule, 2, 3)
        )
        trainer.compile([FusedAdamax(1e-2) for _ in range(2)], clip_norm=1.0, **options)
    return trainer


class Spoil(keras.callbacks.Callback):
    """Moves the second part's weights far away at the start of the last epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            weight = self.model.glow.parts[1].trainable_variables[1]
            weight.assign(weight.numpy() + 5)


@pytest.mark.long
def test_sound_training_stays_in_the_band_and_what_diverges_stops_with_a_report(small_images):
    """With two images a step."""
    trainer, outside = make_trainer(max_outside_steps=3, max_skipped_steps=3), []
    monitor = trainer.divergence_monitor
    count = lambda batch, logs: outside.append(monitor.steps_outside + int(logs["skipped_steps"]))  # noqa: E731
    watch = keras.callbacks.LambdaCallback(on_train_batch_end=count)
    report = (
        r"step \d+ of part 2: the loss of part 2 is \d+\S* bits/dim, median \d\.\d+.*last of 4 such "
        r"steps in a row. The largest inputs are those of part \d, bijector \S+.*range over \[.*"
        r"Largest \|log s\|: of a 1×1 convolution \S+ in part \d, .*of a coupling \S+ in part"
    )
    with pytest.raises(DivergedError, match=report) as error:
        trainer.fit(small_images, batch_size=2, callbacks=[Spoil(), watch], verbose=0)
    assert max(outside[:64]) == 0  # of the two epochs before
    assert error.value.parts == (1,)
    assert monitor.steps_outside == 4


@pytest.mark.slow
def test_several_steps_at_a_time_are_looked_at_one_by_one(small_images):
    """The monitor remembers what it does of single steps, and training stops after those that diverge."""
    one, two = make_trainer(), make_trainer(steps_per_execution=2, max_outside_steps=3, max_skipped_steps=3)
    for trainer in (one, two):
        trainer.fit(small_images, batch_size=2, epochs=1, verbose=0)
    for name, variable in one.divergence_monitor.variables.items():
        np.testing.assert_array_equal(two.divergence_monitor.variables[name], variable)
    with pytest.raises(DivergedError, match="the last of 4 such steps in a row"):
        two.fit(small_images, batch_size=2, initial_epoch=1, callbacks=[Spoil()], verbose=0)


def test_who_does_not_watch_is_not_stopped(small_images, eager):
    trainer = make_trainer(max_outside_steps=None, run_eagerly=True)
    history = trainer.fit(small_images[:16], batch_size=8, callbacks=[Spoil()], verbose=0)
    assert len(history.history["bpd"]) == 3


@pytest.mark.slow
def test_replicas_agree_on_what_is_outside_and_on_what_one_device_finds(small_images):
    found = []
    for strategy in ("one_device", "mirrored"):
        trainer = make_trainer(strategy, max_outside_steps=3, max_skipped_steps=3)
        trainer.fit(small_images, batch_size=4, epochs=2, verbose=0)
        found.append({name: v.numpy() for name, v in trainer.divergence_monitor.variables.items()})
    for variable in trainer.divergence_monitor.variables.values():
        first, second = trainer.distribute_strategy.experimental_local_results(variable)
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=0.05, atol=0.05)
    with pytest.raises(DivergedError, match="loss of part 2 is"):
        trainer.fit(small_images, batch_size=4, initial_epoch=2, callbacks=[Spoil()], verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["end_to_end", "alternating"])  # the test above is simultaneous
def test_sound_training_with_two_images_a_step_never_leaves_the_band(schedule, small_images):
    trainer = make_trainer(schedule=schedule, max_outside_steps=0, max_skipped_steps=0)
    history = trainer.fit(small_images, batch_size=2, verbose=0).history
    assert history["skipped_steps"] == [0] * 3


@pytest.mark.long
def test_training_anew_starts_without_a_reference(small_images, eager):
    trainer = make_trainer(run_eagerly=True)
    trainer.fit(small_images, batch_size=32, epochs=1, verbose=0)
    seen = trainer.divergence_monitor.variables["seen"]
    assert max(seen.numpy()) == 2
    trainer.fit(small_images, batch_size=32, initial_epoch=1, epochs=2, verbose=0)
    assert max(seen.numpy()) == 4
    trainer.fit(small_images, batch_size=32, epochs=1, verbose=0)
    assert max(seen.numpy()) == 2


def test_a_loss_that_lacks_the_levels_before_is_another_one(eager):
    glow = Glow(
        small_config(architecture="levels", num_blocks=1, flow_steps=1, parts="1", condition_features=2)
    )
    trainer = PartsTrainer(glow, [BOTH, LAST, LAST, BOTH])
    trainer.compile()
    monitor, known = trainer.divergence_monitor, []
    for epoch, phase in enumerate(trainer.phases):
        trainer.set_phase(phase)
        trainer.training_steps.begin_epoch(trainer.phases[: epoch + 1], 4, resumes=False)
        known.append(monitor.variables["seen"].numpy()[:2].tolist())
        observed(monitor, phase, 4.0, 1.0)
    assert known == [[0, 0], [1, 0], [1, 1], [1, 0]]
