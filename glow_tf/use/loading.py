"""Trainers loaded from what a run wrote."""

import pathlib

from glow_tf.errors import ConfigError
from glow_tf.run import saved
from glow_tf.run.checkpoint_content import divergence_of, epochs_and_steps, read_into, readable, state_of
from glow_tf.run.context import compiled_trainer
from glow_tf.run.flags_file import read_config
from glow_tf.run.saved import load as load
from glow_tf.schedule import epochs_training, phases_of
from glow_tf.training.trainer import PartsTrainer


def load_trainer(workdir: str | pathlib.Path, which: str = "last") -> PartsTrainer:
    """Loads the trainer of a run, with the state of its optimizers and the phases of its epochs.

        trainer = glow_tf.load_trainer("runs/mine")
        trainer.evaluate(test_images, return_dict=True)  # the run's test_bpd
        trainer.fit(images, initial_epoch=trainer.finished_epochs, epochs=trainer.finished_epochs + 5)

    Epochs beyond the run's schedule are end to end. They need a run with `rate_schedule="constant"`: a cosine
    is over with the schedule, and `fit` then raises ConfigError. With the run's training images and batch
    size, `fit` takes the steps that the run would have taken, where the run neither augments images nor sets
    `cache_prefix`. The workdir stays as it is. Of a run with `ema`, the trainer has the weights;
    `with trainer.averages.in_place():` has the averages, which the run evaluated.

    Args:
      workdir: of a run.
      which: the `last` or the `best` checkpoint; `best` exists where there were validation images.

    Returns:
      The trainer, compiled, in the current distribution strategy, on one device otherwise. Its attribute
      `finished_epochs` is the number of epochs that the checkpoint has finished.

    Raises:
      FileNotFoundError: there is no such folder or checkpoint.
      OSError: the checkpoint is damaged.
      ValueError: the folder is not the workdir of a run.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.exists():
        raise FileNotFoundError(f"There is no such folder. Received: workdir={str(workdir)!r}")
    if workdir.is_file():
        raise ConfigError(
            "load_trainer needs the workdir of a run; keras.saving.load_model loads a .keras file that "
            f"PartsTrainer.save wrote. Received: workdir={str(workdir)!r}"
        )
    path = saved.checkpoint_path(workdir, which)
    config = read_config(workdir)
    phases = phases_of(config)
    epochs, steps = epochs_and_steps(path)
    part = phases[0].active[0]
    steps_per_epoch = steps[part] // epochs_training(part, phases[:epochs])
    trainer = compiled_trainer(config, saved.untrained_glow(workdir), phases, steps_per_epoch)
    with readable(path):
        read_into(state_of(trainer) | divergence_of(trainer), path, partly=True)
    trainer.averages.swap()  # a checkpoint's model has the averages
    trainer.finished_epochs = epochs
    return trainer
