"""The gradients of one training step, on one device or on each part's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.bijectors.mode import Mode
from glow_tf.devices.workers import sums_over_replicas
from glow_tf.model.flow import Flow
from glow_tf.model.passage import Passage
from glow_tf.training.forward_pass import ForwardPass, Score, Seeds, metrics_of, total_loss

Weight = tf.Tensor | None  # 0 or 1 for every example, [B]; None if all have weight 1


class StepGradients(NamedTuple):
    """What the forward and backward pass of a training step compute; losses are in bits per dimension."""

    loss: tf.Tensor  # what the phase minimises, []
    truncated_nlls: Sequence[tf.Tensor]  # truncated negative log-likelihood up to each part that ran, [B]
    gradients: list[list[tf.Tensor]]  # of each active part's variables, summed over the replicas
    metrics: Mapping[str, tf.Tensor]  # of the objectives that the phase minimises, [B] each
    weight: Weight = None


class OneTape:
    """Computes the gradients of a step with one tape, where all parts share a device.

    Only the phase's variables are watched, so nothing is recorded before the first active part.
    """

    def __init__(self, forward: ForwardPass):
        self._forward = forward
        self._replicas = tf.distribute.get_strategy().num_replicas_in_sync

    def __call__(
        self, passage: Passage, phase: Phase, start: int, weight: Weight, mode: Mode, seeds: Seeds
    ) -> StepGradients:
        """Returns the gradients of a step, whose objectives have seeds.

        The batch enters part `start` (from 0): the first, or the one whose frozen prefix was cached. It has
        weights where replicas may have batches of different sizes.
        """
        groups = self._forward.trained_variables(phase)
        variables = [v.value for group in groups for v in group]
        replicas = self._replicas
        over_replicas = sums_over_replicas if replicas > 1 else list
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses, truncated, metrics = self._forward.evaluate(passage, phase, start, mode, seeds)
            loss = mean_over_examples(losses, weight)
            if weight is None:
                scaled = loss / replicas  # the replicas' gradients are summed
            else:
                counts = tf.cast(weight, losses.dtype)
                (examples,) = over_replicas([tf.reduce_sum(counts)])
                scaled = tf.math.divide_no_nan(tf.reduce_sum(counts * losses), examples)
        # A loss need not depend on all that its part has, such as the base of a split.
        gradients = tape.gradient(scaled, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        remaining = iter(over_replicas(gradients))
        of_parts = [[next(remaining) for _ in group] for group in groups]
        return StepGradients(loss, truncated, of_parts, metrics, weight)


def mean_over_examples(values: tf.Tensor, weight: Weight) -> tf.Tensor:
    """Returns the mean of values [B] over the examples whose weight is 1, [], or 0 if there are none."""
    if weight is None:
        return tf.reduce_mean(values)
    weight = tf.cast(weight, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(weight * values), tf.reduce_sum(weight))


class TapePerPart:
    """Computes the gradients of a step on the devices of the parts.

    A tape does not remember where it recorded, so every part has its own tape. Where gradients cross a cut,
    that of a part's input is handed back to the part before it.
    """

    def __init__(self, forward: ForwardPass):
        self._forward = forward

    def __call__(
        self, passage: Passage, phase: Phase, start: int, weight: Weight, mode: Mode, seeds: Seeds
    ) -> StepGradients:
        """Returns the gradients of a step; see `OneTape`."""
        forward = self._forward
        groups = forward.trained_variables(phase)
        watched = {k: [v.value for v in group] for k, group in zip(phase.active, groups, strict=True)}
        shape, before = forward.image_shape_of(passage, start), passage.truncated_nlls

        def mean_bits(nats: tf.Tensor) -> tf.Tensor:
            return mean_over_examples(bits_per_dim(nats, shape), weight)

        records: dict[int, _Record] = {}
        for k in range(start, phase.last + 1):
            with forward.flow.on_device_of(k):
                if phase.joins(k):  # the copy on this device: what is handed back is its gradient
                    passage = passage._replace(h=tf.identity(passage.h))
                sources = [*watched.get(k, []), *([passage.h] if phase.joins(k) else [])]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(sources)
                    visit = forward.visit(k, passage, phase, mode)
                    score = forward.score(k, visit, phase, mode, seeds.get(k))
                    loss = None if score.loss is None else mean_bits(score.loss)
            records[k] = _Record(tape, visit.before.h, visit.after, score, loss)
            passage = records[k].after
        gradients = _backward(forward.flow, phase, watched, records)
        scores = [record.score for record in records.values()]
        truncated = [bits_per_dim(t, shape) for t in (*before, *(score.truncated_nll for score in scores))]
        loss = total_loss([record.loss for record in records.values()])
        return StepGradients(loss, truncated, gradients, metrics_of(scores), weight)


class _Record(NamedTuple):
    """What a part's forward pass leaves for its backward pass."""

    tape: tf.GradientTape
    input: tf.Tensor
    after: Passage
    score: Score
    loss: tf.Tensor | None  # its mean over the examples, [], bits per dimension


def _backward(
    flow: Flow, phase: Phase, watched: Mapping[int, list[tf.Variable]], records: Mapping[int, _Record]
) -> list[list[tf.Tensor]]:
    """Returns the gradients of each active part."""
    gradients: list[list[tf.Tensor]] = []
    handed_back = None
    for k in (k for group in reversed(phase.groups) for k in reversed(group)):
        record, own = records[k], watched.get(k, [])
        targets, seeds = [record.loss], [tf.ones_like(record.loss)]
        if handed_back is not None:
            targets, seeds = [record.loss, record.after.h], [*seeds, handed_back]
        sources = [*own, record.input] if phase.joins(k) else own
        with flow.on_device_of(k):
            found = record.tape.gradient(targets, sources, seeds, tf.UnconnectedGradients.ZERO)
        handed_back = found.pop() if phase.joins(k) else None
        if k in phase.active:
            gradients.insert(0, found)
    return gradients
