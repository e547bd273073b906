"""Checkpoints of a training run."""

import dataclasses
import json
import math
import pathlib
import shutil
from collections.abc import Mapping

import tensorflow as tf

from glow_tf.core.durable_files import flush, make_folder, write_atomically
from glow_tf.core.errors import reason_of
from glow_tf.core.text_files import json_text
from glow_tf.run.files import checkpoint_content as content
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checkpoint_content import DamagedCheckpointError
from glow_tf.run.files.checksums import MODEL
from glow_tf.training.trainer import PartsTrainer

UNFINISHED = ".ckpt-*"  # the files of a checkpoint that is being written, or was when the process ended


class Checkpoints:
    """The newest and, where epochs are compared on validation images, the best state of a trainer.

    A checkpoint holds the weights (with ActNorm's flags), every optimizer, and the number of finished epochs.
    Together with the seed, that is all a run needs to go on as if it had not stopped. The two newest are
    kept. An older one is removed when the newest is flushed to the disk, so that a kill or a power cut loses
    at most the checkpoint that is being written, and a damaged file at most the newest (TensorFlow has a
    checksum of every tensor). The same checkpoint restores on one device or many.

    A checkpoint within an epoch also holds how many of its steps were made, their means and their time. Only
    `restore` takes one. Models are loaded from the ends of epochs.
    The two newest are kept, until the epoch is over.

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
        self.steps = tf.Variable(0, dtype=tf.int64)  # since the last finished epoch
        self.seconds = tf.Variable(0.0, dtype=tf.float64)  # of training, that these steps took
        self._trainer = trainer
        counted = {"epochs": self.epochs, "best_bpd": self.best_bpd}
        within = {"steps": self.steps, "seconds": self.seconds}
        self._at_ends = content.state_of(trainer) | counted
        self._within_epochs = self._at_ends | within | content.within_epoch_of(trainer)
        self._checkpoint = tf.train.Checkpoint(**self._at_ends)
        self._within = tf.train.Checkpoint(**self._within_epochs)
        for checkpoint in (self._checkpoint, self._within):
            checkpoint.save_counter  # noqa: B018 - made now, so that every checkpoint has it
        self._folder, self._writes = folder, writes
        if writes:
            make_folder(folder)
            config = json.dumps(dataclasses.asdict(trainer.glow.config), indent=2)
            write_atomically(folder / MODEL, config.encode())

    def restore(self) -> int:
        """Restores the newest checkpoint that can be read, maybe one within an epoch; returns its epochs.

        Says so if a newer one is damaged. Without a checkpoint nothing changes. If all are damaged, raises a
        DamagedCheckpointError about the newest.
        """
        damaged: list[DamagedCheckpointError] = []
        places = self._places()
        pointed_to = checkpoint_files.pointed_to(self._folder)
        if places and pointed_to > places[-1][0]:
            found = checkpoint_files.name(*places[-1])
            print(f"WARNING: the checkpoint of epoch {pointed_to} is not there, and {found} is next.")
        for epochs, steps in reversed(places):
            try:
                self._read(epochs, steps)
            except DamagedCheckpointError as error:
                damaged.append(error)
            else:
                for error in damaged:
                    found = checkpoint_files.name(epochs, steps)
                    print(f"WARNING: {error.path} is damaged, and {found} is next ({error.reason}).")
                return epochs
        if damaged:
            raise damaged[0]
        return 0

    def _places(self) -> list[tuple[int, int]]:
        """Returns the finished epochs, and the steps after them, of every checkpoint, in order."""
        ends = checkpoint_files.complete(self._folder)
        found = [(epochs, 0) for epochs in ends]
        for epochs in [0, *ends]:
            within_epoch = checkpoint_files.within(self._folder, epochs)
            found += [(epochs, steps) for steps in checkpoint_files.complete(within_epoch)]
        return sorted(found)

    def all_finite(self) -> bool:
        """Returns whether every weight and every number of an optimizer is finite."""
        for variable in tf.nest.flatten(list(content.state_of(self._trainer).values())):
            with tf.device(variable.device):  # it may be on another machine
                if variable.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(variable)):
                    return False
        return True

    def _read(self, epochs: int, steps: int = 0) -> None:
        """Restores a checkpoint; DamagedCheckpointError if it cannot be read."""
        folder = checkpoint_files.within(self._folder, epochs) if steps else self._folder
        path = str(folder / f"ckpt-{steps or epochs}")
        with content.readable(path):
            content.read_into(self._within_epochs if steps else self._at_ends, path)
        self._trainer.averages.swap()
        self.steps.assign(steps)

    def save_start(self, scores: Mapping[str, tuple[float, float]]) -> None:
        """Saves the model that a run begins with as that of epoch 0, which is the best so far.

        `scores` are those of `test` and `validation` images, with their standard errors.
        """
        if not math.isfinite(scores["validation"][0]):
            return
        self.best_bpd.assign(scores["validation"][0])
        if self._writes:
            write_atomically(self._folder / checkpoint_files.UNTOUCHED, json_text(scores).encode())
        with self._trainer.averages.in_place():
            self._write(self._folder / checkpoint_files.BEST, 0, 1, self._checkpoint)

    def save(self, epochs: int, validation_bpd: float | None = None) -> None:
        """Saves the state after so many epochs, and again if it is the best so far; may raise OSError."""
        self.epochs.assign(epochs)
        with self._trainer.averages.in_place():
            if validation_bpd is not None and validation_bpd < float(self.best_bpd):
                self.best_bpd.assign(validation_bpd)
                self._write(self._folder / checkpoint_files.BEST, epochs, 1, self._checkpoint)
            self._write(self._folder, epochs, 2, self._checkpoint)
        if self._writes:
            checkpoint_files.remove_within(self._folder)

    def save_within(self, steps: int, seconds: float) -> None:
        """Saves the state after `steps` steps of an epoch, which took so many seconds; may raise OSError."""
        epochs = int(self.epochs)
        self.steps.assign(steps)
        self.seconds.assign(seconds)
        with self._trainer.averages.in_place():
            self._write(checkpoint_files.within(self._folder, epochs), steps, 2, self._within)

    def _write(self, folder: pathlib.Path, number: int, keep: int, checkpoint: tf.train.Checkpoint) -> None:
        """Writes a checkpoint, flushes it, names it in the pointer, and removes those that are too old.

        It has its name when it is whole and on the disk, and its index comes last.
        """
        if not self._writes:
            return
        try:
            make_folder(folder)
            _remove_all(folder, UNFINISHED)
            checkpoint.write(str(folder / f".ckpt-{number}"))
            files = _files(folder, UNFINISHED)
            if not any(path.suffix == ".index" for path in files):
                raise OSError("what was written is not in the folder")
            for path in files:
                flush(path)
            remove(folder, number)  # one that is damaged
            for path in reversed(files):
                path.replace(folder / path.name[1:])
            flush(folder)
        except (tf.errors.OpError, OSError) as error:
            _remove_all(folder, UNFINISHED)  # its files take room on a full disk
            within = checkpoint is self._within
            of = checkpoint_files.name(int(self.epochs), number if within else 0)
            raise OSError(f"the checkpoint of {of} could not be written: {reason_of(error)}.") from None
        checkpoint_files.point_to(folder, number)
        found = checkpoint_files.complete(folder)
        kept = [other for other in found if other <= number][-keep:]  # later ones are damaged
        for other in set(found) - set(kept):
            remove(folder, other)


def _files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """Returns the files and folders of a checkpoint; its index comes first."""
    return sorted(folder.glob(pattern), key=lambda path: path.suffix != ".index")


def remove(folder: pathlib.Path, number: int) -> None:
    """Removes a checkpoint; its index first: what is left without one is no checkpoint."""
    _remove_all(folder, f"ckpt-{number}[._]*")


def _remove_all(folder: pathlib.Path, pattern: str) -> None:
    for path in _files(folder, pattern):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def checkpoint_bytes(trainer: PartsTrainer) -> int:
    """Returns the size of one checkpoint in bytes."""
    state = tf.nest.flatten(list(content.state_of(trainer).values()))
    return sum(v.shape.num_elements() * v.dtype.size for v in state)
