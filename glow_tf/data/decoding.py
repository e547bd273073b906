"""Pictures that are decoded into files: what a process had decoded when it was killed, the next one takes."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from glow_tf.config import DataConfig
from glow_tf.data.arrays import new_array
from glow_tf.data.pictures import Picture

SOURCE = "source.txt"  # in a folder for unfinished files: which images they are of
KEPT_AFTER = 5.0  # seconds of decoding that a kill may cost


class Decoding:
    """The decoded pictures of some files, kept as they come.

    Pixels are in an array mapped from a file. A journal has a line for every few seconds: the array's shape,
    and what else is known of the pictures. It is written when their pixels would outlast a power cut. Nothing
    is kept unless the config's `image_cache` is a folder with a `SOURCE`. At most `count` pictures are taken;
    `done` are those of the first files, which need not be decoded again.
    """

    def __init__(self, config: DataConfig, paths: Sequence[pathlib.Path], count: int):
        self._config = config
        about = json.dumps([count, config.image_size, config.dtype, *map(os.path.abspath, paths)])
        name = hashlib.sha256(about.encode(errors="surrogateescape")).hexdigest()[:20]
        self._journal = pathlib.Path(config.image_cache, f"{name}.jsonl")
        self._count, self._files = count, len(paths)
        self._keeps = bool(config.image_cache) and self._journal.with_name(SOURCE).exists()
        self._array: np.ndarray | None = None
        self._new: list[tuple[int, bool, str, int]] = []  # a `Picture` each, without its pixels
        self._kept_at = time.monotonic()
        self.done = self._read() if self._keeps and self._journal.exists() else []

    def new_array(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns an array for the pixels: that of `done`, if its shape is the same."""
        if self._array is None or self._array.shape != shape:
            name = f"{self._journal.stem}.{shape[-1]}" if self._keeps else ""
            self._array = new_array(shape, self._config.dtype, self._config, name)
        return self._array

    def noted(self, pictures: Iterable[Picture]) -> Iterator[Picture]:
        """Yields decoded pictures, and notes them when the next is asked for: then they are in the array."""
        for picture in pictures:
            yield picture
            if self._keeps:  # the facts alone: the pixels of all would be held twice
                self._new.append((picture.side, picture.turned, picture.problem, picture.top))
                if time.monotonic() - self._kept_at > KEPT_AFTER:
                    self.keep()

    def keep(self) -> None:
        """Writes a line about the pictures that were noted since the last one, once there is an array."""
        if self._array is None:  # none of them could be read: the line of the first that can be has them, too
            return
        if self._keeps and self._new:
            self._array.flush()
            with self._journal.open("a") as file:
                file.write(json.dumps([self._array.shape, self._new]) + "\n")
                file.flush()
                os.fsync(file.fileno())
        self._new, self._kept_at = [], time.monotonic()

    def _read(self) -> list[Picture]:
        try:
            whole = self._journal.read_bytes().split(b"\n")[:-1]  # a kill may have cut the last line off
            lines = [_line(text) for text in whole]
            facts = [own for _, pictures in lines for own in pictures]
            readable = sum(not problem for _, _, problem, _ in facts)
            others = any(shape[0] != self._count for shape, _ in lines)
            if others or len(facts) > self._files or readable > self._count:
                raise ValueError("it is of other files")
        except (ValueError, TypeError, RecursionError):  # a damaged file is as none
            self._journal.unlink()
            return []
        pixels = iter(self.new_array(lines[-1][0])) if lines else iter(())
        return [Picture(np.empty(0) if own[2] else next(pixels), *own) for own in facts]


def _line(text: bytes) -> tuple[tuple[int, ...], list[list[Any]]]:
    """Returns the array's shape, and what is known of some pictures; ValueError or TypeError if damaged."""
    shape, facts = json.loads(text)
    kinds = [int, bool, str, int]
    sides = [type(side) for side in shape] == [int] * 4 and min(shape) > 0
    if not sides or any([type(value) for value in own] != kinds for own in facts):
        raise ValueError("it is no line of a journal")
    return tuple(shape), facts
