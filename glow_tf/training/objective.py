"""What a phase minimises: the walk through the parts, the isolation at the cuts, the choice of the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

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


class HasLeft(Protocol):
    """What a visit to a part returns at least: the batch as it left the part."""

    @property
    def left(self) -> Passage:
        """The batch as it left the part."""


AnyVisit = TypeVar("AnyVisit", bound=HasLeft)


def visit_part(glow: Glow, passage: Passage, phase: Phase) -> Visit:
    """Takes a batch through its next part; the only place that isolates a cut and chooses a part's loss.

    Unless the phase is end to end, the batch enters the part isolated: no gradient crosses the cut. (Before
    the first part there is no cut, and isolating the data changes nothing.) The loss of a trained part is its
    own objective (Glow parts, Eq. 3). End to end, a part before the last has no objective; its loss is minus
    the log-likelihood so far, whose gradient with respect to the part's weights is the part's own term.
    """
    k = len(passage.truncated)
    entered = passage if phase.end_to_end else passage.isolated()
    left, objective = glow.through_next_part(entered, phase.scores(k, glow.parts[k].has_head))
    if phase.minimises_objective_of(k):
        loss = objective
    else:
        loss = -left.log_likelihood if phase.end_to_end else None
    return Visit(entered, left, loss)


def walk(passage: Passage, phase: Phase, visit: Callable[[Passage], AnyVisit]) -> list[AnyVisit]:
    """Takes a batch through every part that the phase evaluates; parts after the last trained one do not run.

    Args:
      passage: the batch before the first part, or before a part whose frozen prefix was cached.
      phase: which parts run.
      visit: takes the batch through its next part, by `visit_part`.

    Returns:
      What `visit` returned for each part that ran, in order.
    """
    visits: list[AnyVisit] = []
    while len(passage.truncated) <= phase.last:
        visits.append(visit(passage))
        passage = visits[-1].left
    return visits


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
    """Takes a batch through every part that the phase evaluates, in streams.

    Args:
      glow: the model.
      passage: as in `walk`.
      phase: which parts run, and whether gradients cross the cuts.
      reversible: activations are recomputed; then each stack of flow steps has streams of its own.

    Returns:
      The loss of every example that the phase minimises, [B], and for each part k that ran, the truncated
      negative log-likelihood: that of the flow that ends with part k, scored by k's local prior (Eq. 3, left
      side), [B], or NaN if the phase does not score the part; all in bits per dimension.
    """

    def run(*pieces: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        visits = walk(Passage(*pieces), phase, lambda at: visit_part(glow, at, phase))
        truncated = visits[-1].left.truncated
        loss = total_loss(phase, [visit.loss for visit in visits], truncated)
        shape = glow.image_shape
        return bits_per_dim(loss, shape), [bits_per_dim(t, shape) for t in truncated]

    return run(*passage) if reversible else in_streams(run, *passage)
