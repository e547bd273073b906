"""Checkpoints of a training run."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from glow_tf.internals import without_retracing_warnings
from glow_tf.run.workdir import write_atomically
from glow_tf.training.trainer import PartsTrainer

_VALUE = ".ATTRIBUTES/VARIABLE_VALUE"  # what TensorFlow adds to a variable's name in a checkpoint


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
        content = {**state_of(trainer), "epochs": self.epochs, "best_bpd": self.best_bpd}
        self.variables = tf.nest.flatten(list(content.values()))
        self._checkpoint = tf.train.Checkpoint(**content)
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
        if newest := self._last.latest_checkpoint:
            with readable(newest):
                self._checkpoint.restore(newest).assert_consumed()
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
            self._remove_rest_of(epochs)
            raise OSError(
                f"the checkpoint of epoch {epochs} could not be written: {reason_of(error)}."
            ) from None
        return is_best

    def _remove_rest_of(self, epochs: int) -> None:
        """Removes the files of a checkpoint that could not be written, which take room on a full disk."""
        for manager in (self._last, self._best):
            kept = manager.latest_checkpoint
            if kept is None or not kept.endswith(f"-{epochs}"):
                for path in pathlib.Path(manager.directory).glob(f"ckpt-{epochs}[._]*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def readable(path: str) -> Iterator[None]:
    """Within the context, an error of TensorFlow says that the checkpoint `path` cannot be read.

    Raises:
      OSError: the checkpoint is damaged.
    """
    try:
        yield
    except (tf.errors.OpError, IndexError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OSError(
            f"the checkpoint {path} cannot be read; put an intact copy in its place, or remove the "
            f"folder to train again from the start. {type(error).__name__}: {reason}"
        ) from None


def reason_of(error: OSError | tf.errors.OpError) -> str:
    """Returns in one line why a file could not be written."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorFlow adds the names of the operation's device and kernel.
    line = error.message.splitlines()[0]
    return re.sub(r"^(\{\{.*?\}\} ?)*|(,? name: \S*)?( \[Op:\w+\])?$", "", line)


def checkpoint_bytes(trainer: PartsTrainer) -> int:
    """Returns the size of one checkpoint in bytes."""
    variables = [*trainer.glow.variables, *(v for o in trainer.optimizers for v in o.variables)]
    return sum(tf.as_dtype(v.dtype).size * v.value.shape.num_elements() for v in variables)


def state_of(trainer: PartsTrainer) -> dict[str, Any]:
    """Returns the variables of a trainer's model and optimizers, as checkpoints name them."""
    # Without the optimizer's name, which Keras numbers: a later run in this process has other numbers.
    optimizers = [
        {path.split("/", 1)[1]: value for path, value in by_path(optimizer.variables).items()}
        for optimizer in trainer.optimizers
    ]
    return {"model": by_path(trainer.glow.variables), "optimizers": optimizers}


def epochs_and_steps(path: str) -> tuple[int, list[int]]:
    """Returns the finished epochs of a checkpoint, and the number of steps that trained each part."""
    with readable(path):
        reader = tf.train.load_checkpoint(path)
        names = (f"optimizers/{k}/iteration" for k in itertools.count())
        known = itertools.takewhile(lambda name: reader.has_tensor(f"{name}/{_VALUE}"), names)
        steps = [int(reader.get_tensor(f"{name}/{_VALUE}")) for name in known]
        return int(reader.get_tensor(f"epochs/{_VALUE}")), steps


def by_path(variables: list[keras.Variable]) -> dict[str, tf.Variable]:
    """Returns variables by their Keras paths, as checkpoints name them."""
    return {variable.path: variable.value for variable in variables}
