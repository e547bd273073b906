"""Images, split for a run → `tf.data` of shuffled, augmented, seeded batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf import sources
from glow_tf.config import ConfigError, DataConfig

SHIFT_SHARE = 10  # the shift augmentation moves by at most a tenth of the side


@dataclasses.dataclass(frozen=True)
class ImageData:
    """Decoded images, uint8 [N, H, W, C] each; `validation` may be empty.

    Attributes:
      train, validation, test: the images.
      notes: what a user should know about how they were read.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return tuple(int(side) for side in self.train.shape[1:])


class Share(NamedTuple):
    """Which examples of every batch a stream has, where several processes read the same data.

    Attributes:
      index, count: it has the index-th of so many equal shares of a batch,
      replicas: in as many pieces as it has of the replicas, all of which are so many.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1

    def counter(self, own: tf.Tensor, batch_size: int) -> tf.Tensor:
        """Returns the place in the whole stream of the share's own-th example."""
        size = batch_size // self.count
        return own // size * batch_size + self.index * size + own % size


WHOLE = Share()


def load(config: DataConfig) -> ImageData:
    """Reads a data set, decoding every image once, into memory.

    Raises:
      ConfigError: it is not there, is empty, does not hold images of one size, or is too small or too
        large for what is asked.
    """
    if config.dataset == "digits":
        train, test, notes = *sources.digits(), ()
        train, test = (sources.resized(images, config.image_size) for images in (train, test))
    elif config.dataset.startswith("folder:"):
        train, test, notes = sources.from_folder(config)
    else:
        train, test = sources.from_tfds(config)
        notes = ()
    train, validation = _cut(train, config)
    test = _first(test, config.test_examples, "test_examples")
    return ImageData(train, validation, test, notes)


def _cut(train: np.ndarray, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    if config.validation_examples >= len(train):
        raise ConfigError(
            f"validation_examples must leave some of the {len(train)} training images. "
            f"Received: validation_examples={config.validation_examples}"
        )
    split = len(train) - config.validation_examples
    return _first(train[:split], config.train_examples, "train_examples"), train[split:]


def _first(images: np.ndarray, count: int, name: str) -> np.ndarray:
    if count > len(images):
        raise ConfigError(f"{name} must be at most {len(images)} here. Received: {name}={count}")
    return images[: count or None]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Steps of a training epoch; the images that fill no batch sit out, others each epoch.

    Raises:
      ConfigError: not one batch can be filled.
    """
    if batch_size > examples:
        raise ConfigError(
            f"batch_size must be at most the number of training images, {examples}. "
            f"Received: batch_size={batch_size}"
        )
    return examples // batch_size


def training_batches(
    images: np.ndarray,
    batch_size: int,
    seed: int,
    *,
    augment: str = "none",
    first_epoch: int = 0,
    noise_epochs: Sequence[int] = (),
    share: Share = WHOLE,
) -> tf.data.Dataset:
    """Returns an endless stream of (images uint8, noise float32, index int64).

    Images and noise are [batch_size, H, W, C], index [batch_size] the examples' places in the array. Order,
    augmentation and noise of an example are pure functions of the seed, the epoch and the example, so a
    stream that starts at a later epoch, or is spread over replicas, goes on with the same data.

    Args:
      images: uint8 [N, H, W, C].
      batch_size: over all replicas.
      seed: from which everything random follows.
      augment: `none`, `flip`, `shift` or `flip_shift`.
      first_epoch: epoch to start with, from 0; an epoch has `steps_per_epoch` batches.
      noise_epochs: for every epoch, the one whose noise and augmentation it has; by default its own.
      share: of every batch; by default the whole.
    """
    per_epoch = steps_per_epoch(len(images), batch_size) * batch_size
    source = _on_host(images)
    last = tf.constant(len(images) - 1, tf.int64)
    kept = tf.constant([*noise_epochs], tf.int64)

    def example(own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        counter = share.counter(own, batch_size)
        epoch, place = counter // per_epoch, counter % per_epoch
        index = tf.random.experimental.index_shuffle(place, _epoch_seed(seed, epoch), last)
        if noise_epochs:
            epoch = tf.where(epoch < len(noise_epochs), tf.gather(kept, epoch % len(noise_epochs)), epoch)
        return (*_training_example(source, index, seed, epoch, augment), index)

    first = first_epoch * per_epoch // share.count
    counters = tf.data.Dataset.range(first, np.iinfo(np.int64).max // share.count)
    dataset = counters.map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(dataset.batch(batch_size // share.replicas, drop_remainder=True))


def prefix_batches(
    images: np.ndarray, batch_size: int, seed: int, epoch: int, *, augment: str = "none"
) -> tf.data.Dataset:
    """Returns one pass over every training example as an epoch sees it: (images, noise, index), in order.

    The last batch is filled up with the last example.
    """
    source = _on_host(images)
    last = len(images) - 1

    def example(counter: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        index = tf.minimum(counter, last)
        return (*_training_example(source, index, seed, tf.constant(epoch, tf.int64), augment), index)

    filled = -(-len(images) // batch_size) * batch_size
    dataset = tf.data.Dataset.range(filled).map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(dataset.batch(batch_size, drop_remainder=True))


def evaluation_batches(
    images: np.ndarray, batch_size: int, seed: int, *, share: Share = WHOLE
) -> tf.data.Dataset:
    """Returns one pass over (images uint8, noise float32, weight float32 [batch_size]), in order.

    The last batch is filled up with copies of weight 0: all batches have one shape, and no replica is left
    with an empty one (which TensorFlow's fused convolutions on a CPU do not survive). The noise of an
    example depends on the seed and its place alone: the same in all epochs and batch sizes, and in all
    runs of a seed, which so compare in pairs.
    """
    source = _on_host(images)
    last = tf.constant(len(images) - 1, tf.int64)

    def example(own: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        index = share.counter(own, batch_size)
        own_seed = tf.random.fold_in(tf.constant([seed, _TEST_STREAM], tf.int64), index)
        noise = tf.random.stateless_uniform(images.shape[1:], own_seed)
        return tf.gather(source, tf.minimum(index, last)), noise, tf.cast(index <= last, tf.float32)

    filled = -(-len(images) // batch_size) * batch_size // share.count
    dataset = tf.data.Dataset.range(filled).map(example, num_parallel_calls=tf.data.AUTOTUNE)
    return _finish(dataset.batch(batch_size // share.replicas, drop_remainder=True))


_TRAIN_STREAM, _TEST_STREAM = 0, 1


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    return tf.random.fold_in(tf.constant([seed, _TRAIN_STREAM], tf.int64), epoch)


def _training_example(
    source: tf.Tensor, index: tf.Tensor, seed: int, epoch: tf.Tensor, augment: str
) -> tuple[tf.Tensor, tf.Tensor]:
    own_seed = tf.random.fold_in(_epoch_seed(seed, epoch), index)
    image = _augmented(tf.gather(source, index), augment, own_seed)
    return image, tf.random.stateless_uniform(source.shape[1:], own_seed)


def _on_host(images: np.ndarray) -> tf.Tensor:
    with tf.device("CPU:0"):
        return tf.constant(images)


def _augmented(image: tf.Tensor, augment: str, seed: tf.Tensor) -> tf.Tensor:
    if "flip" in augment:
        draw = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1))
        image = tf.cond(draw < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    if "shift" in augment:
        height, width, channels = image.shape
        reach = [max(height // SHIFT_SHARE, 1), max(width // SHIFT_SHARE, 1)]
        padded = tf.pad(image, [[reach[0]] * 2, [reach[1]] * 2, [0, 0]], mode="SYMMETRIC")
        image = tf.image.stateless_random_crop(
            padded, [height, width, channels], tf.random.fold_in(seed, 2)[:2]
        )
    return image


def _finish(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # Replicas of one process get slices of its batches; several processes have a `Share` each.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options).prefetch(tf.data.AUTOTUNE)
