"""Images of one size in one array."""

from __future__ import annotations

import dataclasses
import fractions
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from glow_tf.errors import ConfigError
from glow_tf.memory import check_memory

RESIZING_BYTES = 24  # of a pixel, grey or not, while it is resized
# What a model of a data type is made by, as messages say it.
MADE_BY = {
    "uint8": "--data=bytes and --n_bits up to 8",
    "uint16": "--data=bytes and --n_bits from 9 to 16",
    "float32": "--data=real",
}
TEST_EVERY = 10  # where a data set has no test images, every tenth image is one


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images, and what is known about each of them.

    Attributes:
      images: uint8 [N, H, W, C], or of another type of a model's data.
      names: str [N], the file of each image; None if the images were not files.
      labels: int64 [N], the class of each image; None if there are no classes.
      condition: what is given with each image, maps [N, h, w, c] or vectors [N, d]; None if nothing is.
    """

    images: np.ndarray
    names: np.ndarray | None = None
    labels: np.ndarray | None = None
    condition: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | np.ndarray) -> Examples:
        """Returns the examples of a slice or mask."""
        others = (self.names, self.labels, self.condition)
        return Examples(self.images[which], *(None if own is None else own[which] for own in others))

    def copy(self) -> Examples:
        """Returns the same examples in arrays of their own."""
        return self[np.arange(len(self))]


def joined(one: Examples, other: Examples) -> Examples:
    """Returns the examples of both, in order; what else is known is kept where both have it."""

    def both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
        return None if a is None or b is None else np.concatenate([a, b])

    images = np.concatenate([one.images, other.images])
    pairs = ((getattr(own, name) for own in (one, other)) for name in ("names", "labels", "condition"))
    return Examples(images, *(both(*pair) for pair in pairs))


def hold_out(examples: Examples, dataset: str) -> tuple[Examples, Examples]:
    """Cuts every tenth image out as a test image; `dataset` names the images in messages.

    Raises:
      ConfigError: there are fewer than ten images, or both sets do not fit into memory beside them.
    """
    check_memory_for(examples.images.nbytes, dataset)  # both get arrays of their own
    mask = np.arange(len(examples)) % TEST_EVERY == TEST_EVERY - 1
    if not mask.any():
        raise ConfigError(
            f"dataset without test images needs at least {TEST_EVERY} images, of which every tenth is held "
            f"out. Received: dataset={dataset!r} with {len(examples)} images"
        )
    return examples[~mask], examples[mask]


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


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts the largest centred square out of [..., H, W, C] and resizes it to [..., size, size, C]."""
    image = tf.convert_to_tensor(image)
    height, width = tf.unstack(tf.shape(image)[-3:-1])
    side = tf.minimum(height, width)
    square = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)
    resized = tf.image.resize(square, [size, size], antialias=True)
    if not image.dtype.is_floating:
        resized = tf.clip_by_value(tf.round(resized), 0, image.dtype.max)
    return tf.cast(resized, image.dtype)


def scaled_side(size: int, factors: Iterable[tuple[fractions.Fraction, ...]]) -> int:
    """Returns the side of maps whose sides are factors of those of images of a size; 0 if there is none."""
    found = {factor for own in factors for factor in own}
    side = size * found.pop() if len(found) == 1 else fractions.Fraction(1, 2)
    return int(side) if side.denominator == 1 else 0


def stack(batches: Iterable[np.ndarray], count: int, dataset: str) -> np.ndarray:
    """Puts batches of images into one array, which is allocated once.

    Args:
      batches: [n, H, W, C].
      count: number of images in all batches.
      dataset: names the data set in messages.

    Raises:
      ConfigError: the images have several sizes, or do not fit into memory.
    """
    array = np.zeros((0, 0, 0, 0), np.uint8)
    done = 0
    for batch in batches:
        if done == 0:
            check_memory_for(count * batch[0].nbytes, dataset)
            array = np.empty((count, *batch.shape[1:]), batch.dtype)
        if batch.shape[1:] != array.shape[1:]:
            raise ConfigError(
                "all images must have one size; --image_size=N crops and resizes them to N×N. "
                f"Received: {dataset!r} with images of {array.shape[1:]} and {batch.shape[1:]}"
            )
        array[done : done + len(batch)] = batch
        done += len(batch)
    return array


def check_memory_of_resized(count: int, size: int, at_once: int, dataset: str) -> None:
    """Raises ConfigError unless images fit into memory when they are resized, before any is read.

    Args:
      count: number of images.
      size: their side.
      at_once: how many are resized at a time, as real numbers.
      dataset: names the data set in the message.
    """
    check_memory_for((count + RESIZING_BYTES * at_once) * size**2, dataset)


def check_memory_for(needed: int, dataset: str) -> None:
    """Raises ConfigError unless `needed` bytes of decoded images fit into memory."""
    remedy = "take smaller ones (--image_size), or fewer (of a folder: fewer files)"
    check_memory(needed, f"decoded images of {dataset!r}", remedy)
