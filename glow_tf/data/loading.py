"""A data set, read whole and split for a run."""

from __future__ import annotations

import dataclasses

import numpy as np

from glow_tf.config import DIGITS, DataConfig, file_of, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.data import image_cache, sources
from glow_tf.data.array_files import read_file
from glow_tf.data.arrays import MADE_BY, Examples, ImageData, hold_out, in_memory, joined
from glow_tf.data.folder import FolderImages, read_folder
from glow_tf.data.given import read_folder_and_condition
from glow_tf.data.named import check_path

SPLITS = ("train", "test", "all", "")


def load(config: DataConfig) -> ImageData:
    """Reads a data set; every image is decoded once, into memory or into files; see `image_cache`.

    Raises:
      ConfigError: the data set does not exist, is empty, has images of several sizes, has too few images, or
        does not fit into memory.
    """
    check_path(config)
    if config.image_cache and config.dataset != DIGITS:
        return image_cache.load(config, _load)
    return _load(dataclasses.replace(config, image_cache=""))


def _load(config: DataConfig) -> ImageData:
    folder = folder_of(config.dataset)
    train, test, class_names, notes = _from_folder(config) if folder else _named(config)
    train, validation = _cut(train, config)
    test = _first(test, config.test_examples, "test_examples")
    splits = {"train": train, "validation": validation, "test": test}
    return ImageData(
        train.images,
        validation.images,
        test.images,
        (*notes, *(_notes_on_classes(splits, len(class_names)) if folder else ())),
        {k: tuple(s.names.tolist()) for k, s in splits.items() if s.names is not None},
        {k: s.labels for k, s in splits.items() if s.labels is not None},
        class_names,
        {k: s.condition for k, s in splits.items() if s.condition is not None},
    )


def _from_folder(config: DataConfig) -> tuple[Examples, Examples, tuple[str, ...], tuple[str, ...]]:
    """Returns training and test examples of a folder, the names of the classes, and notes."""
    found = read_folder_and_condition(config, "all")
    train, test, notes = found.examples[: found.train_count], found.examples[found.train_count :], found.notes
    if not found.has_test:
        train, test = hold_out(train, config)
        held = f"No test/ folder: every tenth image, {len(test)} in all, is held out for testing."
        notes = (*notes, held)
    return train, test, found.class_names, notes


def load_split(
    config: DataConfig, split: str, fewer_will_do: bool = False, any_size: bool = False
) -> tuple[Examples, tuple[str, ...], tuple[str, ...]]:
    """Reads the images on which a trained model is used; ConfigError as in `load`, or without such a split.

    The split is `train`, `test` or `all`; empty: the test images, or all images of a folder without test/. Of
    such a folder, `train` and `test` are what a run makes of it: every tenth image is a test image. As many
    images are read as `test_examples` says; there may be fewer if `fewer_will_do`. If images of a folder
    without a condition may have `any_size`, they are an array of objects. Returns the examples, the names of
    the classes, and notes on how the images were read.
    """
    if split not in SPLITS:
        raise ConfigError(f"split must be {', '.join(SPLITS[:-1])} or empty. Received: {split=}")
    check_path(config)
    count = config.test_examples
    trained = count if split == "train" else 0
    config = dataclasses.replace(config, train_examples=trained, validation_examples=0)
    if folder_of(config.dataset) or file_of(config.dataset):
        found = _read_folder_or_file(config, split, count, any_size)
        chosen, class_names, notes = found.examples, found.class_names, found.notes
        nothing = "No test/ folder" if folder_of(config.dataset) else "One file"
        if not found.has_test and split in ("train", "test"):
            chosen = hold_out(chosen, config)[split == "test"]
            notes = (
                *notes,
                f"{nothing}: {split} images are those of a training run, which holds out a tenth.",
            )
        elif not found.has_test:
            which = f"the first {count}" if count == len(chosen) else f"all {len(chosen)}"
            notes = (*notes, f"{nothing}: {which} images are used.")
    else:
        only = "" if split == "all" else split or "test"
        config = config if only else dataclasses.replace(config, test_examples=0)
        train, test, class_names, notes = _named(config, only)
        chosen = joined(train, test) if split == "all" else {"train": train}.get(split, test)
    if not len(chosen):
        raise ConfigError(f"{config.dataset!r} has no {split} images. Received: {split=}")
    count = min(count, len(chosen)) if fewer_will_do else count
    return _first(chosen, count, "examples"), class_names, notes


def _read_folder_or_file(config: DataConfig, split: str, count: int, any_size: bool) -> FolderImages:
    if folder_of(config.dataset) and any_size and not config.condition:
        return read_folder(config, split, count, any_size)
    if folder_of(config.dataset):
        return read_folder_and_condition(config, split, count)
    examples = read_file(config)
    examples = examples[: count or None] if split in ("all", "") else examples
    return FolderImages(examples, len(examples), False, (), ())


def _named(config: DataConfig, only: str = "") -> tuple[Examples, Examples, tuple[str, ...], tuple[str, ...]]:
    """Returns training and test examples of anything but a folder, class names, and notes."""
    if file_of(config.dataset):
        train, test = hold_out(read_file(config), config)
        return train, test, (), (f"Every tenth example, {len(test)} in all, is held out for testing.",)
    if config.dataset == DIGITS and config.dtype != "uint8":
        raise ConfigError(
            f"digits are bytes: they need {MADE_BY['uint8']}. Received: dataset='digits' for a model of "
            f"{config.dtype}"
        )
    if config.dataset == DIGITS:
        return (*sources.digits(config.image_size, config.condition), ())
    return sources.from_tfds(config, only)


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
