"""What the images of a folder are given: other images by file name, or numbers from a table."""

from __future__ import annotations

import csv
import dataclasses
import fractions
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np

from glow_tf.config import ATTRIBUTES, FOLDER, INPUT, LABEL, TARGET, DataConfig, attributes_of, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import in_parallel
from glow_tf.core.text_files import read_text
from glow_tf.data.arrays import DataSet, Factors, check_memory_for, scaled_side
from glow_tf.data.folder import NAMED, read_folder, read_pictures, why_no_classes
from glow_tf.data.image_files import images_below
from glow_tf.data.pictures import read_size, type_of_inputs

FLOAT_BYTES = 4


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
    if table := attributes_of(config.condition):
        return _with_attributes(config, table, split, most)
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
    size = _size_of_inputs(config, [(targets[name], inputs[name]) for name in targets])
    found = read_folder(dataclasses.replace(config, dataset=f"{FOLDER}{root / TARGET}"), split, most)
    paths = [inputs[_without_suffix(name)] for name in _names(found)]
    # Other numbers are read as they are; bytes are bytes, whatever is modelled.
    has_floats = config.dtype == "float32" and any(path.suffix.lower() in (".tif", ".tiff") for path in paths)
    dtype = "float32" if has_floats else type_of_inputs(paths)
    own = dataclasses.replace(config, dataset=f"{FOLDER}{root / INPUT}", image_size=size, dtype=dtype)
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


def _size_of_inputs(config: DataConfig, pairs: Sequence[tuple[pathlib.Path, pathlib.Path]]) -> int:
    """Returns the side to which inputs are resized where images are resized; 0: they stay as they are."""
    size = config.image_size
    if not size or not pairs:
        return 0

    targets, inputs = (list(in_parallel(read_size, paths)) for paths in zip(*pairs, strict=True))
    if all(own in (None, (size, size)) for own in targets):  # None: it cannot be read
        return 0
    factors: dict[Factors, str] = {}
    for target, given, (path, _) in zip(targets, inputs, pairs, strict=True):
        if target and given:
            factors.setdefault(tuple(map(fractions.Fraction, given, target)), path.name)
    listed = ", ".join(f"{' and '.join(map(str, own))} of {name}" for own, name in list(factors.items())[:3])
    return scaled_side(size, factors, f"inputs whose height and width are {listed}") if factors else 0


# Tables


def _with_attributes(config: DataConfig, table: pathlib.Path, split: str, most: int) -> DataSet:
    received = f"Received: condition={config.condition!r}"
    if not table.is_file():
        raise ConfigError(f"{ATTRIBUTES}FILE needs a CSV file. {received}, which is no file")
    rows = _read_table(table, received)
    root = folder_of(config.dataset)
    known = {path.relative_to(root).as_posix() for path in images_below(root)}
    if missing := known - rows.keys():
        raise ConfigError(
            f"{ATTRIBUTES}FILE needs a row for each image of the folder, whose first column is the file's "
            f"name relative to it. {received}, which lacks {len(missing)}{_listed(missing)}"
        )
    count = len(next(iter(rows.values())))
    found = read_folder(config, split, most)
    names = _names(found)
    check_memory_for(FLOAT_BYTES * count * len(names), config.dataset)
    condition = np.array([rows[name] for name in names], np.float32)
    others = rows.keys() - known
    note = f"Not used: {len(others)} rows of {table.name} that name no image of the folder{_listed(others)}."
    return _with_condition(found, condition, [note] if others else [])


def _read_table(path: pathlib.Path, received: str) -> dict[str, list[float]]:
    """Returns the numbers of each name; ConfigError unless each has as many, one or more, all finite."""
    try:
        rows = _of_csv(read_text(path))
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"a table of attributes cannot be read: {error}. {received}") from None
    counts = {len(numbers) for numbers in rows.values()}
    if len(counts) != 1 or counts == {0}:
        raise ConfigError(
            "a table of attributes needs rows, and one or more numbers in each, as many in all of them. "
            f"{received} with {sorted(counts)[:NAMED]} numbers in {len(rows)} rows"
        )
    largest = float(np.finfo(np.float32).max)
    if wrong := [name for name, numbers in rows.items() if not all(abs(n) <= largest for n in numbers)]:
        raise ConfigError(
            f"attributes must be finite numbers. {received}, others for {len(wrong)} images{_listed(wrong)}"
        )
    return rows


def _of_csv(text: str) -> dict[str, list[float]]:
    """Reads a name and numbers in each row; the first row may name the columns."""
    lines = [line for line in csv.reader(text.splitlines()) if line]
    if lines and not all(map(_is_number, lines[0][1:])):
        lines = lines[1:]
    found: dict[str, list[float]] = {}
    for name, *numbers in lines:
        if name in found:
            raise ValueError(f"{name!r} has two rows")
        if not all(map(_is_number, numbers)):
            raise ValueError(f"{name!r} has what is no number: {str(numbers)[:100]}")
        found[name] = [float(number) for number in numbers]
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text  # Python also reads 1_0, and the digits of other scripts
