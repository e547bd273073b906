"""Measures the rates of this machine: a training step, and one flow step of each block."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from glow_tf import data
from glow_tf.bijectors import Stack
from glow_tf.bijectors.pieces import in_streams
from glow_tf.config import RunConfig
from glow_tf.devices.strategies import device_name, make_strategy
from glow_tf.layout.cost import BOTH_WAYS
from glow_tf.layout.partition import part_layouts
from glow_tf.layout.schedule import Phase, end_to_end, one_part, simultaneous
from glow_tf.model.glow import Glow
from glow_tf.training.optim.optimizers import make_optimizers
from glow_tf.training.trainer import PartsTrainer
from lab.planning.rates import Calibration, rates_settings

ROUNDS, RUNS = 7, 2


@dataclasses.dataclass(frozen=True)
class Timed:
    """Something that is timed.

    Attributes:
      name: unique within its precision.
      precision: of the coupling networks.
      measure: runs it a number of times and returns the seconds of one run.
      macs: multiply-adds of one run; 0 if they do not matter.
      phase: of a training step.
      block: number of the block (from 1), for flow steps of one block.
      backward: whether flow steps of one block include the backward pass.
    """

    name: str
    precision: str
    measure: Callable[[int], float]
    macs: float = 0.0
    phase: Phase | None = None
    block: int | None = None
    backward: bool = False


def calibrate(config: RunConfig) -> Calibration:
    """Measures the rates of this machine on one core, with random images.

    Call it before TensorFlow starts, because it limits TensorFlow's threads.

    Args:
      config: model and batch size.
    """
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # The planner derives the cost of recomputation from the other rates, and what several devices do.
    train = dataclasses.replace(config.train, reversible=False, part_delay=0)
    here = {"strategy": "one_device", "virtual_devices": 0, "part_devices": ""}
    config = dataclasses.replace(config, **here, train=train)
    batch_size = config.train.batch_size
    images = np.random.default_rng(0).integers(0, 256, (4 * batch_size, *config.model.image_shape), np.uint8)
    everything = timed_step_and_blocks(config, images, config.model.precision)
    for timed in everything:
        timed.measure(1)  # traces
    rounds = [[timed.measure(RUNS) / batch_size for timed in everything] for _ in range(ROUNDS)]
    medians = map(statistics.median, zip(*rounds, strict=True))
    return _calibration(config, dict(zip(everything, medians, strict=True)))


def _calibration(config: RunConfig, seconds: Mapping[Timed, float]) -> Calibration:
    forward = {t.block: s for t, s in seconds.items() if t.block and not t.backward}
    both = {t.block: s for t, s in seconds.items() if t.block and t.backward}
    (step,) = [s for t, s in seconds.items() if not t.block]
    elements = [e for layout in part_layouts(config.model) for e in layout.elements]
    flow = sum(both[e.block] for e in elements if e.kind == "flow_step")
    model = rates_settings(config.model)
    return Calibration(device_name(), forward, both, max(step - flow, 0.0), model)


def repeated(run: Callable[[], object]) -> Callable[[int], float]:
    """Returns a `measure` that calls a function and does nothing else."""

    def measure(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) / count

    return measure


def every_phase(num_parts: int) -> list[Phase]:
    """Returns every phase that a number of parts allows, end to end first."""
    whole = [end_to_end(num_parts)]
    if num_parts == 1:
        return whole
    return [*whole, *map(one_part, range(num_parts)), simultaneous(num_parts)]


def make_trainer(config: RunConfig, precision: str) -> PartsTrainer:
    """Makes a compiled trainer of the configured model, in its strategy, for every phase.

    The learning rate leaves the model as it is, because only the speed matters.
    """
    model = dataclasses.replace(config.model, seed=config.seed, precision=precision)
    phases = every_phase(model.num_parts)
    with make_strategy(config.strategy, config.virtual_devices).scope():
        trainer = PartsTrainer(Glow(model, name="glow"), phases, seed=config.seed)
        train = dataclasses.replace(config.train, learning_rate="1e-8", finetune_learning_rate="")
        optimizers = make_optimizers(train, phases, model.num_parts, steps_per_epoch=1000)
        trainer.compile(
            optimizers,
            clip_norm=train.clip_norm,
            reversible=train.reversible,
            jit_compile=config.compiles,
        )
    return trainer


def timed_step_and_blocks(config: RunConfig, images: np.ndarray, precision: str) -> list[Timed]:
    """Returns the end-to-end step and the flow steps of each block."""
    trainer = make_trainer(config, precision)
    trainer.initialize(images[:64])
    phase, glow, batch_size = trainer.phases[0], trainer.glow, config.train.batch_size
    trainer.set_phase(phase)
    batches = iter(data.training_batches(images, batch_size, config.seed))
    step = Timed("step", precision, repeated(lambda: trainer.train_function(batches)), phase=phase)
    return [step, *timed_blocks(glow, batch_size, precision)]


def timed_blocks(glow: Glow, batch_size: int, precision: str) -> list[Timed]:
    """Returns one flow step of each block, forward alone and with the backward pass."""
    stacks = {}
    for layout, part in zip(part_layouts(glow.config), glow.parts, strict=True):
        steps = {e.block: e for e in layout.elements if e.kind == "flow_step"}
        own = [b for b in part.bijectors if isinstance(b, Stack)]
        for (block, element), stack in zip(steps.items(), own, strict=True):
            stacks.setdefault(block, (stack, element))
    found: list[Timed] = []
    for block, (stack, e) in stacks.items():
        x = tf.random.stateless_normal([batch_size, e.height, e.width, e.channels], [0, 1])
        forward, both = _runs(stack, x)
        for name, run, times in (("forward", forward, 1), ("forward + backward", both, BOTH_WAYS)):
            label = f"flow step of block {block}, {name}"
            measure = _per_step(repeated(run), stack.count)
            macs = times * e.macs * batch_size
            found.append(Timed(label, precision, measure, macs, block=block, backward=run is both))
    return found


def _runs(stack: Stack, x: tf.Tensor) -> Sequence[Callable[[], object]]:
    """Returns a stack's forward pass, and its forward and backward pass, on one batch."""
    weights = [v.value for v in stack.trainable_variables]

    @tf.function(autograph=False)
    def forward() -> object:
        return in_streams(stack.forward_and_log_det, x)

    @tf.function(autograph=False)
    def both() -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x, *weights])
            y, log_det = in_streams(stack.forward_and_log_det, x)
            loss = tf.reduce_sum(tf.square(y)) - tf.reduce_sum(log_det)
        return [tf.reduce_sum(g) for g in tape.gradient(loss, [x, *weights])]

    return forward, both


def _per_step(measure: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda count: measure(count) / steps
