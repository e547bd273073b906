"""A folder of image files as a data set."""

from __future__ import annotations

import contextlib
import functools
import math
import pathlib
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from glow_tf.config import DataConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import in_parallel, usual_threads
from glow_tf.core.progress import with_progress
from glow_tf.data import arrays
from glow_tf.data.arrays import DataSet, Examples
from glow_tf.data.image_files import NO_CLASSES, Files, find_files
from glow_tf.data.pictures import Picture, read_picture

DARK = 2**14  # levels of 16 bits below it: such as those of cameras of 10 or 12 bits
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
        self._tops: list[int] = []  # the largest levels of pictures of 16 bits
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
                f"Dark: {len(self._tops)} of {total} images have 16 bits and no level above "
                f"{max(self._tops)} of 65535; stretch their levels if they are of fewer bits."
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
