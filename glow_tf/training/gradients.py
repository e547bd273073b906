"""Parts on devices of their own: each computes its gradients where it lives, and hands activations on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from glow_tf import likelihood
from glow_tf.glow import Glow, Passage
from glow_tf.schedule import Phase


class PlacedStep(NamedTuple):
    """What `placed_step` computes.

    Attributes:
      loss: that the phase minimises, [], bits per dimension.
      truncated: objective of the flow up to each part, [B] each, bits per dimension.
      gradients: of the variables of each active part.
      crossing: bytes of an image that cross the cuts forward.
      busy: seconds from a part's input to its last gradient, [] each, of the active parts; none end to
        end, where a part has two turns.
    """

    loss: tf.Tensor
    truncated: list[tf.Tensor]
    gradients: list[list[tf.Tensor]]
    crossing: int
    busy: list[tf.Tensor]


class Queue:
    """What waits before a part: the passages of the last `delay` batches.

    Args:
      shape: (H, W, C) of what the part takes in.
      parts_before: how many parts a passage has gone through.
      batch_size: B.
      delay: batches that wait, at least 1.
      dtype: of the activations.
    """

    def __init__(
        self, shape: Sequence[int], parts_before: int, batch_size: int, delay: int, dtype: tf.DType | str
    ):
        shapes = ((batch_size, *shape), (batch_size,), (batch_size, parts_before))
        self._places = [
            [tf.Variable(tf.zeros(s, dtype), trainable=False) for s in shapes] for _ in range(delay)
        ]

    def exchange(self, passage: Passage) -> Passage:
        """Puts a passage in, and takes out the one that has waited longest; zeros before there is one."""
        waiting = [[variable.read_value() for variable in place] for place in self._places]
        newest = [passage.h, passage.log_likelihood, tf.stack(passage.truncated, axis=1)]
        for place, values in zip(self._places, [*waiting[1:], newest], strict=True):
            for variable, value in zip(place, values, strict=True):
                variable.assign(value)
        h, log_likelihood, truncated = waiting[0]
        return Passage(h, log_likelihood, tuple(tf.unstack(truncated, axis=1)))


def make_queues(glow: Glow, batch_size: int, delay: int) -> dict[int, Queue]:
    """Returns a queue before every part but the first, where the part lives; none without delay."""
    queues = {}
    for k in range(1, len(glow.parts) if delay else 1):
        with glow.on_device_of(k):
            shape = glow.parts[k - 1].output_event_shape
            queues[k] = Queue(shape, k, batch_size, delay, glow.compute_dtype)
    return queues


def placed_step(
    glow: Glow, passage: Passage, phase: Phase, variables: Mapping[int, list], queues: Mapping[int, Queue]
) -> PlacedStep:
    """Computes a phase's gradients, each part's on the part's device.

    A tape does not remember where it recorded, so every part has one of its own; end to end, the gradient
    of a part's input is handed back to the part before.

    Args:
      glow: placed on devices.
      passage: a batch before the first part.
      phase: which parts run, and whether gradients cross the cuts.
      variables: of each active part, those that are trained.
      queues: see `make_queues`; a part with one takes the batch that has waited longest.
    """
    shape, last = glow.image_shape, phase.last
    pieces, losses, crossing = [], [], 0
    for k in range(last + 1):
        if k in queues:
            with glow.on_device_of(k):
                passage = queues[k].exchange(passage)
        own, back = variables.get(k, []), phase.end_to_end and k > 0
        with glow.on_device_of(k), tf.GradientTape(watch_accessed_variables=False) as tape:
            passage = passage.isolated()  # end to end, what crosses the cut backward is handed over below
            tape.watch([*own, passage.h] if back else own)
            after, objective = glow.through_next_part(passage)
            share = -after.log_likelihood if phase.end_to_end and k < last else objective
            loss = tf.reduce_mean(likelihood.bits_per_dim(share, shape))
        with glow.on_device_of(k):
            start = None if phase.end_to_end else _moment([passage.h])
        pieces.append((tape, own, passage.h if back else None, loss, after.h, start))
        if k in phase.active:
            losses.append(loss)
        if k < last:
            crossing += bytes_of_an_example(after.h, after.log_likelihood)
        passage = after
    gradients: list[list[tf.Tensor]] = []
    busy: list[tf.Tensor] = []
    handed_back = None
    for k in reversed(phase.active):
        tape, own, h, loss, output, start = pieces[k]
        targets, seeds = [loss], [tf.ones_like(loss)]
        if handed_back is not None:
            targets, seeds = [loss, output], [*seeds, handed_back]
        with glow.on_device_of(k):
            found = tape.gradient(targets, own if h is None else [*own, h], seeds)
            if start is not None:
                busy.insert(0, _moment(found) - start)
        handed_back = None if h is None else found.pop()
        gradients.insert(0, found)
    truncated = [likelihood.bits_per_dim(t, shape) for t in passage.truncated]
    total = tf.reduce_mean(truncated[-1]) if phase.end_to_end else tf.add_n(losses)
    return PlacedStep(total, truncated, gradients, crossing, busy)


def _moment(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns when the tensors are there, in seconds."""
    with tf.control_dependencies(tensors):
        return tf.timestamp()


def bytes_of_an_example(*batches: tf.Tensor) -> int:
    """Returns the size of what batches [B, …] hold for one example."""
    return sum(math.prod(batch.shape[1:]) * batch.dtype.size for batch in batches)
