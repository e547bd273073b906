"""Steps that each replica makes alone, and the meetings in between: local SGD, and DiLoCo's outer step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

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

    A meeting is a step of Nesterov's SGD, whose gradient is how far the weights moved, on the average:

        gradient = last − mean(weights)
        momentum ← μ·momentum + gradient
        weights  ← last − rate·(gradient + μ·momentum)

    `last` are the weights after the last meeting. A rate of 1 without momentum averages the weights.

    The last step of each epoch is a meeting, so evaluations, checkpoints and exports are of one model. Until
    then each replica has its own optimizer. At the end of an epoch the states of the optimizers are averaged,
    too, and all workers take over the first one's bands. So all of them end an epoch in the state that its
    checkpoint holds, and a resumed run makes the steps of an uninterrupted one.

    With `every=1` the gradients are summed in each step, and there are no meetings.

    Args:
      forward: through the model; it says what each optimizer trains.
      optimizers: one per part. The current strategy's replicas meet.
      every: how many steps lie between two meetings.
      outer_step: rate and μ.

    Attributes:
      replicas: how many make a step together.
      momenta: of each part's weights, in their order; empty without momentum.

    Raises:
      ConfigError: replicas are to make steps alone, and an optimizer leaves its updates to others.
    Reference: Stich 2019, https://arxiv.org/abs/1805.09767; Douillard et al. 2023, section 2,
    https://arxiv.org/abs/2311.08105, with a rate of 0.7 and μ = 0.9.
    """

    def __init__(self, forward: ForwardPass, optimizers: Optimizers, every: int, outer_step: Sequence[float]):
        self._forward, self._optimizers = forward, optimizers
        self._strategy = tf.distribute.get_strategy()
        self._every = every
        self._rate, self._momentum = outer_step
        in_all = self._strategy.num_replicas_in_sync
        self.replicas = in_all if every == 1 else 1
        for optimizer in optimizers if self.replicas < in_all else ():
            if leaves_updates_to_others(optimizer):
                raise ConfigError(
                    "sync_every needs optimizers that update the variables themselves. "
                    f"Received: {type(optimizer).__name__}"
                )
        parts = [forward.variables_of(k) for k in range(len(optimizers))] if self._momentum else []
        self.momenta = [[tf.Variable(tf.zeros_like(v.value), trainable=False) for v in own] for own in parts]
        pairs = zip(itertools.chain(*parts), itertools.chain(*self.momenta), strict=True)
        self._momentum_of = {id(variable): momentum for variable, momentum in pairs}
        self._meetings: dict[tuple[Phase, bool], Callable[[list[tf.Tensor], tf.Tensor], tf.Tensor]] = {}
        self._steps = 0  # of the running epoch

    def begin_epoch(self, phase: Phase, steps: int | None, resumes: bool) -> None:
        """Remembers the weights of an epoch's start; ConfigError if it goes on, or has no known end."""
        if self._every == 1:
            return
        if steps is None or resumes:
            raise ConfigError(
                "sync_every needs steps_per_epoch, and epochs from their first step on: fit without "
                f"initial_step. Received: steps_per_epoch={steps}, {'an' if resumes else 'no'} initial_step"
            )
        self._steps, self._made = steps, 0
        self._met = self._weights(phase)

    def end_step(
        self, phase: Phase, ends_epoch: bool, monitor: DivergenceMonitor, fault: DivergedError | None
    ) -> DivergedError | None:
        """Lets the replicas meet, if it is time; `ends_epoch` says whether the step was the epoch's last.

        Returns what stops training, given what does so here, if anything: all replicas stop when they meet.
        """
        if self._every == 1:
            return fault
        self._made += 1
        if not ends_epoch and self._made % self._every:
            return None
        if (phase, ends_epoch) not in self._meetings:
            self._meetings[phase, ends_epoch] = self._meeting(phase, ends_epoch)
        own = [float(fault is not None and k in fault.parts) for k in range(len(self._optimizers))]
        at_fault = np.flatnonzero(self._meetings[phase, ends_epoch](self._met, tf.constant(own)))
        if len(at_fault):
            names = ", ".join(str(k + 1) for k in at_fault)
            what = f"training of part {names} diverged in another worker"
            fault = fault or DivergedError(f"Training stopped: {what}.", reason=what)
            fault.parts = tuple(at_fault)
            return fault
        if ends_epoch:
            follow_first_worker(self._strategy, list(monitor.variables.values()))
        else:
            self._met = self._weights(phase)
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

    def _weights(self, phase: Phase) -> list[tf.Tensor]:
        return [tf.identity(v.value) for v in self._trained(phase)]

    def _states(self, phase: Phase) -> list[tf.Variable]:
        """Returns what the optimizers of the trained parts keep; their step counts are equal everywhere."""
        own = [v.value for k in phase.active for v in self._optimizers[k].variables]
        return [v for v in own if v.dtype.is_floating]

    def _meeting(self, phase: Phase, ends_epoch: bool) -> Callable[[list[tf.Tensor], tf.Tensor], tf.Tensor]:
        """Returns a function of the weights after the last meeting, and of a number for each part.

        It returns the sum of these numbers over the replicas.
        """
        trained = self._trained(phase)
        weights = [v.value for v in trained]
        states = self._states(phase) if ends_epoch else []
        replicas = self._strategy.num_replicas_in_sync

        def meet(last: list[tf.Tensor], faults: tf.Tensor) -> tf.Tensor:
            *totals, at_fault = sums_over_replicas([*weights, *states, faults])
            means = [total / replicas for total in totals]
            for state, mean in zip(states, means[len(weights) :], strict=True):
                state.assign(mean)
            for variable, mean, before in zip(trained, means, last, strict=False):
                gradient = before - mean
                further = (self._rate - 1) * gradient  # beyond the mean, which a rate of 1 gives to the bit
                if self._momentum:
                    momentum = self._momentum_of[id(variable)]
                    momentum.assign(self._momentum * momentum + gradient)
                    further += self._rate * self._momentum * momentum
                variable.assign(mean - further)
            return at_fault

        def of_all(*given: Any) -> tf.Tensor:
            return self._strategy.experimental_local_results(self._strategy.run(meet, args=given))[0]

        return tf.function(of_all, autograph=False)
