"""A batch's way through the parts: the isolation at the cuts, the choice of each part's loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.bijectors.mode import PLAIN, Mode, in_streams, mode_of_process
from glow_tf.model.flow import Flow
from glow_tf.model.passage import PartView, Passage
from glow_tf.training.batch import Batch
from glow_tf.training.objective import LocalObjective, losses_and_metrics

Seeds = Mapping[int, tf.Tensor]  # of the objectives that see whole batches, by part from 0; int32 [2]


class Visit(NamedTuple):
    """A batch's way through one part."""

    before: Passage  # as it entered the part
    after: Passage  # as it left the part
    view: PartView | None  # what the part saw and made; None if it was passed over


class Score(NamedTuple):
    """What a part's output is worth, in nats."""

    loss: tf.Tensor | None  # what the phase minimises here, [B]; None if no gradient runs through
    truncated_nll: tf.Tensor  # of the flow that ends with the part, [B]; NaN if it was passed over
    metrics: dict[str, tf.Tensor]  # of the objective that the phase minimises here, [B] each


class ForwardPass:
    """Takes batches forward through the parts of a model, as the phases of training say.

    An objective is what a part minimises alone.
    """

    def __init__(self, flow: Flow, objectives: Sequence[LocalObjective]):
        self.flow, self.objectives = flow, tuple(objectives)

    def visit(self, k: int, passage: Passage, phase: Phase, mode: Mode = PLAIN) -> Visit:
        """Takes a batch through part k (from 0): alone isolates a cut.

        Unless the phase joins the part to the one before, the batch enters it isolated: no gradient crosses
        the cut.
        """
        if self.flow.fixed_parts[k] and not phase.runs_both_ways(k):
            # What goes on depends on no weight, and the part's likelihood is in no loss here.
            return Visit(passage, self.flow.past_part(k, passage), None)
        before = passage if phase.joins(k) else passage.isolated()
        return Visit(before, *self.flow.through_part(k, before, mode))

    def score(self, k: int, visit: Visit, phase: Phase, mode: Mode, seed: tf.Tensor | None = None) -> Score:
        """Returns the score of a visit to part k (from 0): alone chooses a part's loss.

        The loss of the last part of a group is its local objective (Glow parts, Eq. 3), which may have random
        numbers of a seed; that of the others is their term of the model's negative log-likelihood.
        """
        (before, after, view), objective = visit, self.objectives[k]
        nll = after.truncated_nlls[-1]
        if not phase.runs_both_ways(k):
            return Score(None, nll, {})
        if not phase.minimises_objective_of(k):
            return Score(-view.log_likelihood_term, nll, {})
        with self.flow.on_device_of(k):
            losses, metrics = losses_and_metrics(objective, view._replace(seed=seed), mode)
            if objective.is_likelihood:
                nll = losses - before.log_likelihood
        return Score(losses, nll, {f"{name}_{k + 1}": values for name, values in metrics.items()})

    def evaluate(
        self,
        passage: Passage,
        phase: Phase,
        start: int = 0,
        mode: Mode = PLAIN,
        seeds: Seeds = MappingProxyType({}),
    ) -> tuple[tf.Tensor, list[tf.Tensor], dict[str, tf.Tensor]]:
        """Takes a batch that enters part `start` through the parts up to the phase's last, in streams.

        What streams make is joined before an objective sees it, unless that is `per_example`.

        Returns:
          The loss of every example that the phase minimises, [B], and for each part k that ran, the truncated
          negative log-likelihood: that of the flow that ends with part k, scored by k's base (Eq. 3, left
          side), or by its objective if the phase minimises that and it is a likelihood, [B], or NaN if the
          phase passes over the part; all in bits per dimension. And the metrics of objectives, [B] each.
        """
        shape = self.image_shape_of(passage, start)
        of_whole = [k for k in phase.ends if not self.objectives[k].per_example]

        def run(mode: Mode, *pieces: tf.Tensor) -> list[Visit | Score]:
            passage, found = Passage(*pieces), []
            for k in range(start, phase.last + 1):
                visit = self.visit(k, passage, phase, mode)
                passage = visit.after
                found.append(visit if k in of_whole else self.score(k, visit, phase, mode))
            return found

        scores = in_streams(run, mode, *passage)
        for k in of_whole:
            scores[k - start] = self.score(k, scores[k - start], phase, mode, seeds.get(k))
        truncated = [*passage.truncated_nlls, *(score.truncated_nll for score in scores)]
        losses = total_loss([score.loss for score in scores])
        return bits_per_dim(losses, shape), [bits_per_dim(t, shape) for t in truncated], metrics_of(scores)

    def bits_of_whole(self, batch: Batch, seed: int) -> tf.Tensor:
        """Returns the bits per dimension of the whole chain for each image of a batch, [B].

        The seed is of the dequantisation, where the batch has no noise.
        """
        v = self.flow.dequantized(batch["images"], batch.get("noise"), seed)

        def log_prob(mode: Mode, v: tf.Tensor, condition: Condition) -> tf.Tensor:
            return self.flow.dequantized_log_prob(v, condition, mode)

        nll = -in_streams(log_prob, mode_of_process(), v, batch.get("condition"))
        return bits_per_dim(nll, v.shape[1:])

    def image_shape_of(self, passage: Passage, start: int) -> tuple[int, int, int]:
        """Returns (H, W, C) of the images of what enters part `start`; without a cache they may be crops."""
        return self.flow.image_shape if start else tuple(passage.h.shape[1:])

    def variables_of(self, k: int) -> list[keras.Variable]:
        """Returns what the optimizer of part k (from 0) is made for: the weights of part and objective."""
        return [*self.flow.parts[k].trainable_variables, *self.objectives[k].trainable_variables]

    def trained_variables(self, phase: Phase) -> list[list[keras.Variable]]:
        """Returns, for each active part, the variables that the phase trains.

        Where a part's own objective is not minimised, its local base is in no loss and stays as it is.
        """
        return [
            self.variables_of(k) if phase.minimises_objective_of(k) else self.flow.parts[k].flow_variables
            for k in phase.active
        ]


def total_loss(losses: Sequence[tf.Tensor | None]) -> tf.Tensor:
    """Returns the loss of a phase, the sum of those of its parts, of any shape and unit."""
    return tf.add_n([loss for loss in losses if loss is not None])


def metrics_of(scores: Iterable[Score]) -> dict[str, tf.Tensor]:
    """Returns the metrics of all objectives of a phase, [B] each."""
    return {name: values for score in scores for name, values in score.metrics.items()}
