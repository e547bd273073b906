"""Checkpoints of a training run."""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import reason_of
from glow_tf.core.text_files import json_text
from glow_tf.store import checkpoints
from glow_tf.store.checkpoints import DamagedCheckpointError, by_path, read
from glow_tf.training.trainer import PartsTrainer

KEPT = 2  # of the newest checkpoints


class Checkpoints:
    """The newest states of a trainer and, where epochs are compared on validation images, the best one.

    A checkpoint holds the weights (with ActNorm's flags), every optimizer, and the number of finished epochs.
    Together with the seed, that is all a run needs to go on as if it had not stopped. TensorFlow's
    `CheckpointManager` writes them and keeps the last two, so a kill amid a save, or a damaged file, costs an
    epoch. The same checkpoint restores on one device or many.

    Where the optimizers keep moving averages of the weights, the model of a checkpoint has the averages,
    because they are what is evaluated and exported; the optimizers then hold the weights themselves.

    Args:
      folder: `<workdir>/checkpoints`.
      trainer: compiled.
      writes: one of several processes does; the others count along.
    """

    def __init__(self, folder: pathlib.Path, trainer: PartsTrainer, writes: bool = True):
        self.epochs = tf.Variable(0, dtype=tf.int64)  # finished
        self.best_bpd = tf.Variable(float("inf"), dtype=tf.float64)  # on validation images
        self._content = state_of(trainer) | {"epochs": self.epochs, "best_bpd": self.best_bpd}
        self._trainer, self._folder, self._writes = trainer, folder, writes
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            config = json.dumps(dataclasses.asdict(trainer.flow.config), indent=2)
            write_atomically(folder / checkpoints.MODEL, config.encode())

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read, and returns its number of epochs.

        Says so if a newer one is damaged, or missing. Without a checkpoint nothing changes. If all are
        damaged, raises a DamagedCheckpointError about the newest.
        """
        known = {*checkpoints.complete(self._folder), checkpoints.pointed_to(self._folder) or 0}
        damaged: list[DamagedCheckpointError] = []
        for epochs in sorted(known - {0}, reverse=True):
            try:
                read(self._content, str(self._folder / f"ckpt-{epochs}"))
            except DamagedCheckpointError as error:
                damaged.append(error)
                continue
            for error in damaged:
                print(f"WARNING: {error.path} is damaged, and epoch {epochs} is next ({error.reason}).")
            self._trainer.averages.swap()
            return epochs
        if damaged:
            raise damaged[0]
        return 0

    def all_finite(self) -> bool:
        """Returns whether every weight and every number of an optimizer is finite."""
        for variable in tf.nest.flatten(list(state_of(self._trainer).values())):
            with tf.device(variable.device):  # it may be on another machine
                if variable.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(variable)):
                    return False
        return True

    def save_start(self, scores: Mapping[str, tuple[float, float]]) -> None:
        """Saves the model that a run begins with as that of epoch 0, which is the best so far.

        `scores` are those of `test` and `validation` images, with their standard errors.
        """
        if not math.isfinite(scores["validation"][0]):
            return
        self.best_bpd.assign(scores["validation"][0])
        if self._writes:
            write_atomically(self._folder / checkpoints.UNTOUCHED, json_text(scores).encode())
        with self._trainer.averages.in_place():
            self._write(self._folder / checkpoints.BEST, 0, keep=1)

    def save(self, epochs: int, validation_bpd: float | None = None) -> None:
        """Saves the state after so many epochs, and again if it is the best so far; may raise OSError."""
        self.epochs.assign(epochs)
        with self._trainer.averages.in_place():
            if validation_bpd is not None and validation_bpd < float(self.best_bpd):
                self.best_bpd.assign(validation_bpd)
                self._write(self._folder / checkpoints.BEST, epochs, keep=1)
            self._write(self._folder, epochs, keep=KEPT)

    def _write(self, folder: pathlib.Path, epochs: int, keep: int) -> None:
        """Writes a checkpoint into a folder, and removes those that are too old."""
        if not self._writes:
            return
        if checkpoints.pointed_to(folder) is None:
            (folder / checkpoints.POINTER).unlink(missing_ok=True)  # TensorFlow could not read it
        manager = tf.train.CheckpointManager(tf.train.Checkpoint(**self._content), str(folder), keep)
        try:
            manager.save(epochs)
        except (tf.errors.OpError, OSError) as error:
            remove(folder, epochs)  # its files take room on a full disk
            raise OSError(
                f"the checkpoint of epoch {epochs} could not be written: {reason_of(error)}."
            ) from None
        for other in checkpoints.complete(folder):  # which a kill, or a lost pointer, left behind
            if str(folder / f"ckpt-{other}") not in manager.checkpoints:
                remove(folder, other)


def remove(folder: pathlib.Path, epochs: int) -> None:
    """Removes the files of a checkpoint, and what TensorFlow left while it wrote them."""
    for path in folder.glob(f"ckpt-{epochs}[._]*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def state_of(trainer: PartsTrainer) -> dict[str, Any]:
    """Returns the variables of a trainer's model and optimizers, as checkpoints name them."""
    objectives = trainer.local_objectives
    optimizers = list(map(_without_numbers, trainer.optimizers, objectives))
    state = {"model": by_path(trainer.flow.variables), "optimizers": optimizers}
    own = [{f"{k}": v.value for k, v in enumerate(o.variables)} for o in objectives]
    return state | ({"objectives": own} if any(own) else {})


def _without_numbers(
    optimizer: keras.optimizers.Optimizer, objective: keras.layers.Layer
) -> dict[str, tf.Variable]:
    """Returns an optimizer's variables by names without those that Keras numbers in each process.

    These are the optimizer's own, and those of the layers of an objective.
    """
    found = {}
    numbered = {v.path.replace("/", "_"): f"objective_{k}" for k, v in enumerate(objective.variables)}
    for path, value in by_path(optimizer.variables).items():
        name = path.split("/", 1)[1]
        for start, instead in numbered.items():
            name = f"{instead}{name.removeprefix(start)}" if name.startswith(start) else name
        found[name] = value
    return found


def checkpoint_bytes(trainer: PartsTrainer) -> int:
    """Returns the size of one checkpoint in bytes."""
    state = tf.nest.flatten(list(state_of(trainer).values()))
    return sum(v.shape.num_elements() * v.dtype.size for v in state)
