"""What crosses the cuts, and what a part saw and made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf.bijectors.condition import Condition


class Passage(NamedTuple):
    """A batch on its way through the parts."""

    h: tf.Tensor  # output of the last part that has run, or the input of the first part, [B, H, W, C]
    log_likelihood: tf.Tensor  # terms of dequantisation and of the parts that have run, [B], nats
    # Per part that has run, the negative log-likelihood of the flow that ends with it, [B], nats; NaN of a
    # part that was passed over.
    truncated_nlls: tuple[tf.Tensor, ...] = ()
    condition: Condition = None  # what the model is given with each example, if anything

    @classmethod
    def specs(cls, shape: Sequence[int], before: int, dtype: str, condition: Any = None) -> Passage:
        """Returns what crosses a cut, as tensor specs of examples: caches and devices map over it.

        The shape is that of h, `before` the number of parts before the cut. `condition` has the specs of what
        an example is given.
        """
        number = tf.TensorSpec((), dtype)
        return cls(tf.TensorSpec(shape, dtype), number, (number,) * before, condition)

    def map(self, function: Callable[..., Any], *others: Passage) -> Passage:
        """Returns a function of each member, and of those of others; what is None stays so."""
        return tf.nest.map_structure(lambda *own: None if own[0] is None else function(*own), self, *others)

    def isolated(self) -> Passage:
        """Returns the passage with the gradient through h stopped, h still [B, H, W, C].

        This is the only place where parts are isolated. `log_likelihood` and `truncated_nlls` need no such
        stop, because the local objectives of later parts do not contain them.
        """
        return self._replace(h=tf.stop_gradient(self.h))


class PartView(NamedTuple):
    """What a part saw and made: all that a local objective may be a function of.

    Attributes:
      input: of the part, [B, H, W, C].
      output: h_k, what goes on to the next part, [B, H', W', C'].
      latents: the latents that the splits inside the part factored out, whitened, in forward order.
      latents_log_prob: Σ log p(z | h) of the factored-out latents, [B], nats.
      log_det: log|det| of the part's flow steps, [B], nats.
      condition: what the model is given with each example; None if nothing.
      given: what the part's bijectors read of it.
      truncated_nll: the part's own negative log-likelihood with its base of the output, [B], nats.
      seed: for random numbers of `tf.random.stateless_uniform` and its like, int32 [2]. It follows from the
        seed of the run, the part, the number of the step and the replica; None where there is no step, or
        the objective is `per_example`.
    """

    input: tf.Tensor
    output: tf.Tensor
    latents: tuple[tf.Tensor, ...]
    latents_log_prob: tf.Tensor
    log_det: tf.Tensor
    condition: Condition
    given: Condition
    truncated_nll: tf.Tensor
    seed: tf.Tensor | None = None

    @property
    def log_likelihood_term(self) -> tf.Tensor:
        """The part's term of the whole model's log-likelihood, without a base of h; [B], nats."""
        return self.latents_log_prob + self.log_det
