"""The checkpoints of a run: which there are, and how they are read. Pure Python until one is read."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from glow_tf.core.durable_files import check_can_be_read_again
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.text_files import read_json

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

MODEL = "model.json"  # the settings of the model
POINTER = "checkpoint"  # the file in which TensorFlow notes which checkpoints it keeps
BEST = "best"  # the folder of the best epoch's checkpoint, beside the newest ones
DATA = "data.json"  # checksums of the images that the run began with
UNTOUCHED = "untouched.json"  # the scores of the model that the run began with


def complete(folder: pathlib.Path) -> list[int]:
    """Returns the epochs whose checkpoints lie in the folder, in order, whatever `POINTER` says.

    TensorFlow writes the index of a checkpoint last, so one that has an index was written to its end.
    """
    found = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index"))
    return sorted(int(m[1]) for m in found if m and any(folder.glob(f"ckpt-{m[1]}.data-*")))


def finished(folder: pathlib.Path) -> int:
    """Returns the epochs that the newest checkpoint has finished; 0 if there is none."""
    return max(complete(folder), default=0)


def pointed_to(folder: pathlib.Path) -> int | None:
    """Returns which checkpoint is said to be the newest, whether it is there or not; None if none is."""
    try:
        found = re.match(rb'model_checkpoint_path: "ckpt-(\d{1,9})"', (folder / POINTER).read_bytes())
    except OSError:
        return None
    return int(found[1]) if found else None


def best_epoch(folder: pathlib.Path) -> int | None:
    """Returns the best epoch on validation images, whose checkpoint is kept; None if there is none."""
    return max(complete(folder / BEST), default=None)


def read_untouched(folder: pathlib.Path) -> dict[str, tuple[float, float]]:
    """Returns the scores of the model that a run began with, by `test` and `validation`; empty if none.

    OSError if their file is damaged.
    """
    path = folder / UNTOUCHED
    try:
        found = read_json(path) if path.exists() else {}
        return {
            name: (float(found[name][0]), float("nan" if found[name][1] is None else found[name][1]))
            for name in found and ("test", "validation")
        }
    except (ValueError, TypeError, LookupError):
        raise OSError(f"{path} is damaged. {remedy(folder)}") from None


def remedy(folder: pathlib.Path) -> str:
    """Says what to do where no checkpoint is left."""
    return f"Put a copy of {folder} in its place, or choose another workdir to train from the start."


def path_of(workdir: pathlib.Path, which: str = "") -> str:
    """Returns the path of a workdir's `last` or `best` checkpoint, as TensorFlow takes it.

    Empty: the best, if there is one. FileNotFoundError if there is none; ConfigError if the folder is not a
    workdir, or `which` another word.
    """
    if (workdir / "saved_model.pb").exists():
        raise ConfigError(
            "load needs a .keras file or a run's workdir; a SavedModel loads with tf.saved_model.load, "
            f"without this package. Received: path={str(workdir)!r}"
        )
    if which not in ("last", "best", ""):
        raise ConfigError(f"which must be last or best. Received: which={which!r}")
    check_can_be_read_again("path", workdir)
    folder = workdir / "checkpoints"
    if not which and best_epoch(folder) is not None:
        which = "best"
    folder = folder / BEST if which == "best" else folder
    if not (epochs := complete(folder)):
        needs = "; a run with --validation_examples keeps it after a sound epoch" if which == "best" else ""
        raise FileNotFoundError(
            f"There is no {which or 'last'} checkpoint{needs}. Received: path={str(workdir)!r}"
        )
    return str(folder / f"ckpt-{epochs[-1]}")


class DamagedCheckpointError(OSError):
    """A checkpoint that cannot be read."""

    def __init__(self, path: str, reason: str):
        super().__init__(
            f"the checkpoint {path} cannot be read; put an intact copy in its place, or remove the "
            f"folder to train again from the start. {reason}"
        )
        self.path = path
        self.reason = reason


def read(content: dict[str, Any], path: str, partly: bool = False) -> None:
    """Reads a checkpoint, which may hold more if it is read partly, into variables.

    DamagedCheckpointError if it cannot be read, or has other variables.
    """
    import tensorflow as tf

    try:
        status = tf.train.Checkpoint(**content).restore(path)
        if partly:
            status.expect_partial().assert_existing_objects_matched()
        else:
            status.assert_consumed()
    except Exception as error:  # whatever TensorFlow raises at a damaged file
        raise DamagedCheckpointError(path, f"{type(error).__name__}: {in_one_line(str(error))}") from None


def by_path(variables: Iterable[keras.Variable]) -> dict[str, tf.Variable]:
    """Returns variables by their Keras paths, as checkpoints name them."""
    return {variable.path: variable.value for variable in variables}
