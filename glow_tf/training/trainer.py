"""`PartsTrainer`: a Keras model that trains a Glow by a schedule of phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.config import TrainConfig
from glow_tf.glow import Glow
from glow_tf.internals import steps_made, untracked
from glow_tf.likelihood import bits_per_dim
from glow_tf.pieces import in_streams
from glow_tf.schedule import Phase
from glow_tf.training import inputs
from glow_tf.training.averages import Averages
from glow_tf.training.band import Band
from glow_tf.training.batch import (
    Batch,
    filled_up,
    first_examples,
    initialization_examples,
    noise_of_step,
    unpack,
)
from glow_tf.training.datasets import Dataset, start_reading
from glow_tf.training.fit_callbacks import callbacks_for
from glow_tf.training.gradients import gradients_by_device, gradients_together
from glow_tf.training.objective import Objectives, objectives_of
from glow_tf.training.optimizers import check_rates, count_steps
from glow_tf.training.options import (
    BEFORE,
    CompileOptions,
    check_compiled,
    check_trains,
    optimizers_per_part,
    warn_of_late_priors,
    warn_of_rates,
)
from glow_tf.training.phased_model import PhasedModel
from glow_tf.training.prefix import PrefixCache
from glow_tf.training.queues import DelayQueues
from glow_tf.training.recipe import recipe_of
from glow_tf.training.skipping import SkippedSteps
from glow_tf.training.traffic import Traffic, step_traffic
from glow_tf.training.update import Update
from glow_tf.training.walk import Walk


@keras.saving.register_keras_serializable(package="glow_tf")
class PartsTrainer(PhasedModel):
    """Trains a `Glow` by a schedule of phases; `fit` and `evaluate` are Keras's loops.

    Each epoch is in one phase. A phase that trains one part runs the parts before it forward only, without a
    gradient tape, and does not run the parts after it at all.

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

    def __init__(
        self,
        glow: Glow,
        phases: Sequence[Phase] = (),
        seed: int = 0,
        objective: Objectives = None,
        **kwargs,
    ):
        heads = [part.has_head for part in glow.parts]
        super().__init__(phases, heads, timed=bool(glow.part_devices), **kwargs)
        self.glow = glow
        self.seed = seed
        self.local_objectives = objectives_of(glow, objective)
        self._untracked = untracked(walk=Walk(glow, self.local_objectives))
        self.prefix_caches: dict[Phase, PrefixCache] = {}
        self.rate_factors: list[tf.Variable] = []  # of a run, for each part
        self.finished_epochs = 0  # of the run that `load_trainer` loads
        self.build((None, *glow.image_shape))

    # Setting up

    def compile(self, optimizers: Any = None, **options: Any) -> None:
        """Sets one optimizer per part, and how steps are computed.

        With a `TrainConfig`, training is what `glow-tf train` does with these settings, but for what only
        runs do: going back after a divergence, and `cache_prefix`. The phases are those of the trainer, if it
        was given any, and otherwise those of the settings.

        Args:
          optimizers: a `TrainConfig`; nothing, for the settings' defaults; one optimizer per part, in the
            order of the parts; or one optimizer or its name, such as "adamax", of which every part gets a new
            one. `optimizer` is another name of the argument.
          **options: of `CompileOptions`; they win over those of a `TrainConfig`. With one, `steps_per_epoch`
            too: the first `fit` finds it, if it can, where its rates depend on it.

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
        self._compile(optimizers, checked)
        warn_of_rates(optimizers, checked.rate_scaling)

    def _compile(self, optimizers: Sequence[keras.optimizers.Optimizer], options: CompileOptions) -> None:
        options = options.checked(self.glow, self.distribute_strategy, optimizers)
        limits = (options.max_skipped_steps, options.max_outside_steps)
        with self.distribute_strategy.scope():
            self._skips = SkippedSteps(self.glow, optimizers, *limits, compiled=options.jit_compile)
            self._update = Update(self.walk, optimizers, options.clip_norm, self._skips, options.rate_scaling)
        self.averages = Averages(self.walk, optimizers)
        # Keras callbacks that look at `model.optimizer` see the first part's.
        super().compile(
            optimizer=optimizers[0],
            jit_compile=options.jit_compile,
            steps_per_execution=options.steps_per_execution,
            run_eagerly=options.run_eagerly,
        )
        self.optimizers, self.options = optimizers, options
        self._queues: DelayQueues | None = None
        self.forget_train_functions()
        for part in self.glow.parts:
            part.set_reversible(options.reversible)

    def initialize(self, images: tf.Tensor, noise: tf.Tensor | None = None) -> None:
        """Runs `Glow.initialize`, the same on all replicas; a restored model stays as it is.

        Args:
          images: uint8 [B, H, W, C].
          noise: in [0, 1), [B, H, W, C]; by default, drawn from the seed of the model.

        Raises:
          ConfigError: the images or the noise do not fit the model.
        """
        with self.distribute_strategy.scope():
            self.glow.initialize(images, noise)

    def initialize_from(self, dataset: Dataset) -> None:
        """Runs `initialize` on the first images of a dataset, unless the model is initialised.

        Raises:
          ConfigError: the dataset is empty, or its images do not fit the model.
        """
        if not self.glow.initialized:
            count = initialization_examples(self.glow.image_shape)
            with self.distribute_strategy.scope():
                examples = first_examples(dataset, count, self._labelled)
            self.initialize(*examples)

    @property
    def walk(self) -> Walk:
        """What takes batches through the parts."""
        return self._untracked.walk

    @property
    def _labelled(self) -> bool:
        """Whether the batches that it trains on end with labels."""
        return bool(self.glow.config.classes)

    def traffic(self, phase: Phase) -> Traffic:
        """Returns what a step of the phase moves between devices."""
        return step_traffic(self.walk, phase, cached=phase in self.prefix_caches)

    @property
    def band(self) -> Band:
        """What says of every step whether the losses and gradients are as they were."""
        return self._skips.band

    @property
    def within_epoch(self) -> dict[str, Any]:
        """What it knows of the running epoch, as checkpoints name it."""
        return {"means": self.means.variables, "not_finite_in_a_row": self._skips.in_a_row}

    def queues(self, phase: Phase) -> DelayQueues | None:
        """Returns the queues between the parts in a phase; None if batches do not wait in it."""
        return self._queues if phase.kind == "simultaneous" else None

    # Steps

    def objectives(
        self,
        images: tf.Tensor,
        noise: tf.Tensor | None,
        phase: Phase,
        index: tf.Tensor | None = None,
        labels: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Evaluates what a phase evaluates.

        Args:
          images: uint8 [B, H, W, C].
          noise: in [0, 1), [B, H, W, C]; drawn from the trainer's seed if None.
          phase: which parts run, and whether gradients cross the cuts.
          index: places of the examples in the training data, [B], where the phase has a `PrefixCache`.
          labels: the class of each image, integers [B]; None scores a model with classes by their mixture.

        Returns:
          The loss of every example [B] and the truncated negative log-likelihoods [B], in bits per dimension;
          see `Walk.evaluate`.
        """
        cache = self.prefix_caches.get(phase)
        passage = cache.passage(index) if cache else self.glow.enter(images, noise, self.seed)
        passage = passage._replace(labels=labels)
        return self.walk.evaluate(passage, phase, reversible=self.options.reversible)

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Runs one step of the current phase: gradients, check, clipping, update.

        A step whose loss or gradient is not finite is skipped; see `compile`.

        Args:
          batch: images uint8 [B, H, W, C], (images, noise) or (images, noise, index); for a model with
            classes, the labels, integers [B], follow.

        Returns:
          The phase's logs so far in this epoch, [] each: bits/dim, norms, seconds.

        Raises:
          DivergedError: too many steps in a row are not finite, or outside of their band (a graph turns it
            into a tf.errors.OpError).
        """
        images, noise, index, labels = unpack(batch, self._labelled)
        phase = self.phase
        if noise is None:  # a dataset of images alone: new noise in every step
            # To which every batch comes first, also where batches wait; one without weights counts no steps.
            trained = (k for k in phase.active if self.glow.parts[k].trainable_variables)
            first = next(trained, phase.active[0])
            noise = noise_of_step(images, (self.seed, first), steps_made(self.optimizers[first]).value)
        images, noise, weight, labels = filled_up(Batch(images, noise, None, labels))
        groups = self.walk.trained_variables(phase)
        queues = self.queues(phase)
        arrived = None if queues is None else queues.arrived()
        if queues is None and weight is not None and self.distribute_strategy.num_replicas_in_sync == 1:
            arrived = [tf.reduce_sum(weight) > 0] * (phase.last + 1)  # nothing comes with an empty batch
        if self.glow.part_devices:
            with self.glow.on_device_of(0):
                passage = self.glow.enter(images, noise, self.seed, labels)
            step = gradients_by_device(self.walk, passage, phase, groups, queues, weight)
        else:
            step = gradients_together(
                lambda: self.objectives(images, noise, phase, index, labels), groups, weight
            )
        step = step._replace(arrived=arrived)
        updated = self._update(
            phase, groups, step, lambda: self.glow.dequantized(images, noise, seed=self.seed)
        )
        self.means.update(phase, step, updated)
        return self.get_metrics_result()

    def test_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Adds a batch to the evaluation of the whole chain.

        Args:
          batch: images uint8 [B, H, W, C], (images, noise) or (images, noise, weight [B]).

        Returns:
          `bpd` and its standard error `bpd_se` so far, bits/dim.
        """
        images, noise, weights, _ = filled_up(unpack(batch))
        v = self.glow.dequantized(images, noise, seed=self.seed)
        nll = -in_streams(self.glow.dequantized_log_prob, v)
        self.test_metric.update_state(bits_per_dim(nll, self.glow.image_shape), weights)
        return self.test_metric.result()

    def predict_step(self, batch: Any) -> tf.Tensor:
        """Returns what `call` returns for a batch, of which a replica may have no image: [B], nats."""
        images = unpack(batch).images
        filled = filled_up(Batch(images)).images
        return self.call(filled)[: tf.shape(images)[0]]

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
          y: for a model with classes, the labels of an array x, integers [N]; for others it must be None.
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
        check_trains(self.glow, self.phases)
        kwargs |= {"y": y, "epochs": max(len(self.phases), 1) if epochs is None else epochs}
        batch_size = self.options.batch_size if batch_size is None else batch_size
        dataset = inputs.for_fit(self.glow, x, batch_size, self.seed, kwargs, initial_step)
        steps, first = kwargs.get("steps_per_epoch"), kwargs.get("initial_epoch", 0)
        inputs.check_executions(self.options.steps_per_execution, steps, initial_step)
        known = steps or inputs.number_of_batches(dataset)
        count_steps(self.optimizers, known)
        callbacks = keras.tree.flatten(kwargs.get("callbacks") or [])
        if not any(isinstance(c, keras.callbacks.BackupAndRestore) for c in callbacks):  # it moves the start
            phases = map(self.phase_of, range(first, kwargs["epochs"]))
            check_rates(self.optimizers, phases, known, initial_step)
        warn_of_late_priors(self.glow, self.phases[first:], self.optimizers)
        self.steps_before = initial_step
        if self.options.part_delay:
            self._make_queues(dataset, steps)
        self.initialize_from(dataset)
        self.averages.start()
        missing = self._missing_logs(first, kwargs["epochs"], kwargs.get("validation_data") is not None)
        kwargs["callbacks"] = callbacks_for(kwargs.get("callbacks"), self.optimizers, missing)
        start_reading(dataset)
        if not (first or initial_step):
            self.band.forget()
        if initial_step and isinstance(dataset, tf.data.Dataset):
            # Keras counts the steps that pass, too: a dataset of known length would end before its end.
            dataset = dataset.filter(lambda *_: True)
        with self._skips.naming_faults():
            return super().fit(dataset, **kwargs)

    def _missing_logs(self, first: int, epochs: int, validates: bool) -> dict[int, set[str]]:
        """Returns what each epoch does not compute; after the last phase all are like the first one there."""
        held_out = set() if validates else {"val_bpd", "val_bpd_se", "val_loss"}
        last = min(epochs, max(first, len(self.phases)) + 1)
        found = {epoch: self.phase_of(epoch) for epoch in range(first, last)}
        names = {
            p: {*self.means.names, *held_out} - {m.name for m in self.means.of(p)}
            for p in set(found.values())
        }
        return {epoch: names[phase] for epoch, phase in found.items()}

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: None = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> Any:
        """Makes one step of the current phase, as keras.Model.train_on_batch does.

        Initialises the ActNorms from the batch if need be.

        Args:
          x: images uint8 [B, H, W, C]; or a tuple (images, noise), with noise in [0, 1).
          y: for a model with classes, the labels, integers [B], if they do not end the tuple x; for others it
            must be None.
          sample_weight: must be None.
          class_weight: must be None.
          return_dict: as in keras.Model.train_on_batch.

        Raises:
          ConfigError: the batch does not fit the model, an argument has no meaning here, or rates need the
            number of steps per epoch, which neither `compile` nor a `fit` has found out.
          NonFiniteError, DivergedError: as in `fit`.
        """
        check_compiled(self, "train_on_batch")
        count_steps(self.optimizers, None)
        unused = {"sample_weight": sample_weight, "class_weight": class_weight}
        batch = inputs.for_one_step(self.glow, x, y, unused, trains=True)
        if not self.glow.initialized:
            self.initialize(batch.images, batch.noise)
        self.averages.start()
        with self._skips.naming_faults():
            # Keras hands its arguments on as the members of the batch.
            logs = super().train_on_batch(batch.images, batch.noise, batch.labels, return_dict=return_dict)
            self._skips.raise_fault(self.phase)
        return logs

    def test_on_batch(
        self, x: Any, y: None = None, sample_weight: None = None, return_dict: bool = False
    ) -> Any:
        """Computes the bits per dimension of one batch, as keras.Model.test_on_batch does.

        Args:
          x: images uint8 [B, H, W, C]; or a tuple (images, noise), with noise in [0, 1).
          y: must be None.
          sample_weight: must be None.
          return_dict: as in keras.Model.test_on_batch.

        Raises:
          ConfigError: the batch does not fit the model, or an argument has no meaning here.
        """
        check_compiled(self, "test_on_batch")
        batch = inputs.for_one_step(self.glow, x, y, {"sample_weight": sample_weight}, trains=False)
        with self.evaluating():
            return super().test_on_batch(batch.images, batch.noise, return_dict=return_dict)

    def on_epoch_start(self, steps: int | None) -> None:
        """Counts skipped steps anew, and starts the queues between parts."""
        self._skips.begin_epoch(steps, goes_on=self.steps_before > 0)
        if queues := self.queues(self.phase):
            queues.start()

    def on_step_end(self, last: bool) -> None:
        """Stops if training diverged; after an epoch's last step, empties the queues."""
        self._skips.raise_fault(self.phase)
        if last:
            self.empty_queues()

    def empty_queues(self) -> None:
        """Brings all parts to the same batch, where batches wait between them; the queues start anew."""
        if queues := self.queues(self.phase):
            queues.flush(self.train_function)
            queues.start()

    def _make_queues(self, dataset: Dataset, steps: int | None) -> None:
        inputs.check_batches_of_one_size(dataset, steps)
        if self._queues is None or self._queues.batch_spec != dataset.element_spec:
            self._queues = DelayQueues(self.glow, dataset.element_spec, self.options.part_delay)
            self.forget_train_functions()

    def evaluate(self, x: Any, y: None = None, *, batch_size: int | None = None, **kwargs) -> Any:
        """Computes the bits per dimension of the whole chain, as keras.Model.evaluate does.

        Args:
          x: uint8 images [N, H, W, C], or a source of batches of images, (images, noise) or (images, noise,
            weight).
          y: labels, which are not used: it must be None.
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

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the glow's log-probabilities of uint8 images [B, H, W, C]: [B], nats."""
        return self.glow.call(images)

    def get_config(self) -> dict:
        """See keras.Model."""
        return {
            "name": self.name,
            "glow": keras.saving.serialize_keras_object(self.glow),
            "phases": [phase.to_config() for phase in self.phases],
            "seed": self.seed,
            **({"objective": own} if any(own := self._own_objectives()) else {}),
        }

    def _own_objectives(self) -> list[dict | None]:
        return [o and keras.saving.serialize_keras_object(o) for o in self.local_objectives]

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> PartsTrainer:
        """See keras.Model."""
        load, own = keras.saving.deserialize_keras_object, config.get("objective")
        return cls(
            load(config["glow"], custom_objects),
            [Phase.from_config(phase) for phase in config["phases"]],
            seed=config["seed"],
            objective=[o and load(o, custom_objects) for o in own] if own else None,
            name=config["name"],
        )

    def get_compile_config(self) -> dict | None:
        """See keras.Model."""
        if not self.compiled:
            return None
        optimizers = [keras.saving.serialize_keras_object(o) for o in self.optimizers]
        return {"optimizers": optimizers, **self.options.to_config()}

    def compile_from_config(self, config: dict) -> None:
        """See keras.Model."""
        optimizers = [keras.saving.deserialize_keras_object(o) for o in config.pop("optimizers")]
        config = {**BEFORE, **config}
        if not self.glow.part_devices:  # they are not saved
            config["part_delay"] = 0
        self._compile(optimizers, CompileOptions(**config))
