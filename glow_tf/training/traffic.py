"""What a training step moves between devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import tensorflow as tf


class Traffic(NamedTuple):
    """Bytes that a training step moves between devices.

    Attributes:
      forward: activations and log-likelihood per image, over all the cuts that the image crosses.
      backward: their gradients per image.
      all_reduce: the gradients per step that data parallelism would reduce over its replicas.
    """

    forward: int
    backward: int
    all_reduce: int


def bytes_of(variables: Iterable[tf.Variable]) -> int:
    """Returns how many bytes the values of variables take."""
    return sum(v.shape.num_elements() * v.dtype.size for v in variables)
