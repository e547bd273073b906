"""The training steps of a compiled trainer: what one computes, and what happens between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase
from glow_tf.bijectors.mode import mode_of_process
from glow_tf.devices.strategies import step_function
from glow_tf.internals import keeping_custom_gradients
from glow_tf.training import inputs
from glow_tf.training.batch import Batch, Dataset, entering, filled_up, noise_of_step, seed_of_objective
from glow_tf.training.forward_pass import ForwardPass
from glow_tf.training.gradients import OneTape, StepGradients, TapePerPart
from glow_tf.training.objective import BaseObjective
from glow_tf.training.optimizers import Optimizers, check_rates, count_steps, steps_made
from glow_tf.training.options import CompileOptions
from glow_tf.training.prefix import PrefixCache
from glow_tf.training.skipping import MOST_BITS, SkippedSteps
from glow_tf.training.update import Update


class TrainingSteps:
    """Makes training steps with one optimizer per part, as the options of `compile` say.

    It is made in the scope of the strategy whose replicas make the steps. The seed is of the noise.

    Attributes:
      skips: which steps are skipped, and when training has to stop.
      functions: the train function of each phase, which is traced once.
      traced: the phases that have made a step.
    """

    def __init__(self, forward: ForwardPass, optimizers: Optimizers, options: CompileOptions, seed: int):
        self.skips = SkippedSteps(optimizers, options.max_skipped_steps)
        self._update = Update(forward, optimizers, options.clip_norm, options.rate_scaling)
        self._gradients = TapePerPart(forward) if forward.flow.part_devices else OneTape(forward)
        self._forward, self._optimizers, self._options, self._seed = forward, optimizers, options, seed
        self._mode = mode_of_process(training=True, recompute=options.reversible)
        self._strategy = tf.distribute.get_strategy()
        self.functions: dict[Phase, Callable] = {}

    def __call__(
        self, batch: Batch, phase: Phase, cache: PrefixCache | None = None
    ) -> tuple[StepGradients, list[tf.Tensor], tf.Tensor]:
        """Makes a step of a phase, whose frozen prefix the cache has: gradients, check, clipping, update.

        Returns the gradients, the norms of each active part's, and whether the step was applied, bool [].
        """
        batch = filled_up(self._with_noise(batch, phase))
        passage = entering(self._forward.flow, batch, self._seed, cache)
        start = cache.part if cache else 0
        step = self._gradients(passage, phase, start, batch.get("weight"), self._mode, self._seeds(phase))
        norms = self._update.norms(phase, step.gradients)
        finite = self.skips.finite(phase, step, norms)
        self._update(phase, step, norms, finite)
        return step, norms, finite

    def function_of(self, step: Callable, *, trains: bool) -> Callable:
        """Returns what Keras calls with an iterator, to make a step of `fit` or `evaluate`."""
        options = self._options
        how = {"compiled": options.jit_compile, "eager": options.run_eagerly}
        made = self.skips.note if trains else lambda: None
        run = step_function(self._strategy, step, made, steps=options.steps_per_execution, **how)
        return keeping_custom_gradients(run, [])

    def _with_noise(self, batch: Batch, phase: Phase) -> Batch:
        """Returns a batch with noise: new noise in every step, where a dataset has images alone."""
        if "noise" in batch:
            return batch
        first = self._counting(phase)[0]
        step = steps_made(self._optimizers[first]).value
        return batch | {"noise": noise_of_step(batch["images"], (self._seed, first), step)}

    def _seeds(self, phase: Phase) -> dict[int, tf.Tensor]:
        """Returns the seeds of a step's objectives that see whole batches, each of its part's own steps."""
        counting, found = self._counting(phase), {}
        for k in phase.ends:
            if not self._forward.objectives[k].per_example:
                step = steps_made(self._optimizers[k if k in counting else counting[0]]).value
                found[k] = seed_of_objective(self._seed, k, step)
        return found

    def _counting(self, phase: Phase) -> list[int]:
        """Returns the parts whose optimizers count the steps of a phase: one without weights does not."""
        groups = self._forward.trained_variables(phase)
        return [k for k, own in zip(phase.active, groups, strict=True) if own] or [phase.active[0]]

    def begin_fit(self, dataset: Dataset, phase: Phase, arguments: Mapping[str, Any]) -> None:
        """Checks the rates and the data of a `fit` in a phase, with such arguments; see `fit`.

        ConfigError if several steps at a time need another number of batches.
        """
        steps, first = arguments.get("steps_per_epoch"), arguments.get("initial_epoch", 0)
        inputs.check_executions(self._options.steps_per_execution, steps)
        in_epoch = steps or inputs.number_of_batches(dataset)
        count_steps(self._optimizers, in_epoch)
        callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
        if not any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):  # it moves the start
            check_rates(self._optimizers, [phase] * (arguments["epochs"] - first), in_epoch)

    def begin_batch(self) -> None:
        """Checks that one step can be made alone: ConfigError where it has no rate."""
        count_steps(self._optimizers, None)

    def end_epoch(self, phase: Phase, logs: Mapping[str, float]) -> None:
        """Raises DivergedError if the bits/dim in the logs of an epoch are those of a divergence."""
        bits, last = {"validation": logs.get("val_bpd", 0.0)}, phase.last
        objective = self._forward.objectives[last]
        lowers = objective.is_likelihood or isinstance(objective, BaseObjective)  # others need not
        trained = logs.get("bpd", logs.get(f"local_bpd_{last + 1}", math.nan) if lowers else math.nan)
        self.check_bits(phase, bits if math.isnan(trained) else {"training": trained, **bits})

    def check_bits(self, phase: Phase, bits: Mapping[str, float]) -> None:
        """Raises DivergedError if bits/dim after an epoch, by the images that they are of, are not sound."""
        real = self._forward.flow.config.is_real  # whose scale, and so whose bits, may be any
        self.skips.check_bits(phase, bits, math.inf if real else MOST_BITS)
