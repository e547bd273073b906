"""What a batch holds; the noise of a step, empty batches, and the images that ActNorms start from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.pieces import filled_if_empty
from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError
from glow_tf.model.glow import Glow

Dataset = tf.data.Dataset | tf.distribute.DistributedDataset

FIRST_KEY = 2  # of noise that a step draws; those before are of data.batches

# ActNorms are initialised from about this many pixels: 32 images of 32×32, which takes 2 s at width 512.
INITIALIZATION_PIXELS = 2**15
FEWEST_INITIALIZATION_EXAMPLES = 32
MOST_INITIALIZATION_EXAMPLES = 256


class Batch(NamedTuple):
    """What a batch holds; None for what it lacks."""

    images: tf.Tensor  # [B, H, W, C], of the type of the model's data
    noise: tf.Tensor | None = None  # of the dequantisation, in [0, 1), [B, H, W, C]
    index: tf.Tensor | None = None  # places of the examples in the training data, [B]
    weight: tf.Tensor | None = None  # 0 or 1 for each example, [B]
    labels: tf.Tensor | None = None  # the class of each image, integers [B]
    condition: Condition = None  # what the model is given with each, [B, …], or a dictionary of such tensors

    def members(self) -> tuple:
        """Returns the members that there are, as Keras hands on one argument."""
        return tuple(member for member in self if member is not None)


def last_members(config: ModelConfig, *, trains: bool) -> tuple[str, ...]:
    """Returns what the batches of a model end with, in order: `labels`, if they train it, and `condition`."""
    labels = ("labels",) if config.classes and trains else ()
    return (*labels, *(("condition",) if config.condition_shape else ()))


def unpack(batch: Any, config: ModelConfig, *, trains: bool = True) -> Batch:
    """Reads a batch as datasets give it: images, or with noise, or with an index, too; then `last_members`.

    In evaluations the third member is the weights. Keras hands what is one argument on as a tuple, or as a
    tuple with None after it.
    """
    pieces = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    if isinstance(pieces[0], tuple):
        pieces = list(pieces[0])
    last = {name: pieces.pop() for name in reversed(last_members(config, trains=trains))}
    images, noise, index_or_weight = (*pieces, None, None)[:3]
    index, weight = (index_or_weight, None) if trains else (None, index_or_weight)
    return Batch(images, noise, index, weight, **last)


def noise_of_step(images: tf.Tensor, seed: tuple[int, int], step: tf.Tensor) -> tf.Tensor:
    """Draws the noise of a training step for images that come without noise.

    The noise of an example depends on its place in the global batch, not on the replica: replicas draw the
    noise of the whole batch and take their own slice of it. The seed is that of the trainer, with the first
    part that the step trains, which counts its own steps. Real images have noise of 0.
    """
    if images.dtype.is_floating:
        return tf.zeros_like(images)
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
    shape = tf.concat([[tf.reduce_sum(sizes)], tf.shape(images)[1:]], 0)
    whole = tf.random.stateless_uniform(shape, own_seed)
    return tf.ensure_shape(whole[start : start + size], images.shape)


def filled_up(batch: Batch) -> Batch:
    """Fills an empty batch up with one black image of weight 0; its index stays as it is.

    The last batch of a dataset may leave a replica without images. A batch of a known size is never empty,
    and may go on without weights.
    """
    images, noise, index, weight, labels, condition = batch
    if images.shape[0] is not None:
        return batch
    weight = tf.ones(tf.shape(images)[:1]) if weight is None else weight
    images, noise, weight, labels, condition = filled_if_empty(images, noise, weight, labels, condition)
    return Batch(images, noise, index, weight, labels, condition)


def initialize_from(glow: Glow, dataset: Dataset, strategy: tf.distribute.Strategy) -> None:
    """Initialises a model from the first images of a dataset, the same on all replicas, unless it is."""
    if not glow.initialized:
        with strategy.scope():
            count = initialization_examples(glow.image_shape)
            glow.initialize(*first_examples(dataset, count, glow.config))


def initialization_examples(image_shape: Sequence[int]) -> int:
    """Returns how many images ActNorms are initialised from: 32 to 256, more if the images are small."""
    height, width, _ = image_shape
    count = math.ceil(INITIALIZATION_PIXELS / (height * width))
    return min(max(count, FEWEST_INITIALIZATION_EXAMPLES), MOST_INITIALIZATION_EXAMPLES)


def first_examples(
    dataset: Dataset, count: int, config: ModelConfig
) -> tuple[tf.Tensor, tf.Tensor | None, Condition]:
    """Returns the first `count` images of a dataset [count, H, W, C], their noise and condition, if any.

    Of a distributed dataset, which is read in its strategy's scope, they are those of this process.
    ConfigError if the dataset is empty.
    """
    local = tf.distribute.get_strategy().experimental_local_results  # of each replica, or of None
    batches: list[tuple] = []
    found = 0
    for batch in dataset:
        own = unpack(batch, config)
        members = (own.images, own.noise, own.condition)
        of_replicas = map(local, tf.nest.flatten(members))
        batches += itertools.zip_longest(*of_replicas)  # of None there is one, of the others one each
        found = sum(int(leaves[0].shape[0]) for leaves in batches)
        if found >= count:
            break
    if not found:
        raise ConfigError("a dataset must hold images. Received: an empty dataset")
    columns = zip(*batches, strict=True)
    first = [None if leaves[0] is None else tf.concat(leaves, 0)[:count] for leaves in columns]
    return tf.nest.pack_sequence_as(members, first)
