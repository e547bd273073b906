"""What a run does when training diverges: it rolls back, halves a rate, and resumes; a few times.

The first time, the rate is halved for one epoch: what happens once may be chance, and a rate that stays low
costs bits. From the second time on, it stays.
"""

from collections.abc import Callable

import tensorflow as tf

from glow_tf.core.errors import ConfigError, DivergedError
from glow_tf.devices.workers import in_several_processes
from glow_tf.model.glow import Glow
from glow_tf.run.context import Run, compiled_trainer
from glow_tf.run.files import saved
from glow_tf.run.files.checkpoint_content import state_of
from glow_tf.training.feed.batch import initialize_from

MOST_RECOVERIES = 3


def fit_and_recover(run: Run, epoch: int, fit: Callable[[int], None]) -> None:
    """Trains, by `fit(epoch)`, to the end; where training diverges, rolls back as often as it may.

    All decisions follow from what is in the checkpoint that it rolls back to and from the steps since, so a
    run that is killed and resumed takes the same way. For that it never rolls back to a checkpoint within an
    epoch, whose place depends on the time. DivergedError if it may not roll back.
    """
    while True:
        try:
            fit(epoch)
        except DivergedError as error:
            epoch = _roll_back(run, error)
        else:
            return


def _roll_back(run: Run, error: DivergedError) -> int:
    """Rolls all processes of a run back to the same checkpoint, or to the start; returns its epochs.

    The first process, which has the workdir, decides. DivergedError if the run may not roll back.
    """
    if run.config.train.on_divergence != "recover" or in_several_processes(run.strategy):
        raise error
    _go_back(run, error)
    for cache in run.trainer.prefix_caches.values():
        cache.forget()
    return int(run.checkpoints.epochs)


def _go_back(run: Run, error: DivergedError) -> None:
    """Restores a checkpoint, or the start, and lowers the rate; DivergedError if that may not be."""
    # Twice in a row from the same place: whatever is wrong may be in that checkpoint.
    finished = run.workdir.progress()[0]
    before = finished if finished == int(run.checkpoints.rolled_back_to) else None
    recoveries = int(run.checkpoints.recoveries.numpy()) + 1
    if recoveries > MOST_RECOVERIES:
        raise with_sentence(error, f"It went back {MOST_RECOVERIES} times, each time with a lower rate.")
    parts = error.parts or tuple(range(len(run.glow.parts)))
    factors = [float(f.numpy()) / (2 if k in parts else 1) for k, f in enumerate(run.trainer.rate_factors)]
    epoch = run.checkpoints.roll_back(before)
    if epoch is None:
        # A history of several epochs without their checkpoints could not be resumed; one row alone can.
        if finished > 1:
            raise with_sentence(error, "There is no earlier checkpoint that is sound.")
        epoch = 0
        try:
            start_over(run)  # before anything is removed: it needs the model of --init_from again
        except (ConfigError, OSError) as missing:
            raise with_sentence(error, f"It cannot start again: {missing}") from None
        run.workdir.write_history(run.workdir.read_history(finished))
        run.checkpoints.remove_after(0)
    run.checkpoints.recoveries.assign(recoveries)
    run.checkpoints.rolled_back_to.assign(epoch)
    for factor, value in zip(run.trainer.rate_factors, factors, strict=True):
        factor.assign(value)
    place = f"epoch {epoch}" if epoch else "the start"
    rates = ", ".join(f"the rate of part {k + 1} is {factors[k]:g} times what was set" for k in parts)
    print(
        f"WARNING: training diverged: {error.reason}. Going back to {place} "
        f"({recoveries} of at most {MOST_RECOVERIES} times); {'for one epoch' if recoveries == 1 else 'now'} "
        f"{rates}.",
        flush=True,
    )


def start_over(run: Run) -> None:
    """Gives a run the state that it started with, in this process."""
    config, trainer = run.config, run.trainer
    # Outside of the strategy: several processes would make its variables together.
    glow = Glow(config.model, trainer.glow.part_devices, name="glow")
    fresh = compiled_trainer(config, glow, run.phases, run.steps_per_epoch)
    if config.init_from:
        saved.start_from(config.init_from, saved.load_start(config.init_from, config.model), glow)
    own, new = (tf.nest.flatten(list(state_of(t).values())) for t in (trainer, fresh))
    for variable, value in zip(own, new, strict=True):
        variable.assign(value)
    trainer.glow.dequantize.adapt(run.images.train)
    initialize_from(trainer, run.slice_of_training())
    trainer.divergence_monitor.forget()
    run.checkpoints.epochs.assign(0)
    run.checkpoints.steps.assign(0)
    run.checkpoints.best_bpd.assign(run.checkpoints.start_bpd)


def with_sentence(error: DivergedError, sentence: str) -> DivergedError:
    """Returns an error whose message has one more sentence."""
    return type(error)(f"{error} {sentence}", error.parts, error.reason)
