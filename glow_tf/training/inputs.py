"""The arguments of `fit` and `evaluate`: images in every form that is taken, and what is refused."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.data.batches import (
    evaluation_batches,
    steps_per_epoch,
    training_batches,
    with_evaluation_noise,
)
from glow_tf.endpoints import checked_labels
from glow_tf.errors import ConfigError
from glow_tf.glow import Glow
from glow_tf.training.datasets import (
    EXPECTED,
    Dataset,
    as_dataset,
    check_noise,
    ends_with_its_first_epoch,
    is_array,
)

DEFAULT_BATCH_SIZE = 64
FIRST_KEY = 2  # of noise that a step draws; those before are of data.batches

# ActNorms are initialised from about this many pixels: 32 images of 32×32, which takes 2 s at width 512.
INITIALIZATION_PIXELS = 2**15
FEWEST_INITIALIZATION_EXAMPLES = 32
MOST_INITIALIZATION_EXAMPLES = 256

# Arguments of Keras that have no meaning here; `fit` takes y where the model has classes.
UNUSED = ("y", "sample_weight", "class_weight")


def for_fit(
    glow: Glow,
    x: Any,
    batch_size: int | None,
    seed: int,
    arguments: dict[str, Any],
    initial_step: int = 0,
) -> Dataset:
    """Returns what `fit` trains on, and completes the other arguments of keras.Model.fit.

    Args:
      glow: the model, which the images must fit.
      x: uint8 images [N, H, W, C], which are shuffled anew every epoch, or a source of batches (see
        `datasets.as_dataset`), which keeps its own order.
      batch_size: images per batch, for an array; 64 by default.
      seed: of the order and the noise, for an array.
      arguments: of keras.Model.fit; `steps_per_epoch` and `validation_data` are set where they are needed.
      initial_step: steps of the first epoch that were made before.

    Raises:
      ConfigError: the images do not fit the model, or an argument has no meaning here.
    """
    labels = _labels(glow, x, arguments.pop("y", None)) if glow.config.classes else None
    _refuse_unused(arguments)
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:  # which overrides it, as in Keras
        x, arguments["validation_data"] = _split(glow, x, split)
    held_out_size = arguments.pop("validation_batch_size", None) or batch_size
    if is_array(x):
        if not arguments.get("shuffle", True):
            raise ConfigError(
                "an array is shuffled anew every epoch; a tf.data.Dataset keeps its order. "
                f"Received: shuffle={arguments['shuffle']}"
            )
        images, size = glow.checked(x).numpy(), _checked_batch_size(batch_size)
        epoch, steps = arguments.get("initial_epoch", 0), arguments.get("steps_per_epoch")
        # Epochs of a user's own length go on where those before them ended.
        place = (epoch, initial_step) if steps is None else (0, epoch * steps + initial_step)
        labels = None if labels is None else labels[: len(images)]
        dataset = training_batches(
            images, size, seed, first_epoch=place[0], first_step=place[1], labels=labels
        )
        if steps is None:
            arguments["steps_per_epoch"] = steps_per_epoch(len(images), size)
    else:
        dataset = as_dataset(glow, x, "index", labelled=bool(glow.config.classes))
        _check_length(dataset, arguments)
    steps = arguments.get("steps_per_epoch")
    if initial_step and not (steps and 0 < initial_step <= steps):
        raise ConfigError(
            "initial_step must be a number of steps within the epoch. "
            f"Received: initial_step={initial_step}, steps_per_epoch={steps}"
        )
    if arguments.get("validation_data") is not None:
        held_out = arguments["validation_data"]
        if isinstance(held_out, tuple):
            raise ConfigError(
                "validation_data must be images, or a dataset of them; labels are not used. "
                f"Received: a tuple of {len(held_out)}"
            )
        arguments["validation_data"] = for_evaluation(glow, held_out, held_out_size, seed, {})
    arguments["shuffle"] = False  # an array is shuffled already, every epoch anew
    return dataset


def check_executions(steps_per_execution: int, steps: int | None, initial_step: int) -> None:
    """Checks that Keras, which makes several steps at a time, makes as many as an epoch has.

    Raises:
      ConfigError: the last ones of an epoch would be of the next, in the phase of this one.
    """
    if steps_per_execution > 1 and ((steps or 0) % steps_per_execution or initial_step % steps_per_execution):
        raise ConfigError(
            "steps_per_epoch and initial_step must be multiples of steps_per_execution. Received: "
            f"steps_per_execution={steps_per_execution}, steps_per_epoch={steps}, initial_step={initial_step}"
        )


def for_evaluation(
    glow: Glow, x: Any, batch_size: int | None, seed: int, arguments: dict[str, Any]
) -> Dataset:
    """Returns what `evaluate` runs on; arguments and errors as in `for_fit`."""
    _refuse_unused(arguments)
    if is_array(x):
        return evaluation_batches(glow.checked(x).numpy(), _checked_batch_size(batch_size), seed)
    dataset = as_dataset(glow, x, "weight")
    if isinstance(dataset, tf.data.Dataset) and len(tf.nest.flatten(dataset.element_spec)) == 1:
        if not isinstance(dataset.element_spec, tf.TensorSpec):
            dataset = dataset.map(lambda images: images)  # out of a tuple of one
        return with_evaluation_noise(dataset, seed)
    return dataset


def for_one_step(glow: Glow, x: Any, y: Any, arguments: dict[str, Any], *, trains: bool) -> Batch:
    """Returns the batch that `train_on_batch` or `test_on_batch` is given.

    Args:
      glow: the model, which the batch must fit.
      x: images uint8 [B, H, W, C], or a tuple of what a batch of a dataset holds: (images, noise) and, if it
        trains a model with classes, labels [B] at the end.
      y: the labels, if x does not hold them.
      arguments: `sample_weight` and the like, which have no meaning here.
      trains: whether the model learns from it; otherwise labels are not used.

    Raises:
      ConfigError: the images, the noise or the labels do not fit the model, or an argument has no meaning.
    """
    labelled = trains and bool(glow.config.classes)
    _refuse_unused(arguments if labelled else {**arguments, "y": y})
    pieces = list(x) if isinstance(x, tuple) else [x]
    if labelled and y is None and len(pieces) > 1:
        y = pieces.pop()
    if not 1 <= len(pieces) <= 2:
        raise ConfigError(f"{EXPECTED}. Received: a tuple of {len(x)}")
    images = glow.checked(pieces[0])
    labels = _labels(glow, images, y) if labelled else None
    if len(pieces) == 1:
        return Batch(images, labels=labels)
    noise = np.asarray(pieces[1])
    if not np.issubdtype(noise.dtype, np.floating) or noise.shape != tuple(images.shape):
        raise ConfigError(f"{EXPECTED}. Received: a second member of {noise.dtype}, shape {noise.shape}")
    check_noise(noise)
    return Batch(images, tf.constant(noise, tf.float32), labels=labels)


def _checked_batch_size(given: Any) -> int:
    size = DEFAULT_BATCH_SIZE if given is None else given
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ConfigError(f"batch_size must be a positive integer. Received: batch_size={size!r}")
    return int(size)


def _labels(glow: Glow, x: Any, y: Any) -> np.ndarray | None:
    """Returns the labels of an array of images, [N]; None for a source of batches, which has its own.

    Raises:
      ConfigError: they are missing, out of place, or no classes of the model.
    """
    if not is_array(x):
        if y is not None:
            raise ConfigError("y goes with an array; a dataset's batches end with labels. Received: y")
        return None
    if y is None:
        raise ConfigError(
            f"a model with classes needs y, a label for each of the {len(x)} images. Received: y=None"
        )
    return checked_labels(y, glow.classes, len(x)).numpy()


def _refuse_unused(arguments: dict[str, Any]) -> None:
    for name in UNUSED:
        if arguments.pop(name, None) is not None:
            raise ConfigError(f"{name} is not used: {EXPECTED}. Received: {name}")


def _split(glow: Glow, x: Any, fraction: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Cuts the last images of an array off, as Keras does."""
    if not is_array(x):
        raise ConfigError(
            "validation_split needs an array of images; give a dataset's validation images as "
            f"validation_data. Received: {type(x).__name__}"
        )
    images = glow.checked(x)
    cut = math.floor(len(images) * (1 - fraction))
    if not 0 < cut < len(images):
        raise ConfigError(
            "validation_split must leave images to train on and to validate on. "
            f"Received: validation_split={fraction}, {len(images)} images"
        )
    return images[:cut], images[cut:]


def _check_length(dataset: Dataset, arguments: dict[str, Any]) -> None:
    """Raises ConfigError where Keras would train for ever, or where later epochs would be empty."""
    if arguments.get("steps_per_epoch") or not isinstance(dataset, tf.data.Dataset):
        return
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ConfigError("a dataset without an end needs steps_per_epoch. Received: steps_per_epoch=None")
    epochs = arguments.get("epochs", 1) - arguments.get("initial_epoch", 0)
    if ends_with_its_first_epoch(dataset) and epochs > 1:
        raise ConfigError(
            "an iterator ends with its first epoch; give steps_per_epoch, or a tf.data.Dataset or "
            f"keras.utils.PyDataset. Received: an iterator for {epochs} epochs"
        )


def check_batches_of_one_size(dataset: Dataset, steps: int | None) -> None:
    """Raises ConfigError unless the batches have one known size and their number is known."""
    sizes = {spec.shape[0] for spec in tf.nest.flatten(dataset.element_spec)}
    if None in sizes or not (steps or dataset.cardinality() > 0):
        raise ConfigError(
            "part_delay needs batches of one size and a known number of them. Received: a dataset of "
            f"{dataset.element_spec}, steps_per_epoch={steps}"
        )


class Batch(NamedTuple):
    """What a batch holds; None for what it lacks.

    Attributes:
      images: uint8 [B, H, W, C].
      noise: of the dequantisation, in [0, 1), [B, H, W, C].
      third: places of the examples in the training data, or weights, [B].
      labels: the class of each image, integers [B].
    """

    images: tf.Tensor
    noise: tf.Tensor | None = None
    third: tf.Tensor | None = None
    labels: tf.Tensor | None = None


def unpack(batch: Any, labelled: bool = False) -> Batch:
    """Reads a batch as datasets give it; if it is `labelled`, its last member is the labels."""
    pieces = list(batch) if isinstance(batch, (tuple, list)) else [batch]
    labels = pieces.pop() if labelled else None
    return Batch(*pieces)._replace(labels=labels)


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

    The last batch of a dataset may leave a replica without images, and TensorFlow's fused convolutions crash
    on an empty batch.

    Args:
      batch: its third member is the weights, or None; if its size is known, it is returned as it is.

    Returns:
      The batch; it has no weights only if its size is known and it came without.
    """
    images, noise, weight, labels = batch
    if images.shape[0] is not None:
        return batch
    size = tf.shape(images)[0]
    missing = tf.cast(size == 0, tf.int32)

    def fill(tensor: tf.Tensor | None) -> tf.Tensor | None:
        if tensor is None:
            return None
        return tf.pad(tensor, [[0, missing], *[[0, 0]] * (tensor.shape.rank - 1)])

    weight = tf.ones([size]) if weight is None else weight
    return Batch(fill(images), fill(noise), fill(weight), fill(labels))


def initialization_examples(image_shape: Sequence[int]) -> int:
    """Returns how many images ActNorms are initialised from: 32 to 256, more if the images are small."""
    height, width, _ = image_shape
    count = math.ceil(INITIALIZATION_PIXELS / (height * width))
    return min(max(count, FEWEST_INITIALIZATION_EXAMPLES), MOST_INITIALIZATION_EXAMPLES)


def first_examples(
    dataset: Dataset, count: int, labelled: bool = False
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns the first `count` images of a dataset [count, H, W, C] and their noise, if it has noise.

    If the dataset is `labelled`, the last member of its batches is the labels.

    Raises:
      ConfigError: the dataset is empty.
    """
    images, noises, found = [], [], 0
    for batch in dataset:
        image, noise, *_ = unpack(batch, labelled)
        images.append(image)
        noises.append(noise)
        found += int(image.shape[0])
        if found >= count:
            break
    if not found:
        raise ConfigError("a dataset must hold images. Received: an empty dataset")
    noise = None if noises[0] is None else tf.concat(noises, 0)[:count]
    return tf.concat(images, 0)[:count], noise
