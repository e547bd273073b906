"""What a training step moves between devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf

from glow_tf.cost import crossing_bytes
from glow_tf.partition import part_layouts
from glow_tf.schedule import Phase
from glow_tf.training.walk import Walk


class Traffic(NamedTuple):
    """Bytes that a training step moves between devices.

    Attributes:
      forward: activations and log-likelihood per image, over all the cuts that the image crosses.
      backward: their gradients per image.
      all_reduce: the gradients per step that data parallelism would reduce over its replicas; where these
        make steps alone, a step's share of what their meetings reduce.
    """

    forward: int
    backward: int
    all_reduce: int


def step_traffic(walk: Walk, phase: Phase, *, cached: bool = False, reduced: int | None = None) -> Traffic:
    """Computes what a step of a phase moves; nothing crosses a cut where a `PrefixCache` serves the phase.

    `reduced` is what replicas reduce per step, in bytes; None: the gradients.
    """
    glow = walk.glow
    size = tf.as_dtype(glow.compute_dtype).size
    forward, backward = crossing_bytes(
        part_layouts(glow.config), phase.last, crossed=phase.crossed, cached=cached, float_bytes=size
    )
    if reduced is None:
        reduced = bytes_of(v.value for group in walk.trained_variables(phase) for v in group)
    return Traffic(forward, backward, reduced)


def bytes_of(variables: Iterable[tf.Variable]) -> int:
    """Returns how many bytes the values of variables take."""
    return sum(v.shape.num_elements() * v.dtype.size for v in variables)
