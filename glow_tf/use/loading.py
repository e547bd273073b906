"""Trainers loaded from what a run, or `PartsTrainer.save`, wrote."""

import pathlib

import tensorflow as tf

from glow_tf.architectures.schedule import phases_of
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import check_path
from glow_tf.run.context import compiled_trainer, steps_per_epoch
from glow_tf.run.files import saved
from glow_tf.run.files.checkpoints import read, state_of
from glow_tf.run.files.checksums import read_data
from glow_tf.run.files.flags_file import read_config
from glow_tf.run.files.saved import load as load
from glow_tf.training.trainer import PartsTrainer


def load_trainer(workdir: str | pathlib.Path, which: str = "last") -> PartsTrainer:
    """Loads a trainer, with the state of its optimizers and its phases; `load` loads a model alone.

        trainer = glow_tf.load_trainer("runs/mine")
        trainer.evaluate(test_images, return_dict=True)  # the last epoch's test_bpd
        trainer.fit(images, initial_epoch=trainer.finished_epochs, epochs=trainer.finished_epochs + 5)

    Epochs beyond the run's schedule are end to end. They need a run with `rate_schedule="constant"`: a cosine
    is over with the schedule, and `fit` then raises ConfigError. With the run's training images and batch
    size, `fit` takes the steps that the run would have taken, where the run neither augments images nor sets
    `cache_prefix`. The workdir stays as it is. Of a run with `ema`, the trainer has the weights;
    `with trainer.averages.in_place():` has the averages, which the run evaluated.

    Args:
      workdir: of a run, or a `.keras` file that `PartsTrainer.save` wrote.
      which: the `last` or the `best` checkpoint of a workdir; `best` exists where there were validation
        images.

    Returns:
      The trainer, compiled, in the current distribution strategy, on one device otherwise. Its attribute
      `finished_epochs` is the number of epochs that the checkpoint has finished; a `.keras` file has 0.

    Raises:
      FileNotFoundError: there is no such folder or checkpoint.
      OSError: the checkpoint is damaged.
      ValueError: the folder is not the workdir of a run, or the file has no trainer.
    """
    check_path("workdir", workdir)
    workdir = pathlib.Path(workdir)
    if not workdir.exists():
        raise FileNotFoundError(f"There is no such folder. Received: workdir={str(workdir)!r}")
    if not workdir.is_dir():
        return _of_keras_file(workdir)
    path = saved.checkpoint_path(workdir, which)
    config = read_config(workdir)
    images = int(read_data(workdir / "checkpoints")["train images"].split()[0])
    steps = steps_per_epoch(config, images)
    trainer = compiled_trainer(config, saved.untrained_glow(workdir), phases_of(config), steps)
    epochs = tf.Variable(0, dtype=tf.int64)
    read({**state_of(trainer), "epochs": epochs}, path, partly=True)
    trainer.averages.swap()  # a checkpoint's model has the averages
    trainer.finished_epochs = int(epochs)
    return trainer


def _of_keras_file(path: pathlib.Path) -> PartsTrainer:
    found = saved.load_keras_file(path)
    if not isinstance(found, PartsTrainer):
        raise ConfigError(
            "load_trainer needs the workdir of a run, or a file that PartsTrainer.save wrote; glow_tf.load "
            f"loads what Glow.save wrote. Received: {str(path)!r}"
        )
    return found
