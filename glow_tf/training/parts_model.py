"""What `PartsTrainer` is beside its loops: a model, its phases, optimizers and queues; how it is saved."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.bijectors.condition import Array, Condition
from glow_tf.cost import crossing_bytes
from glow_tf.glow import Glow
from glow_tf.internals import steps_made
from glow_tf.partition import PartLayout, part_layouts
from glow_tf.passage import Passage
from glow_tf.schedule import Phase
from glow_tf.training import inputs
from glow_tf.training.averages import Averages
from glow_tf.training.batch import Batch, first_examples, initialization_examples, noise_of_step
from glow_tf.training.datasets import Dataset
from glow_tf.training.divergence import DivergenceMonitor
from glow_tf.training.gradients import OneTape, TapePerPart
from glow_tf.training.local_steps import LocalSteps
from glow_tf.training.objective import Objectives, objectives_of
from glow_tf.training.optimizers import Optimizers
from glow_tf.training.options import IF_MISSING, CompileOptions, warn_of_unregistered
from glow_tf.training.phased_model import PhasedModel
from glow_tf.training.prefix import PrefixCache
from glow_tf.training.queues import DelayQueues
from glow_tf.training.skipping import SkippedSteps
from glow_tf.training.traffic import Traffic
from glow_tf.training.update import Update
from glow_tf.training.walk import Walk


class PartsModel(PhasedModel):
    """A `Glow` with an optimizer, a local objective and a device for each part; see `PartsTrainer`."""

    def __init__(
        self, glow: Glow, phases: Sequence[Phase] = (), seed: int = 0, objective: Objectives = None, **kwargs
    ):
        super().__init__(phases, glow.parts, timed=bool(glow.part_devices), **kwargs)
        self.glow = glow
        self.seed = seed
        self.local_objectives = objectives_of(glow, objective)
        self._untracked = types.SimpleNamespace(walk=Walk(glow, self.local_objectives))
        self.prefix_caches: dict[Phase, PrefixCache] = {}
        self.rate_factors: list[tf.Variable] = []  # of a run, for each part
        self.finished_epochs = 0  # of the run that `load_trainer` loads
        self.build((None, *glow.image_shape))

    def initialize(self, images: Array, noise: Array | None = None, condition: Condition = None) -> None:
        """Runs `Glow.initialize`, the same on all replicas; a restored model stays as it is.

        Args:
          images: uint8 [B, H, W, C].
          noise: in [0, 1), [B, H, W, C]; by default, drawn from the seed of the model.
          condition: what the model is given with each image.

        Raises:
          ConfigError: the images, the noise or the condition do not fit the model.
        """
        with self.distribute_strategy.scope():
            self.glow.initialize(images, noise, condition)

    def initialize_from(self, dataset: Dataset) -> None:
        """Runs `initialize` on the first images of a dataset, unless the model is initialised."""
        if not self.glow.initialized:
            count = initialization_examples(self.glow.image_shape)
            with self.distribute_strategy.scope():
                examples = first_examples(dataset, count, self.glow.config)
            self.initialize(*examples)

    @property
    def walk(self) -> Walk:
        """What takes batches through the parts."""
        return self._untracked.walk

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        # Part by part, as the optimizers have them: Keras ends averages in this order.
        if not any(getattr(self, "local_objectives", ())):
            return super().trainable_weights
        return [v for k in range(len(self.glow.parts)) for v in self.walk.variables_of(k)]

    def traffic(self, phase: Phase, layouts: Sequence[PartLayout] = ()) -> Traffic:
        """Returns what a step of the phase moves between devices; what a prefix cache has crosses no cut.

        `layouts` are the parts for what a step takes, if it takes crops; by default, for whole images.
        """
        crossing = crossing_bytes(
            layouts or part_layouts(self.glow.config),
            phase.last,
            crossed=phase.crossed,
            cached=phase in self.prefix_caches,
            float_bytes=tf.as_dtype(self.glow.compute_dtype).size,
        )
        return Traffic(*crossing, self.local_steps.bytes_per_step(phase))

    @property
    def divergence_monitor(self) -> DivergenceMonitor:
        """What says of every step whether the losses and gradients are as they were."""
        return self._skips.divergence_monitor

    @property
    def within_epoch(self) -> dict[str, Any]:
        """What it knows of the running epoch, as checkpoints name it."""
        return {"means": self.means.variables, "not_finite_in_a_row": self._skips.in_a_row}

    def queues(self, phase: Phase) -> DelayQueues | None:
        """Returns the queues between the parts in a phase; None if batches do not wait in it."""
        return self._queues if phase.kind == "simultaneous" else None

    # Steps

    def compile_steps(self, optimizers: Optimizers, options: CompileOptions) -> None:
        """Sets one optimizer per part, and how steps are computed; see `PartsTrainer.compile`."""
        options = options.checked(self.glow, self.distribute_strategy, optimizers)
        limits = (options.max_skipped_steps, options.max_outside_steps)
        with self.distribute_strategy.scope():
            self.local_steps = LocalSteps(self.walk, optimizers, options.sync_every, options.outer_step)
            replicas = self.local_steps.replicas
            self._skips = SkippedSteps(self.glow, optimizers, *limits, options.jit_compile, replicas)
            self._update = Update(self.walk, optimizers, options.clip_norm, self._skips, options.rate_scaling)
            one_tape = OneTape(self.walk, replicas)
            self._gradients = TapePerPart(self.walk) if self.glow.part_devices else one_tape
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

    def entering(self, batch: Batch, phase: Phase) -> Passage:
        """Returns a batch as it enters the first part that runs, or the one whose frozen prefix is cached."""
        cache = self.prefix_caches.get(phase)
        with self.glow.on_device_of(0):
            passage = (
                cache.passage(batch.index) if cache else self.glow.enter(batch.images, batch.noise, self.seed)
            )
        condition = self.glow.checked_condition(batch.condition)
        return passage._replace(labels=batch.labels, condition=condition)

    def with_noise(self, batch: Batch, phase: Phase) -> Batch:
        """Returns a batch with noise: new noise in every step, where a dataset has images alone."""
        if batch.noise is not None:
            return batch
        # To which every batch comes first, also where batches wait; one without weights counts no steps.
        trained = (k for k in phase.active if self.glow.parts[k].trainable_variables)
        first = next(trained, phase.active[0])
        step = steps_made(self.optimizers[first]).value
        return batch._replace(noise=noise_of_step(batch.images, (self.seed, first), step))

    # Epochs

    def on_epoch_start(self, epoch: int, steps: int | None) -> None:
        """Counts skipped steps anew, forgets losses that had other terms, starts the queues between parts."""
        resumes = self.steps_before > 0
        if not resumes:
            so_far = [self.phase_of(e) for e in range(epoch + 1)]
            self.divergence_monitor.forget_losses(self.walk.losses_of_other_terms(so_far))
        self._skips.begin_epoch(steps, resumes)
        self.local_steps.begin_epoch(self.phase, steps, resumes)
        if queues := self.queues(self.phase):
            queues.start()

    def on_step_end(self, last: bool) -> None:
        """Lets replicas meet; stops if training diverged; after an epoch's last step, empties the queues."""
        fault = self._skips.fault_of(self.phase)
        if fault := self.local_steps.end_step(self.phase, last, self.divergence_monitor, fault):
            raise fault
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

    def _missing_logs(self, first: int, epochs: int, validates: bool) -> dict[int, set[str]]:
        """Returns what each epoch does not compute; after the last phase all are like the first one there."""
        held_out = set() if validates else {"val_bpd", "val_bpd_se", "val_loss"}
        last = min(epochs, max(first, len(self.phases)) + 1)
        found = {epoch: self.phase_of(epoch) for epoch in range(first, last)}
        names = {p: {*self.means.names, *held_out} - self.means.names_of(p) for p in set(found.values())}
        return {epoch: names[phase] for epoch, phase in found.items()}

    # As a Keras model

    def call(self, images: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns the glow's log-probabilities of uint8 images [B, H, W, C]: [B], nats."""
        return self.glow.call(images, condition)

    def get_config(self) -> dict:
        own = [o and keras.saving.serialize_keras_object(o) for o in self.local_objectives]
        return {
            "name": self.name,
            "glow": keras.saving.serialize_keras_object(self.glow),
            "phases": [phase.to_config() for phase in self.phases],
            "has_own_phases": self.has_own_phases,
            "seed": self.seed,
            **({"objective": own} if any(own) else {}),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> PartsModel:
        load, own = keras.saving.deserialize_keras_object, config.get("objective")
        trainer = cls(
            load(config["glow"], custom_objects),
            [Phase.from_config(phase) for phase in config["phases"]],
            seed=config["seed"],
            objective=[o and load(o, custom_objects) for o in own] if own else None,
            name=config["name"],
        )
        trainer.has_own_phases = config.get("has_own_phases", trainer.has_own_phases)
        return trainer

    def get_compile_config(self) -> dict | None:
        if not self.compiled:
            return None
        warn_of_unregistered(self.optimizers)
        optimizers = [keras.saving.serialize_keras_object(o) for o in self.optimizers]
        return {"optimizers": optimizers, **self.options.to_config()}

    def compile_from_config(self, config: dict) -> None:
        optimizers = [keras.saving.deserialize_keras_object(o) for o in config.pop("optimizers")]
        config = {**IF_MISSING, **config}
        if not self.glow.part_devices:  # they are not saved
            config["part_delay"] = 0
        self.compile_steps(optimizers, CompileOptions(**config))
