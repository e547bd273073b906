"""The frozen prefix, evaluated once a turn."""

from __future__ import annotations

import time
from collections.abc import Sequence

import tensorflow as tf

from glow_tf.glow import Glow, Passage
from glow_tf.partition import FLOAT_BYTES, PartPlan
from glow_tf.schedule import Phase, cached_epochs
from glow_tf.streams import in_streams


class PrefixCache:
    """What the parts before a trained one make of every training image, while they do not change.

    Holds, in host memory, the trained part's input h, the log-likelihood so far and the earlier parts'
    truncated objectives. It is filled at the start of a turn, the epochs for which a part stays the trained
    one, with the noise and augmentation of the turn's first epoch; a turn that uses it sees each image with
    these alone.

    Args:
      glow: the model.
      part: index of the trained part, at least 1.
      examples: training images.
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
        """Evaluates the prefix on every training image, unless that was done for this turn.

        Args:
          dataset: batches (images, noise, index) that together hold every example.
          turn: number of the turn's first epoch.

        Returns:
          The seconds it took, a first batch that had to be traced counted as long as the others.
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
        """Returns examples as they stand before the trained part."""
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
        passage = self.glow.enter(images, noise)
        for _ in range(self.part):
            passage, _ = self.glow.through_next_part(passage)
        return passage


def cached_parts(schedule_phases: Sequence[Phase]) -> list[int]:
    """Returns the indices of the parts that some cached turn trains."""
    served = zip(schedule_phases, cached_epochs(schedule_phases), strict=True)
    return sorted({phase.active[0] for phase, cached in served if cached})


def cache_bytes(plans: Sequence[PartPlan], parts: Sequence[int], examples: int) -> int:
    """Returns the memory that caches for these parts take."""
    return sum(examples * (plans[k - 1].output_bytes + FLOAT_BYTES * k) for k in parts)
