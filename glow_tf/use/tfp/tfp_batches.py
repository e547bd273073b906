"""Any number of batch dimensions, as TFP has them, for layers that take one; what layers are given."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.pieces import filled_if_empty
from glow_tf.bijectors.tracing import functions_inlined
from glow_tf.model.conditions import by_name, of_names
from glow_tf.model.glow import Glow


def given_of(glow: Glow, condition: Any) -> Condition:
    """Returns what a user gives a Glow, one or a batch of any number of dimensions, as numbers."""
    shapes = glow.config.condition_shapes
    found = {k: tf.convert_to_tensor(own) for k, own in by_name(condition).items() if own is not None}
    fits = found.keys() == shapes.keys()
    if not fits or not all(ends_with(found[k].shape, tf.TensorShape(s)) for k, s in shapes.items()):
        one = tf.nest.map_structure(lambda own: own[tf.newaxis], found)
        glow.checked_condition(of_names(one))  # says what is wrong
    flat = {name: tf.reshape(found[name], [-1, *shape]) for name, shape in shapes.items()}
    members = by_name(glow.checked_condition(of_names(flat)))
    for name, own in found.items():
        members[name] = tf.reshape(members[name], tf.shape(own))
        members[name].set_shape(own.shape)
    return of_names(members)


def ndims_of_condition(glow: Any) -> Any:
    """Returns the rank of what one value is given, in the structure of a condition; None for nothing."""
    shapes = glow.config.condition_shapes if isinstance(glow, Glow) else {}
    return of_names({name: len(shape) for name, shape in shapes.items()})


def given_to(label: int | None, method: Callable) -> Callable:
    """Returns a method of a layer as a function of a batch and of its condition; all have the label."""

    def run(x: tf.Tensor, condition: Condition = None) -> Any:
        arguments = {} if label is None else {"labels": tf.fill(tf.shape(x)[:1], label)}
        return method(x, **arguments, **({} if condition is None else {"condition": condition}))

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
    elif not ends_with(tensor.shape, event_shape):
        remedy = ""
    if remedy is not None:
        kind = "dequantised values" if dequantised else "values"
        raise ValueError(
            f"{what} takes {kind}, {dtype.name} of shape {brackets(event_shape, '..., ')}"
            f"{remedy and '; '}{remedy}. Received: {tensor.dtype.name} of shape {tensor.shape}"
        )
    return tf.cast(tensor, dtype)


def ends_with(shape: tf.TensorShape, event_shape: tf.TensorShape) -> bool:
    """Whether a shape ends with that of an event, as far as it is known."""
    if shape.rank is None:
        return True
    return shape.rank >= event_shape.rank and shape[-event_shape.rank :].is_compatible_with(event_shape)


def brackets(shape: tf.TensorShape, before: str = "") -> str:
    """Writes a shape, such as [..., 8, 8, 1]."""
    return f"[{before}{', '.join(map(str, shape.as_list()))}]"


def batched(
    function: Callable[..., tuple],
    x: tf.Tensor,
    event_shape: tf.TensorShape,
    condition: Condition = None,
    ndims_of_condition: Any = None,
) -> list[tf.Tensor | None]:
    """Runs a function of a batch on a tensor with any number of batch dimensions, which its results have too.

    The function maps [B, event], and a condition if there is one, to tensors [B, …], or None in place of one.
    The shape of x must end with that of the event, in which None is any size. The batch dimensions of the
    condition, those before its own, are broadcast with those of x.
    """
    ndims = event_shape.rank
    if condition is not None:
        members = zip(*map(tf.nest.flatten, (condition, ndims_of_condition)), strict=True)
        pairs = [(x, ndims), *members]
        batch = functools.reduce(tf.broadcast_dynamic_shape, [tf.shape(own)[:-rank] for own, rank in pairs])
        known = None
        if x.shape.rank is not None:
            known = functools.reduce(tf.broadcast_static_shape, [own.shape[:-rank] for own, rank in pairs])
            known = known.concatenate(x.shape[-ndims:])
        x = tf.broadcast_to(x, tf.concat([batch, tf.shape(x)[-ndims:]], axis=0))
        x.set_shape(known)
    shape = tf.shape(x)
    flat = tf.reshape(x, tf.concat([[-1], shape[-ndims:]], axis=0))
    flat = tf.ensure_shape(flat, [None, *event_shape])
    if x.shape.rank is not None:
        flat.set_shape([None, *x.shape[-ndims:]])

    def of_each(member: tf.Tensor, rank: int) -> tf.Tensor:
        own = member.shape[-rank:]
        return tf.reshape(tf.broadcast_to(member, tf.concat([shape[:-ndims], own], axis=0)), [-1, *own])

    def unflattened(result: tf.Tensor | None) -> tf.Tensor | None:
        if result is None:
            return None
        whole = tf.reshape(result, tf.concat([shape[:-ndims], tf.shape(result)[1:]], axis=0))
        whole.set_shape(x.shape[:-ndims].concatenate(result.shape[1:]))
        return whole

    with functions_inlined():  # so that XLA can differentiate the view within a loop
        given = () if condition is None else (tf.nest.map_structure(of_each, condition, ndims_of_condition),)
        results = function(*filled_if_empty(flat, *given))
        return [unflattened(None if result is None else result[: tf.shape(flat)[0]]) for result in results]
