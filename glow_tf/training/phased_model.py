"""A Keras model whose epochs are in phases: one train function and one set of logs per phase."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.density_model import DensityModel
from glow_tf.devices.strategies import step_of_worker
from glow_tf.devices.workers import by_each_replica, in_several_processes, sums_over_replicas
from glow_tf.errors import ConfigError
from glow_tf.internals import BuiltBeforeFit, forgetting_custom_gradients, metrics_to_minimize
from glow_tf.parts import Part
from glow_tf.schedule import Phase, end_to_end, simultaneous
from glow_tf.training.metrics import MeanAndError, StepMeans


class PhasedModel(DensityModel, BuiltBeforeFit):
    """A model whose epochs are in phases; each phase has its own train function, which is traced once.

    Epochs beyond the last of the phases are end to end. `parts` and `timed` are as in `StepMeans`.
    """

    def __init__(self, phases: Sequence[Phase], parts: Sequence[Part], timed: bool, **kwargs):
        super().__init__(**kwargs)
        self._num_parts = len(parts)
        self.has_own_phases = bool(phases)
        self.set_phases(phases)
        self.forget_train_functions()
        self.means = StepMeans(parts, timed)  # what training steps report
        self.test_metric = MeanAndError("bpd")  # what an evaluation reports
        self._to_minimize = metrics_to_minimize(self.means.names)
        self._evaluating = False
        # Steps of the running epoch that were made before this `fit`, which goes on after them.
        self.steps_before = 0

    def build(self, input_shape: Any = None) -> None:
        # A subclass calls it when it has everything that Keras is to track.
        self.built = True

    def set_phases(self, phases: Sequence[Phase]) -> None:
        """Sets the phase of every epoch; ConfigError if one is made for another number of parts.

        A training step is in the first one.
        """
        whole = (end_to_end(self._num_parts), simultaneous(self._num_parts))
        known = {(phase.active, phase.crossed): phase for phase in whole}
        for phase in phases:
            of_all = phase.kind in ("end_to_end", "simultaneous")
            if max(*phase.active, *phase.crossed, 0) >= self._num_parts or (of_all and phase not in whole):
                raise ConfigError(
                    f"phases must be made for the {self._num_parts} parts of the glow. "
                    f"Received: phase '{phase}' of parts {phase.active_parts}, counted from 1"
                )
        self.phases = tuple(
            known.get((phase.active, phase.crossed), phase) if phase.kind == "mixed" else phase
            for phase in phases
        )
        self.phase = self.phase_of(0)  # that a training step is in

    def phase_of(self, epoch: int) -> Phase:
        """Returns the phase of an epoch, counted from 0."""
        return self.phases[epoch] if epoch < len(self.phases) else end_to_end(self._num_parts)

    def set_phase(self, phase: Phase) -> None:
        """Swaps in a phase's train function; makes it if needed, to be traced by its first step."""
        if phase not in self._train_functions:
            if in_several_processes(self.distribute_strategy):
                self.train_function = step_of_worker(self.distribute_strategy, self.train_step)
            else:
                super().make_train_function(force=True)
            self._train_functions[phase] = forgetting_custom_gradients(self.train_function)
        self.phase = phase
        self.train_function = self._train_functions[phase]

    def forget_train_functions(self) -> None:
        """Drops all train functions, so that each phase is traced anew."""
        self._train_functions: dict[Phase, Callable] = {}
        self.traced: set[Phase] = set()  # those that have made a step

    def make_train_function(self, force: bool = False) -> None:
        """Makes the current phase's train function, or swaps in the one there is."""
        if force:
            self._train_functions.pop(self.phase, None)
        self.set_phase(self.phase)

    def make_test_function(self, force: bool = False) -> None:
        if self.test_function is not None and not force:
            return
        if in_several_processes(self.distribute_strategy):
            self.test_function = step_of_worker(self.distribute_strategy, self.test_step)
        else:
            super().make_test_function(force=True)
        self.test_function = forgetting_custom_gradients(self.test_function)

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within the context, the model's metrics are those of an evaluation."""
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """What the current phase, or an evaluation, computes; and one that says that less is better."""
        return [*self._computed(), self._to_minimize]

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns what the current phase, or an evaluation, computes: numbers, or tensors within a graph."""
        computed, results = self._computed(), {}
        if tf.executing_eagerly() and in_several_processes(self.distribute_strategy):
            found = self._results_of_workers(computed)
        else:
            found = [metric.result() for metric in computed]
        for metric, result in zip(computed, found, strict=True):
            results |= result if isinstance(result, dict) else {metric.name: result}
        if "bpd" in results:  # under the name that Keras's callbacks expect, too
            results["loss"] = results["bpd"]
        if tf.executing_eagerly():
            return {name: float(value) for name, value in results.items()}
        return results

    def reset_metrics(self) -> None:
        """Starts the means anew; an epoch that goes on keeps those of its steps so far."""
        if self.steps_before and not self._evaluating:
            return
        if in_several_processes(self.distribute_strategy):
            # Outside of a replica each assignment would ask the other workers.
            by_each_replica(self.distribute_strategy, lambda: [m.reset_state() for m in self._computed()])
        else:
            super().reset_metrics()

    def _results_of_workers(self, metrics: Sequence[keras.metrics.Metric]) -> list[Any]:
        """Returns the metrics' results over all workers, which exchange their sums at once."""
        own = [variable.value for metric in metrics for variable in metric.variables]
        totals = iter(by_each_replica(self.distribute_strategy, lambda: sums_over_replicas(own)))
        return [metric.stateless_result([next(totals) for _ in metric.variables]) for metric in metrics]

    def _computed(self) -> list[keras.metrics.Metric]:
        return [self.test_metric] if self._evaluating else self.means.of(self.phase)

    def on_epoch_start(self, epoch: int, steps: int | None) -> None:
        """Called at the start of an epoch, from 0, of `steps` steps (None: not known), in its phase."""

    def on_step_end(self, last: bool) -> None:
        """Called after each training step; `last` says whether it was the epoch's last.

        Where an epoch ends before the last of its steps, it is called once more, when that is known.
        """


class PhaseSwitch(keras.callbacks.Callback):
    """Puts a `PhasedModel` into the phase of each epoch; the steps before `steps_before` pass by."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.set_phase(self.model.phase_of(epoch))
        self.model.reset_metrics()
        self.model.on_epoch_start(epoch, self.params["steps"])
        self._goes_on = False  # whether a step was made, and the epoch has more
        self._passing = self.model.steps_before > 0
        if self._passing:
            so_far = self.model.get_metrics_result()
            self.model.train_function = lambda iterator: so_far

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Lets the first step that is to be made compute."""
        if self._passing and batch >= self.model.steps_before:
            self._passing = False
            self.model.set_phase(self.model.phase)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Gives every epoch the same logs: NaN where its phase computes nothing."""
        self._end()
        self.model.steps_before = 0
        for name in self.model.means.names:
            logs.setdefault(name, math.nan)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Tells the model that a step has ended, before Keras validates.

        What no step has computed yet is left out of the logs, like what the phase does not compute.
        """
        steps = self.params["steps"]
        for name in self.model.means.names:
            if math.isnan(logs.get(name, 0.0)):  # at which `TerminateOnNaN` would end training
                del logs[name]
        if self._passing:
            return
        self.model.traced.add(self.model.phase)
        self._goes_on = steps is None or batch + 1 < steps
        self.model.on_step_end(last=not self._goes_on)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Lets Keras validate what an epoch that was cut short has ended with."""
        self._end()

    def _end(self) -> None:
        """Ends an epoch that a callback has stopped, or whose data ran out, before its last step."""
        if self._goes_on:
            self._goes_on = False
            self.model.on_step_end(last=True)
