"""The frozen prefix: the parts before the trained one, evaluated once per turn."""

from __future__ import annotations

import time
from collections.abc import Sequence

import tensorflow as tf

from glow_tf.glow import Glow, Passage
from glow_tf.partition import FLOAT_BYTES, PartLayout
from glow_tf.pieces import in_streams
from glow_tf.schedule import Phase, cached_epochs


class PrefixCache:
    """The outputs of the frozen parts for every training image, while one later part is trained.

    The cache holds, in host memory, the trained part's input h, the log-likelihood so far and the earlier
    parts' truncated negative log-likelihoods. It is filled at the start of a turn (consecutive epochs that
    train the same part) with the noise and augmentation of the turn's first epoch. All epochs of the turn
    see each image with that noise and augmentation.

    Args:
      glow: the model.
      part: index of the trained part, at least 1.
      examples: number of training images.
    """

    def __init__(self, glow: Glow, part: int, examples: int):
        self.glow = glow
        self.part = part
        self.turn: int | None = None
        dtype = glow.compute_dtype
        with tf.device("CPU:0"):
            shape = glow.parts[part - 1].output_event_shape
            self._h = tf.Variable(tf.zeros([examples, *shape], dtype), trainable=False)
            self._log_likelihood = tf.Variable(tf.zeros([examples], dtype), trainable=False)
            self._truncated = tf.Variable(tf.zeros([examples, part], dtype), trainable=False)
        self._store = tf.function(self._store_batch, autograph=False)
        self._traced = False

    def fill(self, dataset: tf.data.Dataset, turn: int) -> float:
        """Evaluates the prefix on every training image, unless that has been done for this turn.

        Args:
          dataset: batches of (images uint8 [B, H, W, C], noise [B, H, W, C], index [B]) that together hold
            every example.
          turn: the turn's first epoch, from 0.

        Returns:
          The seconds it took. A first batch that had to be traced counts as long as the others.
        """
        if turn == self.turn:
            return 0.0
        start = first_end = time.perf_counter()
        batches = 0
        for batches, batch in enumerate(dataset, start=1):
            self._store(*batch)
            if batches == 1:
                first_end = time.perf_counter()
        end = time.perf_counter()
        self.turn = turn
        traced, self._traced = self._traced, True
        if traced or batches == 1:
            return end - start
        return (end - first_end) * batches / (batches - 1)

    def passage(self, index: tf.Tensor) -> Passage:
        """Returns examples as they enter the trained part.

        Args:
          index: places of the examples in the training data, [B].
        """
        with tf.device("CPU:0"):
            truncated = tf.unstack(tf.gather(self._truncated, index), axis=1)
            return Passage(
                tf.gather(self._h, index), tf.gather(self._log_likelihood, index), tuple(truncated)
            )

    def _store_batch(self, images: tf.Tensor, noise: tf.Tensor, index: tf.Tensor) -> None:
        passage = in_streams(self._evaluate, images, noise)
        rows = (passage.h, passage.log_likelihood, tf.stack(passage.truncated, axis=1))
        for variable, values in zip((self._h, self._log_likelihood, self._truncated), rows, strict=True):
            variable.scatter_update(tf.IndexedSlices(values, index))

    def _evaluate(self, images: tf.Tensor, noise: tf.Tensor) -> Passage:
        return self.glow.through_parts(self.glow.enter(images, noise), self.part)


def cached_parts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns the indices (from 0) of the parts that are trained in a turn served by a cache."""
    served = zip(schedule_phases, cached_epochs(schedule_phases), strict=True)
    return sorted({phase.active[0] for phase, cached in served if cached})


def cache_bytes(layouts: Sequence[PartLayout], parts: Sequence[int], examples: int) -> int:
    """Returns the bytes that the caches for `parts` take."""
    return sum(examples * (layouts[k - 1].output_bytes + FLOAT_BYTES * k) for k in parts)
