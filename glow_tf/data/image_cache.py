"""Decoded images in files, for data sets larger than memory, and for runs that share a data set."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable

import numpy as np

from glow_tf.config import DataConfig, attributes_of, file_of, folder_of
from glow_tf.core.durable_files import put_in_place
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_json
from glow_tf.data.array_files import SUFFIX
from glow_tf.data.arrays import PIECE, ROOM, SPLITS, ImageData, fingerprint
from glow_tf.data.image_files import files_below, images_below
from glow_tf.data.progress import with_progress
from glow_tf.data.sources import files_of_tfds

FORMAT = 1  # of the files; others are made anew
CONTENT = "content.json"
WHOLE = "whole"  # in a hidden folder: what gets the name of the data set
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NOT_OF_PIXELS = ("augment", "crop", "image_cache", "data_dir")  # settings that change no decoded image
LEFT_BEHIND = 24 * 3600  # seconds, after which nobody writes there any more


def load(config: DataConfig, read: Callable[[DataConfig], ImageData]) -> ImageData:
    """Returns the images of a data set, mapped from files; those are made unless they are there.

    The files lie in a folder of the image cache that is named by the settings of the data set, its place, and
    the names, sizes and times of its files: a change of any of them makes other files. They are .npy, and
    appear all at once when all is decoded; until then they take twice the room, or three times where test
    images are held out. `read` decodes the data set into `arrays.new_array`.

    ConfigError as `read` raises it, or if the cache is no folder that can be written; OSError if the disk is
    full.
    """
    cache = pathlib.Path(os.path.expanduser(config.image_cache))
    config = dataclasses.replace(config, image_cache=str(cache))
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        raise ConfigError(
            f"image_cache must be a folder that can be written: {error.strerror}. Received: {str(cache)!r}"
        ) from None
    folder, notes = cache / _key(config), ()
    _remove_left_behind(folder)
    if folder.exists():
        try:
            return _opened(folder)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            said = " ".join(str(error).split())[:200]
            notes = (f"The image cache was damaged, and is made anew: {said}",)
            shutil.rmtree(folder)
    images = read(config)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=cache) as hidden:
        whole = pathlib.Path(hidden, WHOLE)
        try:
            _write(whole, images)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise OSError(
                f"the image cache needs room for {ROOM}: {error.strerror}. "
                f"Received: image_cache={str(cache)!r}"
            ) from None
        if not folder.exists():  # another process may have been first
            put_in_place(whole, folder)
    found = _opened(folder)
    return dataclasses.replace(found, notes=(*found.notes, *notes))


def _key(config: DataConfig) -> str:
    """Returns a name for the decoded images of a data set, as its settings and its files now are."""
    config = _in_full(config)
    settings = {f.name: str(getattr(config, f.name)) for f in dataclasses.fields(config)}
    kept = sorted((name, value) for name, value in settings.items() if name not in NOT_OF_PIXELS)
    hashed = hashlib.sha256(json.dumps([FORMAT, kept]).encode())
    table, file = attributes_of(config.condition), file_of(config.dataset)
    pictures = folder_of(config.dataset)  # beside them other files may come and go
    root = pictures or (None if file else files_of_tfds(config))
    below = images_below(root) if pictures else files_below(root) if root else ()
    for path in (*below, *filter(None, (table, file))):
        if path.is_file():
            status = path.stat()
            about = f"{path.relative_to(root) if root and path.is_relative_to(root) else path.name}"
            about += f" {status.st_size} {status.st_mtime_ns}\n"
            hashed.update(about.encode(errors="surrogateescape"))
    name = "".join(c if c.isalnum() else "_" for c in config.dataset.rpartition("/")[2])[:40]
    return f"{name}-{hashed.hexdigest()[:20]}"


def _in_full(config: DataConfig) -> DataConfig:
    """Returns a config whose paths name the same files from wherever a process was started."""
    own = {"dataset": file_of(config.dataset) or folder_of(config.dataset)}
    own["condition"] = attributes_of(config.condition)
    beginnings = {name: getattr(config, name).partition(":")[0] for name in own}
    paths = {name: f"{beginnings[name]}:{path.resolve()}" for name, path in own.items() if path}
    return dataclasses.replace(config, **paths)


def _remove_left_behind(folder: pathlib.Path) -> None:
    """Removes what processes that were killed left beside a data set long ago."""
    for old in folder.parent.glob(f".{folder.name}-*"):
        with contextlib.suppress(OSError):  # another process may remove it, too; it may be another user's
            if time.time() - old.stat().st_mtime > LEFT_BEHIND:
                shutil.rmtree(old, ignore_errors=True)


def _write(folder: pathlib.Path, images: ImageData) -> None:
    """Makes a folder with a data set; OSError if the disk is full."""
    folder.mkdir()
    arrays = images.arrays | {f"{split} labels": own for split, own in images.labels.items()}
    for name, array in arrays.items():
        pieces = range(0, len(array), PIECE)
        with (folder / f"{name}{SUFFIX}").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
            for start in with_progress(pieces, len(pieces), f"Keeping {name}"):
                file.write(np.ascontiguousarray(array[start : start + PIECE]).data)
    content = {
        "notes": images.notes,
        "names": images.names,
        "class_names": images.class_names,
        "arrays": list(arrays),
        "checksums": {name: fingerprint(own) for name, own in images.arrays.items()},
    }
    (folder / CONTENT).write_text(json.dumps(content))


def _opened(folder: pathlib.Path) -> ImageData:
    """Maps a data set from its files; almost any error of Python's if they are damaged."""
    content = read_json(folder / CONTENT)
    arrays = {name: np.load(folder / f"{name}{SUFFIX}", mmap_mode="r") for name in content["arrays"]}

    def of(kind: str) -> dict[str, np.ndarray]:
        return {split: arrays[f"{split} {kind}"] for split in SPLITS if f"{split} {kind}" in arrays}

    size = sum(own.nbytes for own in arrays.values()) / 2**30
    return ImageData(
        *(arrays[f"{split} images"] for split in SPLITS),
        notes=(*content["notes"], f"Image cache: {folder}, {size:.2f} GiB."),
        names={split: tuple(names) for split, names in content["names"].items()},
        labels={split: np.array(own) for split, own in of("labels").items()},
        class_names=tuple(content["class_names"]),
        conditions=of("conditions"),
        checksums=dict(content["checksums"]),
    )
