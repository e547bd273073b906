"""What users train on, as a `tf.data.Dataset` whose elements are checked."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf.core.errors import ConfigError
from glow_tf.data.batches import untuned
from glow_tf.model.conditions import check_specs_of_condition
from glow_tf.model.density_model import has_type, remedy_of_type
from glow_tf.model.glow import Glow
from glow_tf.training.feed.batch import Dataset, last_members, unpack

EXPECTED = (
    "expected images uint8, or (images, noise) with noise in [0, 1); labels are not used: "
    ".map(lambda x, y: x) drops them, and ModelConfig(classes=…) makes a model that learns them"
)


def is_array(x: Any) -> bool:
    """Returns whether x is an array of images, or what can become one, rather than a source of batches."""
    return hasattr(x, "shape") or isinstance(x, (list, tuple))


def as_dataset(glow: Glow, x: Any, *, trains: bool) -> Dataset:
    """Returns a source of batches as a dataset whose elements are checked and have the model's shape.

    The source is a `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterator or generator, or an iterable. A
    batch is images uint8 [B, H, W, C], (images, noise), or these and a third member: an index
    (integers) if the batch trains, and otherwise a weight (floating-point numbers). At the end are, if it
    trains a model with classes, their labels, integers [B], and what a model is given with each image.
    ConfigError if x, or what its batches hold, is something else.
    """
    if isinstance(x, tf.distribute.DistributedDataset):
        return x  # it has the pieces of one that was checked
    if not isinstance(x, tf.data.Dataset):
        x = _from_python(x)
    if x.cardinality() == 0:
        raise ConfigError("data must hold at least one batch. Received: an empty dataset")
    use = (trains, glow.image_shape, glow.config.classes, glow.config.condition_shape)
    if use in _checked.get(x, ()):
        return x
    _check_spec(glow, x.element_spec, trains)
    _check_values(glow, x, trains)
    if not _members(x.element_spec)[0].shape[1:].is_fully_defined():
        x = x.map(lambda *batch: _with_shape(glow, batch, trains), num_parallel_calls=tf.data.AUTOTUNE)
    _checked.setdefault(x, set()).add(use)
    return x


def start_reading(dataset: Dataset) -> None:
    """Says that training begins: what was read of an iterator so far is read again, and then no more."""
    if dataset in _one_shots:
        _one_shots[dataset].start()


def ends_with_its_first_epoch(dataset: Dataset) -> bool:
    """Returns whether a dataset reads an iterator, which can be read once."""
    return dataset in _one_shots


class OneShot:
    """Batches of an iterator, which can be looked at before training without losing them."""

    def __init__(self, batches: Iterator[Any]):
        self._batches = batches
        self._seen: list[Any] = []
        self._keeps = True

    def __call__(self) -> Iterator[Any]:
        """Yields the batches that were looked at before, and then the others."""
        yield from self._seen
        if not self._keeps:
            self._seen = []
        for batch in self._batches:
            if self._keeps:
                self._seen.append(batch)
            yield batch

    def start(self) -> None:
        """From now on batches are no longer kept."""
        self._keeps = False


def _from_python(x: Any) -> tf.data.Dataset:
    """Makes a dataset of batches that Python yields; the first batch tells their structure."""
    count, source = None, x
    if isinstance(x, keras.utils.PyDataset):
        count, source = x.num_batches, lambda: _batches_of(x)
        count = tf.data.INFINITE_CARDINALITY if count is None else count
    elif isinstance(x, Iterator):
        source = OneShot(x)
    elif hasattr(x, "__iter__"):
        source = lambda: iter(x)  # noqa: E731
    else:
        raise ConfigError(
            "data must be uint8 images [N, H, W, C], a tf.data.Dataset, a keras.utils.PyDataset, or an "
            f"iterable of batches. Received: {type(x).__name__}"
        )
    first = next(iter(source()), None)
    if first is None:
        raise ConfigError(f"data must hold at least one batch. Received: an empty {type(x).__name__}")
    specs = tf.nest.map_structure(
        lambda member: tf.TensorSpec((None, *member.shape[1:]), member.dtype), _in_arrays(first)
    )
    dataset = tf.data.Dataset.from_generator(lambda: map(_in_arrays, source()), output_signature=specs)
    if count is not None:
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(count))
    dataset = untuned(dataset)
    if isinstance(source, OneShot):
        _one_shots[dataset] = source
    return dataset


# Datasets of the user that were checked, and for what; and those that read an iterator.
_checked: weakref.WeakKeyDictionary[tf.data.Dataset, set[tuple]] = weakref.WeakKeyDictionary()
_one_shots: weakref.WeakKeyDictionary[tf.data.Dataset, OneShot] = weakref.WeakKeyDictionary()


def _batches_of(x: keras.utils.PyDataset) -> Iterator[Any]:
    count = x.num_batches
    x.on_epoch_begin()
    index = 0
    while count is None or index < count:
        batch = x[index]
        index += 1
        if index == count:
            x.on_epoch_end()  # before the last batch is given: nobody asks for more than are needed
        yield batch


def _in_arrays(batch: Any) -> Any:
    """Returns a batch as arrays, in the one structure that datasets of Python's batches have."""
    if isinstance(batch, list):
        batch = tuple(batch)
    batch = batch[0] if isinstance(batch, tuple) and len(batch) == 1 else batch
    return tf.nest.map_structure(np.asarray, batch)


def _check_spec(glow: Glow, spec: Any, trains: bool) -> None:
    """Raises ConfigError unless a dataset's elements are batches that `fit` or `evaluate` takes."""
    members = _members(spec)
    last = last_members(glow.config, trains=trains)
    if len(members) <= len(last) - last.count("labels") and "condition" in last:
        raise ConfigError(
            "a model with a condition needs batches that end with it: (images, condition) or (images, noise, "
            f"condition). Received: elements of {spec}"
        )
    if "condition" in last:
        check_specs_of_condition(members.pop(), glow.config)
    if "labels" in last:
        labels = members.pop()
        is_labels = isinstance(labels, tf.TensorSpec) and labels.dtype.is_integer
        if not members or not is_labels or labels.shape.rank not in (None, 1):
            raise ConfigError(
                "a model with classes trains on batches that end with labels, integers [N]: (images, labels) "
                f"or (images, noise, labels). Received: elements of {spec}"
            )
    if not all(isinstance(member, tf.TensorSpec) for member in members) or not 1 <= len(members) <= 3:
        raise ConfigError(f"{EXPECTED}. Received: elements of {spec}")
    images, *others = members
    shape = tf.TensorShape(glow.image_shape)
    batched = images.shape.rank in (None, 4) and (
        images.shape[1:].is_compatible_with(shape) or _are_crops(glow, images.shape[1:])
    )
    if not has_type(images.dtype, glow.data_dtype) or not batched:
        hint = " (batches are missing: .batch(64))" if images.shape.is_compatible_with(shape) else ""
        hint += remedy_of_type(images.dtype, glow.data_dtype)
        raise ConfigError(
            f"a dataset must begin with {glow.data_dtype} images "
            f"[N, {', '.join(map(str, glow.image_shape))}]{hint}. "
            f"Received: {images.dtype.name} of shape {images.shape}"
        )
    if others and not (others[0].dtype.is_floating and others[0].shape.is_compatible_with(images.shape)):
        raise ConfigError(
            f"{EXPECTED}. Received: a second member of {others[0].dtype.name}, shape {others[0].shape}"
        )
    if others[1:]:
        right = others[1].dtype.is_integer if trains else others[1].dtype.is_floating
        member = "index" if trains else "weight"
        if not right or others[1].shape.rank not in (None, 1):
            raise ConfigError(
                f"the third member of a batch must be {member} [N] here. "
                f"Received: {others[1].dtype.name} of shape {others[1].shape}"
            )


def _check_values(glow: Glow, dataset: tf.data.Dataset, trains: bool) -> None:
    """Raises ConfigError unless what the first batch has beside images is possible, and real data finite."""
    if len(_members(dataset.element_spec)) < 2 and not glow.config.is_real:
        return
    for batch in dataset.take(1):
        found = unpack(batch, glow.config, trains=trains)
        if glow.config.is_real:
            glow.checked(found.images)
        glow.checked_condition(found.condition)
        if found.labels is not None:
            glow.checked_labels(found.labels)
        if found.noise is not None:
            check_noise(found.noise, glow)


def check_noise(noise: tf.Tensor, glow: Glow) -> None:
    """Raises ConfigError unless the values of a batch's noise are in [0, 1), or 0 for real data."""
    low, high = float(tf.reduce_min(noise)), float(tf.reduce_max(noise))
    if not low == high == 0 and glow.config.is_real:
        raise ConfigError(f"real data have no noise but zeros. Received: noise in [{low:g}, {high:g}]")
    if not 0 <= low <= high < 1:
        raise ConfigError(f"{EXPECTED}. Received: a second member with values in [{low:g}, {high:g}]")


def _members(spec: Any) -> list[Any]:
    return list(spec) if isinstance(spec, (tuple, list)) else [spec]


def _are_crops(glow: Glow, shape: tf.TensorShape) -> bool:
    """Whether images of a shape are such as a model of levels learns from: of any size that halves."""
    multiple = 2**glow.config.num_blocks
    return (
        glow.config.design.any_size
        and shape.is_fully_defined()
        and shape[-1] == glow.image_shape[-1]
        and not (shape[0] % multiple or shape[1] % multiple)
    )


def _with_shape(glow: Glow, batch: tuple[tf.Tensor, ...], trains: bool) -> Any:
    """Gives images and noise the model's shape, where the dataset leaves sizes open."""
    shape = (None, *glow.image_shape)
    shaped = min(2, len(batch) - len(last_members(glow.config, trains=trains)))
    found = [tf.ensure_shape(member, shape) for member in batch[:shaped]] + list(batch[shaped:])
    return found[0] if len(found) == 1 else tuple(found)
