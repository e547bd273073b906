"""Data sets that are ready: scikit-learn's digits, one .npy file, and TFDS."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.config import DIGITS, DataConfig, file_of
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.machine import fits, usual_threads
from glow_tf.data import arrays
from glow_tf.data.arrays import DataSet, Examples
from glow_tf.data.named import refusal, tfds_builder
from glow_tf.data.pictures import opened_array

BATCH = 1000  # images that TensorFlow decodes before Python takes them over
BATCH_PIXELS = 2**26  # of all of these, which may be large

DIGITS_SIDE = 8
DIGITS_TEST_EXAMPLES = 360


def digits(image_size: int = 0, condition: str = "") -> DataSet:
    """Returns scikit-learn's 1,797 handwritten digits.

    They are 8×8 and grey, unless they are resized to a side. Their 17 levels are multiplied by 8, so that
    pixels range from 0 to 128. With a condition, the class of each is given with it, one-hot.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * 8).astype(np.uint8)[..., np.newaxis]
    if image_size:
        arrays.check_memory_of_resized(len(images), len(images), DataConfig(DIGITS, image_size=image_size))
        images = np.asarray(arrays.resize(images, image_size))
    order = np.random.default_rng(0).permutation(len(images))  # the set is sorted by writer
    class_names = tuple(map(str, bunch.target_names))
    given = np.eye(len(class_names), dtype=np.float32)[bunch.target] if condition else None
    examples = Examples(images, labels=bunch.target.astype(np.int64), condition=given)[order]
    return DataSet(examples[DIGITS_TEST_EXAMPLES:], examples[:DIGITS_TEST_EXAMPLES], class_names)


def read_file(config: DataConfig) -> DataSet:
    """Reads the data set that is one file: an array [N, H, W, C], or [N, H, W].

    One that does not fit into memory, of the run's type and size, is mapped from the file. ConfigError if
    there is no such file or array, another does not fit into memory, or real data are not finite.
    """
    path, received = file_of(config.dataset), f"Received: dataset={config.dataset!r}"
    try:
        array = opened_array(path, (3, 4), config.dtype)
    except ValueError as error:
        raise ConfigError(f"dataset=file:PATH.npy cannot be read: {error}. {received}") from None
    array = array[..., np.newaxis] if array.ndim == 3 else array
    size = config.image_size
    shape = (*array.shape[:1], *((size, size) if size else array.shape[1:3]), array.shape[-1])
    stays = (array.shape, array.dtype) == (shape, config.dtype) and not fits(array.nbytes)
    images = array if stays else arrays.new_array(shape, config.dtype, config)
    for place, example in enumerate(array):
        if not stays:
            images[place] = arrays.resize(np.array(example, config.dtype), size)
        if images.dtype.kind == "f" and not np.isfinite(images[place]).all():
            raise ConfigError(f"real data must be finite. {received} with NaN or infinity in example {place}")
    return DataSet(Examples(images))


def from_tfds(config: DataConfig, split: str = "all") -> DataSet:
    """Reads a TFDS data set, prepared in data_dir or downloaded.

    Its examples have labels if it has a feature `label` that names one class an image. What is given with
    them is another feature, `config.condition`. If the split is `train` or `test`, one of its own that is not
    wanted is not read, and is empty. ConfigError if TFDS cannot load the data set, or it has no images or no
    training split.
    """
    builder = _tfds_builder(config)
    splits = builder.info.splits
    if "train" not in splits:
        raise ConfigError(
            f"dataset must have a train split. Received: dataset={config.dataset!r} with splits "
            f"{sorted(splits)}"
        )
    names = _class_names(builder)
    held_out = next((s for s in ("test", "validation") if s in splits), None)
    if held_out is None:
        return DataSet(_read_split(builder, "train", config, bool(names)), None, names)

    def read(name: str, count: int) -> Examples:
        if split not in ("all", "train" if name == "train" else "test"):
            return Examples(np.empty((0, 0, 0, 0), np.uint8))
        # Too many: all are read, and then the message says how many there are.
        limited = f"[:{count}]" if 0 < count <= splits[name].num_examples else ""
        return _read_split(builder, f"{name}{limited}", config, bool(names))

    # Validation images come from the end of the training data, so it is read whole when they are wanted.
    train = read("train", 0 if config.validation_examples else config.train_examples)
    return DataSet(train, read(held_out, config.test_examples), names)


def _class_names(builder: Any) -> tuple[str, ...]:
    """Returns the names of the classes of a data set; empty if it has none."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    one_class = "label" in features and isinstance(features["label"], tfds.features.ClassLabel)
    return tuple(features["label"].names or ()) if one_class else ()


def _tfds_builder(config: DataConfig) -> Any:
    """Returns TFDS's builder of a prepared data set that has images."""
    builder = tfds_builder(config)
    try:
        if not pathlib.Path(builder.data_dir).exists():
            if not urllib.request.getproxies():  # fails at once where TFDS would retry for minutes
                socket.getaddrinfo("storage.googleapis.com", 443)
            builder.download_and_prepare()
    except Exception as error:
        raise refusal(config, error) from None
    features = list(builder.info.features or ())
    if "image" not in features:
        raise ConfigError(
            "dataset must have a feature named image. "
            f"Received: dataset={config.dataset!r} with features {features}"
        )
    dtype = tf.as_dtype(builder.info.features["image"].dtype)
    if why := arrays.why_of_another_type(dtype.as_numpy_dtype, config.dtype):
        raise ConfigError(f"dataset cannot be used: {why}. Received: dataset={config.dataset!r}")
    return builder


def _read_split(builder: Any, split: str, config: DataConfig, labelled: bool) -> Examples:
    examples = builder.as_dataset(split=split, shuffle_files=False)
    count = len(examples)
    condition_of = _reader_of(builder, config, examples.element_spec) if config.condition else None

    def members(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = arrays.resize(example["image"], config.image_size)
        labels = {"labels": example["label"]} if labelled else {}
        return {"images": image, **labels, **({"condition": condition_of(example)} if condition_of else {})}

    arrays.check_memory_of_resized(count, usual_threads(), config)
    examples = examples.map(members, num_parallel_calls=tf.data.AUTOTUNE)
    shape = examples.element_spec["images"].shape
    known = all(spec.shape.is_fully_defined() for spec in examples.element_spec.values())
    others: list[dict[str, np.ndarray]] = []

    def images() -> Iterator[np.ndarray]:
        batch = min(BATCH, max(BATCH_PIXELS // math.prod(shape[:2].as_list()), 1)) if known else 1
        for found in examples.batch(batch).as_numpy_iterator():
            others.append(found)
            yield found.pop("images")

    try:
        stacked = arrays.stack(images(), count, config)
    except tf.errors.OpError as error:
        raise OSError(
            f"{config.dataset!r} cannot be read, its files may be damaged: {in_one_line(error.message)}. "
            f"Received: data_dir={config.data_dir!r}"
        ) from None
    labels = np.concatenate([own["labels"] for own in others]) if labelled and others else None
    found, conditions = Examples(stacked, labels=labels), [own["condition"] for own in others if condition_of]
    return _with_condition(found, conditions, config) if conditions else found


# What images are given: another feature


def _reader_of(
    builder: Any, config: DataConfig, spec: Mapping[str, Any]
) -> Callable[[Mapping[str, tf.Tensor]], tf.Tensor]:
    """Returns what reads the feature `config.condition` of an example: a map [h, w, c] or a vector [d].

    An image or another map is a map; a number and a vector are a vector; a class is one, too, one-hot.
    ConfigError if there is no such feature, or it is something else.
    """
    name, received = config.condition, f"Received: condition={config.condition!r}, dataset={config.dataset!r}"
    features, own = builder.info.features, spec.get(config.condition)
    rank = own.shape.rank if isinstance(own, tf.TensorSpec) else None
    classes = getattr(features[name], "num_classes", None) if name in features else None
    is_number = rank is not None and (own.dtype.is_floating or own.dtype.is_integer or own.dtype.is_bool)
    if not is_number or rank not in (0, 1, 3):
        raise ConfigError(
            "condition must be a feature of the data set that is a map, a vector, a number or a class. "
            f"{received} with features {sorted(features)}"
        )
    if classes and rank == 0:
        # A label that is not known becomes no number, which `_with_condition` refuses.
        return lambda example: tf.where(example[name] < 0, np.nan, tf.one_hot(example[name], classes))
    if rank < 3:
        return lambda example: tf.reshape(tf.cast(example[name], tf.float32), [-1])
    config.check_augment()
    return lambda example: example[name] if own.dtype == tf.uint8 else tf.cast(example[name], tf.float32)


def _with_condition(examples: Examples, batches: Sequence[np.ndarray], config: DataConfig) -> Examples:
    """Returns examples with what is given with each.

    ConfigError if it is not of one size, not finite, a label that is missing, or too large.
    """
    shapes = {batch.shape[1:] for batch in batches}
    received = f"Received: condition={config.condition!r}, dataset={config.dataset!r}"
    if len(shapes) > 1:
        raise ConfigError(f"a condition must have one size. {received} with {sorted(shapes)[:3]}")
    arrays.check_memory_for(sum(batch.nbytes for batch in batches), config.dataset)
    condition = np.concatenate(batches)
    if condition.dtype != np.uint8 and not np.isfinite(condition).all():
        wrong = int(np.sum(~np.isfinite(condition.reshape(len(condition), -1)).all(axis=1)))
        raise ConfigError(f"a condition must be known and finite. {received} with {wrong} others")
    return dataclasses.replace(examples, condition=condition)
