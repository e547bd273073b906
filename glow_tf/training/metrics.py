"""What training steps and evaluations report."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from glow_tf.internals import untracked
from glow_tf.schedule import Phase


@keras.saving.register_keras_serializable(package="glow_tf")
class MeanAndError(keras.metrics.Metric):
    """Mean over examples as `name` and `loss`, and its standard error as `name_se`."""

    def __init__(self, name: str, **kwargs):
        super().__init__(name=name, **kwargs)
        # float64: a variance from sums of squares would lose its digits in float32.
        self.total = self.add_weight(name="total", initializer="zeros", dtype="float64")
        self.squares = self.add_weight(name="squares", initializer="zeros", dtype="float64")
        self.count = self.add_weight(name="count", initializer="zeros", dtype="float64")

    def update_state(self, values: tf.Tensor, sample_weight: tf.Tensor | None = None) -> None:
        """Adds the values of a batch, [B]; those of weight 0 are left out."""
        values = tf.cast(values, tf.float64)
        weights = tf.ones_like(values) if sample_weight is None else tf.cast(sample_weight, tf.float64)
        self.total.assign_add(tf.reduce_sum(weights * values))
        self.squares.assign_add(tf.reduce_sum(weights * tf.square(values)))
        self.count.assign_add(tf.reduce_sum(weights))

    def result(self) -> dict[str, tf.Tensor]:
        """Returns mean, standard error and loss, float64 []."""
        count = tf.convert_to_tensor(self.count)
        mean = self.total / count
        variance = tf.maximum(self.squares / count - mean**2, 0) / tf.maximum(count - 1, 1)
        return {self.name: mean, f"{self.name}_se": tf.sqrt(variance), "loss": mean}


class SameAs(keras.metrics.Metric):
    """Reports what another metric reports, under another name."""

    def __init__(self, metric: keras.metrics.Metric, name: str):
        super().__init__(name=name)
        self.metric = untracked(metric=metric)

    def result(self) -> tf.Tensor:
        """Returns the other metric's result."""
        return self.metric.metric.result()

    def reset_state(self) -> None:
        """Does nothing: the other metric is reset by itself."""


class StepMeans:
    """Means over an epoch of what training steps report.

    `local_bpd_k` of every part that ran, `gradient_norm_k` and (for parts on their own devices)
    `busy_seconds_k` of every part that was trained, and, if the last part ran, the bits per dimension of the
    whole chain as `bpd` and as `loss`.

    Args:
      num_parts: number of parts.
      timed: whether parts have their own devices.
    """

    def __init__(self, num_parts: int, timed: bool):
        self._last = num_parts - 1
        self._timed = timed
        kinds = ("local_bpd", "gradient_norm", "busy_seconds")
        names = ["bpd", *(f"{kind}_{k + 1}" for k in range(num_parts) for kind in kinds)]
        self._means = {name: keras.metrics.Mean(name) for name in names}
        self._loss = SameAs(self._means["bpd"], "loss")

    @property
    def names(self) -> list[str]:
        """All names that any phase reports."""
        timed = [name for name in self._means if self._timed or not name.startswith("busy_seconds")]
        return ["loss", *timed]

    def of(self, phase: Phase) -> list[keras.metrics.Metric]:
        """Returns the means that a phase computes."""
        names = [f"local_bpd_{k + 1}" for k in range(phase.last + 1)]
        names += [f"gradient_norm_{k + 1}" for k in phase.active]
        if self._timed and not phase.end_to_end:
            names += [f"busy_seconds_{k + 1}" for k in phase.active]
        found = [self._means[name] for name in names]
        return [*found, self._means["bpd"], self._loss] if phase.last == self._last else found

    def update(
        self,
        phase: Phase,
        truncated: Sequence[tf.Tensor],
        norms: Sequence[tf.Tensor],
        busy: Sequence[tf.Tensor],
        arrived: Sequence[tf.Tensor] | None = None,
        weight: tf.Tensor | None = None,
    ) -> None:
        """Adds a step.

        Args:
          phase: what was trained.
          truncated: truncated negative log-likelihood up to each part that ran, [B], bits per dimension.
          norms: gradient norm of each active part, [].
          busy: seconds that each active part was busy, []; may be empty.
          arrived: for each part whether it had a batch, bool []; None if every part had.
          weight: of every example, [B]; None if all have weight 1.
        """
        weights = [None] * (phase.last + 1) if arrived is None else [tf.cast(a, tf.float32) for a in arrived]
        # With queues, all of `truncated` belongs to the batch that has come to the last part.
        for k, bpd in enumerate(truncated):
            self._means[f"local_bpd_{k + 1}"].update_state(bpd, weights[-1] if weight is None else weight)
        for k, norm in zip(phase.active, norms, strict=True):
            self._means[f"gradient_norm_{k + 1}"].update_state(norm, weights[k])
        for k, seconds in zip(phase.active, busy, strict=False):
            self._means[f"busy_seconds_{k + 1}"].update_state(seconds, weights[k])
        if phase.last == self._last:
            self._means["bpd"].update_state(truncated[-1], weights[-1] if weight is None else weight)
