"""Which files of a folder are its images, of training and of test, and which are left out."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

from glow_tf.config import DataConfig, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.data.pictures import SUFFIX

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", SUFFIX)
NO_CLASSES = "No classes"
LOST = "lost+found"  # of a file system, where it begins: nobody else may read it
HIDDEN = "hidden folders and in those of runs"
OF_RUN = {"flags.cfg", "samples"}  # together they tell a workdir: folders of the user's may have one of them


def images_below(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the image files of a folder and of those below it, in the order of their names."""
    return [path for path in _walked(folder)[0] if _is_image(path)]


@dataclasses.dataclass(frozen=True)
class Files:
    """The files of a folder."""

    root: pathlib.Path
    train_root: pathlib.Path  # the folder of the training images, which is the root if there is no train/
    train: list[pathlib.Path]  # image files, in the order of their names, as those of `test`
    test: list[pathlib.Path]
    unread: list[pathlib.Path]  # other files among them
    outside: list[pathlib.Path]  # images that are neither in train/ nor in test/, where there is a train/
    # Images in folders whose names begin with a dot, such as copies that a program keeps, and in those that
    # this package writes.
    hidden: list[pathlib.Path]
    held_out: int  # files that are left out of `train`, because they are test images under another name

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
            kinds = _by_extension(self.unread)
            notes.append(f"Not read: {kinds}. Other kinds of images: save them as PNG or JPEG.")
        folders = {self.class_of(path) for path in self.train if self.train_root == self.root}
        if odd := sorted(own for own in folders if own.lower().startswith(("train", "test"))):
            notes.append(
                f"Read like any folder: {', '.join(odd)}. Those of the sets are named train and test."
            )
        if self.outside:
            notes.append(f"Not used: {len(self.outside)} images that are neither in train/ nor in test/.")
        if self.hidden:
            folder = self.hidden[0].relative_to(self.root).parent
            notes.append(f"Not used: {len(self.hidden)} images in {HIDDEN}, such as {folder}/.")
        if self.held_out:
            notes.append(f"Not trained on: {self.held_out} images that are test images under another name.")
        return notes

    def instead(self) -> str:
        """Returns what is in a folder without images to train on, and where."""
        unread = [path for path in self.unread if path.is_relative_to(self.train_root)]
        others = f"only {_by_extension(unread)}" if unread else "none"
        found = [others if self.train_root == self.root else f"{others} in train/"]
        images = {"beside train/": self.outside, "in test/": self.test, f"in {HIDDEN}": self.hidden}
        found += [f"{len(own)} images {where}" for where, own in images.items() if own]
        return " and ".join(found)


def find_files(config: DataConfig, split: str) -> Files:
    """Returns the files of a data set that is a folder; ConfigError without it, or images for the split."""
    root = folder_of(config.dataset)
    train_root = root / "train" if (root / "train").is_dir() else root
    (test_files, own_hidden), (train_files, hidden) = _walked(root / "test"), _walked(train_root)
    train_files = [path for path in train_files if not path.is_relative_to(root / "test")]
    hidden = [path for folder in sorted({*own_hidden, *hidden}) for path in _walked(folder, None)[0]]
    candidates, test = ([p for p in group if _is_image(p)] for group in (train_files, test_files))
    held_out = {_identity(path) for path in test}
    train = [path for path in candidates if _identity(path) not in held_out] if test else candidates
    unread = [p for p in train_files + test_files if not _is_image(p) and not p.name.startswith(".")]
    known = {*candidates, *test}
    below = [] if train_root == root else _walked(root, None)[0]
    outside = [path for path in below if _is_image(path) and path not in known]
    if outside:  # what links within the folder lead to is used under another name
        places = {path.resolve() for path in known}
        outside = [path for path in outside if path.resolve() not in places]
    hidden, held_out = [path for path in hidden if _is_image(path)], len(candidates) - len(train)
    files = Files(root, train_root, train, test, unread, outside, hidden, held_out)
    if not train and not (test and split in ("test", "")):
        raise ConfigError(
            f"dataset=folder:PATH needs images ({', '.join(IMAGE_SUFFIXES)}) in the folder or in its "
            f"train/. Received: {config.dataset!r}, in which there are {files.instead()}"
        )
    return files


def _refuse(error: OSError) -> None:
    raise ConfigError(
        f"dataset=folder:PATH needs folders that can be read: {error.strerror}. Received: {error.filename!r}"
    )


def _walked(
    folder: pathlib.Path, onerror: Callable[[OSError], None] | None = _refuse
) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Returns the files of a folder and of those below it, in the order of names, and the hidden folders."""
    found, hidden, seen = [], [], set()
    if folder.is_dir():
        # `rglob` takes ten times as long.
        for parent, folders, names in os.walk(folder, onerror=onerror, followlinks=True):
            if (place := _identity(pathlib.Path(parent))) in seen:  # links may lead in a circle
                folders.clear()
                continue
            seen.add(place)
            if {*folders, *names} >= OF_RUN and pathlib.Path(parent) != folder:
                hidden.append(pathlib.Path(parent))
                folders.clear()
                continue
            hidden += [pathlib.Path(parent, name) for name in folders if name.startswith(".")]
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name != LOST)
            found += [pathlib.Path(parent, name) for name in names]
    return sorted((path for path in found if path.is_file()), key=lambda path: path.parts), hidden


def _identity(path: pathlib.Path) -> tuple[int, int]:
    """Tells a file from others, whatever links lead to it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _is_image(path: pathlib.Path) -> bool:
    """Tells by the name; what macOS writes beside the files of others has the picture's, after `._`."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("._")


def _by_extension(files: Iterable[pathlib.Path]) -> str:
    """Returns such as `3 × .heic, 1 × .txt`."""
    counts = collections.Counter(path.suffix.lower() or "no extension" for path in files)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} × {suffix}" for suffix, count in ordered)
