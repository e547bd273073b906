"""The newest checkpoint of a run, found without TensorFlow."""

from __future__ import annotations

import pathlib
import re

POINTER = "checkpoint"  # the file in which TensorFlow names the newest checkpoint


def finished_epochs(folder: pathlib.Path) -> int:
    """Returns the number of epochs that the newest checkpoint has finished; 0 without a checkpoint.

    Args:
      folder: `<workdir>/checkpoints`.

    Raises:
      OSError: the file that names the newest checkpoint is damaged, or that checkpoint is missing.
    """
    pointer = folder / POINTER
    if not pointer.exists():
        return 0
    text = pointer.read_bytes().decode(errors="replace")
    found = re.search(r'^model_checkpoint_path: "(.*-(\d+))"', text, re.MULTILINE)
    if not found:
        raise OSError(f"{pointer} must name the newest checkpoint. {remedy(folder)} Received: {text[:80]!r}")
    if not (folder / f"{found[1]}.index").exists():
        raise OSError(
            f"the checkpoint that {pointer} names is missing. {remedy(folder)} Received: {found[1]}"
        )
    return int(found[2])


def complete(folder: pathlib.Path) -> list[int]:
    """Returns the epochs whose checkpoint files lie in the folder, even if `POINTER` does not name them."""
    found = (re.fullmatch(r"ckpt-(\d+)\.index", path.name) for path in folder.glob("ckpt-*.index"))
    return sorted(int(m[1]) for m in found if m and any(folder.glob(f"ckpt-{m[1]}.data-*")))


def remedy(folder: pathlib.Path) -> str:
    """Says what to do about a missing or damaged `POINTER`."""
    if epochs := complete(folder):
        line = f'model_checkpoint_path: "ckpt-{epochs[-1]}"'
        return f"Write the line {line} into {folder / POINTER} to go on after epoch {epochs[-1]}."
    return f"Put a copy of {folder} in its place, or choose another workdir to train from the start."
