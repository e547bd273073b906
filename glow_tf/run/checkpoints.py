"""Checkpoints of a training run, and models loaded from them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from glow_tf.config import ModelConfig
from glow_tf.glow import Glow
from glow_tf.trainer import PartsTrainer
from glow_tf.workdir import write_atomically


class Checkpoints:
    """The newest and, where epochs are compared on validation images, the best state of a trainer.

    A checkpoint holds the weights (ActNorm's flags among them), every optimizer and the number of finished
    epochs; with the seed that is all a run needs to go on as if it had not stopped. TensorFlow writes a
    checkpoint beside the last and then renames the pointer to it, so an interruption loses at most the one
    being written. The same checkpoint restores on one device or many.

    Args:
      folder: `<workdir>/checkpoints`.
      trainer: compiled.

    Attributes:
      epochs: finished ones.
      best_bpd: on validation images.
      variables: all that a checkpoint holds.
    """

    def __init__(self, folder: pathlib.Path, trainer: PartsTrainer):
        self.epochs = tf.Variable(0, dtype=tf.int64)
        self.best_bpd = tf.Variable(float("inf"), dtype=tf.float64)
        model = _by_path(trainer.glow.variables)
        # Without the optimizer's name: Keras numbers them, and a later run in this process is to find them.
        optimizers = [
            {path.split("/", 1)[1]: value for path, value in _by_path(optimizer.variables).items()}
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
        """Restores the newest checkpoint, if any; returns the number of finished epochs.

        Raises:
          OSError: it is damaged.
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
          OSError: it could not be written, because the disk is full, say.
        """
        self.epochs.assign(epochs)
        is_best = validation_bpd is not None and validation_bpd < float(self.best_bpd)
        try:
            with _without_retracing_warnings():
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


def load(path: str | pathlib.Path, which: str = "last") -> Glow:
    """Loads a model.

    Args:
      path: a `.keras` file that `Glow.save` (or `PartsTrainer.save`) wrote, or the workdir of a run.
      which: of a workdir, the `last` or the `best` checkpoint (the latter exists with validation images).

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
      ValueError: path is neither.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no such file or folder. Received: path={str(path)!r}")
    if path.suffix == ".keras":
        model = keras.saving.load_model(path)
        return model.glow if isinstance(model, PartsTrainer) else model
    if (path / "saved_model.pb").exists():
        raise ValueError(
            "load needs a .keras file or a run's workdir; a SavedModel loads with tf.saved_model.load, "
            f"without this package. Received: path={str(path)!r}"
        )
    if which not in ("last", "best"):
        raise ValueError(f"which must be last or best. Received: which={which!r}")
    folder = path / "checkpoints"
    newest = tf.train.latest_checkpoint(str(folder if which == "last" else folder / "best"))
    if newest is None:
        raise FileNotFoundError(f"There is no {which} checkpoint. Received: path={str(path)!r}")
    glow = Glow(ModelConfig(**json.loads((folder / "model.json").read_text())), name="glow")
    checkpoint = tf.train.Checkpoint(model=_by_path(glow.variables))
    checkpoint.restore(newest).expect_partial().assert_existing_objects_matched()
    return glow


def checkpoint_bytes(trainer: PartsTrainer) -> int:
    """Size of one checkpoint."""
    variables = [*trainer.glow.variables, *(v for o in trainer.optimizers for v in o.variables)]
    return sum(tf.as_dtype(v.dtype).size * v.value.shape.num_elements() for v in variables)


@contextlib.contextmanager
def _without_retracing_warnings() -> Iterator[None]:
    """Where several processes save, TensorFlow traces a function each time, and warns of that."""

    def wanted(record: logging.LogRecord) -> bool:
        return "retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _by_path(variables: list[keras.Variable]) -> dict[str, tf.Variable]:
    return {variable.path: variable.value for variable in variables}
