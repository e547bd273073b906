"""Queues between parts on their own devices, so that all parts work at the same time."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from glow_tf.model.conditions import specs_of_condition
from glow_tf.model.glow import Glow
from glow_tf.model.passage import Passage


class DelayQueues:
    """A queue before every part but the first, in which each batch waits for `delay` steps.

    While part 1 works on a batch, part 2 works on the one from `delay` steps ago, and so on. No gradient goes
    back, so each part sees the same batches, made with the same weights, as it would without queues. Only a
    step that is skipped differs: every part loses the batch that it has, and those are not the same. (What is
    then said of the place at fault is looked for with the newest batch, that of part 1.)

    An epoch: `start`, then one `arrived` per training step, then `flush`.

    Each queue is on the device of the part after it. `batch_spec` is the `element_spec` of the training data,
    with a known batch size.
    """

    def __init__(self, glow: Glow, batch_spec: Any, delay: int):
        self.delay = delay
        self.batch_spec = batch_spec
        self._num_parts = len(glow.parts)
        self._step = tf.Variable(0, trainable=False)
        self._batches = tf.Variable(0, trainable=False)
        size = tf.nest.flatten(batch_spec)[0].shape[0]
        condition = specs_of_condition(glow.config, glow.compute_dtype)
        self._places: dict[int, list[Passage]] = {}  # before a part, oldest first
        self._on_device_of = glow.on_device_of
        for k in range(1, self._num_parts):
            shape = glow.parts[k - 1].output_event_shape
            specs = Passage.specs(shape, k, glow.compute_dtype, condition)
            with glow.on_device_of(k):
                self._places[k] = [specs.map(functools.partial(_zeros, size)) for _ in range(delay)]

    def start(self) -> None:
        """Starts an epoch: what the queues still hold belongs to no batch of it, and may not be finite."""
        for place in itertools.chain.from_iterable(self._places.values()):
            place.map(lambda variable: variable.assign(tf.zeros_like(variable)))
        self._step.assign(0)
        self._batches.assign(self._batches.dtype.max // 2)  # unknown until `flush`

    def arrived(self) -> list[tf.Tensor]:
        """Counts a step; returns for each part whether it has a batch of this epoch to work on, bool []."""
        step = self._step.assign_add(1)
        behind = [k * self.delay for k in range(self._num_parts)]
        return [(step > late) & (step <= self._batches + late) for late in behind]

    def exchange(self, k: int, passage: Passage) -> Passage:
        """Puts a batch into the queue before part k, and returns the one that has waited there longest."""
        with self._on_device_of(k):
            waiting = [place.map(lambda variable: variable.read_value()) for place in self._places[k]]
            for place, values in zip(self._places[k], [*waiting[1:], passage], strict=True):
                place.map(lambda variable, value: variable.assign(value), values)
            return waiting[0]

    def flush(self, step: Callable[[Iterator], Any]) -> None:
        """Ends an epoch: runs the queued batches through the remaining parts, by the train function."""
        self._batches.assign(self._step)
        nothing = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), self.batch_spec)
        batches = iter(tf.data.Dataset.from_tensors(nothing).repeat())
        for _ in range((self._num_parts - 1) * self.delay):
            step(batches)


def _zeros(size: int, spec: tf.TensorSpec) -> tf.Variable:
    return tf.Variable(tf.zeros([size, *spec.shape], spec.dtype), trainable=False)
