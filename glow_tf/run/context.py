"""One run: its configuration, and everything that is made from it before the first epoch."""

import dataclasses
import functools
import warnings
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf import data
from glow_tf.architectures import design_of
from glow_tf.architectures.own_layers import with_registered
from glow_tf.architectures.partition import PartLayout
from glow_tf.architectures.schedule import (
    Phase,
    cache_noise_epochs,
    cached_parts,
    epoch_costs,
    one_part,
    phases_of,
)
from glow_tf.config import MAY_DIFFER, ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError, printable
from glow_tf.core.machine import check_memory
from glow_tf.data.arrays import in_memory
from glow_tf.devices import strategies
from glow_tf.devices.workers import check_same_in_all
from glow_tf.model.flow import Flow
from glow_tf.run import tables
from glow_tf.run.checkpoints import Checkpoints, checkpoint_bytes
from glow_tf.run.checksums import check_same_data, fingerprints, write_data
from glow_tf.run.settings import IMAGES, Asked, Decided
from glow_tf.run.start import decide, load_start, start_from
from glow_tf.run.workdir import Workdir
from glow_tf.training import inputs
from glow_tf.training.objective import imported_objective
from glow_tf.training.prefix import PrefixCache, cache_bytes
from glow_tf.training.trainer import PartsTrainer

Strategy = tf.distribute.Strategy

# Room that a run needs on disk: two of the last epochs, the best, a new one, and the export (a third of one).
CHECKPOINTS_ON_DISK = 5
REAL = "Real data: bpd is of their density, in bits per dimension (nats / ln 2), and may be negative."
NO_PICTURES = "Samples are arrays, samples/epoch_NNNN.npy: pictures are of bytes, of one channel or three."


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run consists of, made by `prepare`.

    Attributes:
      config: all settings.
      workdir: the run's folder, which one process writes.
      images: training, validation and test images.
      phases: the phase of every epoch.
      layouts: the parts, for what a step takes: crops, or whole images.
      trainer: compiled.
      checkpoints: of the trainer.
    """

    config: RunConfig
    workdir: Workdir
    images: data.ImageData
    phases: tuple[Phase, ...]
    layouts: tuple[PartLayout, ...]
    trainer: PartsTrainer
    checkpoints: Checkpoints

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the workdir; see `workers.is_chief`."""
        return self.workdir.writes

    @property
    def strategy(self) -> Strategy:
        """What the run is distributed by."""
        return self.trainer.distribute_strategy

    @property
    def flow(self) -> Flow:
        """The model."""
        return self.trainer.flow

    @property
    def steps_per_epoch(self) -> int:
        """Training steps per epoch."""
        return steps_per_epoch(self.config, len(self.images.train))

    @functools.cached_property
    def costs(self) -> list[float]:
        """Predicted cost of every epoch divided by the cost of an end-to-end epoch."""
        train = self.config.train
        return epoch_costs(self.layouts, self.phases, train.cache_prefix, train.reversible)

    @functools.cached_property
    def cache_noise_epochs(self) -> list[int]:
        """For every epoch (from 0), the epoch whose noise its prefix cache has, if it has one."""
        return cache_noise_epochs(self.phases)

    @functools.cached_property
    def parameters(self) -> list[int]:
        """Number of trainable parameters of each part; those of local bases are not among them."""
        *others, last = self.flow.parts
        of_parts = [*(part.flow_variables for part in others), last.trainable_variables]
        return [sum(v.value.shape.num_elements() for v in variables) for variables in of_parts]

    @functools.cached_property
    def description(self) -> str:
        """Describes parts and schedule."""
        of_run = (self.layouts, self.parameters, self.phases, self.costs)
        return tables.model_table(*of_run, reversible=self.config.train.reversible)

    def first_conditions(self, count: int) -> np.ndarray | None:
        """Returns `count` conditions: those of the first test images, in turn; None if nothing is given."""
        conditions = self.images.conditions.get("test")
        return None if conditions is None else conditions[np.arange(count) % len(conditions)]

    @property
    def heading(self) -> str:
        """Describes the data and how it is distributed."""
        images = self.images
        shape = "×".join(map(str, images.image_shape))
        validation = f" + {len(images.validation)} validation" if len(images.validation) else ""
        lines = [
            f"{self.config.data.dataset}: {len(images.train)} training{validation} + {len(images.test)} "
            f"test images of {shape}, {self.steps_per_epoch} steps per epoch on "
            f"{self.strategy.num_replicas_in_sync} replica(s)"
        ]
        lines += [REAL] if self.config.model.is_real else []
        lines += [NO_PICTURES] if not self.config.model.is_pictures and self.config.sample_every else []
        return "\n".join(lines)

    def training_batches(self, epoch: int) -> inputs.Dataset:
        """Returns the training data, as `fit` takes them: one dataset, which begins with an epoch, from 0."""
        self._first_step.assign(epoch * self.steps_per_epoch)
        return self._training_batches

    @functools.cached_property
    def _training_batches(self) -> inputs.Dataset:
        return strategies.distributed(self.strategy, self.slice_of_training)

    @functools.cached_property
    def _first_step(self) -> tf.Variable:
        with tf.device("CPU:0"):
            return tf.Variable(0, dtype=tf.int64)

    def slice_of_training(self, data_slice: data.DataSlice = data.WHOLE) -> tf.data.Dataset:
        """Returns one process's slice of the training data."""
        cached = self.trainer.prefix_caches
        noise_epochs = [
            kept if phase in cached else epoch
            for epoch, (phase, kept) in enumerate(zip(self.phases, self.cache_noise_epochs, strict=True))
        ]
        batches = data.training_batches(
            self.images.train,
            self.config.train.batch_size,
            self.config.seed,
            augment=self.config.data.augment,
            crop=data.Crop(self.config.data.crop, 2**self.config.model.num_blocks),
            epochs=data.Epochs(self._first_step, noise_epochs),
            data_slice=data_slice,
        )
        return data.with_members(batches, self._conditions("train"), len(self.images.train))

    def prefix_batches(self, epoch: int) -> tf.data.Dataset:
        """Returns one pass over all training images, as an epoch (from 0) sees them."""
        size, augment = self.config.train.batch_size, self.config.data.augment
        batches = data.prefix_batches(self.images.train, size, self.config.seed, epoch, augment=augment)
        return data.with_members(batches, self._conditions("train"), len(self.images.train))

    @functools.cached_property
    def held_out(self) -> dict[str, inputs.Dataset]:
        """What `evaluate` takes, of `test` images and, if there are any, of `validation` images."""
        images = {"test": self.images.test, "validation": self.images.validation}
        how = {"batch_size": self.config.train.batch_size, "seed": self.config.seed}
        batches = {
            name: functools.partial(data.evaluation_batches, of_split, **how, others=self._conditions(name))
            for name, of_split in images.items()
            if len(of_split)
        }
        return {name: strategies.distributed(self.strategy, make) for name, make in batches.items()}

    def _conditions(self, split: str) -> dict[str, np.ndarray]:
        return {"condition": self.images.conditions[split]} if self.images.conditions else {}


def _devices(config: RunConfig) -> list[str]:
    """Returns the device of every part; empty if there are none."""
    return strategies.part_devices(config.strategy, config.part_devices, design_of(config.model).num_parts)


def prepare(asked: Asked, expected: Decided, workdir: Workdir, strategy: Strategy) -> Run:
    """Reads the data, makes model, trainer and checkpoints, claims the workdir; ConfigError if it cannot.

    What is expected is `likely` of what is asked for.
    """
    # What may be refused comes before the data, which may take long.
    config, start = expected.config, None
    model, of_data = with_registered(config.model), config.data
    if not asked.needs_images:
        _devices(config)
    if expected.sources["validation_examples"] == IMAGES:  # then they decide how many are held out
        of_data = dataclasses.replace(of_data, validation_examples=0)
    if config.init_from and not (asked.may_take_prior or workdir.finished_epochs):
        start = load_start(config.init_from, model)
    if config.train.objective:
        imported_objective(config.train.objective)
    images = data.load(of_data)
    for note in images.notes:
        print(printable(note))
    decided, images, prior = decide(asked, images)
    config, start = decided.config, prior or start
    _check_memory(config, images)
    model = with_registered(config.model)
    layouts = layouts_of_steps(config.data.crop, model)
    phases = phases_of(config)
    steps = steps_per_epoch(config, len(images.train))
    with strategy.scope():
        trainer = compiled_trainer(config, Flow(model, _devices(config), name="glow"), phases, steps)
        if start is not None:
            print(start_from(config.init_from, start, trainer.flow))
        trainer.flow.dequantize.adapt(images.train)
    if config.train.cache_prefix:
        trainer.prefix_caches = _make_caches(trainer, len(images.train))
    workdir.check_space(CHECKPOINTS_ON_DISK * checkpoint_bytes(trainer))
    folder = workdir.path / "checkpoints"
    checksums = fingerprints(images)
    check_same_data(folder, model, checksums)
    # Nothing is written before all processes have read what there is.
    check_same_in_all(strategy, checksums | {"flags": _of_all_processes(config)})
    workdir.claim(decided)
    checkpoints = Checkpoints(folder, trainer, writes=workdir.writes)
    if workdir.writes:
        write_data(folder, checksums)
    return Run(config, workdir, images, phases, layouts, trainer, checkpoints)


def _of_all_processes(config: RunConfig) -> str:
    """Returns what all processes of a run must have alike: what changes numbers, or when all stop."""
    own = MAY_DIFFER - {"patience", "max_skipped_steps"}
    return " ".join(f"--{name}={value}" for name, value in config.to_settings().items() if name not in own)


def _check_memory(config: RunConfig, images: data.ImageData) -> None:
    copies = 1 + config.train.cache_prefix  # one that steps read, one from which a cache is filled
    remedy = "take smaller images (--image_size), or fewer (--train_examples)"
    held = [images.train] * copies + list(images.conditions.values())
    needed = sum(values.nbytes for values in held if in_memory(values))
    check_memory(needed, "copies of the training images for TensorFlow", remedy)


def layouts_of_steps(side: int, model: ModelConfig) -> tuple[PartLayout, ...]:
    """Returns the parts for squares cut out of images, or whole images (0); ConfigError unless they fit."""
    height, width, channels = model.image_shape
    maps = [shape for shape in model.condition_shapes.values() if len(shape) == 3]
    if side > min(height, width) or (side and maps):
        raise ConfigError(
            f"crop must be at most the images' sides, {height}×{width}, and maps that are given with images "
            f"are not cut. Received: crop={side}, maps of {maps}"
        )
    return design_of(
        dataclasses.replace(model, image_shape=(side or height, side or width, channels))
    ).layouts


def steps_per_epoch(config: RunConfig, examples: int) -> int:
    """Returns the training steps per epoch of a run with so many training images."""
    whole = data.steps_per_epoch(examples, config.train.batch_size)  # ConfigError if they fill no batch
    return config.train.steps_per_epoch or whole


def compiled_trainer(
    config: RunConfig, flow: Flow, phases: Sequence[Phase], steps_per_epoch: int
) -> PartsTrainer:
    """Returns a trainer of the flow, compiled as a run's settings say; ConfigError if they do not allow."""
    train, compiles = config.train, config.compiles
    # The cache is on the host, where XLA on a GPU does not reach it.
    if train.cache_prefix and strategies.compiles_by_default():
        if compiles is True:
            raise ConfigError("jit_compile must be off or auto with cache_prefix on a GPU. Received: on")
        compiles = False
    objective = imported_objective(train.objective) if train.objective else None
    trainer = PartsTrainer(flow, config.seed, objective)
    # The run has made the first two, and counts steps.
    train = dataclasses.replace(train, cache_prefix=False, objective="", steps_per_epoch=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run prints what is wrong with its rates
        trainer.compile(train, phases=phases, steps_per_epoch=steps_per_epoch, jit_compile=compiles)
    return trainer


def _make_caches(trainer: PartsTrainer, examples: int) -> dict[Phase, PrefixCache]:
    """Makes the caches; ConfigError if they do not fit into memory."""
    parts = cached_parts(trainer.phases)
    size = cache_bytes(trainer.flow.design.layouts, parts, examples)
    names = ", ".join(str(k + 1) for k in parts)
    what = f"the outputs of the parts before part {names}"
    check_memory(size, what, "train without --cache_prefix")
    print(f"cache_prefix: {what} take {size / 1e6:.0f} MB of memory")
    caches: list[PrefixCache] = []
    for k in parts:
        before = caches[-1] if caches else None
        caches.append(PrefixCache(trainer.flow, k, examples, before))
    return {one_part(cache.part): cache for cache in caches}
