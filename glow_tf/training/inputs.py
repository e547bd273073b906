"""What `fit` and `evaluate` are given: arrays of images, or a `tf.data.Dataset`; all else is refused."""

from __future__ import annotations

import math
import numbers
import weakref
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.core.errors import ConfigError
from glow_tf.data.arrays import Rows
from glow_tf.data.batches import (
    Epochs,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
    with_evaluation_noise,
    with_members,
)
from glow_tf.model.conditions import check_given, check_specs_of_condition, in_arrays, some_of
from glow_tf.model.density_model import has_type
from glow_tf.model.flow import Flow
from glow_tf.training.batch import Batch, Dataset, named

DEFAULT_BATCH_SIZE = 64

# Arguments of Keras that have no meaning here.
UNUSED = ("sample_weight", "class_weight")

# Datasets that were checked, and for what: Keras evaluates the same one after every epoch.
_checked: weakref.WeakKeyDictionary[tf.data.Dataset, set[tuple]] = weakref.WeakKeyDictionary()


def for_fit(flow: Flow, x: Any, batch_size: int | None, seed: int, arguments: dict[str, Any]) -> Dataset:
    """Returns what `fit` trains on, and completes the other arguments of keras.Model.fit.

    An array of images [N, H, W, C] is shuffled anew every epoch, by the seed; a dataset keeps its own order.
    `steps_per_epoch` and `validation_data` are set where they are needed. ConfigError if the images do not
    fit the model, or an argument has no meaning here.
    """
    whole = _arrays(flow, x, arguments.pop("y", None), trains=True)
    _refuse_unused(arguments)
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:  # which overrides it, as in Keras
        whole, arguments["validation_data"] = _split(whole, split)
    held_out_size = arguments.pop("validation_batch_size", None) or batch_size
    if whole:
        dataset = _shuffled(whole, _checked_batch_size(batch_size), seed, arguments)
    else:
        dataset = _as_checked(flow, x, trains=True)
        if not arguments.get("steps_per_epoch"):
            _refuse_endless(dataset, "steps_per_epoch")
    if (held_out := arguments.get("validation_data")) is not None:
        is_pair = isinstance(held_out, tuple) and len(held_out) == 2
        images, given = held_out if is_pair else (held_out, None)
        limit = {"steps": arguments.get("validation_steps"), "y": given}
        arguments["validation_data"] = for_evaluation(flow, images, held_out_size, seed, limit)
    arguments["shuffle"] = False  # an array is shuffled already, every epoch anew
    return dataset


def for_evaluation(
    flow: Flow, x: Any, batch_size: int | None, seed: int, arguments: dict[str, Any]
) -> Dataset:
    """Returns what `evaluate` runs on; arguments, of keras.Model.evaluate, and errors as in `for_fit`."""
    whole = _arrays(flow, x, arguments.pop("y", None), trains=False)
    _refuse_unused(arguments)
    if whole:
        images = whole.pop("images")
        return evaluation_batches(images, _checked_batch_size(batch_size), seed, others=whole)
    dataset = _as_checked(flow, x, trains=False)
    if not arguments.get("steps"):
        _refuse_endless(dataset, "steps, or validation_steps in fit")
    if isinstance(dataset, tf.data.Dataset) and "noise" not in named(dataset.element_spec):
        return with_evaluation_noise(dataset.map(named), seed)
    return dataset


def for_one_step(flow: Flow, x: Any, y: Any, arguments: dict[str, Any], *, trains: bool) -> Batch:
    """Returns the batch that `train_on_batch` or `test_on_batch` is given, by name.

    x is images [B, H, W, C], or a dictionary of what a batch of a dataset holds. ConfigError if something
    does not fit the model, or an argument, as `sample_weight`, has no meaning here.
    """
    _refuse_unused(arguments)
    if isinstance(x, Dataset):
        raise ConfigError(f"one step takes one batch, of arrays. Received: {type(x).__name__}")
    return tf.nest.map_structure(tf.constant, _arrays(flow, x, y, trains=trains, one_step=True))


def check_executions(steps_per_execution: int, steps: int | None) -> None:
    """Raises ConfigError if the last steps of several at a time would be of the next epoch, in this phase."""
    if steps_per_execution > 1 and (steps or 0) % steps_per_execution:
        raise ConfigError(
            "steps_per_epoch must be a multiple of steps_per_execution. Received: "
            f"steps_per_execution={steps_per_execution}, steps_per_epoch={steps}"
        )


def number_of_batches(dataset: Dataset) -> int | None:
    """Returns how many batches a dataset has; None if that is not known."""
    known = int(dataset.cardinality()) if isinstance(dataset, tf.data.Dataset) else 0
    return known if known > 0 else None


# Arrays


def _arrays(flow: Flow, x: Any, y: Any, *, trains: bool, one_step: bool = False) -> Batch:
    """Returns arrays of images, and of y, by name, as one batch of them all; {} for a dataset.

    ConfigError if x is neither, y is missing or out of place, something does not fit the model, or the images
    come with what only batches have, unless they are those of one step.
    """
    if isinstance(x, Dataset):
        if y is not None:
            raise ConfigError("y goes with an array; a dataset's batches have a condition. Received: y")
        return {}
    if not (isinstance(x, dict) or hasattr(x, "shape")):
        raise ConfigError(f"{_expected(flow, trains)}. Received: {type(x).__name__}")
    batch = named(x)
    if y is not None:
        if "condition" in batch or not flow.config.condition_shape:
            raise ConfigError(
                "y is what a model with a condition_shape is given, once; labels are not used otherwise. "
                f"Received: y and {sorted(batch)}, condition_shape={flow.config.condition_shape}"
            )
        batch["condition"] = y
    others = {name: in_arrays(own) for name, own in batch.items() if name != "images"}
    whole = tf.nest.map_structure(np.asarray, others)
    if (images := batch.get("images")) is not None:
        # An array of bytes stays where it is, which may be a file; others are converted.
        is_array = isinstance(images, (np.ndarray, Rows)) and len(images) > 0
        fits = is_array and images.dtype == flow.data_dtype and images.dtype.kind == "u"
        stays = fits and images.shape[1:] == flow.image_shape
        whole["images"] = images if stays else flow.checked(images).numpy()
    _check_specs(flow, tf.nest.map_structure(lambda own: tf.TensorSpec(own.shape, own.dtype), whole), trains)
    _check_values(flow, whole)
    if not one_step and (drawn := sorted(whole.keys() - {"images", "condition"})):
        raise ConfigError(f"an array has noise that is drawn; a dataset may have its own. Received: {drawn}")
    return whole


def _shuffled(whole: Batch, size: int, seed: int, arguments: dict[str, Any]) -> tf.data.Dataset:
    """Returns batches, of a size, of arrays from the first epoch of `fit` on; sets `steps_per_epoch`."""
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
        arguments["steps_per_epoch"] = steps = steps_per_epoch(len(images), size)
    # Epochs of a user's own length go on where those before them ended.
    batches = training_batches(images, size, seed, epochs=Epochs(epoch * steps))
    return with_members(batches, others, len(images))


def _split(whole: Batch, fraction: float) -> tuple[Batch, Batch]:
    """Cuts the last images of an array off, as Keras does, with what the model is given with them."""
    if not whole:
        raise ConfigError(
            "validation_split needs an array of images; give a dataset's validation images as "
            "validation_data. Received: a dataset"
        )
    count = len(whole["images"])
    cut = math.floor(count * (1 - fraction))
    if not 0 < cut < count:
        raise ConfigError(
            "validation_split must leave images to train on and to validate on. "
            f"Received: validation_split={fraction}, {count} images"
        )
    return some_of(whole, slice(cut)), some_of(whole, slice(cut, None))


def _checked_batch_size(given: Any) -> int:
    size = DEFAULT_BATCH_SIZE if given is None else given
    if not isinstance(size, numbers.Integral) or size < 1:
        raise ConfigError(f"batch_size must be a positive integer. Received: batch_size={size!r}")
    return int(size)


def _refuse_unused(arguments: dict[str, Any]) -> None:
    for name in UNUSED:
        if arguments.pop(name, None) is not None:
            raise ConfigError(f"{name} is not used: each image weighs the same. Received: {name}")


# Datasets


def _as_checked(flow: Flow, x: Dataset, *, trains: bool) -> Dataset:
    """Returns a dataset whose elements are checked and have the model's shape; ConfigError if they do not."""
    if isinstance(x, tf.distribute.DistributedDataset):
        return x  # it has the pieces of one that was checked
    if x.cardinality() == 0:
        raise ConfigError("data must hold at least one batch. Received: an empty dataset")
    use = (trains, flow.image_shape, flow.config.condition_shape)
    if use in _checked.get(x, ()):
        return x
    if isinstance(x.element_spec, tuple):
        raise ConfigError(f"{_expected(flow, trains)}. Received: a dataset of tuples, {x.element_spec}")
    specs = named(x.element_spec)
    _check_specs(flow, specs, trains)
    if len(specs) > 1 or flow.config.is_real:
        for batch in x.take(1):
            _check_values(flow, named(batch))
    if not specs["images"].shape[1:].is_fully_defined():  # the dataset leaves sizes open
        x = x.map(lambda batch: _with_shape(flow, named(batch)), num_parallel_calls=tf.data.AUTOTUNE)
    _checked.setdefault(x, set()).add(use)
    return x


def _expected(flow: Flow, trains: bool) -> str:
    """Says what `fit` or `evaluate` takes, and how to make a dataset of what is neither."""
    members = ["noise", "index" if trains else "weight", *["condition"] * bool(flow.config.condition_shape)]
    return (
        f"data must be an array of {flow.data_dtype} images, with y for what the model is given, a "
        "dictionary of arrays, or a tf.data.Dataset whose batches are images or dictionaries of images and, "
        f"if any, {', '.join(members)}; tf.data.Dataset.from_generator(lambda: batches, output_signature="
        f"tf.TensorSpec({(None, *flow.image_shape)}, {flow.data_dtype!r})) makes one of what Python yields, "
        ".map(lambda x, y: x) drops labels"
    )


def _with_shape(flow: Flow, batch: Batch) -> Batch:
    shaped = ((name, batch[name]) for name in ("images", "noise") if name in batch)
    return batch | {name: tf.ensure_shape(own, (None, *flow.image_shape)) for name, own in shaped}


def _refuse_endless(dataset: Dataset, needed: str) -> None:
    if isinstance(dataset, tf.data.Dataset) and dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ConfigError(f"a dataset without an end needs {needed}. Received: {needed.split(',')[0]}=None")


# What a batch must be


def _check_specs(flow: Flow, batch: Batch, trains: bool) -> None:
    """Raises ConfigError unless the specs of a batch are of one that `fit` or `evaluate` takes."""
    given = {"condition"} if flow.config.condition_shape else set()
    if not {"images", *given} <= batch.keys() <= {"images", "noise", "index" if trains else "weight", *given}:
        found = tf.nest.map_structure(lambda own: f"{own.dtype.name} {own.shape}", batch)
        raise ConfigError(f"{_expected(flow, trains)}. Received: {found}")
    check_specs_of_condition(batch.get("condition"), flow.config)
    images, shape = batch["images"], tf.TensorShape(flow.image_shape)
    batched = images.shape.rank in (None, 4) and (
        images.shape[1:].is_compatible_with(shape) or _are_crops(flow, images.shape[1:])
    )
    if not has_type(images.dtype, flow.data_dtype) or not batched:
        hint = " (batches are missing: .batch(64))" if images.shape.is_compatible_with(shape) else ""
        raise ConfigError(
            f"images must be {flow.data_dtype} [N, {', '.join(map(str, flow.image_shape))}]{hint}; a "
            f"model's n_bits and data say which type. Received: {images.dtype.name} of shape {images.shape}"
        )
    noise = batch.get("noise", tf.TensorSpec(images.shape))
    if not (noise.dtype.is_floating and noise.shape.is_compatible_with(images.shape)):
        raise ConfigError(
            "noise must be floating-point numbers in [0, 1), of the images' shape. "
            f"Received: {noise.dtype.name} of shape {noise.shape}"
        )
    for name in sorted(batch.keys() & {"index", "weight"}):
        own = batch[name]
        right = own.dtype.is_floating if name == "weight" else own.dtype.is_integer
        if not right or not own.shape.is_compatible_with(images.shape[:1]):
            kind = "floating-point numbers" if name == "weight" else "integers"
            raise ConfigError(
                f"{name} must be {kind} [N], one for each image. "
                f"Received: {own.dtype.name} of shape {own.shape}"
            )


def _check_values(flow: Flow, batch: Batch) -> None:
    """Raises ConfigError unless what a batch has beside images is possible, and real data finite."""
    if flow.config.is_real:
        flow.checked(batch["images"])
    check_given(flow, batch.get("condition"), len(batch["images"]))
    if "noise" in batch:
        low, high = (float(found(batch["noise"])) for found in (tf.reduce_min, tf.reduce_max))
        if not low == high == 0 and flow.config.is_real:
            raise ConfigError(f"real data have no noise but zeros. Received: noise in [{low:g}, {high:g}]")
        if not 0 <= low <= high < 1:
            raise ConfigError(f"noise must be in [0, 1). Received: values in [{low:g}, {high:g}]")


def _are_crops(flow: Flow, shape: tf.TensorShape) -> bool:
    """Whether images of a shape are such as a model of levels learns from: of any size that halves."""
    multiple = 2**flow.config.num_blocks
    return (
        flow.design.any_size
        and shape.is_fully_defined()
        and shape[-1] == flow.image_shape[-1]
        and not (shape[0] % multiple or shape[1] % multiple)
    )
