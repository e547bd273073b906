"""Finds out where a number stopped being finite, and what is to be known about training that diverged."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.core.errors import DivergedError, NonFiniteError
from glow_tf.layout.schedule import Phase
from glow_tf.model.glow import Glow
from glow_tf.model.parts import PartOutput
from glow_tf.training.conditioning import largest_log_scales
from glow_tf.training.step.divergence import Observed

ADVICE = "A lower learning rate or a longer warm-up usually helps; so does clip_norm, where it is 0."


class Seen(NamedTuple):
    """The batch of a step: `v`, dequantised, [B, H, W, C], and what the model is given with each image."""

    v: tf.Tensor
    condition: Condition = None


def explain_non_finite(
    glow: Glow, phase: Phase, step: int, in_a_row: int, seen: Seen, loss: float, norms: Sequence[float]
) -> NonFiniteError:
    """Describes the first bijector whose output is not finite for a batch, with the weights before the step.

    `step` steps trained the last part before this one, which is the last of `in_a_row` that were not finite.
    The loss is in bits/dim; the norms are those of the gradients. The message names the step, the place, the
    conditioning and the remedy.
    """
    bad = [k for k, n in zip(phase.active, norms, strict=True) if not math.isfinite(n)]
    where = _first_fault(glow, phase, seen)
    if where is None:
        names = ", ".join(str(k + 1) for k in bad)
        fault = f"the norm of the gradient of part {names}" if bad else "the objective"
        where = f"every output is finite, but not {fault}"
    at = f"in phase '{phase}', step {step} of part {phase.last + 1}"
    return NonFiniteError(
        f"Training stopped: not finite {at} (loss {loss:.6g} bits/dim, gradient norms "
        f"{[float(f'{n:.4g}') for n in norms]}): {where}. {_conditioning(glow, seen)} "
        f"{'' if in_a_row == 1 else f'It is the last of {in_a_row} such steps in a row. '}"
        f"No step that is not finite changes a weight. {ADVICE}",
        # Parts after one whose output is not finite are not finite either.
        phase.active if phase.end_to_end or not bad else bad[:1],
        f"the loss or a gradient was not finite {at}",
    )


def explain_divergence(
    glow: Glow, phase: Phase, step: int, seen: Seen, observed: Observed, rows: tuple[list[int], list[int]]
) -> DivergedError:
    """Describes a step that was outside of its band, after too many of them, with the weights after it.

    `rows` are those of the losses and of the norms that the phase watches; see `explain_non_finite`.
    """
    what, at_fault = [], []
    for names, unit, kinds in ((phase.ends, " bits/dim", rows[0]), (phase.active, "", rows[1])):
        for k, row in zip(names, kinds, strict=True):
            if observed.outside[row]:
                kind = "loss" if unit else "gradient norm"
                numbers = f"{observed.values[row]:.6g}{unit}, median {observed.medians[row]:.6g}"
                what.append(f"the {kind} of part {k + 1} is {numbers}")
                at_fault.append(k)
    at = f"in phase '{phase}', step {step} of part {phase.last + 1}"
    return DivergedError(
        f"Training stopped: it diverged {at}: {'; '.join(what)}. It is the last of "
        f"{int(observed.consecutive)} such steps in a row. {_widest(glow, phase, seen)} "
        f"{_conditioning(glow, seen)} The last checkpoint is kept. {ADVICE}",
        phase.active if phase.end_to_end else [min(at_fault)],
        f"{what[0]}, {at}",
    )


def _conditioning(glow: Glow, seen: Seen) -> str:
    convolution, coupling = largest_log_scales(glow, *seen)
    return f"Largest |log s|: of a 1×1 convolution {convolution}; of a coupling {coupling}."


def _widest(glow: Glow, phase: Phase, seen: Seen) -> str:
    """Says which bijector's input is largest."""
    largest, place = -1.0, ""
    for where, x, _ in _walk(glow, phase, seen, priors=False):
        size = float(tf.reduce_max(tf.abs(x)))
        if not size <= largest:
            largest, place = size, where
    return f"The largest inputs are those of {place}."


def _first_fault(glow: Glow, phase: Phase, seen: Seen) -> str | None:
    for where, _, made in _walk(glow, phase, seen):
        if not all(bool(tf.reduce_all(tf.math.is_finite(tensor))) for tensor in made):
            return where
    return None


def _walk(
    glow: Glow, phase: Phase, seen: Seen, priors: bool = True
) -> Iterator[tuple[str, tf.Tensor, list[tf.Tensor]]]:
    """Runs the parts step by step; yields each step's place, its input, what it made; of priors, too."""
    h = glow.dequantize.forward(seen.v)
    for k, part in enumerate(glow.parts[: phase.last + 1], start=1):
        given, output = part.read(seen.condition), PartOutput.start(h)
        for bijector in part.bijectors:
            for name, forward in bijector.steps():
                x, output = output.h, forward(output, *bijector.read(given))
                where = f"part {k}, bijector {name}, whose inputs range over {_range(x)}"
                yield where, x, [output.h, output.log_likelihood_term]
        h = output.h
        if priors and phase.minimises_objective_of(k - 1):
            where = f"part {k}, the prior of its output, which ranges over {_range(h)}"
            yield where, h, [part.prior.log_prob(h, given)]


def _range(x: tf.Tensor) -> str:
    return f"[{float(tf.reduce_min(x)):.6g}, {float(tf.reduce_max(x)):.6g}]"
