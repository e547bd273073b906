"""Images → `tf.data` of shuffled, augmented, seeded batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.config import AUGMENTATIONS, check_batch
from glow_tf.core.errors import ConfigError
from glow_tf.data.arrays import in_memory

# Nothing in these functions needs AutoGraph, which takes its time.
_not_converted = tf.autograph.experimental.do_not_convert

SHIFT_DIVISOR = 10  # the shift augmentation moves by at most a tenth of the side


class DataSlice(NamedTuple):
    """Which examples of every batch a dataset holds, where several processes read the same data.

    Attributes:
      index: the process reads slice `index` (from 0) of `count` equal slices of every batch.
      count: number of slices, one per process.
      replicas: number of replicas in all processes; a slice comes in pieces of one replica's size.
    """

    index: int = 0
    count: int = 1
    replicas: int = 1

    def counter(self, number: tf.Tensor, batch_size: int) -> tf.Tensor:
        """Returns the place, in the order of the whole data, of example `number` of this slice."""
        size = batch_size // self.count
        return number // size * batch_size + self.index * size + number % size


WHOLE = DataSlice()


class Crop(NamedTuple):
    """A square that is cut out of every image, at a random place.

    Attributes:
      side: of the square; 0 leaves images whole.
      multiple: places are multiples of it from the top left corner, so that squares of as many pixels that
        a model takes together stay together.
    """

    side: int = 0
    multiple: int = 1

    def of(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Returns the crop that a seed gives of an image [H, W, C]: [side, side, C]."""
        if not self.side:
            return image
        if self.side > min(image.shape[:2]):
            raise ConfigError(f"a crop must fit into the images, {image.shape}. Received: side={self.side}")
        places = [(length - self.side) // self.multiple + 1 for length in image.shape[:2]]
        seeds = (tf.random.fold_in(seed, key) for key in (3, 4))
        drawn = [
            tf.random.stateless_uniform([], own, maxval=count, dtype=tf.int32)
            for own, count in zip(seeds, places, strict=True)
        ]
        start = [self.multiple * place for place in drawn]
        return tf.slice(image, [*start, 0], [self.side, self.side, image.shape[-1]])


NO_CROP = Crop()


class Epochs(NamedTuple):
    """Which passes over the data a dataset runs through, from which step on.

    Attributes:
      first_step: how many batches are left out at the start; a pass has `steps_per_epoch` of them. A
        variable is read whenever the dataset is run through.
      noise: for every epoch, the epoch whose noise and augmentation it uses; by default its own.
    """

    first_step: int | tf.Variable = 0
    noise: Sequence[int] = ()

    def noise_of(self, epoch: tf.Tensor) -> tf.Tensor:
        """Returns the epoch whose noise and augmentation an epoch uses."""
        if not self.noise:
            return epoch
        kept = tf.gather(tf.constant([*self.noise], tf.int64), epoch % len(self.noise))
        return tf.where(epoch < len(self.noise), kept, epoch)


FROM_THE_FIRST = Epochs()


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Returns the training steps per epoch.

    The images that do not fill a batch are left out, different ones in each epoch.

    Raises:
      ConfigError: there are fewer images than a batch holds.
    """
    check_batch(examples, batch_size)
    return examples // batch_size


def training_batches(
    images: np.ndarray,
    batch_size: int,
    seed: int,
    *,
    augment: str = "none",
    crop: Crop = NO_CROP,
    epochs: Epochs = FROM_THE_FIRST,
    data_slice: DataSlice = WHOLE,
) -> tf.data.Dataset:
    """Returns an endless dataset of dictionaries: images uint8, noise float32, index int64.

    Here and below, real images, float32, have noise of zeros.

    Images and noise are [batch_size, H, W, C]; index [batch_size] holds the examples' places in the array.
    The order, augmentation and noise of an example depend only on the seed, the epoch and the example. So a
    dataset that starts at a later epoch, or that is spread over replicas, goes on with the same data.

    Args:
      images: uint8 [N, H, W, C].
      batch_size: images per batch, over all replicas.
      seed: everything random follows from it.
      augment: `none`, `flip`, `shift` or `flip_shift`.
      crop: of every image; H and W above are then its side.
      epochs: where to start, and which epochs share their noise and augmentation.
      data_slice: which examples of every batch; by default all.

    Raises:
      ConfigError: there are fewer images than a batch holds, or no such augmentation.
    """
    per_epoch = steps_per_epoch(len(images), batch_size) * batch_size
    read = _reader(images)
    last = tf.constant(len(images) - 1, tf.int64)

    def example(number: tf.Tensor) -> dict[str, tf.Tensor]:
        first = tf.cast(epochs.first_step, tf.int64) * (batch_size // data_slice.count)
        counter = data_slice.counter(first + number, batch_size)
        epoch, place = counter // per_epoch, counter % per_epoch
        index = tf.random.experimental.index_shuffle(place, _epoch_seed(seed, epoch), last)
        noise_epoch = epochs.noise_of(epoch)
        return _training_example(read(index), index, seed, noise_epoch, augment, crop)

    # Repeated, so that TensorFlow knows that they do not end: of data that may, workers would ask one another
    # in each step who has some.
    counters = tf.data.Dataset.range(np.iinfo(np.int64).max // batch_size).repeat()
    return _batched(counters, example, batch_size // data_slice.replicas)


def with_members(batches: tf.data.Dataset, others: Mapping[str, Any], count: int) -> tf.data.Dataset:
    """Returns the batches of `training_batches` with more members, what belongs to their images.

    Args:
      batches: with the index of the images.
      others: of each member the values of all examples, arrays [N, …] or dictionaries of them.
      count: of those N that the batches have.
    """
    kept = tf.nest.map_structure(lambda values: _reader(values[:count]), dict(others))
    if not kept:
        return batches
    return batches.map(
        _not_converted(lambda batch: batch | tf.nest.map_structure(lambda read: read(batch["index"]), kept)),
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def prefix_batches(
    images: np.ndarray, batch_size: int, seed: int, epoch: int, *, augment: str = "none"
) -> tf.data.Dataset:
    """Returns one pass over all training examples, in order, as one epoch (from 0) sees them.

    Batches and the other arguments are as in `training_batches`. The last batch is filled up with the last
    example. ConfigError if there is no such augmentation.
    """
    read = _reader(images)
    last = len(images) - 1

    def example(counter: tf.Tensor) -> dict[str, tf.Tensor]:
        index = tf.minimum(counter, last)
        return _training_example(read(index), index, seed, tf.constant(epoch, tf.int64), augment)

    filled = -(-len(images) // batch_size) * batch_size
    return _batched(tf.data.Dataset.range(filled), example, batch_size)


def evaluation_batches(
    images: np.ndarray, batch_size: int, seed: int, *, data_slice: DataSlice = WHOLE, others: Mapping = {}
) -> tf.data.Dataset:
    """Returns one pass over images, in order, to evaluate them.

    The last batch is filled up with copies of weight 0. So all batches have one shape, and no replica gets
    an empty batch, at which TensorFlow's fused convolutions on a CPU crash. The noise of an example depends
    only on the seed and the example's place. It is the same in all epochs, for all batch sizes and in all
    runs with that seed, so that runs can be compared in pairs.

    Arguments are as in `training_batches`; `others` are what belongs to the images, as in `with_members`.

    Returns:
      Batches by name: images uint8 [batch_size, H, W, C], noise float32 of the same shape, weight float32
      [batch_size], and what belongs to the images.
    """
    readers = tf.nest.map_structure(_reader, {"images": images, **others})
    last = tf.constant(len(images) - 1, tf.int64)

    def example(number: tf.Tensor) -> dict[str, Any]:
        index = data_slice.counter(number, batch_size)
        members = tf.nest.map_structure(lambda read: read(tf.minimum(index, last)), readers)
        noise = _evaluation_noise(members["images"][tf.newaxis], seed, index)
        return members | {"noise": noise, "weight": tf.cast(index <= last, tf.float32)}

    filled = -(-len(images) // batch_size) * batch_size // data_slice.count
    return _batched(tf.data.Dataset.range(filled), example, batch_size // data_slice.replicas)


def with_evaluation_noise(batches: tf.data.Dataset, seed: int) -> tf.data.Dataset:
    """Adds noise to batches that hold images, [B, H, W, C], and perhaps more, by name.

    The noise of an example is that of `evaluation_batches`: it depends on its place among all examples, and
    not on the size of batches.
    """

    @_not_converted
    def add(done: tf.Tensor, batch: dict[str, Any]) -> tuple[tf.Tensor, dict[str, Any]]:
        images = batch["images"]
        after = done + tf.shape(images, tf.int64)[0]
        noise = tf.map_fn(
            lambda index: _evaluation_noise(images, seed, index),
            tf.range(done, after),
            fn_output_signature=tf.TensorSpec(images.shape[1:], tf.float32),
        )
        return after, batch | {"noise": tf.ensure_shape(noise, images.shape)}

    return batches.scan(tf.constant(0, tf.int64), add)


def _evaluation_noise(images: tf.Tensor, seed: int, index: tf.Tensor) -> tf.Tensor:
    """Returns the noise of one of the images [N, H, W, C], which has this place, [H, W, C]."""
    return noise_of(images, tf.random.fold_in(tf.constant([seed, _TEST_KEY], tf.int64), index))


def noise_of(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns the noise of one of the images [N, H, W, C], in [0, 1), [H, W, C]; zeros for real data."""
    shape = images.shape[1:]
    return tf.zeros(shape) if images.dtype.is_floating else tf.random.stateless_uniform(shape, seed)


_TRAIN_KEY, _TEST_KEY = 0, 1  # keys that set training and evaluation noise apart


def _epoch_seed(seed: int, epoch: tf.Tensor) -> tf.Tensor:
    return tf.random.fold_in(tf.constant([seed, _TRAIN_KEY], tf.int64), epoch)


def _training_example(
    image: tf.Tensor, index: tf.Tensor, seed: int, epoch: tf.Tensor, augment: str, crop: Crop = NO_CROP
) -> dict[str, tf.Tensor]:
    own_seed = tf.random.fold_in(_epoch_seed(seed, epoch), index)
    image = crop.of(_augmented(image, augment, own_seed), own_seed)
    return {"images": image, "noise": noise_of(image[tf.newaxis], own_seed), "index": index}


def _reader(values: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns what reads the values [N, …] of examples by their places, [] or [n].

    Values in memory become a tensor of TensorFlow's; those that are mapped from a file stay there.
    """
    if in_memory(values):
        with tf.device("CPU:0"):
            kept = tf.constant(values)
        return lambda places: tf.gather(kept, places)

    def read(places: tf.Tensor) -> tf.Tensor:
        found = tf.numpy_function(lambda own: np.array(values[own]), [places], values.dtype, stateful=False)
        return tf.ensure_shape(found, [*places.shape, *values.shape[1:]])

    return read


def _augmented(image: tf.Tensor, augment: str, seed: tf.Tensor) -> tf.Tensor:
    if augment not in AUGMENTATIONS:
        raise ConfigError(f"augment must be one of {', '.join(AUGMENTATIONS)}. Received: {augment=}")
    if "flip" in augment:
        draw = tf.random.stateless_uniform([], tf.random.fold_in(seed, 1))
        image = tf.cond(draw < 0.5, lambda: tf.reverse(image, [1]), lambda: image)
    if "shift" in augment:
        height, width, channels = image.shape
        reach = [max(height // SHIFT_DIVISOR, 1), max(width // SHIFT_DIVISOR, 1)]
        padded = tf.pad(image, [[reach[0]] * 2, [reach[1]] * 2, [0, 0]], mode="SYMMETRIC")
        own_seed = tf.random.fold_in(seed, 2)[:2]
        image = tf.image.stateless_random_crop(padded, [height, width, channels], own_seed)
    return image


def _batched(counters: tf.data.Dataset, example: Callable[..., dict], size: int) -> tf.data.Dataset:
    """Returns batches of what a function makes of counters; what does not fill one is left out."""
    dataset = counters.map(_not_converted(example), num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(size, drop_remainder=True)
    options = tf.data.Options()
    options.deterministic = True
    # Replicas of one process get slices of its batches; several processes have a `DataSlice` each.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return untuned(dataset.with_options(options)).prefetch(tf.data.AUTOTUNE)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns a dataset that tf.data does not tune; AUTOTUNE then means a call per core, at most 16.

    The end of an iterator may wait for the tuner, for longer the longer it was used: many seconds.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
