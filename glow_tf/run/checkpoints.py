"""Checkpoints of a training run."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import keras
import tensorflow as tf

from glow_tf.internals import without_retracing_warnings
from glow_tf.run.workdir import write_atomically
from glow_tf.training.trainer import PartsTrainer


class Checkpoints:
    """The newest and, where epochs are compared on validation images, the best state of a trainer.

    A checkpoint holds the weights (with ActNorm's flags), every optimizer and the number of finished epochs.
    Together with the seed, that is all a run needs to go on as if it had not stopped. TensorFlow writes a
    checkpoint beside the last one and then renames the pointer to it, so an interruption loses at most the
    checkpoint that is being written. The same checkpoint restores on one device or many.

    Args:
      folder: `<workdir>/checkpoints`.
      trainer: compiled.

    Attributes:
      epochs: number of finished epochs.
      best_bpd: lowest bits/dim on validation images so far.
      variables: everything that a checkpoint holds.
    """

    def __init__(self, folder: pathlib.Path, trainer: PartsTrainer):
        self.epochs = tf.Variable(0, dtype=tf.int64)
        self.best_bpd = tf.Variable(float("inf"), dtype=tf.float64)
        model = by_path(trainer.glow.variables)
        # Without the optimizer's name, which Keras numbers: a later run in this process has other numbers.
        optimizers = [
            {path.split("/", 1)[1]: value for path, value in by_path(optimizer.variables).items()}
            for optimizer in trainer.optimizers
        ]
        self.variables = tf.nest.flatten([model, optimizers, self.epochs, self.best_bpd])
        self._checkpoint = tf.train.Checkpoint(
            model=model, optimizers=optimizers, epochs=self.epochs, best_bpd=self.best_bpd
        )
        folder.mkdir(exist_ok=True)
        config = json.dumps(dataclasses.asdict(trainer.glow.config), indent=2)
        write_atomically(folder / "model.json", config.encode())
        self._last = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=1)
        self._best = tf.train.CheckpointManager(self._checkpoint, str(folder / "best"), max_to_keep=1)

    def restore(self) -> int:
        """Restores the newest checkpoint, if there is one; returns the number of finished epochs.

        Raises:
          OSError: the checkpoint is damaged.
        """
        newest = self._last.latest_checkpoint
        if newest:
            try:
                self._checkpoint.restore(newest).assert_consumed()
            except (tf.errors.OpError, IndexError, AssertionError) as error:
                raise OSError(
                    f"the checkpoint {newest} cannot be read; put an intact copy in its place, or remove the "
                    f"folder to train again from the start. {type(error).__name__}: {str(error)[:200]}"
                ) from None
        return int(self.epochs)

    def save(self, epochs: int, validation_bpd: float | None = None) -> bool:
        """Saves the state after `epochs` epochs; returns whether it is the best so far.

        Raises:
          OSError: it could not be written, for example because the disk is full.
        """
        self.epochs.assign(epochs)
        is_best = validation_bpd is not None and validation_bpd < float(self.best_bpd)
        try:
            with without_retracing_warnings():
                if is_best:
                    self.best_bpd.assign(validation_bpd)
                    self._best.save(checkpoint_number=epochs)
                self._last.save(checkpoint_number=epochs)
        except tf.errors.OpError as error:
            raise OSError(
                f"the checkpoint of epoch {epochs} could not be written, the one before is kept: "
                f"{error.message.splitlines()[0]}"
            ) from None
        return is_best


def checkpoint_bytes(trainer: PartsTrainer) -> int:
    """Returns the size of one checkpoint in bytes."""
    variables = [*trainer.glow.variables, *(v for o in trainer.optimizers for v in o.variables)]
    return sum(tf.as_dtype(v.dtype).size * v.value.shape.num_elements() for v in variables)


def by_path(variables: list[keras.Variable]) -> dict[str, tf.Variable]:
    """Returns variables by their Keras paths, as checkpoints name them."""
    return {variable.path: variable.value for variable in variables}
