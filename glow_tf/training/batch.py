"""What a batch holds; the noise of a step, empty batches, and the images that ActNorms start from."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.mode import filled_if_empty
from glow_tf.core.errors import ConfigError
from glow_tf.model.flow import Flow
from glow_tf.model.passage import Passage

Dataset = tf.data.Dataset | tf.distribute.DistributedDataset

FIRST_KEY = 2  # of noise that a step draws; those before are of data.batches

# ActNorms are initialised from about this many pixels: 32 images of 32×32, which takes 2 s at width 512.
INITIALIZATION_PIXELS = 2**15
FEWEST_INITIALIZATION_EXAMPLES = 32
MOST_INITIALIZATION_EXAMPLES = 256


# What a batch holds, by name: images [B, H, W, C], of the type of the model's data; and what it has of
#   noise: of the dequantisation, in [0, 1), [B, H, W, C];
#   index: places of the examples in the training data, [B];
#   weight: 0 or 1 for each example, [B];
#   condition: what the model is given with each, [B, …], or a dictionary of such tensors.
Batch = dict[str, Any]


def named(batch: Any) -> Batch:
    """Returns a batch by name: a dictionary, or images alone; Keras hands single ones on in a tuple."""
    batch = batch[0] if isinstance(batch, tuple) else batch
    return dict(batch) if isinstance(batch, dict) else {"images": batch}


def entering(flow: Flow, batch: Batch, seed: int = 0, cache: Any = None) -> Passage:
    """Returns a batch as it enters the first part, or the one whose frozen prefix is in the `PrefixCache`.

    The seed is of the dequantisation, where the batch has no noise. Here what the model is given is checked:
    ConfigError if it does not fit.
    """
    with flow.on_device_of(0):
        if cache:
            passage = cache.passage(batch["index"])
        else:
            passage = flow.enter(batch["images"], batch.get("noise"), seed)
    return passage._replace(condition=flow.checked_condition(batch.get("condition")))


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


def seed_of_objective(seed: int, part: int, step: tf.Tensor) -> tf.Tensor:
    """Returns the seed of the random numbers of a part's objective in a step, int32 [2].

    Each replica has its own, since it draws for its own share of the batch.
    """
    replica = tf.distribute.get_replica_context()
    replicas = 1 if replica is None else replica.num_replicas_in_sync
    place = 0 if replica is None else replica.replica_id_in_sync_group
    number = tf.cast(step, tf.int32) * replicas + tf.cast(place, tf.int32)
    return tf.random.fold_in(tf.constant((seed, -1 - part), tf.int64), number)


def filled_up(batch: Batch) -> Batch:
    """Fills an empty batch up with one black image of weight 0.

    The last batch of a dataset may leave a replica without images. A batch of a known size is never empty,
    and may go on without weights.
    """
    if batch["images"].shape[0] is not None:
        return batch
    batch = {"weight": tf.ones(tf.shape(batch["images"])[:1])} | batch
    return dict(zip(batch, filled_if_empty(*batch.values()), strict=True))


def initialize_from(trainer: Any, dataset: Dataset) -> None:
    """Initialises a `PartsTrainer` from the first images of a dataset, unless it is."""
    if not trainer.initialized:
        with trainer.distribute_strategy.scope():
            height, width, _ = trainer.flow.image_shape
            count = math.ceil(INITIALIZATION_PIXELS / (height * width))
            count = min(max(count, FEWEST_INITIALIZATION_EXAMPLES), MOST_INITIALIZATION_EXAMPLES)
            trainer.initialize(**first_examples(dataset, count))


def first_examples(dataset: Dataset, count: int) -> Batch:
    """Returns the first `count` images of a dataset [count, H, W, C], with their noise and condition, if any.

    Of a distributed dataset, which is read in its strategy's scope, they are those of this process.
    ConfigError if the dataset is empty.
    """
    local = tf.distribute.get_strategy().experimental_local_results  # of each replica
    batches: list[tuple] = []
    found = 0
    for batch in dataset:
        own = named(batch)
        members = {name: own[name] for name in ("images", "noise", "condition") if name in own}
        batches += zip(*map(local, tf.nest.flatten(members)), strict=True)
        found = sum(int(leaves[0].shape[0]) for leaves in batches)
        if found >= count:
            break
    if not found:
        raise ConfigError("a dataset must hold images. Received: an empty dataset")
    first = [tf.concat(leaves, 0)[:count] for leaves in zip(*batches, strict=True)]
    return tf.nest.pack_sequence_as(members, first)
