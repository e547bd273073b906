"""What the images of a folder are given: their class, or other images by file name."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterable

import numpy as np

from glow_tf.config import FOLDER, INPUT, LABEL, TARGET, DataConfig, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.data.arrays import DataSet
from glow_tf.data.folder import NAMED, read_folder, read_pictures, why_no_classes
from glow_tf.data.image_files import images_below
from glow_tf.data.pictures import type_of_inputs


def read_folder_and_condition(
    config: DataConfig, split: str, most: int = 0, any_size: bool = False
) -> DataSet:
    """As `read_folder`, with what the images are given, as `config.condition` says.

    Images that are given something have one size. ConfigError also if one is given nothing, or something
    that cannot be.
    """
    if config.condition == INPUT:
        return _with_inputs(config, split, most)
    if config.condition == LABEL:
        return _with_classes(config, split, most)
    return read_folder(config, split, most, any_size)


def _with_condition(found: DataSet, condition: np.ndarray, notes: Iterable[str] = ()) -> DataSet:
    """Returns a data set with what is given with each of its examples, of training and then of test."""
    cut = len(found.train)
    train = dataclasses.replace(found.train, condition=condition[:cut])
    test = None if found.test is None else dataclasses.replace(found.test, condition=condition[cut:])
    return dataclasses.replace(found, train=train, test=test, notes=(*found.notes, *notes))


def _names(found: DataSet) -> list[str]:
    return [name for own in (found.train, found.test) if own is not None for name in own.names.tolist()]


def _listed(names: Iterable[str]) -> str:
    """Returns the first of some names, in brackets; nothing if there are none."""
    names = sorted(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f" ({', '.join(names[:NAMED])}{more})" if names else ""


def _with_classes(config: DataConfig, split: str, most: int) -> DataSet:
    found = read_folder(config, split, most)
    if not found.class_names:
        raise ConfigError(
            f"condition=label needs classes. {why_no_classes(found.notes)} Received: {config.dataset!r}"
        )
    labels = np.concatenate([own.labels for own in (found.train, found.test) if own is not None])
    return _with_condition(found, np.eye(len(found.class_names), dtype=np.float32)[labels])


# Pairs of images


def _with_inputs(config: DataConfig, split: str, most: int) -> DataSet:
    root = folder_of(config.dataset)
    inputs, targets = (_by_name(root, config, name) for name in (INPUT, TARGET))
    if targets.keys() != inputs.keys():
        kinds = (TARGET, targets, INPUT, inputs), (INPUT, inputs, TARGET, targets)
        unpaired = [
            f"{len(own.keys() - others.keys())} in {name}/ without one in {other}/"
            f"{_listed(own[key].relative_to(root / name).as_posix() for key in own.keys() - others.keys())}"
            for name, own, other, others in kinds
        ]
        raise ConfigError(
            f"condition=input needs an image of the same name, of any kind, in {INPUT}/ for each image in "
            f"{TARGET}/. Received: {config.dataset!r} with {' and '.join(unpaired)}"
        )
    found = read_folder(dataclasses.replace(config, dataset=f"{FOLDER}{root / TARGET}"), split, most)
    paths = [inputs[_without_suffix(name)] for name in _names(found)]
    # Other numbers are read as they are; bytes are bytes, whatever is modelled.
    has_floats = config.dtype == "float32" and any(path.suffix.lower() in (".tif", ".tiff") for path in paths)
    dtype = "float32" if has_floats else type_of_inputs(paths)
    own = dataclasses.replace(config, dataset=f"{FOLDER}{root / INPUT}", image_size=0, dtype=dtype)
    pictures = read_pictures(own, paths, len(paths))
    if len(pictures.files) < len(paths):
        raise ConfigError(
            f"every image in {INPUT}/ must be readable. {' '.join(pictures.notes())} "
            f"Received: {config.dataset!r}"
        )
    return _with_condition(found, pictures.array, (f"{INPUT}/: {note}" for note in pictures.notes()))


def _by_name(root: pathlib.Path, config: DataConfig, name: str) -> dict[str, pathlib.Path]:
    """Returns the images of a folder of pairs by their paths in it, without suffix."""
    if not (root / name).is_dir():
        raise ConfigError(
            f"condition=input needs the folders {TARGET}/, of images to model, and {INPUT}/, of what is "
            f"given with each. Received: {config.dataset!r} without {name}/"
        )
    found: dict[str, pathlib.Path] = {}
    for path in images_below(root / name):
        own = _without_suffix(path.relative_to(root / name).as_posix())
        if own in found:
            raise ConfigError(
                f"condition=input needs names that differ in more than their suffix. Received: {found[own]} "
                f"and {path}"
            )
        found[own] = path
    return found


def _without_suffix(name: str) -> str:
    return pathlib.PurePosixPath(name).with_suffix("").as_posix()
