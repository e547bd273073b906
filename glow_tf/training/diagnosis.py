"""Finds out where a number stopped being finite."""

import math
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from glow_tf.bijectors import Split, Stack
from glow_tf.glow import Glow
from glow_tf.parts import Part
from glow_tf.schedule import Phase


def explain_non_finite(
    glow: Glow,
    phase: Phase,
    step: int,
    in_a_row: int,
    v: tf.Tensor,
    loss: float,
    gradient_norms: Sequence[float],
) -> str:
    """Describes the first bijector whose output is not finite for a batch.

    Args:
      glow: with the weights of the failed step.
      phase: which parts ran.
      step: the number of steps that trained the last part before this one.
      in_a_row: how many steps in a row were not finite; this one is the last of them.
      v: the batch, dequantised, [B, H, W, C].
      loss: the step's loss, bits/dim.
      gradient_norms: of each active part.

    Returns:
      Sentences that name the step, the place and the remedy.
    """
    where = _first_fault(glow, phase, v)
    if where is None:
        bad = [k + 1 for k, n in zip(phase.active, gradient_norms, strict=True) if not math.isfinite(n)]
        where = f"every output is finite, but not the gradient of part {', '.join(map(str, bad)) or '?'}"
    return (
        f"Training stopped: not finite in phase '{phase}', step {step} of part {phase.last + 1} "
        f"(loss {loss:.6g} bits/dim, gradient norms {[float(f'{n:.4g}') for n in gradient_norms]}): {where}. "
        f"{_skipped(in_a_row)} and the last checkpoint is kept. A lower learning rate, a longer warm-up or "
        "gradient clipping usually helps."
    )


def _skipped(in_a_row: int) -> str:
    if in_a_row == 1:
        return "No weight was changed by this step"
    return f"It is the last of {in_a_row} such steps in a row; none of them changed a weight,"


def _first_fault(glow: Glow, phase: Phase, v: tf.Tensor) -> str | None:
    h = glow.dequantize.forward(v)
    for k, part in enumerate(glow.parts[: phase.last + 1], start=1):
        for name, forward in _one_by_one(part):
            before = h
            h, *others = forward(h)
            if not all(bool(tf.reduce_all(tf.math.is_finite(t))) for t in (h, *others)):
                return f"part {k}, bijector {name}, whose inputs range over {_range(before)}"
        if phase.minimises_objective_of(k - 1) and not bool(
            tf.reduce_all(tf.math.is_finite(part.prior.log_prob(h)))
        ):
            return f"part {k}, the prior of its output, which ranges over {_range(h)}"
    return None


def _one_by_one(part: Part) -> Iterator[tuple[str, Callable]]:
    """Yields the name and the forward function of every bijector, and of every copy in a stack."""
    for bijector in part.bijectors:
        if isinstance(bijector, Split):
            yield bijector.name, bijector.factor_out
        elif isinstance(bijector, Stack):
            for k in range(bijector.count):
                with bijector.copy(k) as copy:
                    yield f"{bijector.name} (number {k + 1} of {bijector.count})", copy.forward_and_log_det
        else:
            yield bijector.name, bijector.forward_and_log_det


def _range(x: tf.Tensor) -> str:
    return f"[{float(tf.reduce_min(x)):.6g}, {float(tf.reduce_max(x)):.6g}]"
