"""`PartsTrainer`: a Keras model that trains a Glow by a schedule of phases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from glow_tf.config import TrainConfig
from glow_tf.likelihood import bits_per_dim
from glow_tf.pieces import in_streams
from glow_tf.training import inputs
from glow_tf.training.batch import Batch, filled_up, unpack
from glow_tf.training.datasets import start_reading
from glow_tf.training.diagnosis import Seen
from glow_tf.training.fit_callbacks import callbacks_for
from glow_tf.training.on_batch import OnBatch
from glow_tf.training.optimizers import check_rates, count_steps
from glow_tf.training.options import (
    CompileOptions,
    check_compiled,
    check_phases,
    optimizers_per_part,
    warn_of_late_priors,
    warn_of_rates,
)
from glow_tf.training.recipe import recipe_of


@keras.saving.register_keras_serializable(package="glow_tf")
class PartsTrainer(OnBatch):
    """Trains a `Glow` by a schedule of phases; `fit` and `evaluate` are Keras's loops.

    Each epoch is in one phase. A phase that trains one part runs the parts before it forward only, and does
    not run the parts after it at all.

    `compile()` sets the rates, warm-up and decay that the command has. `fit` and `evaluate` take uint8 images
    [N, H, W, C] (with `batch_size`) or a `tf.data.Dataset`. Its elements are images, or (images, noise); with
    a `PrefixCache`, `fit` takes (images, noise, index); `evaluate` also takes (images, noise, weight).

    Logs: what `StepMeans` lists for training, NaN where a phase computes nothing; `bpd`, `bpd_se` and `loss`,
    which is the bpd again, for an evaluation.

    Ordinary Keras callbacks work; see docs/guides/keras.md. A callback that sets the learning rate sets the
    first part's, and the others' follow in proportion.

    Where the optimizers keep moving averages of the weights (`use_ema`), `fit` ends with the averages, as
    Keras's does. Before that, `with trainer.averages.in_place():` evaluates them, or saves
    them with `trainer.glow.save`.

    Args:
      glow: the model to train, built.
      phases: the phase of every epoch, from `glow_tf.phases`; by default those of the `TrainConfig` that it
        is compiled with. Further epochs are end to end.
      seed: of the order of the images and the noise, where `fit` is given an array.
      objective: a `LocalObjective` class, which each part but the last is trained on in the place of its
        truncated likelihood; or one object for each part, None where it keeps its own.

    Raises:
      ConfigError: a phase names a part that there is not, or an objective does not fit.
    Reference: Glow parts, section 3 and Eq. 3.
    """

    # Setting up

    def compile(self, optimizers: Any = None, **options: Any) -> None:
        """Sets one optimizer per part, and how steps are computed.

        With a `TrainConfig`, training is what `glow-tf train` does with these settings, but for going back
        after a divergence; `cache_prefix` and `objective` are for runs, and refused. The phases are those of
        the trainer, if it was given any, and otherwise those of the settings.

        Args:
          optimizers: a `TrainConfig`; nothing, for the settings' defaults; one optimizer per part, in the
            order of the parts; or one optimizer or its name, such as "adamax", of which every part gets a new
            one. `optimizer` is another name of the argument.
          **options: of `CompileOptions`; they win over those of a `TrainConfig`. With one, also
            `steps_per_epoch`; otherwise the first `fit` finds it where the rates need it.

        Raises:
          ConfigError: there is not one optimizer per part, or options are no counts, not finite, or exclude
            each other; or the settings contradict the trainer's phases.
        """
        given = options.pop("optimizer", None) if optimizers is None else optimizers
        if given is None or isinstance(given, TrainConfig):
            steps, own = options.pop("steps_per_epoch", None), self.phases if self.has_own_phases else ()
            with self.distribute_strategy.scope():
                recipe = recipe_of(given or TrainConfig(), self.glow, own, steps)
            given, options = recipe.optimizers, recipe.options | options
            self.rate_factors = recipe.rate_factors
            self.set_phases(recipe.phases)
        checked = CompileOptions.of(options)
        optimizers = optimizers_per_part(given, len(self.glow.parts))
        self.compile_steps(optimizers, checked)
        warn_of_rates(optimizers, checked.rate_scaling)

    # Steps

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Runs one step of the current phase: gradients, check, clipping, update.

        The batch is images [B, H, W, C] of the model's type, (images, noise) or (images, noise, index);
        labels, integers [B], and what the model is given follow. A step whose loss or gradient is not finite
        is skipped. Returns the phase's logs so far in this epoch, [] each: bits/dim, norms, seconds.

        Raises:
          tf.errors.InvalidArgumentError: too many steps in a row are not finite, or outside of their band;
            `fit` raises DivergedError in its place.
        """
        phase = self.phase
        given = filled_up(self.with_noise(unpack(batch, self.glow.config), phase))
        passage = self.entering(given, phase)
        step = self._gradients(passage, phase, given.weight, self.queues(phase))

        def seen() -> Seen:
            return Seen(self.glow.dequantized(given.images, given.noise, seed=self.seed), passage.condition)

        updated = self._update(phase, step, seen)
        self.means.update(phase, step, updated)
        return self.get_metrics_result()

    def test_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Adds a batch to the evaluation of the whole chain; returns `bpd` and its error so far, bits/dim.

        The batch is images [B, H, W, C] of the model's type, (images, noise) or (images, noise, weight [B]);
        what the model is given follows.
        """
        given = filled_up(unpack(batch, self.glow.config, trains=False))
        v = self.glow.dequantized(given.images, given.noise, seed=self.seed)
        nll = -in_streams(self.glow.dequantized_log_prob, v, None, given.condition)
        self.test_metric.update_state(bits_per_dim(nll, v.shape[1:]), given.weight)
        return self.test_metric.result()

    def predict_step(self, batch: Any) -> tf.Tensor:
        """Returns what `call` returns for a batch, of which a replica may have no image: [B], nats."""
        given = unpack(batch, self.glow.config, trains=False)
        filled = filled_up(Batch(given.images, condition=given.condition))
        log_prob = self.glow.call(filled.images, filled.condition)
        return log_prob[: tf.shape(given.images)[0]]

    # Loops

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int | None = None,
        initial_step: int = 0,
        **kwargs,
    ) -> Any:
        """Trains, as keras.Model.fit does.

        Initialises the ActNorms first, from 32 to 256 images, unless that was done or restored.

        Args:
          x: uint8 images [N, H, W, C], shuffled anew every epoch, or a source of batches of images or
            (images, noise); see `datasets.as_dataset`.
          y: of an array x, the labels [N] of a model with classes, or what a model is given, [N, …]; or both.
          batch_size: for an array; that of `compile` by default.
          epochs: the epoch to stop after; by default the last that has a phase.
          initial_step: steps of the first epoch that were made before, by a trainer whose state was restored.
            They pass without computing, and the epoch's means go on. A dataset begins after them.
          **kwargs: of keras.Model.fit.

        Raises:
          ConfigError: the images do not fit the model, an argument has no meaning here, an epoch would train
            at a rate that has fallen to 0, or rates need the number of steps per epoch, which is not known.
          NonFiniteError: too many steps in a row were not finite.
          DivergedError: a loss or gradient norm was out of its band in too many steps in a row.
        """
        check_compiled(self, "fit")
        check_phases(self.glow, self.phases, self.local_objectives)
        kwargs |= {"y": y, "epochs": max(len(self.phases), 1) if epochs is None else epochs}
        batch_size = self.options.batch_size if batch_size is None else batch_size
        dataset = inputs.for_fit(self.glow, x, batch_size, self.seed, kwargs, initial_step)
        steps, first = kwargs.get("steps_per_epoch"), kwargs.get("initial_epoch", 0)
        inputs.check_executions(self.options.steps_per_execution, steps, initial_step)
        self._check_rates(kwargs, steps or inputs.number_of_batches(dataset), initial_step)
        self.steps_before = initial_step
        if self.options.part_delay:
            self._make_queues(dataset, steps)
        self.initialize_from(dataset)
        self.averages.start()
        missing = self._missing_logs(first, kwargs["epochs"], kwargs.get("validation_data") is not None)
        kwargs["callbacks"] = callbacks_for(kwargs.get("callbacks"), self.optimizers, missing)
        start_reading(dataset)
        if not (first or initial_step):
            self.divergence_monitor.forget()
        with self._skips.naming_faults():
            return super().fit(inputs.of_unknown_length(dataset, initial_step), **kwargs)

    def _check_rates(self, given: Mapping[str, Any], steps_per_epoch: int | None, initial_step: int) -> None:
        """Tells the rates how many steps an epoch has, and checks them; see `fit`."""
        first = given.get("initial_epoch", 0)
        count_steps(self.optimizers, steps_per_epoch)
        callbacks = keras.tree.flatten(given.get("callbacks") or [])
        if not any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):  # it moves the start
            phases = map(self.phase_of, range(first, given["epochs"]))
            check_rates(self.optimizers, phases, steps_per_epoch, initial_step)
        warn_of_late_priors(self.glow, self.phases[first:], self.optimizers)

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int | None = None, **kwargs) -> Any:
        """Computes the bits per dimension of the whole chain, as keras.Model.evaluate does.

        Args:
          x: uint8 images [N, H, W, C], or a source of batches of images, (images, noise) or (images, noise,
            weight).
          y: of an array x, what a model is given with each image; labels are not used.
          batch_size: for an array; 64 by default.
          **kwargs: of keras.Model.evaluate; `return_dict=True` gives `bpd`, `bpd_se` and `loss`, the bpd,
            in the order that a list has without it.

        Raises:
          ConfigError: the images do not fit the model, or an argument has no meaning here.
        """
        check_compiled(self, "evaluate")
        x = inputs.for_evaluation(self.glow, x, batch_size, self.seed, kwargs | {"y": y})
        with self.evaluating():
            return super().evaluate(x, **kwargs)
