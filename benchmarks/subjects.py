"""What benchmark.py times: the flow, its parts and phases, and the convolutions that bound it."""

import dataclasses
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf import Glow, PartsTrainer, Phase, RunConfig, data, distribution, export
from glow_tf.bijectors import Stack
from glow_tf.optimizers import make_optimizers
from glow_tf.partition import Element, PartPlan, relative_cost
from glow_tf.schedule import end_to_end
from glow_tf.streams import active_streams, in_streams


@dataclasses.dataclass(frozen=True)
class Subject:
    """Something to time.

    Attributes:
      name: unique within its precision.
      precision: of the coupling networks.
      measure: runs it so many times and returns the seconds of one.
      macs: multiply-adds of one run; 0 where they are beside the point.
      phase: of the partition, for a training step.
      block: for a run of one block's flow steps, its number.
    """

    name: str
    precision: str
    measure: Callable[[int], float]
    macs: float = 0.0
    phase: Phase | None = None
    block: int | None = None


def repeated(run: Callable[[], object]) -> Callable[[int], float]:
    """Returns a `measure` that calls a function and waits for nothing else."""

    def measure(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) / count

    return measure


def phases_of(num_parts: int) -> list[Phase]:
    """Every phase that so many parts allow."""
    whole = [end_to_end(num_parts)]
    if num_parts == 1:
        return whole
    parts = tuple(range(num_parts))
    return [*whole, *[Phase("part", (k,)) for k in parts], Phase("simultaneous", parts)]


def make_trainer(config: RunConfig, precision: str) -> PartsTrainer:
    """Makes a compiled trainer of the configured model, in its strategy, with every phase at hand."""
    model = dataclasses.replace(config.model, seed=config.seed, precision=precision)
    phases = phases_of(len(model.plans()))
    with distribution.make_strategy(config.strategy, config.virtual_devices).scope():
        trainer = PartsTrainer(Glow(model, name="glow"), phases, seed=config.seed)
        # Only speed is of interest: a rate that leaves the model where it is.
        train = dataclasses.replace(config.train, learning_rate="1e-8", finetune_learning_rate="")
        optimizers = make_optimizers(train, phases, len(model.plans()), steps_per_epoch=1000)
        trainer.compile(optimizers, clip_norm=train.clip_norm, reversible=train.reversible)
    return trainer


def flow_subjects(config: RunConfig, images: np.ndarray, precision: str) -> list[Subject]:
    """The floor, the step by itself and in `fit`, every phase, sampling and scoring."""
    trainer = make_trainer(config, precision)
    trainer.initialize(images[:64])
    glow, batch_size = trainer.glow, config.train.batch_size
    plans = glow.config.plans()
    forward = batch_size * sum(plan.forward_macs for plan in plans)
    strategy = trainer.distribute_strategy
    batches = data.training_batches(images, batch_size, config.seed, augment=config.data.augment)
    distributed = iter(strategy.experimental_distribute_dataset(batches))

    def step(phase: Phase) -> Callable[[int], float]:
        def measure(count: int) -> float:
            trainer.set_phase(phase)
            return repeated(lambda: trainer.train_function(distributed))(count)

        return measure

    def subject(name: str, measure: Callable[[int], float], macs: float = 0.0, **more) -> Subject:
        return Subject(name, precision, measure, macs, **more)

    phases = phases_of(len(plans))
    subjects = [
        *[
            subject(
                name, repeated(floor(plans, glow.config.width, batch_size, precision, chained)), 3 * forward
            )
            for name, chained in (("floor", False), ("floor, chained", True))
        ],
        subject("step", step(phases[0]), 3 * forward, phase=phases[0]),
        subject("step in fit", lambda count: _in_fit(trainer, batches, count), 3 * forward),
        *[
            subject(str(p), step(p), 3 * forward * relative_cost(plans, p.active, p.end_to_end), phase=p)
            for p in phases[1:]
        ],
        *block_subjects(glow, batch_size, precision),
    ]
    first = tf.constant(images[:batch_size])
    exported = _exported(glow)
    for kind, model in (("", glow), (" (SavedModel)", exported)):
        subjects += [
            subject(f"log_prob{kind}", repeated(lambda m=model: m.log_prob(first, 0).numpy()), forward),
            subject(f"sample{kind}", repeated(lambda m=model: m.sample(batch_size, 0.7, 0).numpy()), forward),
        ]
    return subjects


def step_subjects(config: RunConfig, images: np.ndarray, precision: str) -> list[Subject]:
    """The end-to-end step and the flow steps of each block, by which `plan.py` calibrates."""
    trainer = make_trainer(config, precision)
    trainer.initialize(images[:64])
    phase, glow, batch_size = trainer.phases[0], trainer.glow, config.train.batch_size
    trainer.set_phase(phase)
    batches = iter(data.training_batches(images, batch_size, config.seed))
    step = Subject("step", precision, repeated(lambda: trainer.train_function(batches)), phase=phase)
    return [step, *block_subjects(glow, batch_size, precision)]


def pipeline_subject(config: RunConfig, images: np.ndarray) -> Subject:
    """The input pipeline with nothing behind it."""
    batches = iter(
        data.training_batches(images, config.train.batch_size, config.seed, augment=config.data.augment)
    )
    return Subject("input pipeline", "uint8", repeated(lambda: next(batches)))


def floor(
    plans: Sequence[PartPlan], width: int, batch_size: int, precision: str, chained: bool = False
) -> Callable[[], object]:
    """Returns a run of the coupling networks' convolutions alone, forward and backward.

    Three convolutions with ReLU between, for every flow step, with the gradients of kernels and input: what
    a training step cannot do without. No norm, no bias, no optimizer. In streams, as the step is.

    One network after another, each forward and at once backward, finds its activations still in the cache.
    Chained, a network's output is the next one's input (half of it), and the backward pass comes after all of
    the forward pass, as in training.
    """
    dtype = tf.bfloat16 if precision == "mixed_bfloat16" else tf.float32
    steps = [e for plan in plans for e in plan.elements if e.kind == "flow_step"]
    blocks = [list(group) for _, group in itertools.groupby(steps, lambda e: e.block)]

    def random(*shape: int) -> tf.Tensor:
        return tf.cast(0.05 * tf.random.stateless_normal(shape, [0, 1]), dtype)

    def kernels(e: Element) -> list[tf.Tensor]:
        return [
            random(3, 3, e.channels // 2, width),
            random(1, 1, width, width),
            random(3, 3, width, e.channels),
        ]

    inputs = [
        tf.split(random(batch_size, g[0].height, g[0].width, g[0].channels // 2), active_streams())
        for g in blocks
    ]
    weights = [[kernels(e) for e in group] for group in blocks]

    def network(x: tf.Tensor, own: list[tf.Tensor]) -> tf.Tensor:
        for kernel in own[:-1]:
            x = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
        return tf.nn.conv2d(x, own[-1], 1, "SAME")

    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def gradients(x: tf.Tensor, *networks: list[tf.Tensor]) -> list[tf.Tensor]:
        y = x
        with tf.GradientTape() as tape:
            tape.watch([x, networks])
            for own in networks:
                y = network(y[..., : own[0].shape[2]], own)
        # y too, or the last convolution would be left out
        return [y, *tf.nest.flatten(tape.gradient(y, [x, networks]))]

    @tf.function(autograph=False)
    def run() -> list:
        results = []
        for stream in range(active_streams()):
            last = tf.zeros([])
            for block_inputs, block in zip(inputs, weights, strict=True):
                for networks in [block] if chained else [[own] for own in block]:
                    # One after another, as in a flow, where each step waits for the one before it.
                    with tf.control_dependencies([last]):
                        found = gradients(tf.identity(block_inputs[stream]), *networks)
                    last = found[1]
                    results.append([g[(0,) * len(g.shape)] for g in found])
        return results

    return run


def block_subjects(glow: Glow, batch_size: int, precision: str) -> list[Subject]:
    """One block's flow steps, forward alone and with the backward pass, for the cost model."""
    subjects: list[Subject] = []
    stacks = {}
    for plan, part in zip(glow.config.plans(), glow.parts, strict=True):
        steps = {e.block: e for e in plan.elements if e.kind == "flow_step"}
        own = [b for b in part.bijectors if isinstance(b, Stack)]
        for (block, step), stack in zip(steps.items(), own, strict=True):
            stacks.setdefault(block, (stack, step))
    for block, (stack, e) in stacks.items():
        x = tf.random.stateless_normal([batch_size, e.height, e.width, e.channels], [0, 1])
        weights = [v.value for v in stack.trainable_variables]

        @tf.function(autograph=False)
        def forward(stack=stack, x=x):
            return in_streams(stack.forward_and_log_det, x)

        @tf.function(autograph=False)
        def both(stack=stack, x=x, weights=weights):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([x, *weights])
                y, log_det = in_streams(stack.forward_and_log_det, x)
                loss = tf.reduce_sum(tf.square(y)) - tf.reduce_sum(log_det)
            return [tf.reduce_sum(g) for g in tape.gradient(loss, [x, *weights])]

        macs = e.macs * batch_size
        for name, run, times in (("forward", forward, 1), ("forward + backward", both, 3)):
            label = f"flow step of block {block}, {name}"
            measure = _per_step(repeated(run), stack.count)
            subjects.append(Subject(label, precision, measure, times * macs, block=block))
    return subjects


def _per_step(measure: Callable[[int], float], steps: int) -> Callable[[int], float]:
    return lambda count: measure(count) / steps


def _in_fit(trainer: PartsTrainer, batches: tf.data.Dataset, count: int) -> float:
    """Seconds of a step within `fit`, from the end of its first step to the end of its last."""
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    trainer.fit(batches, epochs=1, steps_per_epoch=count + 1, callbacks=[clock], verbose=0)
    return (ends[-1] - ends[0]) / count


def _exported(glow: Glow) -> object:
    plain = Glow(glow.config, name=glow.name)
    plain.set_weights(glow.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        export(plain, f"{folder}/export")
        return tf.saved_model.load(f"{folder}/export")
