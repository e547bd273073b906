"""What the images of a TFDS data set are given: another of its features."""

from __future__ import annotations

import dataclasses
import fractions
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.config import DataConfig
from glow_tf.core.errors import ConfigError
from glow_tf.data.arrays import Examples, check_memory_for, resize, scaled_side


def reader_of(
    builder: Any, config: DataConfig, spec: Mapping[str, Any]
) -> Callable[[Mapping[str, tf.Tensor]], tf.Tensor]:
    """Returns what reads the feature `config.condition` of an example: a map [h, w, c] or a vector [d].

    An image or another map is a map; a number and a vector are a vector; a class is one, too, one-hot.
    ConfigError if there is no such feature, it is something else, or its size cannot follow that of images.
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
        # A label that is not known becomes no number, which `with_condition` refuses.
        return lambda example: tf.where(example[name] < 0, np.nan, tf.one_hot(example[name], classes))
    if rank < 3:
        return lambda example: tf.reshape(tf.cast(example[name], tf.float32), [-1])
    config.check_augment()
    side = _side(config, spec["image"].shape, own.shape)

    def read_map(example: Mapping[str, tf.Tensor]) -> tf.Tensor:
        found = example[name] if own.dtype == tf.uint8 else tf.cast(example[name], tf.float32)
        return resize(found, side)

    return read_map


def _side(config: DataConfig, image: tf.TensorShape, given: tf.TensorShape) -> int:
    """Returns the side to which maps are resized, by the factor of the images; 0: they stay as they are."""
    size, known = config.image_size, image.is_fully_defined() and given.is_fully_defined()
    if not size or image[:2] == (size, size):
        return 0
    factors = [tuple(map(fractions.Fraction, given[:2].as_list(), image[:2].as_list()))] if known else []
    return scaled_side(size, factors, f"images of {image} and maps of {given} as {config.condition!r}")


def with_condition(examples: Examples, batches: Sequence[np.ndarray], config: DataConfig) -> Examples:
    """Returns examples with what is given with each.

    ConfigError if it is not of one size, not finite, a label that is missing, or too large.
    """
    shapes = {batch.shape[1:] for batch in batches}
    received = f"Received: condition={config.condition!r}, dataset={config.dataset!r}"
    if len(shapes) > 1:
        raise ConfigError(f"a condition must have one size. {received} with {sorted(shapes)[:3]}")
    check_memory_for(sum(batch.nbytes for batch in batches), config.dataset)
    condition = np.concatenate(batches)
    if condition.dtype != np.uint8 and not np.isfinite(condition).all():
        wrong = int(np.sum(~np.isfinite(condition.reshape(len(condition), -1)).all(axis=1)))
        raise ConfigError(f"a condition must be known and finite. {received} with {wrong} others")
    return dataclasses.replace(examples, condition=condition)
