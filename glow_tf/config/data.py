"""Which images a run has."""

from __future__ import annotations

import dataclasses
import os
import pathlib

from glow_tf.config.choices import AUGMENTATIONS, MOST_SIDE
from glow_tf.config.setting import check_fields, require, setting
from glow_tf.core.errors import ConfigError

FOLDER = "folder:"  # how a data set that is a folder begins
FILE = "file:"  # … and one that is a file with an array of all examples
DIGITS = "digits"
INPUT, TARGET = "input", "target"  # folders of pairs, below that of the data set
LABEL = "label"  # of the digits, and of a folder with classes


def _path_after(beginning: str, text: str) -> pathlib.Path | None:
    """Returns the path that follows the beginning of a text, in full if it has a ~; None if there is none."""
    if not text.startswith(beginning):
        return None
    return pathlib.Path(os.path.expanduser(text.removeprefix(beginning)))


def folder_of(dataset: str) -> pathlib.Path | None:
    """Returns the folder that a data set names; None if it is no folder."""
    return _path_after(FOLDER, dataset)


def file_of(dataset: str) -> pathlib.Path | None:
    """Returns the .npy file that a data set names; None if it is no file."""
    return _path_after(FILE, dataset)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, and how many.

    `dtype` is no flag: it is the type of the data of the model that they are for, `uint8`, `uint16` or
    `float32` (real numbers).
    """

    dataset: str = setting(
        DIGITS,
        "digits (scikit-learn), a TFDS image data set by name, folder:PATH, or file:PATH.npy, one array "
        "of all examples.",
    )
    data_dir: str | os.PathLike = setting(  # noqa: RUF009
        "", "TFDS's data_dir; empty means TFDS's own default.", may_differ=True
    )
    image_size: int = setting(
        0, "Side to which images are resized; 0 keeps them as they are.", most=MOST_SIDE
    )
    train_examples: int = setting(0, "Training images used; 0 means all.")
    test_examples: int = setting(0, "Test images used; 0 means all.")
    validation_examples: int = setting(
        0, "Images cut from the end of the training data; the best epoch is chosen by these alone."
    )
    augment: str = setting("none", "{}.", choices=AUGMENTATIONS)
    crop: int = setting(
        0,
        "Side of the squares, cut at random out of every training image, of which a model of levels learns; "
        "it is evaluated on whole images. 0: whole images.",
        most=MOST_SIDE,
    )
    condition: str = setting(
        "",
        "What the model is given with each image. Of a folder: input (images in PATH/target/, the file of "
        "the same name in PATH/input/ is given) or label (its class); of "
        "digits: label; of a TFDS data set: a feature by its name. Empty: nothing.",
    )
    dtype: str = "uint8"

    def __post_init__(self):
        check_fields(self)
        named = self.dataset.removeprefix(FOLDER).removeprefix(FILE).strip() != ""
        require(named, self, "dataset", "a name, folder:PATH or file:PATH.npy")
        file = file_of(self.dataset)
        require(file is None or file.suffix == ".npy", self, "dataset", "file:PATH.npy, an array of NumPy's")
        self._check_condition()

    def _check_condition(self) -> None:
        if not self.condition:
            return
        if folder_of(self.dataset):
            fits, needs = self.condition in (INPUT, LABEL), "of a folder: input or label"
        elif file_of(self.dataset):
            fits, needs = False, "of a file: nothing"
        elif self.dataset == DIGITS:
            fits, needs = self.condition == LABEL, "of digits: label"
        else:
            fits = self.condition not in (INPUT, "image")
            needs = "of a TFDS data set: a feature of it that is not the image"
        require(fits, self, "condition", f"empty, or, {needs}")
        if self.condition == INPUT:
            self.check_augment()

    def check_augment(self) -> None:
        """Raises ConfigError if images are moved, and maps that are given with them would not be."""
        if self.augment != "none":
            raise ConfigError(
                "augment moves images, and not the maps that are given with them, so it must be none. "
                f"Received: augment={self.augment!r}, condition={self.condition!r}"
            )
