"""Any number of batch dimensions, as TFP has them, for layers that take one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.pieces import filled_if_empty
from glow_tf.bijectors.tracing import functions_inlined
from glow_tf.model.conditions import by_name, of_names
from glow_tf.model.glow import Glow


def given_of(glow: Glow, condition: Any) -> Condition:
    """Returns the condition that a user gives a Glow, as numbers with a batch axis of size 1."""
    found = {name: own for name, own in by_name(condition).items() if own is not None}
    return glow.checked_condition(of_names({k: tf.convert_to_tensor(own)[None] for k, own in found.items()}))


def given_to(condition: Condition, method: Callable) -> Callable:
    """Returns a method of a layer as a function of a batch alone; all have the condition."""

    def run(x: tf.Tensor) -> Any:
        size = tf.shape(x)[:1]

        def of_each(own: tf.Tensor) -> tf.Tensor:
            return tf.broadcast_to(own, tf.concat([size, own.shape[1:]], axis=0))

        given = {} if condition is None else {"condition": tf.nest.map_structure(of_each, condition)}
        return method(x, **given)

    return run


def event_shape_tensor(shape: tf.Tensor, source: tf.TensorShape, target: tf.TensorShape) -> tf.Tensor:
    """Returns a shape whose event is `target` where that of another ends with `source`."""
    if source == target:
        return shape
    return tf.concat([shape[: -source.rank], tf.constant(target.as_list(), shape.dtype)], axis=0)


def checked(
    values: Any, what: str, event_shape: tf.TensorShape, dtype: tf.DType, *, dequantised: bool = False
) -> tf.Tensor:
    """Returns values as a tensor of the dtype: casts arrays and lists of floating-point numbers.

    ValueError if values are not floating-point numbers, are a tensor of another dtype, or have a shape that
    does not end with `event_shape`.
    """
    tensor = tf.convert_to_tensor(values)
    remedy = None
    if not tensor.dtype.is_floating:
        remedy = "glow.dequantized(images) makes them from uint8 images" if dequantised else ""
    elif tensor.dtype != dtype and tf.is_tensor(values):
        remedy = f"tf.cast(values, tf.{dtype.name}) changes the dtype"
    elif not tensor.shape[-event_shape.rank :].is_compatible_with(event_shape):  # a shorter one is not
        remedy = ""
    if remedy is not None:
        kind = "dequantised values" if dequantised else "values"
        raise ValueError(
            f"{what} takes {kind}, {dtype.name} of shape {brackets(event_shape, '..., ')}"
            f"{remedy and '; '}{remedy}. Received: {tensor.dtype.name} of shape {tensor.shape}"
        )
    return tf.cast(tensor, dtype)


def brackets(shape: tf.TensorShape, before: str = "") -> str:
    """Writes a shape, such as [..., 8, 8, 1]."""
    return f"[{before}{', '.join(map(str, shape.as_list()))}]"


def batched(
    function: Callable[[tf.Tensor], tuple], x: tf.Tensor, event_shape: tf.TensorShape
) -> list[tf.Tensor | None]:
    """Runs a function of a batch on a tensor with any number of batch dimensions, which its results have too.

    The function maps [B, event] to tensors [B, …], or None in place of one. The shape of x must end with that
    of the event, in which None is any size.
    """
    ndims = event_shape.rank
    shape = tf.shape(x)
    flat = tf.reshape(x, tf.concat([[-1], shape[-ndims:]], axis=0))
    flat = tf.ensure_shape(flat, [None, *event_shape])
    if x.shape.rank is not None:
        flat.set_shape([None, *x.shape[-ndims:]])

    def unflattened(result: tf.Tensor | None) -> tf.Tensor | None:
        if result is None:
            return None
        whole = tf.reshape(result, tf.concat([shape[:-ndims], tf.shape(result)[1:]], axis=0))
        whole.set_shape(x.shape[:-ndims].concatenate(result.shape[1:]))
        return whole

    with functions_inlined():  # so that XLA can differentiate the view within a loop
        results = function(*filled_if_empty(flat))
        return [unflattened(None if result is None else result[: tf.shape(flat)[0]]) for result in results]
