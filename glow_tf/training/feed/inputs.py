"""The arguments of `fit` and `evaluate`: images in every form that is taken, and what is refused."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
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
from glow_tf.model.conditions import check_given, in_arrays
from glow_tf.model.glow import Glow
from glow_tf.model.labels import checked_labels
from glow_tf.training.feed.batch import Batch, Dataset, last_members
from glow_tf.training.feed.datasets import (
    EXPECTED,
    as_dataset,
    check_noise,
    ends_with_its_first_epoch,
    is_array,
)

DEFAULT_BATCH_SIZE = 64

# Arguments of Keras that have no meaning here.
UNUSED = ("sample_weight", "class_weight")
WHAT_Y_IS = {"labels": "a label", "condition": "what the model is given"}


def for_fit(
    glow: Glow, x: Any, batch_size: int | None, seed: int, arguments: dict[str, Any], initial_step: int = 0
) -> Dataset:
    """Returns what `fit` trains on, and completes the other arguments of keras.Model.fit.

    An array of images [N, H, W, C] is shuffled anew every epoch, by the seed; a source of batches (see
    `datasets.as_dataset`) keeps its own order. `steps_per_epoch` and `validation_data` are set where they are
    needed. ConfigError if the images do not fit the model, or an argument has no meaning here.
    """
    y = _last_of_array(glow, x, arguments.pop("y", None), trains=True)
    _refuse_unused(arguments)
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:  # which overrides it, as in Keras
        x, arguments["validation_data"] = _split(glow, x, y, split)
    held_out_size = arguments.pop("validation_batch_size", None) or batch_size
    if is_array(x):
        images, size = glow.checked(x).numpy(), _checked_batch_size(batch_size)
        dataset = _shuffled(images, y, size, seed, arguments, initial_step)
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
        arguments["validation_data"] = _validation(glow, held_out, held_out_size, seed, arguments)
    arguments["shuffle"] = False  # an array is shuffled already, every epoch anew
    return dataset


def _validation(
    glow: Glow, held_out: Any, batch_size: int | None, seed: int, arguments: Mapping[str, Any]
) -> Dataset:
    """Returns what the `validation_data` of `fit` are evaluated on."""
    limit = {"steps": arguments.get("validation_steps")}
    if isinstance(held_out, tuple):
        if not (glow.config.condition_shape and len(held_out) == 2):
            raise ConfigError(
                "validation_data must be images, or a dataset of them; labels are not used. "
                f"Received: a tuple of {len(held_out)}"
            )
        held_out, limit["y"] = held_out
    return for_evaluation(glow, held_out, batch_size, seed, limit)


def _shuffled(
    images: np.ndarray, y: dict[str, Any], size: int, seed: int, arguments: dict[str, Any], initial_step: int
) -> tf.data.Dataset:
    """Returns batches, of a size, of an array from the first step of `fit` on; sets `steps_per_epoch`."""
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
    return with_members(batches, y.values(), len(images))


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
    glow: Glow, x: Any, batch_size: int | None, seed: int, arguments: dict[str, Any]
) -> Dataset:
    """Returns what `evaluate` runs on; arguments, of keras.Model.evaluate, and errors as in `for_fit`."""
    y = _last_of_array(glow, x, arguments.pop("y", None), trains=False)
    _refuse_unused(arguments)
    if is_array(x):
        images = glow.checked(x).numpy()
        return evaluation_batches(images, _checked_batch_size(batch_size), seed, others=tuple(y.values()))
    dataset = as_dataset(glow, x, trains=False)
    if not arguments.get("steps"):
        _refuse_endless(dataset, "steps, or validation_steps in fit")
    if isinstance(dataset, tf.data.Dataset) and len(tf.nest.flatten(dataset.element_spec)) == 1:
        if not isinstance(dataset.element_spec, tf.TensorSpec):
            dataset = dataset.map(lambda images: images)  # out of a tuple of one
        return with_evaluation_noise(dataset, seed)
    return dataset


def for_one_step(glow: Glow, x: Any, y: Any, arguments: dict[str, Any], *, trains: bool) -> Batch:
    """Returns the batch that `train_on_batch` or `test_on_batch` is given.

    x is images [B, H, W, C], or a tuple of what a batch of a dataset holds; what it lacks at the end is y.
    ConfigError if something does not fit the model, or an argument, as `sample_weight`, has no meaning here.
    """
    last = last_members(glow.config, trains=trains)
    _refuse_unused(arguments)
    pieces = list(x) if isinstance(x, tuple) else [x]
    if last and y is None and len(pieces) > len(last):
        pieces, y = pieces[: -len(last)], tuple(pieces[-len(last) :])
        y = y[0] if len(last) == 1 else y
    if not 1 <= len(pieces) <= 2:
        raise ConfigError(f"{EXPECTED}. Received: a tuple of {len(x)}")
    images = glow.checked(pieces[0])
    found = _last_of_array(glow, images, y, trains=trains)
    if "labels" in found:
        found["labels"] = tf.constant(found["labels"])
    if len(pieces) == 1:
        return Batch(images, **found)
    noise = np.asarray(pieces[1])
    if not np.issubdtype(noise.dtype, np.floating) or noise.shape != tuple(images.shape):
        raise ConfigError(f"{EXPECTED}. Received: a second member of {noise.dtype}, shape {noise.shape}")
    check_noise(noise, glow)
    return Batch(images, tf.constant(noise, tf.float32), **found)


def _checked_batch_size(given: Any) -> int:
    size = DEFAULT_BATCH_SIZE if given is None else given
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ConfigError(f"batch_size must be a positive integer. Received: batch_size={size!r}")
    return int(size)


def _last_of_array(glow: Glow, x: Any, y: Any, *, trains: bool) -> dict[str, Any]:
    """Returns y as the last members that batches of an array of images have, by name, [N, …] each.

    A source of batches has its own, and no y. ConfigError if y is missing, out of place, or does not fit the
    model or the number of images.
    """
    last = last_members(glow.config, trains=trains)
    if not last or not is_array(x):
        if y is not None:
            goes_with = "y goes with an array; a dataset's batches end with it"
            raise ConfigError(f"{goes_with if last else f'y is not used: {EXPECTED}'}. Received: y")
        return {}
    of_each = dict(zip(last, y if len(last) > 1 and isinstance(y, tuple) else (y,), strict=False))
    if any(own is None for own in of_each.values()) or len(of_each) < len(last):
        raise ConfigError(
            f"the model needs y, {' and '.join(WHAT_Y_IS[name] for name in last)} for each of the {len(x)} "
            f"images. Received: y={None if y is None else type(y).__name__}"
        )
    if "labels" in of_each:
        of_each["labels"] = checked_labels(of_each["labels"], glow.classes, len(x)).numpy()
    if "condition" in of_each:
        of_each["condition"] = tf.nest.map_structure(np.asarray, in_arrays(of_each["condition"]))
        check_given(glow, of_each["condition"], len(x))
    return of_each


def _refuse_unused(arguments: dict[str, Any]) -> None:
    for name in UNUSED:
        if arguments.pop(name, None) is not None:
            raise ConfigError(f"{name} is not used: {EXPECTED}. Received: {name}")


def _split(glow: Glow, x: Any, y: Mapping[str, Any], fraction: float) -> tuple[tf.Tensor, Any]:
    """Cuts the last images of an array off, as Keras does, with what the model is given with them."""
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
    if "condition" in y:
        return images[:cut], (images[cut:], tf.nest.map_structure(lambda own: own[cut:], y["condition"]))
    return images[:cut], images[cut:]


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


def check_batches_of_one_size(dataset: Dataset, steps: int | None) -> None:
    """Raises ConfigError unless the batches have one known size and their number is known."""
    sizes = {spec.shape[0] for spec in tf.nest.flatten(dataset.element_spec)}
    if None in sizes or not (steps or dataset.cardinality() > 0):
        raise ConfigError(
            "part_delay needs batches of one size and a known number of them. Received: a dataset of "
            f"{dataset.element_spec}, steps_per_epoch={steps}"
        )
