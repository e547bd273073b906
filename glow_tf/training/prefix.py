"""The frozen prefix: the parts before the trained one, evaluated once per turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import tensorflow as tf

from glow_tf.architectures.partition import FLOAT_BYTES, PartLayout
from glow_tf.bijectors.mode import Mode, in_streams, mode_of_process
from glow_tf.model.flow import Flow
from glow_tf.model.passage import Passage
from glow_tf.training.batch import Batch, entering


class PrefixCache:
    """The outputs of the frozen parts for every training image, while one later part is trained.

    The cache holds, in host memory, the trained part's input h, the log-likelihood so far and the
    earlier parts' truncated negative log-likelihoods. It is filled at the start of a turn (consecutive epochs
    that train the same part). All epochs of the turn see each image with the same noise and augmentation.
    Where the turn before was served by the cache of the part before, that cache has the outputs of all other
    frozen parts: only one part runs to fill this one, and the noise stays.

    Args:
      flow: the model.
      part: index of the trained part, at least 1.
      examples: number of training images.
      before: the cache of the part before; None where part is 1.
    """

    def __init__(
        self,
        flow: Flow,
        part: int,
        examples: int,
        before: PrefixCache | None = None,
    ):
        self.flow = flow
        self.part = part
        self.before = before
        self.noise_epoch: int | None = None
        with tf.device("CPU:0"):
            specs = Passage.specs(flow.parts[part - 1].output_event_shape, part, flow.compute_dtype)
            self._kept = specs.map(
                lambda spec: tf.Variable(tf.zeros([examples, *spec.shape], spec.dtype), trainable=False)
            )
        self._store = tf.function(self._store_batch, autograph=False)
        self._traced = False

    def fill(self, batches_of: Callable[[int], tf.data.Dataset], noise_epoch: int) -> float:
        """Evaluates the prefix on every training image, unless that has been done with this noise.

        A cache of the part before that is not filled, as after a restart, is filled first.

        Args:
          batches_of: makes the batches, each with noise and index, that together hold every example, with the
            noise and augmentation of a given epoch (from 0).
          noise_epoch: that epoch; see `cache_noise_epochs`.

        Returns:
          The seconds it took, without tracing.
        """
        if noise_epoch == self.noise_epoch:
            return 0.0
        earlier = self.before.fill(batches_of, noise_epoch) if self.before else 0.0
        start = time.perf_counter()
        for batch in batches_of(noise_epoch):
            if not self._traced:  # this batch is stored twice, which changes nothing
                self._store(batch)
                self._traced, start = True, time.perf_counter()
            self._store(batch)
        self.noise_epoch = noise_epoch
        return earlier + time.perf_counter() - start

    def passage(self, index: tf.Tensor) -> Passage:
        """Returns the examples at these places of the training data, [B], as they enter the trained part.

        The condition is not among what it holds.
        """
        with tf.device("CPU:0"):
            return self._kept.map(lambda kept: kept.sparse_read(index))

    def _store_batch(self, batch: Batch) -> None:
        index, entered = batch["index"], entering(self.flow, batch, cache=self.before)
        start = self.part - 1 if self.before else 0

        def through(mode: Mode, own: Passage) -> Passage:
            return self.flow.through_parts(own, start, self.part, mode)

        passed = in_streams(through, mode_of_process(), entered)
        passage = passed._replace(condition=None)  # which batches have
        self._kept.map(lambda kept, values: kept.scatter_update(tf.IndexedSlices(values, index)), passage)


def cache_bytes(layouts: Sequence[PartLayout], parts: Sequence[int], examples: int) -> int:
    """Returns the bytes that the caches for `parts` take."""
    return sum(examples * (layouts[k - 1].output_bytes + FLOAT_BYTES * k) for k in parts)
