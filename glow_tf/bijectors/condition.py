"""What a bijector is given beside its argument, and how it comes to the argument's resolution."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

Array = tf.Tensor | np.ndarray
# A map [B, h, w, c], of any resolution, or a vector [B, d]; several at once by name; None: nothing is given.
Condition = Array | Mapping[str, Array] | None


def brought_to(condition: Condition, x: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns a condition as one tensor that can be added to x [B, H, W, C], in the dtype of x.

    It has the shape [B, H, W, channels], or [B, 1, 1, channels] where only vectors are given; ValueError if
    there are not as many channels. Several conditions follow one another along the channels, in the order of
    their names. A map of more pixels than x is averaged, one of fewer is repeated; where their sides do not
    divide each other, it is resized.
    """
    return _joined([tf.cast(m, x.dtype) for m in _checked(condition, channels)], tuple(x.shape[1:3]))


def beside(x: tf.Tensor, condition: Condition, channels: int) -> tf.Tensor:
    """Returns x [B, H, W, C] and a condition, as `brought_to` has it, along the channels."""
    given = brought_to(condition, x, channels)
    return tf.concat([x, tf.broadcast_to(given, [*tf.unstack(tf.shape(x)[:3]), channels])], axis=-1)


def at_its_own_resolution(condition: Condition, channels: int) -> tf.Tensor:
    """As `brought_to`, at the resolution of the largest map that is given."""
    members = _checked(condition, channels)
    sizes = [tuple(m.shape[1:3]) if m.shape.rank == 4 else (1, 1) for m in members]
    return _joined(members, max(sizes, key=math.prod))


def _checked(condition: Condition, channels: int) -> list[tf.Tensor]:
    named = condition if isinstance(condition, Mapping) else {"": condition}
    members = [] if condition is None else [tf.convert_to_tensor(named[name]) for name in sorted(named)]
    shapes = [tuple(member.shape) for member in members]
    fits = all(len(shape) in (2, 4) for shape in shapes) and sum(s[-1] or 0 for s in shapes) == channels
    if not members or not fits:
        raise ValueError(
            f"the condition must have {channels} channels in all: maps [B, h, w, c], vectors [B, d], or a "
            f"dictionary of them. Received: {shapes or None}"
        )
    return members


def _joined(members: list[tf.Tensor], size: tuple[int, int]) -> tf.Tensor:
    maps = [_map(member, size) for member in members]
    if len(maps) == 1:
        return maps[0]
    if any(tuple(own.shape[1:3]) != (1, 1) for own in maps):
        maps = [tf.broadcast_to(own, [tf.shape(own)[0], *size, own.shape[-1]]) for own in maps]
    return tf.concat(maps, axis=-1)


def _map(member: tf.Tensor, size: tuple[int, int]) -> tf.Tensor:
    """Returns [B, *size, c] of a map, [B, 1, 1, c] of a vector or of a map of one pixel."""
    if member.shape.rank == 2:
        return member[:, tf.newaxis, tf.newaxis]
    own = tuple(member.shape[1:3])
    if own in (size, (1, 1)):
        return member
    if all(a % b == 0 for a, b in zip(own, size, strict=True)):
        window = [a // b for a, b in zip(own, size, strict=True)]
        return tf.nn.avg_pool2d(member, window, window, "VALID")
    if all(b % a == 0 for a, b in zip(own, size, strict=True)):
        return tf.repeat(tf.repeat(member, size[0] // own[0], axis=1), size[1] // own[1], axis=2)
    rows, columns = (tf.constant(_resizing(a, b), member.dtype) for a, b in zip(own, size, strict=True))
    return tf.einsum("ih,bhwc,jw->bijc", rows, member, columns)


def _resizing(before: int, after: int) -> np.ndarray:
    """Returns what resizes one side, [after, before], as `tf.image.resize` with `antialias` does.

    Its own operation is not in ONNX, nor does XLA compile it.
    """
    pixel = before / after
    centres, places = (np.arange(after) + 0.5) * pixel, np.arange(before) + 0.5
    weights = np.maximum(0, 1 - np.abs(centres[:, None] - places) / max(pixel, 1.0))
    return weights / weights.sum(axis=1, keepdims=True)
