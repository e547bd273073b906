"""The arguments of `fit` and `evaluate`: images in every form that is taken, and what is refused."""

from __future__ import annotations

import functools
import math
import numbers
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.core.errors import ConfigError
from glow_tf.data.batches import (
    Epochs,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
    with_evaluation_noise,
    with_members,
)
from glow_tf.model.conditions import in_arrays, some_of
from glow_tf.model.glow import Glow
from glow_tf.training.feed.batch import Batch, Dataset, named
from glow_tf.training.feed.datasets import (
    EXPECTED,
    as_dataset,
    check_specs,
    check_values,
    ends_with_its_first_epoch,
    is_array,
    start_reading,
)

DEFAULT_BATCH_SIZE = 64

# Arguments of Keras that have no meaning here.
UNUSED = ("sample_weight", "class_weight")


def for_fit(
    glow: Glow, x: Any, batch_size: int | None, seed: int, arguments: dict[str, Any], initial_step: int = 0
) -> Dataset:
    """Returns what `fit` trains on, and completes the other arguments of keras.Model.fit.

    An array of images [N, H, W, C] is shuffled anew every epoch, by the seed; a source of batches (see
    `datasets.as_dataset`) keeps its own order. `steps_per_epoch` and `validation_data` are set where they are
    needed. ConfigError if the images do not fit the model, or an argument has no meaning here.
    """
    whole = _arrays(glow, x, arguments.pop("y", None), trains=True)
    _refuse_unused(arguments)
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:  # which overrides it, as in Keras
        whole, arguments["validation_data"] = _split(x, whole, split)
    held_out_size = arguments.pop("validation_batch_size", None) or batch_size
    if whole:
        dataset = _shuffled(whole, _checked_batch_size(batch_size), seed, arguments, initial_step)
    else:
        dataset = as_dataset(glow, x, trains=True)
        _check_length(dataset, arguments)
    steps = arguments.get("steps_per_epoch")
    if initial_step and not (steps and 0 < initial_step <= steps):
        raise ConfigError(
            "initial_step must be a number of steps within the epoch. "
            f"Received: initial_step={initial_step}, steps_per_epoch={steps}"
        )
    if (held_out := arguments.get("validation_data")) is not None:
        limit = {"steps": arguments.get("validation_steps")}
        arguments["validation_data"] = for_evaluation(
            glow, held_out, held_out_size, seed, limit, is_read_once=False
        )
    arguments["shuffle"] = False  # an array is shuffled already, every epoch anew
    return dataset


def _shuffled(
    whole: Batch, size: int, seed: int, arguments: dict[str, Any], initial_step: int
) -> tf.data.Dataset:
    """Returns batches, of a size, of arrays from the first step of `fit` on; sets `steps_per_epoch`."""
    images, others = whole["images"], {name: own for name, own in whole.items() if name != "images"}
    if not arguments.get("shuffle", True):
        raise ConfigError(
            "an array is shuffled anew every epoch; a tf.data.Dataset keeps its order. "
            f"Received: shuffle={arguments['shuffle']}"
        )
    epoch, steps = arguments.get("initial_epoch", 0), arguments.get("steps_per_epoch")
    if steps is not None and steps < 1:  # Keras takes 0 for a number that it does not know
        raise ConfigError(f"steps_per_epoch must be 1 or more. Received: steps_per_epoch={steps}")
    if steps is None:
        arguments["steps_per_epoch"] = steps_per_epoch(len(images), size)
    # Epochs of a user's own length go on where those before them ended.
    start = (epoch, initial_step) if steps is None else (0, epoch * steps + initial_step)
    batches = training_batches(images, size, seed, epochs=Epochs(start))
    return with_members(batches, others, len(images))


def check_executions(steps_per_execution: int, steps: int | None, initial_step: int) -> None:
    """Raises ConfigError if the last steps of several at a time would be of the next epoch, in this phase."""
    if steps_per_execution > 1 and ((steps or 0) % steps_per_execution or initial_step % steps_per_execution):
        raise ConfigError(
            "steps_per_epoch and initial_step must be multiples of steps_per_execution. Received: "
            f"steps_per_execution={steps_per_execution}, steps_per_epoch={steps}, initial_step={initial_step}"
        )


def of_unknown_length(dataset: Dataset, initial_step: int) -> Dataset:
    """Returns a dataset whose length Keras does not know, if steps pass before it begins.

    Keras counts these steps, too: a dataset of known length would end before its end.
    """
    passes = initial_step and isinstance(dataset, tf.data.Dataset)
    return dataset.filter(lambda *_: True) if passes else dataset


def for_evaluation(
    glow: Glow,
    x: Any,
    batch_size: int | None,
    seed: int,
    arguments: dict[str, Any],
    is_read_once: bool = True,
) -> Dataset:
    """Returns what `evaluate` runs on; arguments, of keras.Model.evaluate, and errors as in `for_fit`.

    What an iterator yields is kept, unless it is read once.
    """
    whole = _arrays(glow, x, arguments.pop("y", None), trains=False)
    _refuse_unused(arguments)
    if whole:
        images = whole.pop("images")
        return evaluation_batches(images, _checked_batch_size(batch_size), seed, others=whole)
    dataset = as_dataset(glow, x, trains=False)
    if not arguments.get("steps"):
        _refuse_endless(dataset, "steps, or validation_steps in fit")
    if is_read_once:
        start_reading(dataset)
    in_names = functools.partial(named, config=glow.config, trains=False)
    if isinstance(dataset, tf.data.Dataset) and "noise" not in in_names(dataset.element_spec):
        return with_evaluation_noise(dataset.map(lambda *batch: in_names(batch)), seed)
    return dataset


def for_one_step(glow: Glow, x: Any, y: Any, arguments: dict[str, Any], *, trains: bool) -> Batch:
    """Returns the batch that `train_on_batch` or `test_on_batch` is given.

    x is images [B, H, W, C], or what a batch of a dataset holds; what it lacks at the end is y. ConfigError
    if something does not fit the model, or an argument, as `sample_weight`, has no meaning here.
    """
    _refuse_unused(arguments)
    return tf.nest.map_structure(tf.constant, _arrays(glow, x, y, trains=trains, one_step=True))


def _checked_batch_size(given: Any) -> int:
    size = DEFAULT_BATCH_SIZE if given is None else given
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ConfigError(f"batch_size must be a positive integer. Received: batch_size={size!r}")
    return int(size)


def _arrays(glow: Glow, x: Any, y: Any, *, trains: bool, one_step: bool = False) -> Batch:
    """Returns arrays of images, and of y, by name, as one batch of them all; {} for a source of batches.

    A source has no y. ConfigError if y is missing or out of place, something does not fit the model, or the
    images come with what only batches have, unless they are those of one step.
    """
    has_condition = bool(glow.config.condition_shape)
    if y is not None and not (has_condition and is_array(x)):
        goes_with = "y goes with an array; a dataset's batches end with it"
        raise ConfigError(f"{goes_with if has_condition else f'y is not used: {EXPECTED}'}. Received: y")
    if not is_array(x):
        return {}
    ends = () if y is None else (y,)
    batch = named((*x, *ends) if isinstance(x, tuple) else (x, *ends), glow.config, trains=trains)
    others = {name: in_arrays(own) for name, own in batch.items() if name != "images"}
    whole = tf.nest.map_structure(np.asarray, others)
    if (images := batch.get("images")) is not None:
        # An array of bytes stays where it is, which may be a file; others are converted.
        fits = isinstance(images, np.ndarray) and images.dtype == glow.data_dtype and images.dtype.kind == "u"
        stays = fits and len(images) > 0 and images.shape[1:] == glow.image_shape
        whole["images"] = images if stays else glow.checked(images).numpy()
    check_specs(glow, tf.nest.map_structure(_spec, whole), trains)
    check_values(glow, whole)
    if not one_step and (drawn := sorted(whole.keys() - {"images", "condition"})):
        raise ConfigError(f"an array has noise that is drawn; a dataset may have its own. Received: {drawn}")
    return whole


def _spec(own: np.ndarray) -> tf.TensorSpec:
    return tf.TensorSpec(own.shape, own.dtype)


def _refuse_unused(arguments: dict[str, Any]) -> None:
    for name in UNUSED:
        if arguments.pop(name, None) is not None:
            raise ConfigError(f"{name} is not used: {EXPECTED}. Received: {name}")


def _split(x: Any, whole: Batch, fraction: float) -> tuple[Batch, Batch]:
    """Cuts the last images of an array off, as Keras does, with what the model is given with them."""
    if not whole:
        raise ConfigError(
            "validation_split needs an array of images; give a dataset's validation images as "
            f"validation_data. Received: {type(x).__name__}"
        )
    count = len(whole["images"])
    cut = math.floor(count * (1 - fraction))
    if not 0 < cut < count:
        raise ConfigError(
            "validation_split must leave images to train on and to validate on. "
            f"Received: validation_split={fraction}, {count} images"
        )
    return some_of(whole, slice(cut)), some_of(whole, slice(cut, None))


def _check_length(dataset: Dataset, arguments: dict[str, Any]) -> None:
    """Raises ConfigError where Keras would train for ever, or where later epochs would be empty."""
    if arguments.get("steps_per_epoch") or not isinstance(dataset, tf.data.Dataset):
        return
    _refuse_endless(dataset, "steps_per_epoch")
    epochs = arguments.get("epochs", 1) - arguments.get("initial_epoch", 0)
    if ends_with_its_first_epoch(dataset) and epochs > 1:
        raise ConfigError(
            "an iterator ends with its first epoch; give steps_per_epoch, or a tf.data.Dataset or "
            f"keras.utils.PyDataset. Received: an iterator for {epochs} epochs"
        )


def number_of_batches(dataset: Dataset) -> int | None:
    """Returns how many batches a dataset has; None if that is not known."""
    known = int(dataset.cardinality()) if isinstance(dataset, tf.data.Dataset) else 0
    return known if known > 0 else None


def _refuse_endless(dataset: Dataset, needed: str) -> None:
    if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ConfigError(f"a dataset without an end needs {needed}. Received: {needed.split(',')[0]}=None")
