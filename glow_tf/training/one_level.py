"""The evaluation of levels of which one alone is trained."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow as tf

from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.bijectors.pieces import in_streams
from glow_tf.model.passage import Passage
from glow_tf.training.feed.batch import Batch, entering
from glow_tf.training.metrics import MeanAndError
from glow_tf.training.trainer import PartsTrainer


class OneLevel:
    """Evaluates levels of which part k (from 0) alone changes, on one replica.

    Levels share nothing, so the terms of the other parts are computed once, image by image, and kept.
    """

    def __init__(self, model: PartsTrainer, k: int):
        self._glow, self._k = model.glow, k
        compiled = functools.partial(tf.function, autograph=False, jit_compile=model.jit_compile or None)
        others = [j for j in range(len(model.glow.parts)) if j != k]
        self._own, self._others = (compiled(functools.partial(self._nll, parts)) for parts in ([k], others))
        self._kept: dict[str, list[tf.Tensor]] = {}

    def evaluate(self, name: str, batches: tf.data.Dataset) -> dict[str, tf.Tensor]:
        """Returns `bpd` and `bpd_se` of batches with noise and weights, always the same ones of a name."""
        if name not in self._kept:
            self._kept[name] = [self._others(batch) for batch in batches]
        found = MeanAndError("bpd")
        for batch, others in zip(batches, self._kept[name], strict=True):
            bits = bits_per_dim(others + self._own(batch), self._glow.image_shape)
            found.update_state(bits, batch["weight"])
        return found.result()

    def _nll(self, parts: Sequence[int], batch: Batch) -> tf.Tensor:
        """Returns the terms of some parts, with that of dequantisation unless it is part k's: [B], nats."""

        def terms(passage: Passage) -> tf.Tensor:
            found = [] if self._k in parts else [-passage.log_likelihood]
            for k in range(max(parts) + 1):
                if k in parts:
                    passage, view = self._glow.through_part(k, passage)
                    found.append(view.truncated_nll)
                else:
                    passage = self._glow.past_part(k, passage)
            return tf.add_n(found)

        return in_streams(terms, entering(self._glow, batch))
