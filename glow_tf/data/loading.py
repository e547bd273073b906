"""A data set, read whole and split for a run."""

from __future__ import annotations

import dataclasses

import numpy as np

from glow_tf.config import DataConfig
from glow_tf.data import sources
from glow_tf.data.folder import from_folder
from glow_tf.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ImageData:
    """The decoded images of a data set.

    Attributes:
      train, validation, test: uint8 [N, H, W, C] each; validation may be empty.
      notes: sentences for the user about how the images were read.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return tuple(int(side) for side in self.train.shape[1:])


def load(config: DataConfig) -> ImageData:
    """Reads a data set into memory; every image is decoded once.

    Raises:
      ConfigError: the data set does not exist, is empty, has images of several sizes, has too few images, or
        does not fit into memory.
    """
    notes: tuple[str, ...] = ()
    if config.dataset == "digits":
        train, test = sources.digits(config.image_size)
    elif config.dataset.startswith("folder:"):
        train, test, notes = from_folder(config)
    else:
        train, test = sources.from_tfds(config)
    train, validation = _cut(train, config)
    test = _first(test, config.test_examples, "test_examples")
    return ImageData(train, validation, test, notes)


def _cut(train: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    if config.validation_examples >= len(train):
        raise ConfigError(
            f"validation_examples must leave some of the {len(train)} training images. "
            f"Received: validation_examples={config.validation_examples}"
        )
    split = len(train) - config.validation_examples
    return _first(train[:split], config.train_examples, "train_examples"), train[split:]


def _first(images: np.ndarray, count: int, name: str) -> np.ndarray:
    if count > len(images):
        raise ConfigError(f"{name} must be at most {len(images)} here. Received: {name}={count}")
    return images[: count or None]
