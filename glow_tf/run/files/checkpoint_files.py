"""The checkpoints in a folder, found without TensorFlow."""

import pathlib
import re
import shutil

from glow_tf.core.durable_files import flush, write_atomically
from glow_tf.core.text_files import read_json

POINTER = "checkpoint"  # the file in which TensorFlow's own tools look for the newest checkpoint
BEST = "best"  # the folder of the best epoch's checkpoint, beside the newest ones
DATA = "data.json"  # checksums of the images that the run began with
UNTOUCHED = "untouched.json"  # the scores of the model that the run began with


def complete(folder: pathlib.Path) -> list[int]:
    """Returns the epochs whose checkpoints lie in the folder, in order, whatever `POINTER` says.

    TensorFlow writes the index of a checkpoint last, so one that has an index was written to its end.
    """
    found = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index"))
    return sorted(int(m[1]) for m in found if m and any(folder.glob(f"ckpt-{m[1]}.data-*")))


def point_to(folder: pathlib.Path, number: int) -> None:
    """Writes which checkpoint is the newest; 0: there is none."""
    if number:
        write_atomically(folder / POINTER, f'model_checkpoint_path: "ckpt-{number}"\n'.encode())
    elif (folder / POINTER).exists():
        (folder / POINTER).unlink()
        flush(folder)


def pointed_to(folder: pathlib.Path) -> int:
    """Returns which checkpoint is said to be the newest, whether it is there or not; 0 if none is."""
    try:
        found = re.match(rb'model_checkpoint_path: "ckpt-(\d{1,9})"', (folder / POINTER).read_bytes())
    except OSError:
        return 0
    return int(found[1]) if found else 0


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


def within(folder: pathlib.Path, epochs: int) -> pathlib.Path:
    """Returns where the checkpoints within the epoch after `epochs` epochs are; their numbers are steps."""
    return folder / f"after_{epochs}"


def all_within(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of all checkpoints within epochs."""
    return list(folder.glob("after_*"))


def remove_within(folder: pathlib.Path) -> None:
    """Removes all checkpoints within epochs."""
    for steps in all_within(folder):
        shutil.rmtree(steps)


def name(epochs: int, steps: int = 0) -> str:
    """Names the place of a checkpoint, `steps` steps after `epochs` epochs, in messages."""
    return f"step {steps} of epoch {epochs + 1}" if steps else f"epoch {epochs}"


def progress(folder: pathlib.Path) -> tuple[int, int]:
    """Returns the epochs that the newest checkpoint has finished, and how many steps after them are kept.

    OSError if there was a checkpoint, and its files are missing.
    """
    epochs = complete(folder)
    pointer = folder / POINTER
    if not epochs and pointer.exists():
        text = pointer.read_bytes().decode(errors="replace")
        raise OSError(
            f"the checkpoint that {pointer} names is missing. {remedy(folder)} Received: {text[:80]!r}"
        )
    finished = epochs[-1] if epochs else 0
    return finished, max(complete(within(folder, finished)), default=0)


def remedy(folder: pathlib.Path) -> str:
    """Says what to do where no checkpoint is left."""
    return f"Put a copy of {folder} in its place, or choose another workdir to train from the start."
