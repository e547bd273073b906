"""What `fit` and `evaluate` take: arrays and datasets of images, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from glow_tf.data.batches import evaluation_batches, steps_per_epoch, training_batches
from glow_tf.glow import Glow

DEFAULT_BATCH_SIZE = 64

# ActNorms are initialised from about this many pixels: 32 images of 32×32, which takes 2 s at width 512.
INITIALIZATION_PIXELS = 2**15
FEWEST_INITIALIZATION_EXAMPLES = 32
MOST_INITIALIZATION_EXAMPLES = 256

Dataset = tf.data.Dataset | tf.distribute.DistributedDataset


def is_dataset(x: Any) -> bool:
    """Returns whether x is a dataset rather than an array of images."""
    return isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset))


def training_dataset(
    glow: Glow, x: Any, batch_size: int | None, seed: int, first_epoch: int
) -> tuple[Dataset, int | None]:
    """Returns what `fit` trains on, and the steps per epoch; None leaves them to the dataset.

    Args:
      glow: the model, which the images must fit.
      x: uint8 images [N, H, W, C], which are shuffled anew every epoch; or a dataset, which stays as it is.
      batch_size: images per batch, for an array; 64 by default.
      seed: of the order and the noise, for an array.
      first_epoch: the epoch to start with, from 0, for an array.

    Raises:
      ValueError: the images are not uint8 of the model's shape.
    """
    if is_dataset(x):
        check_dataset(glow, x)
        return x, None
    images = glow.checked(x).numpy()
    batch_size = batch_size or DEFAULT_BATCH_SIZE
    batches = training_batches(images, batch_size, seed, first_epoch=first_epoch)
    return batches, steps_per_epoch(len(images), batch_size)


def evaluation_dataset(glow: Glow, x: Any, batch_size: int | None, seed: int) -> Dataset:
    """Returns what `evaluate` runs on; arguments and errors as in `training_dataset`."""
    if is_dataset(x):
        check_dataset(glow, x)
        return x
    return evaluation_batches(glow.checked(x).numpy(), batch_size or DEFAULT_BATCH_SIZE, seed)


def check_dataset(glow: Glow, dataset: Dataset) -> None:
    """Raises ValueError unless a dataset's elements begin with uint8 images of the model's shape."""
    if not isinstance(dataset, tf.data.Dataset):
        return  # distributed: its elements are pieces of a dataset that was checked
    images = tf.nest.flatten(dataset.element_spec)[0]
    if images.dtype != tf.uint8 or not images.shape[1:].is_compatible_with(glow.image_shape):
        raise ValueError(
            f"a dataset must begin with uint8 images [N, {', '.join(map(str, glow.image_shape))}]. "
            f"Received: {images}"
        )


def check_batches_of_one_size(dataset: Dataset, steps: int | None) -> None:
    """Raises ValueError unless the batches have one known size and their number is known."""
    size = tf.nest.flatten(dataset.element_spec)[0].shape[0]
    if size is None or not (steps or dataset.cardinality() > 0):
        raise ValueError(
            "part_delay needs batches of one size and a known number of them. Received: a dataset of "
            f"{dataset.element_spec}, steps_per_epoch={steps}"
        )


def unpack(batch: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Returns images, noise, and weights or indices; None for what the batch lacks."""
    pieces = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return (*pieces, None, None)[:3]


def initialization_examples(image_shape: Sequence[int]) -> int:
    """Returns how many images ActNorms are initialised from: 32 to 256, more if the images are small."""
    height, width, _ = image_shape
    count = math.ceil(INITIALIZATION_PIXELS / (height * width))
    return min(max(count, FEWEST_INITIALIZATION_EXAMPLES), MOST_INITIALIZATION_EXAMPLES)


def first_examples(dataset: Dataset, count: int) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns the first `count` images of a dataset [count, H, W, C] and their noise, if it has noise."""
    images, noises, found = [], [], 0
    for batch in dataset:
        image, noise, _ = unpack(batch)
        images.append(image)
        noises.append(noise)
        found += int(image.shape[0])
        if found >= count:
            break
    noise = None if noises[0] is None else tf.concat(noises, 0)[:count]
    return tf.concat(images, 0)[:count], noise
