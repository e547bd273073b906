"""The gradients of one training step, on one device or on each part's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from glow_tf.glow import Glow, Passage
from glow_tf.likelihood import bits_per_dim
from glow_tf.schedule import Phase
from glow_tf.training.queues import DelayQueues
from glow_tf.training.walk import Walk, total_loss

Groups = Sequence[Sequence[keras.Variable]]


class StepGradients(NamedTuple):
    """What the forward and backward pass of a training step compute.

    Attributes:
      loss: what the phase minimises, [], bits per dimension.
      truncated: truncated negative log-likelihood up to each part that ran, [B], bits per dimension.
      gradients: of each active part's variables, in the order of the variables; summed over replicas.
      busy: for parts on their own devices, seconds from each active part's input to its last gradient, [];
        empty in an end-to-end phase, where a part has two turns.
      weight: 0 or 1 for every example, [B]; None if all have weight 1.
      arrived: for each part whether it had a batch, bool []; None if every part had.
    """

    loss: tf.Tensor
    truncated: Sequence[tf.Tensor]
    gradients: list[list[tf.Tensor]]
    busy: list[tf.Tensor]
    weight: tf.Tensor | None = None
    arrived: Sequence[tf.Tensor] | None = None


def gradients_together(
    evaluate: Callable[[], tuple[tf.Tensor, Sequence[tf.Tensor]]],
    groups: Groups,
    weight: tf.Tensor | None = None,
) -> StepGradients:
    """Computes the gradients of a step with one tape.

    Only the phase's variables are watched, so nothing is recorded before the first active part.

    Args:
      evaluate: runs the model; returns the loss of every example [B] and the truncated negative
        log-likelihoods [B], in bits per dimension.
      groups: the trained variables of each active part.
      weight: 0 or 1 for every example, [B], where replicas may have batches of different sizes; None if all
        have the same size.
    """
    variables = [v.value for group in groups for v in group]
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        losses, truncated = evaluate()
        loss = mean_over_examples(losses, weight)
        if weight is None:
            scaled = loss / replicas  # the replicas' gradients are summed
        else:
            counts = tf.cast(weight, losses.dtype)
            examples = _over_replicas(tf.reduce_sum(counts), replicas)
            scaled = tf.math.divide_no_nan(tf.reduce_sum(counts * losses), examples)
    flat = _over_replicas(tape.gradient(scaled, variables), replicas)
    remaining = iter(flat)
    of_parts = [[next(remaining) for _ in group] for group in groups]
    return StepGradients(loss, truncated, of_parts, [], weight)


def mean_over_examples(values: tf.Tensor, weight: tf.Tensor | None) -> tf.Tensor:
    """Returns the mean of values [B] over the examples whose weight is 1, [], or 0 if there are none."""
    if weight is None:
        return tf.reduce_mean(values)
    weight = tf.cast(weight, values.dtype)
    return tf.math.divide_no_nan(tf.reduce_sum(weight * values), tf.reduce_sum(weight))


def _over_replicas(values: Any, replicas: int) -> Any:
    """Returns the sum of tensors over the replicas."""
    if replicas == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)


def gradients_by_device(
    walk: Walk,
    passage: Passage,
    phase: Phase,
    groups: Groups,
    queues: DelayQueues | None,
    weight: tf.Tensor | None = None,
) -> StepGradients:
    """Computes the gradients of a step, each part's on the part's own device.

    A tape does not remember where it recorded, so every part has its own tape. Where gradients cross a cut,
    that of a part's input is handed back to the part before it.

    Args:
      walk: through a model whose parts have devices.
      passage: a batch before the first part.
      phase: which parts run, and whether gradients cross the cuts.
      groups: the trained variables of each active part.
      queues: where batches wait between parts; None if they do not.
      weight: 0 or 1 for every example, [B]; None if all have weight 1.
    """
    watched = {k: [v.value for v in group] for k, group in zip(phase.active, groups, strict=True)}

    def visit(passage: Passage) -> _Record:
        k = len(passage.truncated)
        if queues is not None and k > 0:
            passage = queues.exchange(k, passage)
        return _forward(walk, passage, phase, watched.get(k, []), weight)

    records = walk.through(passage, phase, visit)
    gradients, busy = _backward(walk.glow, phase, watched, records)
    truncated = [bits_per_dim(t, walk.glow.image_shape) for t in records[-1].after.truncated]
    return StepGradients(total_loss(records), truncated, gradients, busy, weight)


class _Record(NamedTuple):
    """What a part's forward pass leaves for its backward pass."""

    tape: tf.GradientTape
    input: tf.Tensor
    after: Passage
    loss: tf.Tensor | None
    start: tf.Tensor | None


def _forward(
    walk: Walk, passage: Passage, phase: Phase, variables: list[tf.Variable], weight: tf.Tensor | None
) -> _Record:
    k = len(passage.truncated)
    with walk.glow.on_device_of(k):
        if phase.joins(k):  # the copy on this device: what is handed back is its gradient
            passage = passage._replace(h=tf.identity(passage.h))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([*variables, passage.h] if phase.joins(k) else variables)
            visit = walk.visit(passage, phase)
            loss = visit.loss
            if loss is not None:
                loss = mean_over_examples(bits_per_dim(loss, walk.glow.image_shape), weight)
        start = None if phase.end_to_end else _moment([visit.before.h])
    return _Record(tape, visit.before.h, visit.after, loss, start)


def _backward(
    glow: Glow, phase: Phase, watched: Mapping[int, list[tf.Variable]], records: Sequence[_Record]
) -> tuple[list[list[tf.Tensor]], list[tf.Tensor]]:
    """Returns the gradients of each active part, and how long each was busy."""
    gradients: list[list[tf.Tensor]] = []
    busy: list[tf.Tensor] = []
    handed_back = None
    for k in (k for group in reversed(phase.groups) for k in reversed(group)):
        record, own = records[k], watched.get(k, [])
        targets, seeds = [record.loss], [tf.ones_like(record.loss)]
        if handed_back is not None:
            targets, seeds = [record.loss, record.after.h], [*seeds, handed_back]
        sources = [*own, record.input] if phase.joins(k) else own
        with glow.on_device_of(k):
            found = record.tape.gradient(targets, sources, seeds)
            if record.start is not None:
                busy.insert(0, _moment(found) - record.start)
        handed_back = found.pop() if phase.joins(k) else None
        if k in phase.active:
            gradients.insert(0, found)
    return gradients, busy


def _moment(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the time at which the tensors are there, in seconds, []."""
    with tf.control_dependencies(tensors):
        return tf.timestamp()
