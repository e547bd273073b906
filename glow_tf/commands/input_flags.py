"""Flags of what a trained model takes: images of what size, and which condition is given with each."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.config import FOLDER, MOST_SIDE, DataConfig
from glow_tf.core.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.model.flow import Flow
    from glow_tf.use import UsedImages

HOW = "FILE.npy with an array [N, …], an image, a folder of images, or label:K,… or label:all for classes"
CLASSES = "label:"


def define_size(values: flags.FlagValues, reads_images: bool = True) -> None:
    """Defines --image_size; 0 is for commands that read images."""
    own = "0: each image at its own; " if reads_images else ""
    about = f"Size of the images: {own}64, or 48x64 (height x width); empty: the model's, or its preset's."
    parsing.define(values, image_size=("", about))


def size_of(values: flags.FlagValues) -> tuple[int, int] | None:
    """Returns the height and width that --image_size says; (0, 0): each its own; None: the model's.

    Where the flag is empty, it is the `image_size` of the card of a preset that has one.
    """
    from glow_tf.store import about

    text = values.image_size or str(about(values.model).get("image_size", ""))
    if not text:
        return None
    sides = [int(side) if side.isascii() and side.isdigit() else -1 for side in text[:20].split("x")]
    height, width = sides[0], sides[-1]
    fits = 1 <= min(sides) <= max(sides) <= MOST_SIDE or (height == width == 0)
    if len(sides) > 2 or not fits:
        raise ConfigError(
            "image_size must be empty, a side in pixels, height x width such as 48x64, or 0: their own. "
            f"Received: image_size={text!r}"
        )
    return height, width


def sized_model(values: flags.FlagValues, model: Flow, gradient: bool = False) -> Flow:
    """Returns the model for images of the size that --image_size says; 0 is the model's own.

    ConfigError as in `check_fits`.
    """
    from glow_tf.use.images import fitted

    size = size_of(values)
    return fitted(model, size, gradient) if size and max(size) else model


def models_and_images(
    values: flags.FlagValues, model: Flow, gradient: bool = False
) -> Iterator[tuple[Flow, UsedImages]]:
    """Reads images as `images_of` does, at the size that --image_size says: each size with a model for it.

    ConfigError also as in `check_fits`.
    """
    from glow_tf.use.images import check_fits, fitted

    if size_of(values) != (0, 0):
        model = sized_model(values, model, gradient)
        yield model, *model_flags.images_of(values, model)
        return
    groups = model_flags.images_of(values, model, any_size=True)
    for used in groups:  # before time is spent
        check_fits(model, used.images.shape[1:3], used.names[0], gradient)
    for used in groups:
        yield fitted(model, used.images.shape[1:3]), used


def model_and_images(values: flags.FlagValues, model: Flow) -> tuple[Flow, UsedImages]:
    """As `models_and_images`; ConfigError unless the images have one size."""
    found = models_and_images(values, model)
    first = next(found)
    if (second := next(found, None)) is not None:
        sizes = ["×".join(map(str, used.images.shape[1:3])) for _, used in (first, second)]
        raise ConfigError(
            "the images must have one size; --image_size=64 brings them to one. "
            f"Received: {' and '.join(sizes)}"
        )
    return first


def condition_of(values: flags.FlagValues, model: Flow) -> Any:
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


def _of_classes(written: str, model: Flow) -> np.ndarray:
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
        loaded = np.load(path)  # without pickle, which could run code
        found = dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else loaded
    except Exception as error:  # NumPy's readers raise almost any at damaged files
        raise ConfigError(f"condition cannot be read: {error}. {received}") from None
    for own in found.values() if isinstance(found, dict) else [found]:
        if own.ndim == 0 or own.dtype.kind not in "fiub" or not np.isfinite(own).all():
            raise ConfigError(
                f"condition must be finite numbers. {received} with {own.dtype.name} of shape {own.shape}"
            )
    return found


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
