"""Any number of batch dimensions, as TFP has them, for layers that take one; what layers are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.tracing import functions_inlined
from glow_tf.conditions import by_name, of_names
from glow_tf.glow import Glow
from glow_tf.pieces import filled_if_empty


class Given:
    """What a model is given: one condition, or a batch of them, which TFP takes for a view's parameter.

    `members` are tensors [batch dimensions, …] by name, "" for one without, `shapes` those of one condition.
    """

    def __init__(self, members: Mapping[str, tf.Tensor], shapes: Mapping[str, tuple[int, ...]]):
        self.members = members
        self.shapes = shapes

    @classmethod
    def of(cls, glow: Glow, condition: Any) -> Given | None:
        """Returns what a user gives a Glow, one or a batch of any number of dimensions; None for nothing."""
        shapes = glow.config.condition_shapes
        found = {k: tf.convert_to_tensor(own) for k, own in by_name(condition).items() if own is not None}
        fits = found.keys() == shapes.keys()
        if not fits or not all(ends_with(found[k].shape, tf.TensorShape(s)) for k, s in shapes.items()):
            one = tf.nest.map_structure(lambda own: own[tf.newaxis], found)
            glow.checked_condition(of_names(one))  # says what is wrong
        if not shapes:
            return None
        flat = {name: tf.reshape(found[name], [-1, *shape]) for name, shape in shapes.items()}
        numbers = by_name(glow.checked_condition(of_names(flat)))
        members = {name: tf.reshape(numbers[name], tf.shape(own)) for name, own in found.items()}
        for name, own in members.items():
            own.set_shape(found[name].shape)
        return cls(members, shapes)

    @property
    def dtype(self) -> tf.DType:
        """The type of all numbers."""
        return next(iter(self.members.values())).dtype

    @property
    def batch_shape(self) -> tf.TensorShape:
        """The batch dimensions, as far as they are known."""
        found = tf.TensorShape([])
        for name, own in self.members.items():
            found = tf.broadcast_static_shape(found, own.shape[: own.shape.rank - len(self.shapes[name])])
        return found

    def batch_shape_tensor(self) -> tf.Tensor:
        """The batch dimensions."""
        found = tf.constant([], tf.int32)
        for name, own in self.members.items():
            batch = tf.shape(own)[: own.shape.rank - len(self.shapes[name])]
            found = tf.broadcast_dynamic_shape(found, batch)
        return found

    def flat(self, batch_shape: tf.Tensor) -> Condition:
        """Returns a condition for each member of a batch of any dimensions: [B, …]."""
        found = self._broadcast_parameters_with_batch_shape(batch_shape).members
        flat = {name: tf.reshape(own, [-1, *self.shapes[name]]) for name, own in found.items()}
        return of_names(flat)

    # What TFP calls of a parameter to slice a distribution.

    def _broadcast_parameters_with_batch_shape(self, batch_shape: tf.Tensor) -> Given:
        whole = tf.broadcast_dynamic_shape(batch_shape, self.batch_shape_tensor())
        members = {
            name: tf.broadcast_to(own, tf.concat([whole, self.shapes[name]], axis=0))
            for name, own in self.members.items()
        }
        return Given(members, self.shapes)

    def __getitem__(self, which: Any) -> Given:
        which = which if isinstance(which, tuple) else (which,)
        rest = () if Ellipsis in [own for own in which if not tf.is_tensor(own)] else (Ellipsis,)
        members = {
            name: own[(*which, *rest, *[slice(None)] * len(self.shapes[name]))]
            for name, own in self.members.items()
        }
        return Given(members, self.shapes)


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
    function: Callable[..., tuple], x: tf.Tensor, event_shape: tf.TensorShape, given: Given | None = None
) -> list[tf.Tensor | None]:
    """Runs a function of a batch on a tensor with any number of batch dimensions, which its results have too.

    The function maps [B, event], and a condition if there is one, to tensors [B, …], or None in place of one.
    The shape of x must end with that of the event, in which None is any size. The batch dimensions of what is
    `given` are broadcast with those of x.
    """
    ndims = event_shape.rank
    if given is not None:
        event = tf.shape(x)[-ndims:]
        batch = tf.broadcast_dynamic_shape(tf.shape(x)[:-ndims], given.batch_shape_tensor())
        known = None
        if x.shape.rank is not None:
            known = tf.broadcast_static_shape(x.shape[:-ndims], given.batch_shape)
            known = known.concatenate(x.shape[-ndims:])
        x = tf.broadcast_to(x, tf.concat([batch, event], axis=0))
        x.set_shape(known)
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
        own = () if given is None else (given.flat(shape[:-ndims]),)
        size = tf.shape(flat)[0]
        results = function(*filled_if_empty(flat, *own))
        return [unflattened(None if result is None else result[:size]) for result in results]
