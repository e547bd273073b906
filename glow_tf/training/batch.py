"""What a batch holds; the noise of a step, empty batches, and the images that ActNorms start from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf.errors import ConfigError
from glow_tf.pieces import filled_if_empty
from glow_tf.training.datasets import Dataset

FIRST_KEY = 2  # of noise that a step draws; those before are of data.batches

# ActNorms are initialised from about this many pixels: 32 images of 32×32, which takes 2 s at width 512.
INITIALIZATION_PIXELS = 2**15
FEWEST_INITIALIZATION_EXAMPLES = 32
MOST_INITIALIZATION_EXAMPLES = 256


class Batch(NamedTuple):
    """What a batch holds; None for what it lacks.

    Attributes:
      images: uint8 [B, H, W, C].
      noise: of the dequantisation, in [0, 1), [B, H, W, C].
      index: places of the examples in the training data, [B].
      weight: 0 or 1 for each example, [B].
      labels: the class of each image, integers [B].
    """

    images: tf.Tensor
    noise: tf.Tensor | None = None
    index: tf.Tensor | None = None
    weight: tf.Tensor | None = None
    labels: tf.Tensor | None = None


def unpack(batch: Any, labelled: bool = False, *, trains: bool = True) -> Batch:
    """Reads a batch as datasets give it: images, or with noise, or with an index, too.

    Args:
      batch: a tensor, or a tuple.
      labelled: whether its last member is the labels.
      trains: whether its third member is the index; in evaluations it is the weights.
    """
    pieces = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    labels = pieces.pop() if labelled else None
    images, noise, third = (*pieces, None, None)[:3]
    return Batch(images, noise, third if trains else None, None if trains else third, labels)


def noise_of_step(images: tf.Tensor, seed: tuple[int, int], step: tf.Tensor) -> tf.Tensor:
    """Draws the noise of a training step for images that come without noise.

    The noise of an example depends on its place in the global batch, not on the replica: replicas draw the
    noise of the whole batch and take their own slice of it.

    Args:
      images: uint8 [B, H, W, C], one replica's.
      seed: of the trainer, and the first part that the step trains: parts count their own steps.
      step: number of the step among those of this part, [].

    Returns:
      Uniform numbers in [0, 1), float32 [B, H, W, C].
    """
    key = (seed[0], FIRST_KEY + seed[1])
    own_seed = tf.random.fold_in(tf.constant(key, tf.int64), tf.cast(step, tf.int64))
    replica = tf.distribute.get_replica_context()
    replicas = 1 if replica is None else replica.num_replicas_in_sync
    size = tf.shape(images)[0]
    if replicas == 1:
        return tf.random.stateless_uniform(tf.shape(images), own_seed)
    place = tf.cast(replica.replica_id_in_sync_group, tf.int32)
    sizes = tf.repeat(size, replicas)
    if images.shape[0] is None:  # the last batch may be shared unevenly
        sizes = replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.one_hot(place, replicas, size, 0))
    start = tf.reduce_sum(sizes[:place])
    whole = tf.random.stateless_uniform(
        tf.concat([[tf.reduce_sum(sizes)], tf.shape(images)[1:]], 0), own_seed
    )
    return tf.ensure_shape(whole[start : start + size], images.shape)


def filled_up(batch: Batch) -> Batch:
    """Fills an empty batch up with one black image of weight 0, where a batch may be empty.

    The last batch of a dataset may leave a replica without images.

    Args:
      batch: if its size is known, it is returned as it is. Its index stays as it is, too.

    Returns:
      The batch; it has no weights only if its size is known and it came without.
    """
    images, noise, index, weight, labels = batch
    if images.shape[0] is not None:
        return batch
    weight = tf.ones(tf.shape(images)[:1]) if weight is None else weight
    images, noise, weight, labels = filled_if_empty(images, noise, weight, labels)
    return Batch(images, noise, index, weight, labels)


def initialization_examples(image_shape: Sequence[int]) -> int:
    """Returns how many images ActNorms are initialised from: 32 to 256, more if the images are small."""
    height, width, _ = image_shape
    count = math.ceil(INITIALIZATION_PIXELS / (height * width))
    return min(max(count, FEWEST_INITIALIZATION_EXAMPLES), MOST_INITIALIZATION_EXAMPLES)


def first_examples(
    dataset: Dataset, count: int, labelled: bool = False
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns the first `count` images of a dataset [count, H, W, C] and their noise, if it has noise.

    Of a distributed dataset, which is read in its strategy's scope, they are those of this process. If the
    dataset is `labelled`, the last member of its batches is the labels.

    Raises:
      ConfigError: the dataset is empty.
    """
    images, noises = [], []
    found = 0
    for batch in dataset:
        image, noise, *_ = unpack(batch, labelled)
        images += _of_replicas(image)
        noises += [] if noise is None else _of_replicas(noise)
        found = sum(int(own.shape[0]) for own in images)
        if found >= count:
            break
    if not found:
        raise ConfigError("a dataset must hold images. Received: an empty dataset")
    return tf.concat(images, 0)[:count], tf.concat(noises, 0)[:count] if noises else None


def _of_replicas(member: Any) -> Sequence[tf.Tensor]:
    """Returns what each replica of this process has of a member of a batch."""
    return tf.distribute.get_strategy().experimental_local_results(member)
