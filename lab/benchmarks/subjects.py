"""What steps.py times: the flow, its parts and phases, and the convolutions that bound its speed."""

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf import Glow, Phase, RunConfig, data, export
from glow_tf.bijectors.networks import convolve
from glow_tf.bijectors.pieces import active_streams
from glow_tf.bijectors.tracing import TracedOnce, for_training
from glow_tf.internals import function_kept_whole
from glow_tf.layout.cost import BOTH_WAYS
from glow_tf.layout.partition import Element, PartLayout, part_layouts
from glow_tf.layout.schedule import epoch_costs
from glow_tf.training.trainer import PartsTrainer
from lab.planning.calibrate import Timed, every_phase, make_trainer, repeated, timed_blocks


def timed_flow(config: RunConfig, images: np.ndarray, precision: str) -> list[Timed]:
    """Returns the floor, the step by itself and in `fit`, every phase, every block, scoring and sampling."""
    trainer = make_trainer(config, precision)
    trainer.initialize(images[:64])
    layouts, batch_size = part_layouts(trainer.glow.config), config.train.batch_size
    return [
        *_timed_floors(layouts, trainer.glow.config.width, batch_size, precision),
        *_timed_steps(config, trainer, images, precision),
        *timed_blocks(trainer.glow, batch_size, precision),
        *_timed_use(trainer.glow, images[:batch_size], precision),
    ]


def _forward_macs(layouts: Sequence[PartLayout], batch_size: int) -> int:
    return batch_size * sum(layout.forward_macs for layout in layouts)


def _timed_floors(layouts: Sequence[PartLayout], width: int, batch_size: int, precision: str) -> list[Timed]:
    macs = BOTH_WAYS * _forward_macs(layouts, batch_size)
    return [
        Timed(name, precision, repeated(floor(layouts, width, batch_size, precision, chained)), macs)
        for name, chained in (("floor", False), ("floor, chained", True))
    ]


def _timed_steps(config: RunConfig, trainer: PartsTrainer, images: np.ndarray, precision: str) -> list[Timed]:
    layouts, batch_size = part_layouts(trainer.glow.config), config.train.batch_size
    whole = BOTH_WAYS * _forward_macs(layouts, batch_size)
    batches = data.training_batches(images, batch_size, config.seed, augment=config.data.augment)
    distributed = iter(trainer.distribute_strategy.experimental_distribute_dataset(batches))

    def step(phase: Phase) -> Callable[[int], float]:
        def measure(count: int) -> float:
            trainer.set_phase(phase)
            return repeated(lambda: trainer.train_function(distributed))(count)

        return measure

    first, *others = every_phase(len(layouts))
    return [
        Timed("step", precision, step(first), whole, phase=first),
        Timed("step in fit", precision, lambda count: _in_fit(trainer, batches, count), whole),
        *[
            Timed(str(p), precision, step(p), whole * cost, phase=p)
            for p, cost in zip(others, epoch_costs(layouts, others), strict=True)
        ],
    ]


def _timed_use(glow: Glow, images: np.ndarray, precision: str) -> list[Timed]:
    """Scoring and sampling, by the model and by its SavedModel."""
    first, count = tf.constant(images), len(images)
    macs = _forward_macs(part_layouts(glow.config), count)
    found = []
    for kind, model in (("", glow), (" (SavedModel)", _exported(glow))):
        runs = {
            "log_prob": lambda model=model: model.log_prob(first, 0).numpy(),
            "sample": lambda model=model: model.sample(count, 0.7, 0).numpy(),
        }
        found += [Timed(f"{name}{kind}", precision, repeated(run), macs) for name, run in runs.items()]
    return found


def timed_pipeline(config: RunConfig, images: np.ndarray) -> Timed:
    """Returns the input pipeline without a training step."""
    batches = iter(
        data.training_batches(images, config.train.batch_size, config.seed, augment=config.data.augment)
    )
    return Timed("input pipeline", "uint8", repeated(lambda: next(batches)))


def floor(
    layouts: Sequence[PartLayout], width: int, batch_size: int, precision: str, chained: bool = False
) -> Callable[[], object]:
    """Returns a run of the coupling networks' convolutions alone, forward and backward.

    A run has three convolutions with ReLU between them for every flow step, and the gradients of kernels and
    input. A training step cannot do without these. There is no norm, no bias and no optimizer. The batch is
    divided into streams, as in a training step.

    Args:
      layouts: the parts.
      width: hidden channels.
      batch_size: images per run.
      precision: of the convolutions.
      chained: False runs each network forward and at once backward, so that its activations are still in the
        cache. True gives each network half of the previous one's output, and runs the whole backward pass
        after the whole forward pass, as in training.
    """
    steps = [e for layout in layouts for e in layout.elements if e.kind == "flow_step"]
    blocks = [list(group) for _, group in itertools.groupby(steps, lambda e: e.block)]
    dtype = tf.bfloat16 if precision == "mixed_bfloat16" else tf.float32
    inputs = [
        tf.split(_random(dtype, batch_size, g[0].height, g[0].width, g[0].channels // 2), active_streams())
        for g in blocks
    ]
    weights = [[_kernels(e, width, dtype) for e in group] for group in blocks]

    @tf.function(autograph=False)
    def run() -> list:
        results = []
        for stream in range(active_streams()):
            last = tf.zeros([])
            for block_inputs, block in zip(inputs, weights, strict=True):
                for networks in [block] if chained else [[own] for own in block]:
                    # One after another, as in a flow, where each step waits for the one before it.
                    with tf.control_dependencies([last]):
                        found = _gradients(tf.identity(block_inputs[stream]), *networks)
                    last = found[1]
                    results.append([g[(0,) * len(g.shape)] for g in found])
        return results

    return run


# As in a flow, the 1×1 convolution's own gradient is that of a function; see `networks.convolve`.
_once = TracedOnce(kept_whole=False)


@function_kept_whole
def _gradients(x: tf.Tensor, *networks: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the output of a chain of networks, and the gradients of its sum: input, then kernels."""
    y = x
    with for_training(), tf.GradientTape() as tape:
        tape.watch([x, networks])
        for own in networks:
            y = _once(_network, y[..., : own[0].shape[2]], own)
    # The output is returned too. Otherwise the last convolution would be left out.
    return [y, *tf.nest.flatten(tape.gradient(y, [x, networks]))]


def _network(x: tf.Tensor, kernels: list[tf.Tensor]) -> tf.Tensor:
    for kernel in kernels[:-1]:
        x = tf.nn.relu(convolve(x, kernel))
    return convolve(x, kernels[-1])


def _kernels(e: Element, width: int, dtype: tf.DType) -> list[tf.Tensor]:
    return [
        _random(dtype, 3, 3, e.channels // 2, width),
        _random(dtype, 1, 1, width, width),
        _random(dtype, 3, 3, width, e.channels),
    ]


def _random(dtype: tf.DType, *shape: int) -> tf.Tensor:
    return tf.cast(0.05 * tf.random.stateless_normal(shape, [0, 1]), dtype)


def _in_fit(trainer: PartsTrainer, batches: tf.data.Dataset, count: int) -> float:
    """Returns the seconds per step within `fit`, from the end of the first step to the end of the last."""
    ends: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    trainer.fit(batches, epochs=1, steps_per_epoch=count + 1, callbacks=[clock], verbose=0)
    return (ends[-1] - ends[0]) / count


def _exported(glow: Glow) -> object:
    with tempfile.TemporaryDirectory() as folder:
        export(glow.recut(), f"{folder}/export")
        return tf.saved_model.load(f"{folder}/export")
