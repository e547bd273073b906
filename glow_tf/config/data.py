"""Which images a run has."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from glow_tf.config.choices import AUGMENTATIONS, MOST, MOST_SIDE
from glow_tf.config.setting import check_fields, require, setting

FOLDER = "folder:"  # how a data set that is a folder begins
FILE = "file:"  # … and one that is a file with an array of all examples


def folder_of(dataset: str) -> pathlib.Path | None:
    """Returns the folder that a data set names, in full if it begins with ~; None if it is no folder."""
    if not dataset.startswith(FOLDER):
        return None
    return pathlib.Path(os.path.expanduser(dataset.removeprefix(FOLDER)))


def file_of(dataset: str) -> pathlib.Path | None:
    """Returns the .npy file that a data set names, as `folder_of` does; None if it is no file."""
    if not dataset.startswith(FILE):
        return None
    return pathlib.Path(os.path.expanduser(dataset.removeprefix(FILE)))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how many.

    `dtype` is no flag: it is the type of the data of the model that they are for, `uint8`, `uint16` or
    `float32` (real numbers).
    """

    dataset: str = setting(
        "digits",
        "digits (scikit-learn), a TFDS image data set by name, folder:PATH, or file:PATH.npy, one array "
        "of all examples.",
    )
    data_dir: str | os.PathLike = setting(  # noqa: RUF009
        "", "TFDS's data_dir; empty means TFDS's own default.", may_differ=True
    )
    image_size: int = setting(
        0, "Side to which images are resized; 0 keeps them as they are.", most=MOST_SIDE
    )
    train_examples: int = setting(0, "Training images used; 0 means all.", most=MOST)
    test_examples: int = setting(0, "Test images used; 0 means all.", most=MOST)
    validation_examples: int = setting(
        0,
        "Images cut from the end of the training data; the best epoch is chosen by these alone.",
        most=MOST,
    )
    augment: str = setting("none", "{}.", choices=AUGMENTATIONS)
    dtype: str = "uint8"

    def __post_init__(self):
        """Raises ConfigError for values that no data set allows."""
        check_fields(self)
        named = self.dataset.removeprefix(FOLDER).removeprefix(FILE).strip() != ""
        require(named, self, "dataset", "a name, folder:PATH or file:PATH.npy")
        file = file_of(self.dataset)
        require(file is None or file.suffix == ".npy", self, "dataset", "file:PATH.npy, an array of NumPy's")
