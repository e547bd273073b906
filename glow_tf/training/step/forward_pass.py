"""A batch's way through the parts: the isolation at the cuts, the choice of each part's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.bijectors.mode import PLAIN, Mode, in_streams, mode_of_process
from glow_tf.core.errors import ConfigError
from glow_tf.model.glow import Glow
from glow_tf.model.passage import Passage
from glow_tf.training.feed.batch import Batch
from glow_tf.training.step.objective import LocalObjective


class Visit(NamedTuple):
    """A batch's way through one part."""

    before: Passage  # as it entered the part
    after: Passage  # as it left the part
    loss: tf.Tensor | None  # what the phase minimises here, [B], nats; None if no gradient runs through


class ForwardPass:
    """Takes batches forward through the parts of a model, as the phases of training say.

    An objective is what a part minimises alone.
    """

    def __init__(self, glow: Glow, objectives: Sequence[LocalObjective]):
        self.glow, self.objectives = glow, tuple(objectives)

    def visit(self, k: int, passage: Passage, phase: Phase, mode: Mode = PLAIN) -> Visit:
        """Takes a batch through part k (from 0): alone isolates a cut and chooses a part's loss.

        Unless the phase joins the part to the one before, the batch enters it isolated: no gradient crosses
        the cut. The loss of the last part of a group is its local objective (Glow parts, Eq. 3); that of the
        others is their term of the model's negative log-likelihood.
        """
        if self.glow.fixed_parts[k] and not phase.runs_both_ways(k):
            # What goes on depends on no weight, and the part's likelihood is in no loss here.
            return Visit(passage, self.glow.past_part(k, passage), None)
        before, objective = passage if phase.joins(k) else passage.isolated(), self.objectives[k]
        after, view = self.glow.through_part(k, before, mode)
        loss = None
        if phase.minimises_objective_of(k):
            with self.glow.on_device_of(k):
                loss = objective.losses_in(view, mode)
                if loss.shape.rank != 1:
                    raise ConfigError(
                        "an objective must return a loss for each example, [B]. "
                        f"Received: {loss.shape}, for part {k + 1}"
                    )
                if objective.is_likelihood:
                    after = after.scored(loss - before.log_likelihood)
        elif phase.runs_both_ways(k):
            loss = -view.log_likelihood_term
        return Visit(before, after, loss)

    def evaluate(
        self, passage: Passage, phase: Phase, start: int = 0, mode: Mode = PLAIN
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Takes a batch that enters part `start` through the parts up to the phase's last, in streams.

        Returns:
          The loss of every example that the phase minimises, [B], and for each part k that ran, the truncated
          negative log-likelihood: that of the flow that ends with part k, scored by k's prior (Eq. 3, left
          side), or by its objective if the phase minimises that and it is a likelihood, [B], or NaN if the
          phase passes over the part; all in bits per dimension.
        """
        shape = self.image_shape_of(passage, start)

        def run(mode: Mode, *pieces: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            passage, losses = Passage(*pieces), []
            for k in range(start, phase.last + 1):
                _, passage, loss = self.visit(k, passage, phase, mode)
                losses.append(loss)
            return bits_per_dim(total_loss(losses), shape), [
                bits_per_dim(t, shape) for t in passage.truncated_nlls
            ]

        return in_streams(run, mode, *passage)

    def bits_of_whole(self, batch: Batch, seed: int) -> tf.Tensor:
        """Returns the bits per dimension of the whole chain for each image of a batch, [B].

        The seed is of the dequantisation, where the batch has no noise.
        """
        v = self.glow.dequantized(batch["images"], batch.get("noise"), seed)

        def log_prob(mode: Mode, v: tf.Tensor, condition: Condition) -> tf.Tensor:
            return self.glow.dequantized_log_prob(v, condition, mode)

        nll = -in_streams(log_prob, mode_of_process(), v, batch.get("condition"))
        return bits_per_dim(nll, v.shape[1:])

    def image_shape_of(self, passage: Passage, start: int) -> tuple[int, int, int]:
        """Returns (H, W, C) of the images of what enters part `start`; without a cache they may be crops."""
        return self.glow.image_shape if start else tuple(passage.h.shape[1:])

    def variables_of(self, k: int) -> list[keras.Variable]:
        """Returns what the optimizer of part k (from 0) is made for: the weights of part and objective."""
        return [*self.glow.parts[k].trainable_variables, *self.objectives[k].trainable_variables]

    def trained_variables(self, phase: Phase) -> list[list[keras.Variable]]:
        """Returns, for each active part, the variables that the phase trains.

        Where a part's own objective is not minimised, its local prior is in no loss and stays as it is.
        """
        return [
            self.variables_of(k) if phase.minimises_objective_of(k) else self.glow.parts[k].flow_variables
            for k in phase.active
        ]


def total_loss(losses: Sequence[tf.Tensor | None]) -> tf.Tensor:
    """Returns the loss of a phase, the sum of those of its parts, of any shape and unit."""
    return tf.add_n([loss for loss in losses if loss is not None])
