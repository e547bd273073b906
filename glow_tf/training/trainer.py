"""Training in gradient-isolated parts."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from glow_tf import data, likelihood
from glow_tf.diagnosis import explain_non_finite
from glow_tf.distribution import in_several_processes
from glow_tf.glow import Glow, Passage
from glow_tf.metrics import MeanAndError
from glow_tf.optimizers import Fused
from glow_tf.placement import Queue, bytes_of_an_example, make_queues, placed_step
from glow_tf.prefix import PrefixCache
from glow_tf.schedule import Phase, end_to_end
from glow_tf.streams import in_streams

# ActNorms are initialised from so many pixels: 32 images of 32x32, which take two seconds at width 512.
INITIALIZATION_PIXELS = 2**15
FEWEST_INITIALIZATION_EXAMPLES = 32
MOST_INITIALIZATION_EXAMPLES = 256
DEFAULT_BATCH_SIZE = 64
DATASETS = (tf.data.Dataset, tf.distribute.DistributedDataset)


class NonFiniteError(RuntimeError):
    """A loss or gradient was not finite; the message says in which part, step and bijector."""


class Traffic(NamedTuple):
    """Bytes that a training step moves between the devices of its parts.

    Attributes:
      forward: of an image's activations and likelihood, over all the cuts it crosses.
      backward: of their gradients.
      all_reduce: of the gradients that data parallelism would reduce over its replicas in the same step.
    """

    forward: int
    backward: int
    all_reduce: int


@keras.saving.register_keras_serializable(package="glow_tf")
class PartsTrainer(keras.Model):
    """Trains a `Glow` by a schedule of phases; `fit` and `evaluate` are the loops, as ever in Keras.

    Each epoch is in one phase. A phase that trains one part runs the parts before it forward only, without
    a gradient tape, and does not run the parts after it at all; see `train_step`. Every phase has its own
    train function, compiled and traced once, which `fit` swaps in at the start of an epoch.

    `compile(optimizers=[…])` takes one optimizer a part. `fit` and `evaluate` take uint8 images
    [N, H, W, C] (with `batch_size`) or a `tf.data.Dataset` of images, (images, noise), to train with a
    `PrefixCache` (images, noise, index), or to evaluate (images, noise, weight), as `glow_tf.data` makes
    them.

    Logs: of a step or epoch, `local_bpd_k` of every part that ran, `bpd` if that is all of them, and
    `gradient_norm_k` of every part that was trained; for parts on devices of their own, but for end-to-end
    epochs, `busy_seconds_k`, how long a part takes from its input to its gradients; of an evaluation, `bpd`
    and `bpd_se`.

    Ordinary Keras callbacks work. Those that set a learning rate reach the first part's alone, which is
    what Keras calls the model's optimizer; rates by part belong to the optimizers' schedules.

    Args:
      glow: the model to train, built.
      phases: the phase of every epoch, from `glow_tf.phases`; epochs beyond the last, or all without
        phases, are end to end.
      seed: of the order of the images and the noise, where `fit` is given an array.

    Raises:
      ValueError: the phases are made for another number of parts.
    Reference: Glow parts, section 3 and Eq. 3.
    """

    def __init__(self, glow: Glow, phases: Sequence[Phase] = (), seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.glow = glow
        self.phases = tuple(phases)
        self._check_phases()
        self.seed = seed
        self._phase = self.phase_of(0)
        self._evaluating = False
        names = [f"{name}_{k + 1}" for k in range(len(glow.parts)) for name in _PART_METRICS]
        self._means = {name: keras.metrics.Mean(name) for name in ("bpd", *names)}
        self._test_metric = MeanAndError("bpd")
        self._train_functions: dict[Phase, Callable] = {}
        self._step_of_epoch = tf.Variable(0, trainable=False)
        self._batches_of_epoch = tf.Variable(0, trainable=False)
        self._crossing: dict[Phase, int] = {}
        self.prefix_caches: dict[Phase, PrefixCache] = {}
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Nothing to build: the glow is."""
        self.built = True

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Nothing is left to build; Keras's would take a batch for it, and cannot in several processes."""

    def _check_phases(self) -> None:
        every = tuple(range(len(self.glow.parts)))
        for phase in self.phases:
            if not set(phase.active) <= set(every) or (phase.kind != "part" and phase.active != every):
                raise ValueError(
                    f"phases must be made for the {len(every)} parts of the glow. "
                    f"Received: phase '{phase}' of parts {phase.active_parts}"
                )

    # Setting up

    def compile(
        self,
        optimizers: Sequence[keras.optimizers.Optimizer],
        clip_norm: float = 0.0,
        reversible: bool = False,
        part_delay: int = 0,
        steps_per_execution: int = 1,
        run_eagerly: bool = False,
    ) -> None:
        """Sets one optimizer a part.

        Args:
          optimizers: in the order of the parts.
          clip_norm: largest global norm of the gradients (of the loss in bits/dim), over all parts in an
            end-to-end epoch, over each part otherwise, after they are reduced over replicas; 0 = off.
          reversible: recompute activations from outputs instead of keeping them (see `Stack`).
          part_delay: in simultaneous epochs of parts on devices of their own, how many steps old the batch
            is that a part takes over from the one before, made with the weights of that step. All parts then
            work at the same time, and each still sees what it would have seen without: an epoch ends when
            its last batch has come to the last part.
          steps_per_execution: as in Keras.
          run_eagerly: as in Keras.

        Raises:
          ValueError: not one optimizer a part, a delay without devices for the parts, or several steps per
            execution in several processes.
        """
        if steps_per_execution != 1 and in_several_processes(self.distribute_strategy):
            raise ValueError(
                "steps_per_execution must be 1 in several processes. Received: "
                f"steps_per_execution={steps_per_execution}"
            )
        if min(part_delay, clip_norm) < 0:
            raise ValueError(
                "part_delay and clip_norm must not be negative. "
                f"Received: part_delay={part_delay}, clip_norm={clip_norm}"
            )
        if self.glow.part_devices and self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "a glow whose parts have devices of their own is trained by one replica. "
                f"Received: {self.distribute_strategy.num_replicas_in_sync} replicas"
            )
        if part_delay and not self.glow.part_devices:
            raise ValueError(
                f"part_delay needs a glow with part_devices. Received: part_delay={part_delay}, no devices"
            )
        optimizers = list(optimizers)
        if len(optimizers) != len(self.glow.parts):
            raise ValueError(
                f"compile needs one optimizer for each of the {len(self.glow.parts)} parts. "
                f"Received: {len(optimizers)} optimizers"
            )
        if len({id(o) for o in optimizers}) < len(optimizers):
            raise ValueError("compile needs a separate optimizer for each part. Received: one of them twice")
        with self.distribute_strategy.scope():
            for k, (part, optimizer) in enumerate(zip(self.glow.parts, optimizers, strict=True)):
                with self.glow.on_device_of(k):
                    optimizer.build(part.trainable_variables)
        for optimizer in optimizers:
            if isinstance(optimizer, Fused):
                optimizer.sums_gradients = False
        # Keras callbacks that look at `model.optimizer` see the first part's.
        super().compile(
            optimizer=optimizers[0],
            steps_per_execution=steps_per_execution,
            run_eagerly=run_eagerly,
            jit_compile=False,  # XLA is slower on a CPU
        )
        self.optimizers = optimizers
        self.clip_norm = clip_norm
        self.reversible = reversible
        self.part_delay = part_delay
        self._queues: dict[int, Queue] = {}
        self._queued_batch = 0
        for part in self.glow.parts:
            part.set_reversible(reversible)
        self._train_functions = {}

    def initialize(self, images: tf.Tensor, noise: tf.Tensor | None = None) -> None:
        """Runs `Glow.initialize` once, the same on all replicas; does nothing on a restored model."""
        with self.distribute_strategy.scope():
            self.glow.initialize(images, noise)

    def initialize_from(self, dataset: tf.data.Dataset) -> None:
        """Runs `initialize` on the first `initialization_examples` of a dataset, if it is still to be run."""
        if not self.glow.initialized:
            self.initialize(*_first_examples(dataset, initialization_examples(self.glow.image_shape)))

    # Phases

    def phase_of(self, epoch: int) -> Phase:
        """Returns the phase of an epoch, counted from 0."""
        return self.phases[epoch] if epoch < len(self.phases) else end_to_end(len(self.glow.parts))

    @property
    def phase(self) -> Phase:
        """The phase that a training step is in."""
        return self._phase

    def set_phase(self, phase: Phase) -> None:
        """Swaps in a phase's train function, making it (to be traced at its first step) if need be."""
        if phase not in self._train_functions:
            if in_several_processes(self.distribute_strategy):
                self.train_function = _step_of_worker(self.distribute_strategy, self.train_step)
            else:
                super().make_train_function(force=True)
            self._train_functions[phase] = self.train_function
        self._phase = phase
        self.train_function = self._train_functions[phase]

    def start_epoch(self) -> None:
        """Empties the queues before the parts."""
        if self._queues:
            self._step_of_epoch.assign(0)
            self._batches_of_epoch.assign(self._batches_of_epoch.dtype.max // 2)

    def finish_epoch(self) -> None:
        """Takes what still waits before the parts through them."""
        if not self._queued(self.phase):
            return
        self._batches_of_epoch.assign(self._step_of_epoch)
        nothing = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), self._batch_spec)
        batches = iter(tf.data.Dataset.from_tensors(nothing).repeat())
        for _ in range((len(self.glow.parts) - 1) * self.part_delay):
            self.train_function(batches)

    def make_train_function(self, force: bool = False) -> None:
        """Compiles the current phase's train function, or swaps in the one there is."""
        if force:
            self._train_functions.pop(self._phase, None)
        self.set_phase(self._phase)

    def make_test_function(self, force: bool = False) -> None:
        """Compiles the test function."""
        if not in_several_processes(self.distribute_strategy):
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = _step_of_worker(self.distribute_strategy, self.test_step)

    def trained_variables(self, phase: Phase) -> list[list[keras.Variable]]:
        """Returns, for each active part, the variables that the phase trains.

        End to end, the local priors of the parts before the last are in no objective.
        """
        last = len(self.glow.parts) - 1
        return [
            self.glow.parts[k].flow_variables
            if phase.end_to_end and k < last
            else self.glow.parts[k].trainable_variables
            for k in phase.active
        ]

    def traffic(self, phase: Phase) -> Traffic:
        """Returns what a step of the phase moves; across cuts, nothing before it is traced."""
        forward = self._crossing.get(phase, 0)
        backward = forward if phase.end_to_end else 0
        gradients = [v.value for group in self.trained_variables(phase) for v in group]
        return Traffic(forward, backward, sum(_bytes(g) for g in gradients))

    # Steps

    def objectives(
        self, images: tf.Tensor, noise: tf.Tensor | None, phase: Phase, index: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Evaluates what a phase evaluates.

        Args:
          images: uint8 [B, H, W, C].
          noise: in [0, 1), [B, H, W, C].
          phase: which parts run, and whether gradients cross the cuts.
          index: places of the examples in the training data, [B], where the phase has a `PrefixCache`.

        Returns:
          The loss of every example that the phase minimises [B], and for each part k that ran the
          truncated negative log-likelihood up to k (Eq. 3's left side, with p_local of h_k) [B]; in bits
          per dimension.
        """
        if phase in self.prefix_caches:
            passage = self.prefix_caches[phase].passage(index)
        else:
            passage = self.glow.enter(images, noise, self.seed)
        if self.reversible:  # there each stack has its own streams
            return self._objectives(passage, phase)
        return in_streams(lambda *pieces: self._objectives(Passage(*pieces), phase), *passage)

    def _objectives(self, passage: Passage, phase: Phase) -> tuple[tf.Tensor, list[tf.Tensor]]:
        loss = tf.zeros_like(passage.log_likelihood)
        crossing = 0
        while len(passage.truncated) <= phase.last:
            k = len(passage.truncated)
            if not phase.end_to_end:
                passage = passage.isolated()
            passage, objective = self.glow.through_next_part(passage)
            if k in phase.active and not phase.end_to_end:
                loss += objective
            if k < phase.last:
                crossing += bytes_of_an_example(passage.h, passage.log_likelihood)
        if phase.end_to_end:
            loss = passage.truncated[-1]
        self._crossing[phase] = crossing
        shape = self.glow.image_shape
        return likelihood.bits_per_dim(loss, shape), [
            likelihood.bits_per_dim(t, shape) for t in passage.truncated
        ]

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Runs one step of the current phase.

        Only the phase's variables are watched, so nothing is recorded before the first active part.
        """
        images, noise, index = _unpack(batch)
        phase = self.phase
        if noise is None:  # a dataset of images alone: new noise every step
            step = tf.cast(self.optimizers[phase.last].iterations.value, tf.int32)
            noise = tf.random.stateless_uniform(tf.shape(images), [self.seed, step])
        groups = self.trained_variables(phase)
        arrived = self._arrived(phase)
        if self.glow.part_devices:
            loss, truncated, per_part = self._gradients_by_device(images, noise, phase, groups, arrived)
        else:
            loss, truncated, per_part = self._gradients(images, noise, phase, index, groups)
        norms = [
            self._where(k, tf.linalg.global_norm, g) for k, g in zip(phase.active, per_part, strict=True)
        ]
        checked = self._stop_if_not_finite(loss, norms, images, noise)
        with tf.control_dependencies(checked):
            self._apply(phase, groups, self._clip(phase, per_part, norms), arrived)
        return self._update_train_metrics(phase, truncated, norms, arrived)

    def _arrived(self, phase: Phase) -> list[tf.Tensor] | None:
        """Whether each part has a batch of this epoch in hand; None where no queues are before them."""
        if not self._queued(phase):
            return None
        step = self._step_of_epoch.assign_add(1)
        behind = [k * self.part_delay for k in range(len(self.glow.parts))]
        return [(step > late) & (step <= self._batches_of_epoch + late) for late in behind]

    def _queued(self, phase: Phase) -> bool:
        return bool(self._queues) and phase.kind == "simultaneous"

    def _gradients(
        self,
        images: tf.Tensor,
        noise: tf.Tensor,
        phase: Phase,
        index: tf.Tensor | None,
        groups: list[list[keras.Variable]],
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[list[tf.Tensor]]]:
        """Returns the loss [], the truncated objectives [B] and the gradients of each active part."""
        variables = [v.value for group in groups for v in group]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            losses, truncated = self.objectives(images, noise, phase, index)
            loss = tf.reduce_mean(losses)
            # Replicas' gradients are summed, so each contributes its share of the global mean.
            replicas = self.distribute_strategy.num_replicas_in_sync
            scaled = loss / replicas
        gradients = tape.gradient(scaled, variables)
        if replicas > 1:
            gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        return loss, truncated, _regroup(gradients, [len(group) for group in groups])

    def _gradients_by_device(
        self,
        images: tf.Tensor,
        noise: tf.Tensor,
        phase: Phase,
        groups: list[list[keras.Variable]],
        arrived: list[tf.Tensor] | None,
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[list[tf.Tensor]]]:
        """Does what `_gradients` does, each part's share on the part's own device."""
        variables = {k: [v.value for v in group] for k, group in zip(phase.active, groups, strict=True)}
        with self.glow.on_device_of(0):
            passage = self.glow.enter(images, noise, self.seed)
        queues = self._queues if self._queued(phase) else {}
        step = placed_step(self.glow, passage, phase, variables, queues)
        self._crossing[phase] = step.crossing
        for k, seconds in zip(phase.active, step.busy, strict=False):
            weight = None if arrived is None else tf.cast(arrived[k], tf.float32)
            self._means[f"busy_seconds_{k + 1}"].update_state(seconds, weight)
        return step.loss, step.truncated, step.gradients

    def _where(self, k: int, function: Callable[..., Any], *args: Any) -> Any:
        with self.glow.on_device_of(k):
            return function(*args)

    def test_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Adds a batch to the bits per dimension of the whole chain."""
        images, noise, weights = _unpack(batch)
        v = self.glow.dequantized(images, noise, seed=self.seed)
        nll = -in_streams(self.glow.dequantized_log_prob, v)
        self._test_metric.update_state(likelihood.bits_per_dim(nll, self.glow.image_shape), weights)
        return self._test_metric.result()

    def _clip(self, phase: Phase, per_part: list, norms: list[tf.Tensor]) -> list:
        if not self.clip_norm:
            return per_part
        if phase.end_to_end:
            norms = [tf.linalg.global_norm(norms)] * len(norms)

        def clip(gradients: list[tf.Tensor], norm: tf.Tensor) -> list[tf.Tensor]:
            factor = self.clip_norm / tf.maximum(norm, self.clip_norm)
            return [gradient * factor for gradient in gradients]

        # Where the gradients are: they are as large as the part's weights, its norm is one number.
        return [
            self._where(k, clip, gradients, norm)
            for k, gradients, norm in zip(phase.active, per_part, norms, strict=True)
        ]

    def _apply(
        self, phase: Phase, groups: list, per_part: list, arrived: list[tf.Tensor] | None = None
    ) -> None:
        for k, gradients, variables in zip(phase.active, per_part, groups, strict=True):
            optimizer = self.optimizers[k]
            # The gradients are summed over the replicas already: clipping had to see the whole. To an
            # optimizer that sums them once more, each replica hands over its share.
            shares = self.distribute_strategy.num_replicas_in_sync if _sums_gradients(optimizer) else 1
            with self.glow.on_device_of(k):
                own = [g / shares if shares > 1 else tf.identity(g) for g in gradients]
                apply = functools.partial(optimizer.apply, own, variables)
                if arrived is None:
                    apply()
                else:
                    tf.cond(arrived[k], lambda apply=apply: (apply(), True)[1], lambda: False)

    def _stop_if_not_finite(
        self, loss: tf.Tensor, norms: list[tf.Tensor], images: tf.Tensor, noise: tf.Tensor | None
    ) -> list[tf.Tensor]:
        """Returns a check that fails, before any weight changes, if the step has a non-finite number."""
        # TensorFlow never forgets a py_function, and what one refers to stays in memory.
        reference = weakref.ref(self)

        def explain(v: tf.Tensor, loss: tf.Tensor, *norms: tf.Tensor) -> bool:
            trainer = reference()
            step = int(trainer.optimizers[trainer.phase.last].iterations.numpy())
            trainer._fault = explain_non_finite(
                trainer.glow, trainer.phase, step, v, float(loss), [float(n) for n in norms]
            )
            raise NonFiniteError(trainer._fault)  # out of the graph it comes as an OpError: see fit

        def stop() -> tf.Tensor:
            v = self.glow.dequantized(images, noise, seed=self.seed)
            return tf.py_function(explain, [v, loss, *norms], tf.bool)

        finite = tf.reduce_all(tf.math.is_finite(tf.stack([loss, *norms])))
        if self.distribute_strategy.num_replicas_in_sync > 1:
            # The norms are those of all replicas: the one whose images are at fault is to explain.
            own = 1 - tf.cast(tf.math.is_finite(loss), tf.int32)
            anywhere = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, own)
            finite |= (own == 0) & (anywhere > 0)
        return [tf.cond(finite, lambda: True, stop)]

    # Metrics

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Those that the current phase, or an evaluation, computes."""
        if self._evaluating:
            return [self._test_metric]
        phase = self._phase
        names = [f"local_bpd_{k + 1}" for k in range(phase.last + 1)]
        names += [f"gradient_norm_{k + 1}" for k in phase.active]
        if self.glow.part_devices and not phase.end_to_end:
            names += [f"busy_seconds_{k + 1}" for k in phase.active]
        if phase.last == len(self.glow.parts) - 1:
            names.append("bpd")
        return [self._means[name] for name in names]

    def _update_train_metrics(
        self,
        phase: Phase,
        truncated: list[tf.Tensor],
        norms: list[tf.Tensor],
        arrived: list[tf.Tensor] | None = None,
    ) -> dict[str, tf.Tensor]:
        # With queues, all of `truncated` is of the batch that has come to the last part.
        weights = [None] * (phase.last + 1) if arrived is None else [tf.cast(a, tf.float32) for a in arrived]
        for k, bpd in enumerate(truncated):
            self._means[f"local_bpd_{k + 1}"].update_state(bpd, weights[-1])
        for k, norm in zip(phase.active, norms, strict=True):
            self._means[f"gradient_norm_{k + 1}"].update_state(norm, weights[k])
        if phase.last == len(self.glow.parts) - 1:
            self._means["bpd"].update_state(truncated[-1], weights[-1])
        return self.get_metrics_result()

    # Loops

    def fit(self, x: Any, *, batch_size: int | None = None, epochs: int | None = None, **kwargs) -> Any:
        """Trains, as keras.Model.fit does; `epochs` defaults to all that have a phase.

        Initialises the ActNorms first, from `initialization_examples`, unless that was done or restored.

        Args:
          x: uint8 images [N, H, W, C], shuffled anew every epoch, or a dataset of images or
            (images, noise).
          batch_size: for an array; 64 by default.
          epochs: the epoch to stop after.
          **kwargs: of keras.Model.fit.

        Raises:
          ValueError: images, or those of a dataset, are not uint8 of the model's shape.
          NonFiniteError: a loss or gradient was not finite.
        """
        if epochs is None:
            epochs = max(len(self.phases), 1)
        batch_size = batch_size or DEFAULT_BATCH_SIZE
        if not isinstance(x, DATASETS):
            x = self.glow.checked(x).numpy()
            kwargs.setdefault("steps_per_epoch", data.steps_per_epoch(len(x), batch_size))
            first_epoch = kwargs.get("initial_epoch", 0)
            x = data.training_batches(x, batch_size, self.seed, first_epoch=first_epoch)
        self._check_dataset(x)
        if self.part_delay:
            self._batch_spec = x.element_spec
            size = tf.nest.flatten(x.element_spec)[0].shape[0]
            if size is None or not (kwargs.get("steps_per_epoch") or x.cardinality() > 0):
                raise ValueError(
                    "part_delay needs batches of one size and a known number of them. Received: a dataset of "
                    f"{x.element_spec}, steps_per_epoch={kwargs.get('steps_per_epoch')}"
                )
            if size != self._queued_batch:
                self._queues, self._queued_batch = make_queues(self.glow, size, self.part_delay), size
                self._train_functions = {}
        self.initialize_from(x)
        if kwargs.get("validation_data") is not None:
            kwargs["validation_data"] = self._evaluation_batches(kwargs["validation_data"], batch_size)
        kwargs["callbacks"] = [_PhaseSwitch(), *keras.tree.flatten(kwargs.get("callbacks") or [])]
        kwargs["shuffle"] = False  # the dataset is shuffled, every epoch anew
        self._fault = None
        try:
            return super().fit(x, epochs=epochs, **kwargs)
        except tf.errors.OpError:
            if self._fault:
                raise NonFiniteError(self._fault) from None
            raise

    def evaluate(self, x: Any, *, batch_size: int | None = None, **kwargs) -> Any:
        """Computes the bits per dimension of the whole chain, as keras.Model.evaluate does.

        Args:
          x: uint8 images [N, H, W, C] or a dataset of (images, noise).
          batch_size: for an array; 64 by default.
          **kwargs: of keras.Model.evaluate; `return_dict=True` gives `bpd` and `bpd_se`.
        """
        x = self._evaluation_batches(x, batch_size or DEFAULT_BATCH_SIZE)
        self._evaluating = True
        try:
            return super().evaluate(x, **kwargs)
        finally:
            self._evaluating = False

    def _check_dataset(self, dataset: tf.data.Dataset | tf.distribute.DistributedDataset) -> None:
        if not isinstance(dataset, tf.data.Dataset):
            return  # its elements are those of a dataset, spread over replicas
        images = tf.nest.flatten(dataset.element_spec)[0]
        if images.dtype != tf.uint8 or not images.shape[1:].is_compatible_with(self.glow.image_shape):
            raise ValueError(
                f"a dataset must begin with uint8 images [N, {', '.join(map(str, self.glow.image_shape))}]. "
                f"Received: {images}"
            )

    def _evaluation_batches(self, x: Any, batch_size: int) -> tf.data.Dataset:
        if isinstance(x, DATASETS):
            self._check_dataset(x)
            return x
        return data.evaluation_batches(self.glow.checked(x).numpy(), batch_size, self.seed)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the glow's log-probabilities."""
        return self.glow.call(images)

    # Serialisation

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            "name": self.name,
            "glow": keras.saving.serialize_keras_object(self.glow),
            "phases": [[phase.kind, list(phase.active)] for phase in self.phases],
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> PartsTrainer:
        """See keras.Layer."""
        return cls(
            keras.saving.deserialize_keras_object(config["glow"], custom_objects),
            [Phase(kind, tuple(active)) for kind, active in config["phases"]],
            seed=config["seed"],
            name=config["name"],
        )

    def get_compile_config(self) -> dict:
        """See keras.Model."""
        return {
            "optimizers": [keras.saving.serialize_keras_object(o) for o in self.optimizers],
            "clip_norm": self.clip_norm,
            "reversible": self.reversible,
            "part_delay": self.part_delay,
        }

    def compile_from_config(self, config: dict) -> None:
        """See keras.Model."""
        self.compile(
            [keras.saving.deserialize_keras_object(o) for o in config["optimizers"]],
            clip_norm=config["clip_norm"],
            reversible=config["reversible"],
            part_delay=config["part_delay"] if self.glow.part_devices else 0,
        )


def initialization_examples(image_shape: Sequence[int]) -> int:
    """Returns how many images the ActNorms are initialised from: the smaller, the more."""
    height, width, _ = image_shape
    count = math.ceil(INITIALIZATION_PIXELS / (height * width))
    return min(max(count, FEWEST_INITIALIZATION_EXAMPLES), MOST_INITIALIZATION_EXAMPLES)


_PART_METRICS = ("local_bpd", "gradient_norm", "busy_seconds")


class _PhaseSwitch(keras.callbacks.Callback):
    """Puts the trainer into the phase of each epoch."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self.model.set_phase(self.model.phase_of(epoch))
        self.model.reset_metrics()
        self.model.start_epoch()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        # Not at the epoch's end: Keras validates before that.
        if batch + 1 >= self.params["steps"]:
            self.model.finish_epoch()


def _sums_gradients(optimizer: keras.optimizers.Optimizer) -> bool:
    return optimizer.sums_gradients if isinstance(optimizer, Fused) else True


def _step_of_worker(strategy: tf.distribute.Strategy, step: Callable) -> Callable:
    """Returns a function of an iterator that runs one step on this worker's replicas.

    Keras's own reduces every log of every step over all workers, and fails to
    (https://github.com/tensorflow/tensorflow/issues/72388). These logs are the first replica's; those of an
    epoch are read off the metrics, which add up over all.
    """

    @tf.function(autograph=False)
    def run(iterator: Any) -> Any:
        results = strategy.run(step, args=(next(iterator),))
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], results)

    return run


def _bytes(tensor: tf.Tensor) -> int:
    return tensor.shape.num_elements() * tensor.dtype.size


def _unpack(batch: Any) -> tuple[tf.Tensor, tf.Tensor | None, tf.Tensor | None]:
    """Returns images, noise and weights or indices; what a batch lacks is None."""
    pieces = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    return (*pieces, None, None)[:3]


def _regroup(flat: Sequence[Any], sizes: Sequence[int]) -> list[list[Any]]:
    iterator = iter(flat)
    return [[next(iterator) for _ in range(size)] for size in sizes]


def _first_examples(dataset: tf.data.Dataset, count: int) -> tuple[tf.Tensor, tf.Tensor | None]:
    images, noises, found = [], [], 0
    for batch in dataset:
        image, noise, _ = _unpack(batch)
        images.append(image)
        noises.append(noise)
        found += int(image.shape[0])
        if found >= count:
            break
    if noises[0] is None:
        return tf.concat(images, 0)[:count], None
    return tf.concat(images, 0)[:count], tf.concat(noises, 0)[:count]
