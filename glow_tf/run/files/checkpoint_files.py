"""The checkpoints in a folder, found without TensorFlow."""

import pathlib
import re

from glow_tf.core.text_files import read_json

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
