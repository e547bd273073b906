"""Images of one size in one array."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from glow_tf.config import DataConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import check_memory
from glow_tf.data.overlap import overlapping

RESIZING_BYTES = 24  # of a pixel, grey or not, while it is resized
# What a model of a data type is made by, as messages say it.
MADE_BY = {
    "uint8": "--data=bytes and --n_bits up to 8",
    "uint16": "--data=bytes and --n_bits from 9 to 16",
    "float32": "--data=real",
}
PIECE = 256  # examples that are looked at at a time
TEST_EVERY = 10  # where a data set has no test images, every tenth image is one


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, and what is known about each of them."""

    images: np.ndarray  # uint8 [N, H, W, C], or of another type of a model's data
    names: np.ndarray | None = None  # str [N], the file of each image, if they were files
    labels: np.ndarray | None = None  # int64 [N], the class of each image, if there are classes
    condition: np.ndarray | None = None  # what is given with each, maps [N, h, w, c] or vectors [N, d]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | np.ndarray) -> Examples:
        """Returns the examples of a slice or mask."""
        others = (self.names, self.labels, self.condition)
        return Examples(self.images[which], *(None if own is None else own[which] for own in others))


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What was read of a data set; where it has no test images of its own, `train` has all examples."""

    train: Examples
    test: Examples | None = None
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # on what was read how


SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class ImageData:
    """The decoded images of a data set.

    Attributes:
      train, validation, test: [N, H, W, C] each, of the config's type; validation may be empty. Of a file
        that does not fit into memory they are mapped from it, `train` and `validation` as `Rows`.
      notes: sentences for the user about how the images were read.
      names: for a folder, the file of each image, relative to the folder: `names["test"][3]` is the file of
        `test[3]`. The keys are `train`, `validation` and `test`. Empty for other data sets.
      labels: the class of each image, of the digits, of a TFDS data set with labels and of a folder with
        class folders: `labels["test"]` is int64 [N] and counts in `class_names`. Otherwise empty.
      class_names: the names of the classes, in order; otherwise empty.
      conditions: what is given with each image, as `DataConfig.condition` says: `conditions["test"]` has maps
        [N, h, w, c], uint8 as images are or float32, or vectors, float32 [N, d]. Otherwise empty.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()
    names: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    labels: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    conditions: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return tuple(int(side) for side in self.train.shape[1:])

    @property
    def condition_shape(self) -> tuple[int, ...]:
        """The shape of what is given with an image; empty if nothing is."""
        return tuple(int(side) for side in self.conditions["train"].shape[1:]) if self.conditions else ()

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The images and what is given with them, by names such as `train images`."""
        found = {f"{split} images": getattr(self, split) for split in SPLITS}
        return found | {f"{split} conditions": own for split, own in self.conditions.items()}

    @property
    def values_used(self) -> int:
        """Grey values of training and test images, combined by a bitwise or; real data have none: 0."""
        if self.train.dtype.kind == "f":
            return 0
        every = (piece for own in (self.train, self.test) for piece in pieces(own))
        return int(functools.reduce(np.bitwise_or, (np.bitwise_or.reduce(own, None) for own in every)))

    def with_validation(self, count: int) -> ImageData:
        """Returns the same data with the last `count` training images for validation, as `load` cuts them."""
        kept = len(self.train) - count

        def cut(own: dict) -> dict:
            return own | {"train": own["train"][:kept], "validation": own["train"][kept:]} if own else own

        return dataclasses.replace(
            self,
            train=self.train[:kept],
            validation=self.train[kept:],
            **{name: cut(getattr(self, name)) for name in ("names", "labels", "conditions")},
        )

    @functools.cached_property
    def top(self) -> int:
        """The largest grey value of the training images."""
        return int(max(own.max() for own in pieces(self.train)))

    @functools.cached_property
    def overlaps(self) -> dict[str, tuple[int, int]]:
        """How many validation and test images overlap with training images, and of how many."""
        return {name: overlapping(self.train, getattr(self, name)) for name in SPLITS[1:]}


def joined(one: Examples, other: Examples) -> Examples:
    """Returns the examples of both, in order; what else is known is kept where both have it."""
    pairs = ((getattr(one, own.name), getattr(other, own.name)) for own in dataclasses.fields(Examples))
    return Examples(*(None if a is None or b is None else np.concatenate([a, b]) for a, b in pairs))


def hold_out(examples: Examples, config: DataConfig) -> tuple[Examples, Examples]:
    """Cuts every tenth image out as a test image; ConfigError if there are fewer than ten, or no memory."""
    mask = np.arange(len(examples)) % TEST_EVERY == TEST_EVERY - 1
    if not mask.any():
        raise ConfigError(
            f"dataset without test images needs at least {TEST_EVERY} images, of which every tenth is held "
            f"out. Received: dataset={config.dataset!r} with {len(examples)} images"
        )
    if not in_memory(examples.images):  # they are of one file, in which there is nothing else
        rest = Rows(examples.images, np.flatnonzero(~mask))
        return Examples(rest), Examples(examples.images[TEST_EVERY - 1 :: TEST_EVERY])
    held = [own for own in (examples.images, examples.condition) if own is not None]
    check_memory_for(sum(own.nbytes for own in held), config.dataset)  # both get arrays of their own
    return examples[~mask], examples[mask]


def new_array(shape: tuple[int, ...], dtype: str | np.dtype, config: DataConfig) -> np.ndarray:
    """Returns an array for decoded images; ConfigError if memory has no room for it."""
    check_memory_for(int(np.prod(shape)) * np.dtype(dtype).itemsize, config.dataset)
    return np.empty(shape, dtype)


class Rows:
    """Some examples of an array that is mapped from a file, which are read where they are asked for."""

    def __init__(self, values: np.memmap, places: np.ndarray):
        self._values, self._places = values, places
        self.shape, self.dtype = (len(places), *values.shape[1:]), values.dtype
        self.size = math.prod(self.shape)
        self.nbytes = self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, which: int | slice | np.ndarray) -> Rows | np.ndarray:
        """Returns the examples of a slice as they are, and others in memory."""
        places = self._places[which]
        return Rows(self._values, places) if isinstance(which, slice) else np.array(self._values[places])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._values[self._places], dtype)


def in_memory(values: np.ndarray | Rows) -> bool:
    """Whether an array is in memory, and not mapped from a file."""
    return not isinstance(values, (np.memmap, Rows))


def pieces(values: np.ndarray | Rows) -> Iterator[np.ndarray]:
    """Yields an array [N, …] in pieces that fit into memory, wherever it is."""
    for start in range(0, len(values), PIECE):
        yield np.asarray(values[start : start + PIECE])


def fingerprint(values: np.ndarray) -> str:
    """Returns how many examples an array [N, …] has, and a checksum of their bytes, in their order."""
    checksum = 0
    for value in values:  # one by one: no copy of them all is made
        checksum = zlib.crc32(np.ascontiguousarray(value), checksum)
    return f"{len(values)} (checksum {checksum:08x})"


def why_of_another_type(found: np.dtype, dtype: str) -> str:
    """Says why an array of a type is no data of type `dtype`, and which model it is for; '' if it is."""
    found = np.dtype(found)
    if found.kind == "f" if dtype == "float32" else found.name == dtype:
        return ""
    made_by = MADE_BY.get("float32" if found.kind == "f" else found.name)
    return (
        f"its values are {found.name}, and the run needs {dtype}"
        f"{f'; {found.name} is for {made_by}' if made_by else ''}"
    )


def resize(image: tf.Tensor | np.ndarray, size: int) -> tf.Tensor | np.ndarray:
    """Cuts the largest centred square out of [..., H, W, C] and resizes it to [..., size, size, C].

    0, and the side that it has, leave it as it is.
    """
    is_known = isinstance(size, int)  # and no tensor, as where this is traced once for all sizes
    if is_known and (not size or tuple(image.shape[-3:-1]) == (size, size)):
        return image
    image = tf.convert_to_tensor(image)
    height, width = tf.unstack(tf.shape(image)[-3:-1])
    side = tf.minimum(height, width)
    square = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)
    resized = tf.image.resize(square, [size, size], antialias=True)
    if not image.dtype.is_floating:
        resized = tf.clip_by_value(tf.round(resized), 0, image.dtype.max)
    return tf.cast(resized, image.dtype)


def stack(batches: Iterable[np.ndarray], count: int, config: DataConfig) -> np.ndarray:
    """Puts batches [n, H, W, C] of `count` images in all into one array, which is allocated once.

    ConfigError if the images have several sizes, or do not fit into memory.
    """
    array = np.zeros((0, 0, 0, 0), np.uint8)
    done = 0
    for batch in batches:
        if done == 0:
            array = new_array((count, *batch.shape[1:]), batch.dtype, config)
        if batch.shape[1:] != array.shape[1:]:
            raise ConfigError(
                f"{needs_one_size(array, batch)}. Received: {config.dataset!r} with images of "
                f"{array.shape[1:]} and {batch.shape[1:]}"
            )
        array[done : done + len(batch)] = batch
        done += len(batch)
    return array


def needs_one_size(*images: np.ndarray) -> str:
    """Says that images [..., H, W, C] must have one size, and suggests a power of two, at most 64."""
    side = min(64, *(own for image in images for own in image.shape[-3:-1]))
    # Of commands of trained models, too, which have no --image_size.
    fits = f"to train, --image_size={2 ** (side.bit_length() - 1)} does it"
    return f"all images must have one size: resize them first; {fits}"


def check_memory_of_resized(count: int, at_once: int, config: DataConfig) -> None:
    """Raises ConfigError unless images fit into memory when they are resized, before any is read.

    `at_once` are resized at a time, as real numbers.
    """
    check_memory_for((count + RESIZING_BYTES * at_once) * config.image_size**2, config.dataset)


def check_memory_for(needed: int, dataset: str) -> None:
    """Raises ConfigError unless `needed` bytes of decoded images fit into memory."""
    remedy = (
        "take fewer or smaller ones; to train, there is --image_size, and an array file:PATH.npy of the "
        "model's type may be larger than memory"
    )
    check_memory(needed, f"decoded images of {dataset!r}", remedy)
