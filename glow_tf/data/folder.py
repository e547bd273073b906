"""A folder of image files as a data set."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from glow_tf.config import DataConfig, attributes_of, folder_of
from glow_tf.data.array_files import SUFFIX, read_array
from glow_tf.data.arrays import Examples, check_memory_of_resized
from glow_tf.data.decoding import Decoding
from glow_tf.data.parallel import in_parallel, usual_threads
from glow_tf.data.pictures import Picture, read_picture
from glow_tf.data.progress import with_progress
from glow_tf.errors import ConfigError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", SUFFIX)
DARK = 2**14  # levels of 16 bits below it: such as those of cameras of 10 or 12 bits
NO_CLASSES = "No classes"
NAMED = 10  # at most this many files that cannot be read are named


def why_no_classes(notes: Iterable[str]) -> str:
    """Says what a folder needs to have classes, and what of it is missing as far as its notes say it."""
    needed = "A folder has classes if each image is in one of two or more subfolders, which name them."
    return " ".join([needed, *(note for note in notes if note.startswith(NO_CLASSES))])


def has_test_images(folder: pathlib.Path) -> bool:
    """Returns whether a folder's test/ has images; if not, every tenth of all is held out."""
    return bool(images_below(folder / "test"))


@dataclasses.dataclass(frozen=True)
class FolderImages:
    """What was read of a folder.

    Attributes:
      examples: those of train/, or of the folder without test/, and then those of test/.
      train_count: how many of them are before those of test/.
      has_test: whether there is a test/ with images.
      class_names: names of the classes.
      notes: on what was read how.
    """

    examples: Examples
    train_count: int
    has_test: bool
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def read_folder(config: DataConfig, split: str, most: int = 0) -> FolderImages:
    """Reads the examples of a folder, without what they are given.

    Args:
      config: of the data set.
      split: if there is a test/: `all`; `train`, or else test/ alone. If there is none, all are read.
      most: how many are wanted, the first ones; the others need not be read. 0 is all.

    Raises:
      ConfigError: the folder does not exist, has no readable image, or has images of several sizes.
    """
    files = _find_files(config, split)
    has_test = bool(files.test)
    groups = [
        files.train if split in ("train", "all") or not has_test else [],
        files.test if split != "train" else [],
    ]
    every, paths = [*files.train, *files.test], [path for group in groups for path in group]
    if not has_test and split in ("train", "test"):
        most = 0  # every tenth of all is held out
    pictures = read_pictures(config, paths, min(len(paths), most or len(paths)))
    readable = set(pictures.files)
    for group in [paths] if most else groups:
        if group and readable.isdisjoint(group):
            notes = " ".join(pictures.notes())
            raise ConfigError(f"no image could be read. {notes} Received: {config.dataset!r}")
    # A part of the pictures may lack classes that the others have.
    of_all = pictures.files if len(paths) == len(every) and not most else every
    examples, class_names = _examples(pictures, files, of_all)
    count = len(readable.intersection(files.train))
    notes = (*pictures.notes(), *files.notes(), *files.notes_on_classes(of_all))
    return FolderImages(examples, count, has_test, class_names, notes)


def read_pictures(config: DataConfig, paths: Sequence[pathlib.Path], count: int) -> Pictures:
    """Reads the first `count` pictures that can be read of some files.

    Raises:
      ConfigError: they have several sizes, or do not fit into memory.
    """
    decoding = Decoding(config, paths, count)
    pictures = Pictures(config, count, decoding.new_array)
    check_memory_of_resized(count, usual_threads(), config)
    read = functools.partial(_read, size=config.image_size, dtype=config.dtype)
    reading = in_parallel(read, paths[len(decoding.done) :])
    with warnings.catch_warnings(), contextlib.closing(reading):
        warnings.filterwarnings("ignore", module="PIL")  # what matters to the user is in the notes
        found = itertools.chain(decoding.done, decoding.noted(reading))
        pictures.add(zip(paths, found, strict=True))
    decoding.keep()
    return pictures


# Files


def images_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files of a folder and of those below it, in the order of their names."""
    return [path for path in files_below(folder) if _is_image(path)]


@dataclasses.dataclass(frozen=True)
class _Files:
    """The files of a folder.

    Attributes:
      root: the folder.
      train_root: the folder of the training images, which is the root if there is no train/.
      train, test: image files, in the order of their names.
      unread: other files among them.
      outside: images that are neither in train/ nor in test/, where there is a train/.
      held_out: how many files are left out of `train`, because they are test images under another name.
    """

    root: pathlib.Path
    train_root: pathlib.Path
    train: list[pathlib.Path]
    test: list[pathlib.Path]
    unread: list[pathlib.Path]
    outside: list[pathlib.Path]
    held_out: int

    def class_of(self, path: pathlib.Path) -> str:
        """Returns the first folder below train/, test/ or the root in which a file lies, or ''."""
        split = self.root / "test" if path.is_relative_to(self.root / "test") else self.train_root
        folders = path.relative_to(split).parts[:-1]
        return folders[0] if folders else ""

    def notes_on_classes(self, images: Sequence[pathlib.Path]) -> list[str]:
        """Names what keeps a folder of class folders from having classes."""
        outside = [path for path in images if not self.class_of(path)]
        if not outside or len({self.class_of(path) for path in images}) < 3:
            return []
        return [f"{NO_CLASSES}: {len(outside)} images are in no class folder, such as {outside[0].name}."]

    def notes(self) -> list[str]:
        """Returns sentences about files that were not read."""
        notes = []
        if self.unread:
            notes.append(
                f"Not read: {_by_extension(self.unread)}. Other kinds of images: save them as PNG or JPEG."
            )
        if self.outside:
            notes.append(f"Not used: {len(self.outside)} images that are neither in train/ nor in test/.")
        if self.held_out:
            notes.append(f"Not trained on: {self.held_out} images that are test images under another name.")
        return notes


def _find_files(config: DataConfig, split: str) -> _Files:
    root = folder_of(config.dataset)
    if not root.is_dir():
        raise ConfigError(f"dataset=folder:PATH needs an existing folder. Received: {config.dataset!r}")
    train_root = root / "train" if (root / "train").is_dir() else root
    test_files = files_below(root / "test")
    train_files = [path for path in files_below(train_root) if not path.is_relative_to(root / "test")]
    candidates, test = ([p for p in group if _is_image(p)] for group in (train_files, test_files))
    held_out = {_identity(path) for path in test}
    train = [path for path in candidates if _identity(path) not in held_out] if test else candidates
    table = attributes_of(config.condition)
    unread = [p for p in train_files + test_files if not _is_image(p) and not p.name.startswith(".")]
    unread = [p for p in unread if table is None or p.resolve() != table.resolve()]
    if not train and not (test and split in ("test", "")):
        others = f"only {_by_extension(unread)}" if unread else "none"
        raise ConfigError(
            f"dataset=folder:PATH needs images ({', '.join(IMAGE_SUFFIXES)}) in the folder or in its "
            f"train/. Received: {config.dataset!r}, in which there are {others}"
        )
    known = {*candidates, *test}
    outside = [] if train_root == root else [p for p in files_below(root) if _is_image(p) and p not in known]
    if outside:  # what links within the folder lead to is used under another name
        places = {path.resolve() for path in known}
        outside = [path for path in outside if path.resolve() not in places]
    return _Files(root, train_root, train, test, unread, outside, len(candidates) - len(train))


def files_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a folder and of those below it, in the order of their names."""
    found, seen = [], set()
    if folder.is_dir():
        # `rglob` takes ten times as long.
        for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
            if (place := _identity(pathlib.Path(parent))) in seen:  # links may lead in a circle
                folders.clear()
                continue
            seen.add(place)
            folders.sort()
            found += [pathlib.Path(parent, name) for name in names]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.parts)


def _identity(path: pathlib.Path) -> tuple[int, int]:
    """Tells a file from others, whatever links lead to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _refuse(error: OSError) -> None:
    raise ConfigError(
        f"dataset=folder:PATH needs folders that can be read: {error.strerror}. Received: {error.filename!r}"
    )


def _is_image(path: pathlib.Path) -> bool:
    """Tells by the name; what macOS writes beside the files of others has the picture's, after `._`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")


def _by_extension(files: Iterable[pathlib.Path]) -> str:
    """Returns such as `3 × .heic, 1 × .txt`."""
    counts = collections.Counter(path.suffix.lower() or "no extension" for path in files)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} × {suffix}" for suffix, count in ordered)


# Pixels


def _read(path: pathlib.Path, size: int, dtype: str) -> Picture:
    read = read_array if path.suffix.lower() == SUFFIX else read_picture
    return read(path, size, dtype)


class Pictures:
    """The pictures of a folder, put into one array as they are read.

    Args:
      config: of the data set.
      count: number of pictures to take at most.
      new_array: makes an array of a shape.

    Attributes:
      files: the files that could be read.
      array: [count, H, W, C], of the config's type, of which the first `len(files)` images are filled.
    """

    def __init__(self, config: DataConfig, count: int, new_array: Callable[[tuple[int, ...]], np.ndarray]):
        self.config = config
        self._new_array = new_array
        self.count = count
        self.files: list[pathlib.Path] = []
        self.array = np.empty((0, 0, 0, 0), np.uint8)
        self._problems: list[str] = []
        self._turned = 0
        self._tops: list[int] = []  # the largest levels of pictures of 16 bits
        self._enlarged: list[int] = []  # the sides of the pictures that were enlarged

    def add(self, pictures: Iterable[tuple[pathlib.Path, Picture]]) -> None:
        """Takes files and their pictures.

        Raises:
          ConfigError: the pictures have several sizes, do not fit into memory, or are not finite.
        """
        for path, picture in with_progress(pictures, self.count, "Reading images"):
            if picture.problem:
                self._problems.append(f"{path}: {picture.problem.rstrip('.')}")
                continue
            if picture.pixels.dtype.kind == "f" and not np.isfinite(picture.pixels).all():
                raise ConfigError(f"real data must be finite. Received: {path} with NaN or infinity")
            self._make_room(path, picture.pixels.shape)
            if not np.may_share_memory(picture.pixels, self.array):  # else it was there before a kill
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

    def _make_room(self, path: pathlib.Path, shape: tuple[int, ...]) -> None:
        """Makes an array into which a picture of this shape fits; the first colours add two channels."""
        one_size = self.array.shape[1:3] == shape[:2] and (
            self.array.shape[-1] == shape[-1] or {self.array.shape[-1], shape[-1]} == {1, 3}
        )
        if not self.files:
            self.array = self._new_array((self.count, *shape))
        elif not one_size:
            raise ConfigError(
                "all images must have one size; --image_size=N crops and resizes them to N×N. Received: "
                f"{self.config.dataset!r} with {self.files[0].name} of {_size(self.array.shape[1:])} and "
                f"{path.name} of {_size(shape)} (height × width)"
            )
        elif shape[-1] > self.array.shape[-1]:
            grey, done = self.array, len(self.files)
            self.array = self._new_array((self.count, *shape))
            self.array[:done] = grey[:done]


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}×{shape[1]}" + ("" if shape[-1] in (1, 3) else f"×{shape[-1]}")


def _examples(
    pictures: Pictures, files: _Files, of_all: Iterable[pathlib.Path]
) -> tuple[Examples, tuple[str, ...]]:
    """Returns all pictures with names and labels, and the names of the classes of the files `of_all`."""
    names = np.array([path.relative_to(files.root).as_posix() for path in pictures.files])
    folders = [files.class_of(path) for path in pictures.files]
    class_names = tuple(sorted({files.class_of(path) for path in of_all}))
    labels = None
    if "" in class_names or len(class_names) < 2:
        class_names = ()
    else:
        labels = np.searchsorted(class_names, folders)
    return Examples(pictures.array[: len(names)], names, labels), class_names
