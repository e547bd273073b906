"""The training steps of a compiled trainer: what one computes, and what happens between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.core.errors import DivergedError
from glow_tf.devices.strategies import step_function
from glow_tf.internals import keeping_custom_gradients
from glow_tf.layout.schedule import Phase, phase_of_epoch
from glow_tf.training.feed import inputs
from glow_tf.training.feed.batch import Batch, Dataset, entering, filled_up, named, noise_of_step
from glow_tf.training.optim.optimizers import Optimizers, check_rates, count_steps, steps_made
from glow_tf.training.options import CompileOptions, warn_of_late_priors
from glow_tf.training.step.diagnosis import Seen
from glow_tf.training.step.forward_pass import ForwardPass
from glow_tf.training.step.gradients import OneTape, StepGradients, TapePerPart
from glow_tf.training.step.prefix import PrefixCache
from glow_tf.training.step.skipping import SkippedSteps
from glow_tf.training.step.update import Update


class TrainingSteps:
    """Makes training steps with one optimizer per part, as the options of `compile` say.

    It is made in the scope of the strategy whose replicas make the steps. The seed is of the noise.

    Attributes:
      skips: which steps are skipped, and when training has to stop.
      functions: the train function of each phase, which is traced once.
      traced: the phases that have made a step.
    """

    def __init__(self, forward: ForwardPass, optimizers: Optimizers, options: CompileOptions, seed: int):
        limits = (options.max_skipped_steps, options.max_outside_steps)
        self.skips = SkippedSteps(forward.glow, optimizers, *limits)
        self._update = Update(forward, optimizers, options.clip_norm, options.rate_scaling)
        self._gradients = TapePerPart(forward) if forward.glow.part_devices else OneTape(forward)
        self._forward, self._optimizers, self._options, self._seed = forward, optimizers, options, seed
        self._strategy = tf.distribute.get_strategy()
        self._last_batch: Any = None
        self.functions: dict[Phase, Callable] = {}

    def __call__(
        self, batch: Batch, phase: Phase, cache: PrefixCache | None = None
    ) -> tuple[StepGradients, list[tf.Tensor], tf.Tensor]:
        """Makes a step of a phase, whose frozen prefix the cache has: gradients, check, clipping, update.

        Returns the gradients, the norms of each active part's, and whether the step was applied, bool [].
        """
        self._recompute(self._options.reversible)
        batch = filled_up(self._with_noise(batch, phase))
        passage = entering(self._forward.glow, batch, self._seed, cache)
        start = cache.part if cache else 0
        step = self._gradients(passage, phase, start, batch.get("weight"))
        norms = self._update.norms(phase, step.gradients)
        finite = self.skips.finite(phase, step, norms)
        self._update(phase, step, norms, finite)
        return step, norms, finite

    def function_of(self, step: Callable, *, trains: bool) -> Callable:
        """Returns what Keras calls with an iterator, to make a step of `fit` or `evaluate`.

        Only a step that trains recomputes activations.
        """
        options = self._options

        def step_of(batch: Any) -> Any:
            self._recompute(False)
            return step(batch)

        how = {"compiled": options.jit_compile, "eager": options.run_eagerly}
        made = self._note if trains else lambda batch: None
        run = step_function(self._strategy, step_of, made, steps=options.steps_per_execution, **how)
        return keeping_custom_gradients(run, [])

    def _recompute(self, reversible: bool) -> None:
        """Sets whether what is traced from now on recomputes activations in backpropagation."""
        for layer in (*self._forward.glow.parts, *self._forward.objectives):
            layer.set_reversible(reversible)

    def _note(self, batch: Any) -> None:
        """Keeps the batch of a step that has been made, and what the step was like."""
        self._last_batch = batch
        self.skips.note()

    def _with_noise(self, batch: Batch, phase: Phase, ago: int = 0) -> Batch:
        """Returns a batch with noise: new noise in every step, where a dataset has images alone."""
        if "noise" in batch:
            return batch
        # One without weights counts no steps.
        trained = (k for k in phase.active if self._forward.glow.parts[k].trainable_variables)
        first = next(trained, phase.active[0])
        step = steps_made(self._optimizers[first]).value - ago
        return batch | {"noise": noise_of_step(batch["images"], (self._seed, first), step)}

    def begin_fit(
        self, dataset: Dataset, phases: Sequence[Phase], arguments: Mapping[str, Any], initial_step: int
    ) -> None:
        """Checks the rates and the data of a `fit` with such arguments; see `fit`.

        ConfigError if several steps at a time need another number of batches.
        """
        steps, first = arguments.get("steps_per_epoch"), arguments.get("initial_epoch", 0)
        inputs.check_executions(self._options.steps_per_execution, steps, initial_step)
        in_epoch = steps or inputs.number_of_batches(dataset)
        count_steps(self._optimizers, in_epoch)
        callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
        if not any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):  # it moves the start
            num_parts, epochs = len(self._optimizers), range(first, arguments["epochs"])
            of_epochs = (phase_of_epoch(phases, epoch, num_parts) for epoch in epochs)
            check_rates(self._optimizers, of_epochs, in_epoch, initial_step)
        warn_of_late_priors(self._forward, phases[first:], self._optimizers)

    def begin_batch(self) -> None:
        """Checks that one step can be made alone: ConfigError where it has no rate."""
        count_steps(self._optimizers, None)
        self.skips.recall()

    def begin_epoch(self, phases: Sequence[Phase], steps: int | None, resumes: bool) -> None:
        """Counts skipped steps anew, and forgets losses that had other terms.

        `phases` are those of all epochs up to this one, whose number of `steps` may not be known (None). The
        first epoch has no reference for its losses.
        """
        self.skips.begin_epoch(steps, resumes)
        if len(phases) == 1 and not resumes:
            self.skips.divergence_monitor.forget()
        elif not resumes:
            self.skips.divergence_monitor.forget_losses(self._forward.losses_of_other_terms(phases))

    def end_step(self, phase: Phase) -> None:
        """Stops if training diverged."""
        if fault := self._fault_of(phase):
            raise fault

    def _fault_of(self, phase: Phase) -> DivergedError | None:
        return self.skips.fault_of(phase, lambda: self._seen(phase))

    def _seen(self, phase: Phase) -> Seen:
        """Returns the last batch, of all replicas here, as the last step has seen it."""
        glow, local = self._forward.glow, self._strategy.experimental_local_results
        given = named(self._last_batch)
        batch = filled_up(tf.nest.map_structure(lambda own: tf.concat(local(own), 0), given))
        batch = self._with_noise(batch, phase, ago=1)
        v = glow.dequantized(batch["images"], batch["noise"], seed=self._seed)
        return Seen(v, glow.checked_condition(batch.get("condition")))
