"""What a model is given, from files: arrays, or images."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from glow_tf.commands import model_flags
from glow_tf.config import FOLDER, DataConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import check_memory

if TYPE_CHECKING:
    from glow_tf.model.glow import Glow

HOW = "FILE.npy with an array [N, …], an image, a folder of images, or label:K,… or label:all for classes"
CLASSES = "label:"


def condition_of(values: flags.FlagValues, model: Glow) -> Any:
    """Reads what --condition names, in the shapes of the model: arrays [N, …]; None for a model without one.

    ConfigError if it is missing, cannot be read, or does not fit the model.
    """
    from glow_tf.model.conditions import by_name, of_names
    from glow_tf.use.images import fitted_condition

    model_flags.check_condition(values, model, HOW)
    if not values.condition:
        return None
    if values.condition.startswith(CLASSES):
        return _of_classes(values.condition.removeprefix(CLASSES), model)
    path = pathlib.Path(os.path.expanduser(values.condition))
    found = _read(path)
    named = by_name(found)
    for name, shape in model.condition_shapes.items():  # one alone needs no axis
        if name in named and named[name].ndim == len(shape):
            named[name] = named[name][np.newaxis]
    if len({len(own) for own in named.values()}) != 1 or not all(map(np.size, named.values())):
        raise ConfigError(
            "condition must have one or more examples, as many in each array. Received: "
            f"condition={str(path)!r} with {[own.shape for own in named.values()]}"
        )
    return fitted_condition(model, of_names(named), f"condition={str(path)!r}")


def _of_classes(written: str, model: Glow) -> np.ndarray:
    """Returns a vector, with a 1 in its place, for each class in a comma-separated list, or for all."""
    shape = model.condition_shapes.get("", ())
    most = shape[0] if len(shape) == 1 else 0
    known = list(map(str, range(most)))
    named = known if written == "all" else [own.strip() for own in written.split(",")]
    if not most or not set(named) <= set(known):
        raise ConfigError(
            f"condition=label:K,… must name classes of the model, which has {most}, counted from 0, or all. "
            f"Received: condition={CLASSES}{written}"
        )
    return np.eye(most, dtype=np.float32)[list(map(int, named))]


def _read(path: pathlib.Path) -> Any:
    received = f"Received: condition={str(path)!r}"
    if path.is_dir():
        from glow_tf.data.image_files import images_below

        return _images(path, images_below(path), received)
    if not path.is_file():
        raise ConfigError(f"condition must be {HOW}. {received}, which does not exist")
    if path.suffix.lower() not in (".npy", ".npz"):
        return _images(path.parent, [path], received)
    try:
        found = arrays_of(path)
    # NumPy's and zipfile's readers raise almost any exception at damaged files.
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"condition cannot be read: {error}. {received}") from None
    for own in found.values() if isinstance(found, dict) else [found]:
        if own.ndim == 0 or own.dtype.kind not in "fiub" or not np.isfinite(own).all():
            raise ConfigError(
                f"condition must be finite numbers. {received} with {own.dtype.name} of shape {own.shape}"
            )
    return found


def arrays_of(path: pathlib.Path) -> Any:
    """Returns the array of a .npy file, or those of a .npz file by name, which must fit into memory."""
    sizes = [path.stat().st_size]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            sizes = [entry.file_size for entry in archive.infolist()]
    check_memory(sum(sizes), f"the arrays in {path}", "take fewer at a time")
    loaded = np.load(path)  # without pickle, which could run code
    return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else np.asarray(loaded)


def _images(folder: pathlib.Path, paths: Sequence[pathlib.Path], received: str) -> np.ndarray:
    from glow_tf.data.folder import read_pictures
    from glow_tf.data.pictures import type_of_inputs

    try:
        config = DataConfig(f"{FOLDER}{folder}", dtype=type_of_inputs(paths))
        pictures = read_pictures(config, paths, len(paths))
    except ConfigError as error:
        raise ConfigError(f"condition must be images of one size: {error}") from None
    if not paths or len(pictures.files) < len(paths):
        raise ConfigError(f"condition must be {HOW}. {' '.join(pictures.notes())} {received}")
    return pictures.array
