"""What users train on, as a `tf.data.Dataset` whose elements are checked."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf.core.errors import ConfigError
from glow_tf.data.batches import untuned
from glow_tf.model.conditions import check_given, check_specs_of_condition
from glow_tf.model.density_model import has_type, remedy_of_type
from glow_tf.model.glow import Glow
from glow_tf.training.feed.batch import Batch, Dataset, named

EXPECTED = (
    "expected images uint8, or (images, noise) with noise in [0, 1); labels are not used: "
    ".map(lambda x, y: x) drops them, and a model with a condition_shape is given them, one-hot"
)


def is_array(x: Any) -> bool:
    """Returns whether x is arrays, or what can become such, rather than a source of batches."""
    return hasattr(x, "shape") or isinstance(x, (list, tuple, dict))


def as_dataset(glow: Glow, x: Any, *, trains: bool) -> Dataset:
    """Returns a source of batches as a dataset whose elements are checked and have the model's shape.

    The source is a `tf.data.Dataset`, a `keras.utils.PyDataset`, an iterator or generator, or an iterable.
    Its batches are what `named` takes. ConfigError if x, or what its batches hold, is something else.
    """
    if isinstance(x, tf.distribute.DistributedDataset):
        return x  # it has the pieces of one that was checked
    if not isinstance(x, tf.data.Dataset):
        x = _from_python(x)
    if x.cardinality() == 0:
        raise ConfigError("data must hold at least one batch. Received: an empty dataset")
    use = (trains, glow.image_shape, glow.config.condition_shape)
    if use in _checked.get(x, ()):
        return x
    in_names = functools.partial(named, config=glow.config, trains=trains)
    specs = in_names(x.element_spec)
    check_specs(glow, specs, trains)
    if len(specs) > 1 or glow.config.is_real:
        for batch in x.take(1):
            check_values(glow, in_names(batch))
    if not specs["images"].shape[1:].is_fully_defined():  # the dataset leaves sizes open
        x = x.map(lambda *batch: _with_shape(glow, in_names(batch)), num_parallel_calls=tf.data.AUTOTUNE)
    _checked.setdefault(x, set()).add(use)
    return x


def _with_shape(glow: Glow, batch: Batch) -> Batch:
    shaped = ((name, batch[name]) for name in ("images", "noise") if name in batch)
    return batch | {name: tf.ensure_shape(own, (None, *glow.image_shape)) for name, own in shaped}


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


def check_specs(glow: Glow, batch: Batch, trains: bool) -> None:
    """Raises ConfigError unless the specs of a batch are of one that `fit` or `evaluate` takes."""
    last = {"condition"} if glow.config.condition_shape else set()
    first = ("noise", "index" if trains else "weight")
    if "images" not in batch or batch.keys() - {*first, "images"} != last:
        needed = (
            "the model needs a condition with the images: as y of an array, or at the end: (images, "
            f"condition); a batch may also have {' and '.join(first)}, and nothing else"
        )
        found = tf.nest.map_structure(lambda own: f"{own.dtype.name} {own.shape}", batch)
        raise ConfigError(f"{needed if last else EXPECTED}. Received: {found}")
    check_specs_of_condition(batch.get("condition"), glow.config)
    images, shape = batch["images"], tf.TensorShape(glow.image_shape)
    batched = images.shape.rank in (None, 4) and (
        images.shape[1:].is_compatible_with(shape) or _are_crops(glow, images.shape[1:])
    )
    if not has_type(images.dtype, glow.data_dtype) or not batched:
        hint = " (batches are missing: .batch(64))" if images.shape.is_compatible_with(shape) else ""
        hint += remedy_of_type(images.dtype, glow.data_dtype)
        raise ConfigError(
            f"a batch must begin with {glow.data_dtype} images "
            f"[N, {', '.join(map(str, glow.image_shape))}]{hint}. "
            f"Received: {images.dtype.name} of shape {images.shape}"
        )
    noise = batch.get("noise")
    if noise is not None and not (noise.dtype.is_floating and noise.shape.is_compatible_with(images.shape)):
        raise ConfigError(
            f"{EXPECTED}. Received: noise (the second member) of {noise.dtype.name}, shape {noise.shape}"
        )
    for name in sorted(batch.keys() & {"index", "weight"}):
        own = batch[name]
        right = own.dtype.is_floating if name == "weight" else own.dtype.is_integer
        if not right or not own.shape.is_compatible_with(images.shape[:1]):
            numbers = "floating-point numbers" if name == "weight" else "integers"
            raise ConfigError(
                f"{name} must be {numbers} [N], one for each image. "
                f"Received: {own.dtype.name} of shape {own.shape}"
            )


def check_values(glow: Glow, batch: Batch) -> None:
    """Raises ConfigError unless what a batch has beside images is possible, and real data finite."""
    count = len(batch["images"])
    if glow.config.is_real:
        glow.checked(batch["images"])
    check_given(glow, batch.get("condition"), count)
    if "noise" in batch:
        low, high = (float(found(batch["noise"])) for found in (tf.reduce_min, tf.reduce_max))
        if not low == high == 0 and glow.config.is_real:
            raise ConfigError(f"real data have no noise but zeros. Received: noise in [{low:g}, {high:g}]")
        if not 0 <= low <= high < 1:
            raise ConfigError(
                f"{EXPECTED}. Received: noise (the second member) with values in [{low:g}, {high:g}]"
            )


def _are_crops(glow: Glow, shape: tf.TensorShape) -> bool:
    """Whether images of a shape are such as a model of levels learns from: of any size that halves."""
    multiple = 2**glow.config.num_blocks
    return (
        glow.config.design.any_size
        and shape.is_fully_defined()
        and shape[-1] == glow.image_shape[-1]
        and not (shape[0] % multiple or shape[1] % multiple)
    )
