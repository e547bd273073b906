"""What a phase minimises: the one walk through the parts, with the cuts isolated and the loss chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from glow_tf.glow import Glow, Passage
from glow_tf.likelihood import bits_per_dim
from glow_tf.pieces import in_streams
from glow_tf.schedule import Phase


class Visit(NamedTuple):
    """A batch's way through one part.

    Attributes:
      entered: the batch as it entered the part.
      left: the batch as it left the part.
      loss: what the phase minimises in this part, [B], nats; None if the part is not trained.
    """

    entered: Passage
    left: Passage
    loss: tf.Tensor | None


def visit_next_part(glow: Glow, passage: Passage, phase: Phase) -> Visit:
    """Takes a batch through its next part, as the phase says.

    Unless the phase is end to end, the batch enters the part isolated: no gradient crosses the cut. A part
    that the phase trains on its own objective (Glow parts, Eq. 3) has that as its loss. End to end, a part
    before the last has as its loss what the parts so far contribute to the negative log-likelihood.
    """
    k = len(passage.truncated)
    entered = passage if phase.end_to_end else passage.isolated()
    left, objective = glow.through_next_part(entered)
    if phase.minimises_objective_of(k):
        loss = objective
    else:
        loss = -left.log_likelihood if phase.end_to_end else None
    return Visit(entered, left, loss)


def walk(glow: Glow, passage: Passage, phase: Phase) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
    """Takes a batch through every part that the phase evaluates; parts after the last trained one do not run.

    Args:
      glow: the model.
      passage: the batch before the first part, or before a part whose frozen prefix was cached.
      phase: which parts run, and whether gradients cross the cuts.

    Returns:
      The loss of every example that the phase minimises, [B], and for each part k that ran the truncated
      negative log-likelihood up to k (Eq. 3's left side, with the local prior of h_k), [B]; in nats.
    """
    visits: list[Visit] = []
    while len(passage.truncated) <= phase.last:
        visits.append(visit_next_part(glow, passage, phase))
        passage = visits[-1].left
    return total_loss(phase, [visit.loss for visit in visits], passage.truncated), passage.truncated


def total_loss(phase: Phase, losses: Sequence[tf.Tensor | None], truncated: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the loss of a phase from the losses of its parts, of any shape and unit.

    Args:
      phase: what is trained.
      losses: of every part that ran; None where the part is not trained.
      truncated: the truncated negative log-likelihoods up to every part that ran.
    """
    if phase.end_to_end:
        return truncated[-1]
    return tf.add_n([loss for loss in losses if loss is not None])


def trained_variables(glow: Glow, phase: Phase) -> list[list[keras.Variable]]:
    """Returns, for each active part, the variables that the phase trains.

    Where a part's own objective is not minimised, its local prior is in no loss and stays as it is.
    """
    return [
        glow.parts[k].trainable_variables if phase.minimises_objective_of(k) else glow.parts[k].flow_variables
        for k in phase.active
    ]


def evaluate(
    glow: Glow, passage: Passage, phase: Phase, *, reversible: bool = False
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Does what `walk` does in bits per dimension, in streams.

    Args:
      glow: the model.
      passage: as in `walk`.
      phase: as in `walk`.
      reversible: activations are recomputed; then each stack of flow steps has streams of its own.
    """

    def run(*pieces: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        loss, truncated = walk(glow, Passage(*pieces), phase)
        shape = glow.image_shape
        return bits_per_dim(loss, shape), [bits_per_dim(t, shape) for t in truncated]

    return run(*passage) if reversible else in_streams(run, *passage)
