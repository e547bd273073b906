"""A data set, read whole and split for a run."""

from __future__ import annotations

import dataclasses

import numpy as np

from glow_tf.config import DIGITS, DataConfig, file_of, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.data import sources
from glow_tf.data.arrays import (
    MADE_BY,
    DataSet,
    Examples,
    ImageData,
    check_memory_for,
    hold_out,
    in_memory,
    joined,
)
from glow_tf.data.folder import read_folder_and_condition
from glow_tf.data.named import SOURCES, check_path

SPLITS = ("train", "test", "all", "")


def load(config: DataConfig) -> ImageData:
    """Reads a data set; every image is decoded once, into memory; see `sources.read_file`.

    Raises:
      ConfigError: the data set does not exist, is empty, has images of several sizes, has too few images, or
        does not fit into memory.
    """
    check_path(config)
    found = _with_test_images(_read(config, "all"), config)
    train, validation = _cut(found.train, config)
    test = _first(found.test, config.test_examples, "test_examples")
    splits = {"train": train, "validation": validation, "test": test}
    notes = found.notes
    if folder_of(config.dataset):
        notes = (*notes, *_notes_on_classes(splits, len(found.class_names)))
    return ImageData(
        train.images,
        validation.images,
        test.images,
        notes,
        {k: tuple(s.names.tolist()) for k, s in splits.items() if s.names is not None},
        {k: s.labels for k, s in splits.items() if s.labels is not None},
        found.class_names,
        {k: s.condition for k, s in splits.items() if s.condition is not None},
    )


def load_split(
    config: DataConfig, split: str, any_size: bool = False
) -> tuple[Examples, tuple[str, ...], tuple[str, ...]]:
    """Reads the images on which a trained model is used; ConfigError as in `load`, or without such a split.

    The split is `train`, `test` or `all`; empty: the test images, or all images of a folder without test/. Of
    such a folder, `train` and `test` are what a run makes of it: every tenth image is a test image. As many
    images are read as `test_examples` says. If images of a folder without a condition may have `any_size`,
    they are an array of objects. Returns the examples, the names of the classes, and notes on how the images
    were read.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be {', '.join(SPLITS[:-1])} or empty. Received: {split=}")
    check_path(config)
    count = config.test_examples
    if not (split or folder_of(config.dataset) or file_of(config.dataset)):
        split = "test"
    counts = {
        "train_examples": count if split == "train" else 0,
        "test_examples": count if split != "all" else 0,
    }
    found = _read(dataclasses.replace(config, **counts, validation_examples=0), split, count, any_size)
    if found.test is None and split in ("all", ""):
        which = f"the first {count}" if 0 < count <= len(found.train) else f"all {len(found.train)}"
        note = f"{_lacks(config)}: {which} images are used."
        chosen, notes = found.train, (*found.notes, note)
    else:
        found = _with_test_images(found, config)
        chosen, notes = found.train if split == "train" else found.test, found.notes
        chosen = joined(found.train, found.test) if split == "all" else chosen
    if not len(chosen):
        raise ConfigError(f"{config.dataset!r} has no {split} images. Received: {split=}")
    chosen = _first(chosen, count, "examples")
    if not in_memory(chosen.images):
        check_memory_for(chosen.images.nbytes, config.dataset)
        chosen = dataclasses.replace(chosen, images=np.array(chosen.images))
    return chosen, found.class_names, notes


def _read(config: DataConfig, split: str, most: int = 0, any_size: bool = False) -> DataSet:
    """Reads a data set; what a split does not need may be left out, as `read_folder` and `from_tfds` say."""
    if folder_of(config.dataset):
        return read_folder_and_condition(config, split, most, any_size)
    if file_of(config.dataset):
        return sources.read_file(config)
    if config.dataset in SOURCES:
        return SOURCES[config.dataset](config)
    if config.dataset != DIGITS:
        return sources.from_tfds(config, split)
    if config.dtype != "uint8":
        raise ConfigError(
            f"digits are bytes: they need {MADE_BY['uint8']}. Received: dataset='digits' for a model of "
            f"{config.dtype}"
        )
    return sources.digits(config.image_size, config.condition)


def _with_test_images(found: DataSet, config: DataConfig) -> DataSet:
    """Returns a data set with test images: its own, or every tenth of all."""
    if found.test is not None:
        return found
    train, test = hold_out(found.train, config)
    note = f"{_lacks(config)}: every tenth image, {len(test)} in all, is held out for testing."
    return dataclasses.replace(found, train=train, test=test, notes=(*found.notes, note))


def _lacks(config: DataConfig) -> str:
    """Says what a data set without test images lacks."""
    if file_of(config.dataset):
        return "One file"
    return "No test/ folder" if folder_of(config.dataset) else "No test split"


def _cut(train: Examples, config: DataConfig) -> tuple[Examples, Examples]:
    if config.validation_examples >= len(train):
        raise ConfigError(
            f"validation_examples must leave some of the {len(train)} training images. "
            f"Received: validation_examples={config.validation_examples}"
        )
    split = len(train) - config.validation_examples
    return _first(train[:split], config.train_examples, "train_examples"), train[split:]


def _first(examples: Examples, count: int, name: str) -> Examples:
    if count > len(examples):
        raise ConfigError(
            f"{name} must be at most {len(examples)} here, or 0 for all of them. Received: {name}={count}"
        )
    first = examples[: count or None]
    # In arrays of its own: a small part would keep all the others in memory.
    small = 2 * len(first) < len(examples) and in_memory(examples.images)
    return first[np.arange(len(first))] if small else first


def _notes_on_classes(splits: dict[str, Examples], count: int) -> list[str]:
    """Names the splits that lack classes: files are taken in the order of their names, so by class."""
    found = {name: len(np.unique(split.labels)) for name, split in splits.items() if count and len(split)}
    return [
        f"The {len(splits[name])} {name} images come from {own} of the {count} class folders."
        for name, own in found.items()
        if own < count
    ]
