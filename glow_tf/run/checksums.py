"""A run that goes on must have the data that it began with, and all of its workers the same."""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from glow_tf.config import ModelConfig
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_json
from glow_tf.data import ImageData
from glow_tf.data.arrays import TEST_EVERY, fingerprint
from glow_tf.store.checkpoints import DATA, complete
from glow_tf.store.files import settings_of


def fingerprints(images: ImageData) -> dict[str, str]:
    """Returns split → how many images it has, and a checksum of their bytes, in their order.

    What is given with the images has its own.
    """
    return {name: fingerprint(own) for name, own in images.arrays.items()}


def check_same_data(folder: pathlib.Path, model: ModelConfig, data: Mapping[str, str]) -> None:
    """Raises ConfigError if the checkpoints in a folder are of a run on other images, or in another order.

    Otherwise a folder that got a picture would go on with other images held out: some that were trained on
    would become test images.
    """
    if not complete(folder):
        return
    for name, (before, now) in _differences(folder, model, data).items():
        raise ConfigError(
            f"the data must be what the run began with, and files may have been added, removed or changed: "
            f"{name}={before}. A new run may start from this one with --init_from={folder.parent}. "
            f"Received: {name}={now}"
        )


def write_data(folder: pathlib.Path, data: Mapping[str, str]) -> None:
    """Writes the `fingerprints` of a run's images beside its checkpoints."""
    write_atomically(folder / DATA, json.dumps(data, indent=2).encode())


def read_data(folder: pathlib.Path) -> dict[str, str]:
    """Returns what `write_data` wrote into a folder; ConfigError if it is not there, or damaged."""
    try:
        return read_json(folder / DATA)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder.parent} must be the workdir of a run, with {folder.name}/{DATA}. Received: {error}"
        ) from None


def has_training_images(folder: pathlib.Path, images: np.ndarray) -> bool:
    """Returns whether images [N, H, W, C] are or begin with all training images of a folder's checkpoints.

    They may also hold every tenth as a test image, as a data set without test images does.
    """
    try:
        before = read_data(folder)["train images"]
        count = int(before.split()[0])
    except (LookupError, ValueError, AttributeError, TypeError):  # another kind of model; it is damaged
        return False
    found = images, images[np.arange(len(images)) % TEST_EVERY != TEST_EVERY - 1]
    return any(fingerprint(own[:count]) == before for own in found)


def _differences(
    folder: pathlib.Path, model: ModelConfig, data: Mapping[str, str]
) -> dict[str, tuple[Any, Any]]:
    """Returns name → what it was, and what it is now."""
    found = {}
    with contextlib.suppress(ConfigError, OSError):  # it is missing or damaged, and written anew
        before = settings_of(folder.parent)
        of_data = ("image_shape", "condition_shape")
        found |= {name: (getattr(before, name), getattr(model, name)) for name in of_data}
    with contextlib.suppress(OSError, ValueError, AttributeError):
        then = read_json(folder / DATA)
        found |= {name: (then.get(name), now) for name, now in data.items()}
    return {name: pair for name, pair in found.items() if pair[0] != pair[1]}
