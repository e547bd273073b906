"""A folder of image files as a data set, and what its images are given: their class, or other images."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import pathlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from glow_tf.config import FOLDER, INPUT, LABEL, TARGET, DataConfig, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import in_parallel, usual_threads
from glow_tf.core.progress import with_progress
from glow_tf.data import arrays
from glow_tf.data.arrays import DataSet, Examples
from glow_tf.data.image_files import NO_CLASSES, Files, find_files, images_below
from glow_tf.data.pictures import Picture, read_picture, type_of_inputs

DARK = 2**14  # grey values of 16 bits below it: such as those of cameras of 10 or 12 bits
NAMED = 10  # at most this many files that cannot be read are named


def why_no_classes(notes: Iterable[str]) -> str:
    """Says what a folder needs to have classes, and what of it is missing as far as its notes say it."""
    needed = "A folder has classes if each image is in one of two or more subfolders, which name them."
    return " ".join([needed, *(note for note in notes if note.startswith(NO_CLASSES))])


def read_folder(config: DataConfig, split: str, most: int = 0, any_size: bool = False) -> DataSet:
    """Reads the examples of a folder, without what they are given; at least the first `most`, 0 is all.

    The split is, if there is a test/: `all`; `train`, or else test/ alone. If there is none, all are read.
    With `any_size` the images are an array of objects, one array [H, W, C] each. ConfigError if the folder
    does not exist, has no readable image, or has images of several sizes without `any_size`.
    """
    files = find_files(config, split)
    has_test = bool(files.test)
    groups = [
        files.train if split in ("train", "all") or not has_test else [],
        files.test if split != "train" else [],
    ]
    every, paths = [*files.train, *files.test], [path for group in groups for path in group]
    if not has_test and split in ("train", "test"):
        most = 0  # every tenth of all is held out
    pictures = read_pictures(config, paths, min(len(paths), most or len(paths)), any_size)
    readable = set(pictures.files)
    for group in [paths] if most else groups:
        if group and readable.isdisjoint(group):
            notes = " ".join(pictures.notes())
            raise ConfigError(f"no image could be read. {notes} Received: {config.dataset!r}")
    # A part of the pictures may lack classes that the others have.
    of_all = pictures.files if len(paths) == len(every) and not most else every
    examples, class_names = _examples(pictures, files, of_all)
    count = len(readable.intersection(files.train))
    test = examples[count:] if has_test else None
    notes = (*pictures.notes(), *files.notes(), *files.notes_on_classes(of_all))
    return DataSet(examples[:count], test, class_names, notes)


def read_pictures(
    config: DataConfig, paths: Sequence[pathlib.Path], count: int, any_size: bool = False
) -> Pictures:
    """Reads the first `count` pictures that can be read of some files.

    ConfigError if they have several sizes, unless `any_size`, are not finite, or do not fit into memory.
    """
    from PIL import Image

    pictures = Pictures(config, count, any_size)
    arrays.check_memory_of_resized(count, usual_threads(), config)
    read = functools.partial(read_picture, size=config.image_size, dtype=config.dtype)
    reading = in_parallel(read, paths)
    with warnings.catch_warnings(), contextlib.closing(reading):
        warnings.filterwarnings("ignore", module="PIL")  # what matters to the user is in the notes
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pictures.add(zip(paths, reading, strict=True))
    return pictures


# Pixels


class Pictures:
    """The pictures of a folder, `count` at most, put into one array as they are read.

    Attributes:
      files: the files that could be read.
      array: [count, H, W, C], of which the first `len(files)` images are filled. With `any_size`, [count]
        of objects.
    """

    def __init__(self, config: DataConfig, count: int, any_size: bool = False):
        self.config = config
        self.count = count
        self.files: list[pathlib.Path] = []
        self.array = np.empty(count, object) if any_size else np.empty((0, 0, 0, 0), np.uint8)
        self._bytes = 0
        self._problems: list[str] = []
        self._turned = 0
        self._tops: list[int] = []  # the largest grey values of pictures of 16 bits
        self._enlarged: list[int] = []  # the sides of the pictures that were enlarged

    def add(self, pictures: Iterable[tuple[pathlib.Path, Picture]]) -> None:
        """Takes files and their pictures; ConfigError as in `read_pictures`."""
        for path, picture in with_progress(pictures, self.count, "Reading images"):
            if picture.problem:
                self._problems.append(f"{path}: {picture.problem.rstrip('.')}")
                continue
            if picture.pixels.dtype.kind == "f" and not np.isfinite(picture.pixels).all():
                raise ConfigError(f"real data must be finite. Received: {path} with NaN or infinity")
            self._make_room(path, picture.pixels)
            self.array[len(self.files)] = picture.pixels  # a grey picture fills all channels
            self.files.append(path)
            self._turned += picture.turned
            self._tops += [picture.top] if picture.top else []
            if picture.side < self.config.image_size:
                self._enlarged.append(picture.side)
            if len(self.files) == self.count:
                break

    def notes(self) -> list[str]:
        """Returns sentences about pictures that were left out or changed."""
        notes = [f"Left out {problem}." for problem in self._problems[:NAMED]]
        if len(self._problems) > NAMED:
            notes.append(f"Left out {len(self._problems) - NAMED} more files that could not be read.")
        total, size = len(self.files), self.config.image_size
        if self._enlarged:
            factor = size / min(self._enlarged)
            notes.append(
                f"Enlarged: {len(self._enlarged)} of {total} images, which are smaller than {size}×{size}, "
                f"by a factor of up to {factor:.1f}."
            )
        if self._turned:
            notes.append(f"Turned upright, as their EXIF data say: {self._turned} of {total} images.")
        if self._tops and max(self._tops) < DARK:
            notes.append(
                f"Dark: {len(self._tops)} of {total} images have 16 bits and no grey value above "
                f"{max(self._tops)} of 65535; stretch their grey values if they are of fewer bits."
            )
        return notes

    def _make_room(self, path: pathlib.Path, pixels: np.ndarray) -> None:
        """Makes an array into which a picture fits; the first colours add two channels."""
        shape = pixels.shape
        if self.array.dtype == object:
            self._bytes += math.prod(shape) * np.dtype(self.config.dtype).itemsize
            arrays.check_memory_for(self._bytes, self.config.dataset)
            return
        one_size = self.array.shape[1:3] == shape[:2] and (
            self.array.shape[-1] == shape[-1] or {self.array.shape[-1], shape[-1]} == {1, 3}
        )
        if not self.files:
            self.array = arrays.new_array((self.count, *shape), self.config.dtype, self.config)
        elif not one_size:
            raise ConfigError(
                f"{arrays.needs_one_size(self.array, pixels)}. Received: {self.config.dataset!r} with "
                f"{self.files[0].name} of {_size(self.array.shape[1:])} and {path.name} of {_size(shape)} "
                "(height × width)"
            )
        elif shape[-1] > self.array.shape[-1]:
            grey, done = self.array, len(self.files)
            self.array = arrays.new_array((self.count, *shape), self.config.dtype, self.config)
            self.array[:done] = grey[:done]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}×{shape[1]}" + ("" if shape[-1] in (1, 3) else f"×{shape[-1]}")


def _examples(
    pictures: Pictures, files: Files, of_all: Iterable[pathlib.Path]
) -> tuple[Examples, tuple[str, ...]]:
    """Returns all pictures with names and labels, and the names of the classes of the files `of_all`."""
    names = np.array([path.relative_to(files.root).as_posix() for path in pictures.files])
    folders = [files.class_of(path) for path in pictures.files]
    class_names = tuple(sorted({files.class_of(path) for path in of_all}))
    if "" in class_names or len(class_names) < 2:
        class_names = ()
    labels = np.searchsorted(class_names, folders) if class_names else None
    return Examples(pictures.array[: len(names)], names, labels), class_names


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
