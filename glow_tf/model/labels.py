"""The labels of a model with classes: what users give, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Array
from glow_tf.core.errors import ConfigError

Labels = Sequence[int] | Array  # the class of each example, integers [B]


def require_classes(what: str, classes: Sequence[str]) -> None:
    """Raises ConfigError if a model has no classes; `what` needs them."""
    if not classes:
        raise ConfigError(
            f"{what} needs a model that was trained with --conditional. Received: a model without classes"
        )


def checked_labels(labels: Labels, classes: Sequence[str], count: int | None = None) -> tf.Tensor:
    """Checks labels of a model with these classes, and converts them to a tensor, int32 [B].

    ConfigError if there are no classes, labels are not integers from 0 below their number, or there are not
    `count` of them, if that is known. Labels that a `tf.function` computes pass.
    """
    require_classes("a label", classes)
    found = tf.get_static_value(labels) if tf.is_tensor(labels) else np.asarray(labels)
    if found is None:
        return tf.cast(labels, tf.int32)
    whole = found.ndim == 1 and np.issubdtype(found.dtype, np.integer)
    if not whole or np.any((found < 0) | (found >= len(classes))):
        raise ConfigError(
            f"labels must be integers from 0 to {len(classes) - 1}, one for each image. "
            f"Received: {found.dtype} of shape {found.shape}, {str(found)[:100]}"
        )
    if count is not None and len(found) != count:
        raise ConfigError(
            f"there must be a label for each of the {count} images. Received: {len(found)} labels"
        )
    return tf.constant(found, tf.int32)


def labels_of_request(num: int | None, labels: Labels | None, classes: Sequence[str]) -> tf.Tensor | None:
    """Returns the labels of `num` images to draw; None if they are to be drawn, too.

    ConfigError if neither is given, num is not positive, or labels are no labels of num images.
    """
    if labels is not None:
        return checked_labels(labels, classes, None if num is None else int(num))
    if num is None:
        raise ConfigError("sample needs num or labels. Received: num=None, labels=None")
    number = tf.convert_to_tensor(num)
    known = tf.get_static_value(number)  # None within a graph
    one = number.dtype.is_integer and number.shape.is_compatible_with([])
    if not one or (known is not None and known < 1):
        raise ConfigError(f"num must be a positive number of images. Received: num={num}")
    return None
