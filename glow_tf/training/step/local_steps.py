"""Steps that each replica makes alone, and the meetings in between: local SGD."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from glow_tf.core.errors import ConfigError, DivergedError
from glow_tf.devices.workers import follow_first_worker, sums_over_replicas
from glow_tf.internals import leaves_updates_to_others
from glow_tf.layout.schedule import Phase
from glow_tf.training.optim.optimizers import Optimizers
from glow_tf.training.step.divergence import DivergenceMonitor
from glow_tf.training.step.forward_pass import ForwardPass
from glow_tf.training.traffic import bytes_of


class LocalSteps:
    """Lets each replica make `every` steps on its own images by its own gradients; then the replicas meet.

    A meeting gives every replica the average of their weights.

    The last step of each epoch is a meeting, so evaluations, checkpoints and exports are of one model. Until
    then each replica has its own optimizer. At the end of an epoch the states of the optimizers are averaged,
    too, and all workers take over the first one's bands. So all of them end an epoch in the state that its
    checkpoint holds, and a resumed run makes the steps of an uninterrupted one.

    With `every=1` the gradients are summed in each step, and there are no meetings.

    Args:
      forward: through the model; it says what each optimizer trains.
      optimizers: one per part. The current strategy's replicas meet.
      every: how many steps lie between two meetings.

    Attributes:
      replicas: how many make a step together.

    Raises:
      ConfigError: replicas are to make steps alone, and an optimizer leaves its updates to others.
    Reference: Stich 2019, https://arxiv.org/abs/1805.09767
    """

    def __init__(self, forward: ForwardPass, optimizers: Optimizers, every: int):
        self._forward, self._optimizers = forward, optimizers
        self._strategy = tf.distribute.get_strategy()
        self._every = every
        in_all = self._strategy.num_replicas_in_sync
        self.replicas = in_all if every == 1 else 1
        for optimizer in optimizers if self.replicas < in_all else ():
            if leaves_updates_to_others(optimizer):
                raise ConfigError(
                    "sync_every needs optimizers that update the variables themselves. "
                    f"Received: {type(optimizer).__name__}"
                )
        self._meetings: dict[tuple[Phase, bool], Callable[[tf.Tensor], tf.Tensor]] = {}
        self._steps = 0  # of the running epoch

    def begin_epoch(self, steps: int | None, resumes: bool) -> None:
        """Counts from an epoch's start; ConfigError if it goes on, or has no known end."""
        if self._every == 1:
            return
        if steps is None or resumes:
            raise ConfigError(
                "sync_every needs steps_per_epoch, and epochs from their first step on: fit without "
                f"initial_step. Received: steps_per_epoch={steps}, {'an' if resumes else 'no'} initial_step"
            )
        self._steps, self._made = steps, 0

    def end_step(
        self,
        phase: Phase,
        ends_epoch: bool,
        monitor: DivergenceMonitor,
        fault_of: Callable[[Phase], DivergedError | None],
    ) -> DivergedError | None:
        """Lets the replicas meet, if it is time; `ends_epoch` says whether the step was the epoch's last.

        Returns what stops training; `fault_of` says what does so here. All replicas stop when they meet.
        """
        if self._every == 1:
            return fault_of(phase)
        self._made += 1
        if not ends_epoch and self._made % self._every:
            return None
        if (phase, ends_epoch) not in self._meetings:
            self._meetings[phase, ends_epoch] = self._meeting(phase, ends_epoch)
        fault = fault_of(phase)
        own = [float(fault is not None and k in fault.parts) for k in range(len(self._optimizers))]
        at_fault = np.flatnonzero(self._meetings[phase, ends_epoch](tf.constant(own)))
        if len(at_fault):
            names = ", ".join(str(k + 1) for k in at_fault)
            what = f"training of part {names} diverged in another worker"
            fault = fault or DivergedError(f"Training stopped: {what}.", reason=what)
            fault.parts = tuple(at_fault)
            return fault
        if ends_epoch:
            follow_first_worker(self._strategy, list(monitor.variables.values()))
        return None

    def bytes_per_step(self, phase: Phase) -> int:
        """Returns what a step reduces over the replicas: the gradients, or its share of the meetings."""
        weights = bytes_of(v.value for v in self._trained(phase))
        if self._every == 1:
            return weights
        steps = self._steps or self._every
        return round((-(-steps // self._every) * weights + bytes_of(self._states(phase))) / steps)

    def _trained(self, phase: Phase) -> list[keras.Variable]:
        return [v for group in self._forward.trained_variables(phase) for v in group]

    def _states(self, phase: Phase) -> list[tf.Variable]:
        """Returns what the optimizers of the trained parts keep; their step counts are equal everywhere."""
        own = [v.value for k in phase.active for v in self._optimizers[k].variables]
        return [v for v in own if v.dtype.is_floating]

    def _meeting(self, phase: Phase, ends_epoch: bool) -> Callable[[tf.Tensor], tf.Tensor]:
        """Returns a function of a number for each part; it returns their sums over the replicas."""
        averaged = [v.value for v in self._trained(phase)] + (self._states(phase) if ends_epoch else [])
        replicas = self._strategy.num_replicas_in_sync

        def meet(faults: tf.Tensor) -> tf.Tensor:
            *totals, at_fault = sums_over_replicas([*averaged, faults])
            for variable, total in zip(averaged, totals, strict=True):
                variable.assign(total / replicas)
            return at_fault

        def of_all(faults: tf.Tensor) -> tf.Tensor:
            return self._strategy.experimental_local_results(self._strategy.run(meet, args=(faults,)))[0]

        return tf.function(of_all, autograph=False)
