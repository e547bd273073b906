"""What training steps and evaluations report."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.devices.workers import by_each_replica, in_several_processes, sums_over_replicas
from glow_tf.training.gradients import StepGradients
from glow_tf.training.objective import OF_PARTS, LocalObjective

Metrics = Sequence[keras.metrics.Metric]


@keras.saving.register_keras_serializable(package="glow_tf")
class MeanAndError(keras.metrics.Metric):
    """Mean over examples as `name` and `loss`, and its standard error as `name_se`, NaN of one example."""

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
        variance = tf.maximum(self.squares / count - mean**2, 0) / tf.maximum(count - 1, 0)
        return {self.name: mean, f"{self.name}_se": tf.sqrt(variance), "loss": mean}


class MeanIfAny(keras.metrics.Mean):
    """A weighted mean that is NaN, not 0, while nothing has a weight."""

    def result(self) -> tf.Tensor:
        """Returns the mean, []."""
        return self.total / self.count


class StepMeans:
    """Means over an epoch of what training steps report.

    `local_bpd_k` of every part that was scored, `gradient_norm_k` of every part that was trained, the metrics
    of the objectives that the phase minimises, such as `accuracy_k`, and, if all parts ran, the bits per
    dimension of the whole chain as `bpd` and as `loss`. `skipped_steps` is the number of steps that were
    skipped because they were not finite; the means leave them out, and are NaN if no step is left.

    A part whose objective `is_likelihood` is scored only where it is trained on it; a part that is fixed is
    passed over elsewhere.
    """

    def __init__(self, fixed_parts: Sequence[bool], objectives: Sequence[LocalObjective]):
        self._of_objectives = [[f"{n}_{k}" for n in o.metric_names] for k, o in enumerate(objectives, 1)]
        self._only_trained = tuple(objective.is_likelihood for objective in objectives)
        self._fixed = tuple(fixed_parts)
        names = [f"{kind}_{k + 1}" for k in range(len(fixed_parts)) for kind in OF_PARTS]
        # Sums in float64: a run of several workers goes on from their total, to all digits that are written.
        means = [MeanIfAny(name, "float64") for name in ("bpd", *names, *self.of_objectives)]
        self._means = {metric.name: metric for metric in means}
        self._skipped = keras.metrics.Sum("skipped_steps", "float64")

    @property
    def names(self) -> list[str]:
        """All names that any phase reports."""
        return ["loss", "skipped_steps", *self._means]

    @property
    def of_objectives(self) -> list[str]:
        """The names of the metrics of objectives."""
        return list(itertools.chain(*self._of_objectives))

    def of(self, phase: Phase) -> list[keras.metrics.Metric]:
        """Returns the means that a phase computes; what it minimises is first."""
        names = ["bpd"] if self._runs_all(phase) else []
        names += [f"local_bpd_{k + 1}" for k in self._scored(phase)]
        names += [f"gradient_norm_{k + 1}" for k in phase.active]
        names += itertools.chain(*(self._of_objectives[k] for k in phase.ends))
        return [*(self._means[name] for name in names), self._skipped]

    def _runs_all(self, phase: Phase) -> bool:
        passed_over = any(fixed and not phase.runs_both_ways(k) for k, fixed in enumerate(self._fixed))
        return phase.last == len(self._fixed) - 1 and not passed_over

    def _scored(self, phase: Phase) -> list[int]:
        running = range(phase.last + 1)
        return [k for k in running if phase.minimises_objective_of(k) or not self._only_trained[k]]

    def update(
        self, phase: Phase, step: StepGradients, norms: Sequence[tf.Tensor], finite: tf.Tensor
    ) -> None:
        """Adds a step; `norms` are of each active part's gradients. One that is not finite was skipped."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync  # each of them counts the step
        self._skipped.update_state(tf.where(finite, 0.0, 1 / replicas))
        applied = tf.cast(finite, tf.float32)
        of_examples = applied if step.weight is None else applied * step.weight

        def add(name: str, values: tf.Tensor, weight: tf.Tensor) -> None:
            # A weight per value: Keras would count a batch once, whatever its size, if it had one weight.
            weight = tf.broadcast_to(weight, tf.shape(values))
            self._means[name].update_state(tf.where(finite, values, 0), weight)

        for k in self._scored(phase):
            add(f"local_bpd_{k + 1}", step.truncated_nlls[k], of_examples)
        for k, norm in zip(phase.active, norms, strict=True):
            add(f"gradient_norm_{k + 1}", norm, applied)
        for name, values in step.metrics.items():
            add(name, values, of_examples)
        if self._runs_all(phase):
            add("bpd", step.truncated_nlls[-1], of_examples)


class Logs:
    """What a trainer tells Keras: means of its steps or, within `evaluating`, the result of an evaluation."""

    def __init__(self, fixed_parts: Sequence[bool], objectives: Sequence[LocalObjective]):
        self.means = StepMeans(fixed_parts, objectives)
        self.of_evaluation = MeanAndError("bpd")
        self.evaluates = False

    @contextlib.contextmanager
    def evaluating(self, reset: Callable[[], None]) -> Iterator[None]:
        """Within the context, the logs are those of an evaluation, whose means are `reset` first."""
        before, self.evaluates = self.evaluates, True
        try:
            reset()  # older releases of Keras do not for a single batch
            yield
        finally:
            self.evaluates = before

    def metrics(self, phase: Phase) -> list[keras.metrics.Metric]:
        """Returns what a phase, or an evaluation, computes."""
        return [self.of_evaluation] if self.evaluates else self.means.of(phase)


def results_of(metrics: Metrics, strategy: tf.distribute.Strategy) -> dict[str, Any]:
    """Returns what metrics have computed: numbers, or tensors within a graph."""
    if tf.executing_eagerly() and in_several_processes(strategy):
        found = _results_of_workers(metrics, strategy)
    else:
        found = [metric.result() for metric in metrics]
    results: dict[str, Any] = {}
    for metric, result in zip(metrics, found, strict=True):
        results |= result if isinstance(result, dict) else {metric.name: result}
    if "bpd" in results:  # under the name that Keras's callbacks expect, too
        results["loss"] = results["bpd"]
    if tf.executing_eagerly():
        return {name: float(value) for name, value in results.items()}
    return results


def reset(metrics: Metrics, strategy: tf.distribute.Strategy) -> None:
    """Starts metrics anew."""

    def reset_all() -> None:
        for metric in metrics:
            metric.reset_state()

    # Outside of a replica each assignment would ask the other workers.
    by_each_replica(strategy, reset_all) if in_several_processes(strategy) else reset_all()


def _results_of_workers(metrics: Metrics, strategy: tf.distribute.Strategy) -> list[Any]:
    """Returns the metrics' results over all workers, which exchange their sums at once."""
    own = [variable.value for metric in metrics for variable in metric.variables]
    totals = iter(by_each_replica(strategy, lambda: sums_over_replicas(own)))
    return [metric.stateless_result([next(totals) for _ in metric.variables]) for metric in metrics]
