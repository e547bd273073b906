"""Two logical CPU devices, small data, small models."""

import contextlib
import functools
import gc
import math
import pathlib
import re
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.ops import gen_resource_variable_ops

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import glow_tf
from glow_tf.architectures.schedule import Phase
from glow_tf.bijectors import Coupling, FlowStep
from glow_tf.bijectors.bijector import with_weights
from glow_tf.bijectors.checking import log_det_of_jacobian
from glow_tf.config import CouplingConfig, ModelConfig
from glow_tf.model.flow import Flow
from glow_tf.training import PartsTrainer
from glow_tf.training.batch import entering
from glow_tf.training.fit_callbacks import OneTraining
from glow_tf.use import exports

# For each new name of a variable TensorFlow builds an operation, which is most of what a variable takes.
gen_resource_variable_ops.var_handle_op = functools.partial(
    lambda make, *args, debug_name, **named: make(*args, debug_name="", **named),
    gen_resource_variable_ops.var_handle_op,
)

ROOT = pathlib.Path(__file__).parent.parent

# What a SavedModel answers to.
ENDPOINTS = ("sample_checked", "encode", "decode", "log_prob", "bits_per_dim", "serving_default")

# Tracing makes many objects, and Python searches them all for circles again and again: a sixth of the time.
gc.collect()
gc.freeze()
gc.set_threshold(20_000, 20, 100)


@contextlib.contextmanager
def eagerly():
    """Runs what TensorFlow would trace first, which takes longer than a few calls on few images do."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


@contextlib.contextmanager
def threads_for(streams: int):
    """Within the context, models run as if TensorFlow's threads were set for so many streams."""
    counts = {"intra": 1, "inter": streams}
    names = {f"get_{kind}_op_parallelism_threads": lambda n=n: n for kind, n in counts.items()}
    with mock.patch.multiple(tf.config.threading, **names):
        yield


@contextlib.contextmanager
def only_endpoints(*names: str):
    """Within the context an export holds these functions alone: each one is traced."""
    whole = Flow.endpoints
    with pytest.MonkeyPatch.context() as patch:
        kept = {*names, exports.NOT_EXPORTED}
        of = lambda *args: {name: own for name, own in whole(*args).items() if name in kept}  # noqa: E731
        patch.setattr(Flow, "endpoints", of)
        yield


@functools.cache
def preset_once(name: str) -> Flow:
    """Loads a preset of the package, once in a process: its functions are then traced once."""
    return glow_tf.load(name)


def make_small_images(rng) -> np.ndarray:
    """Makes uint8 images [64, 8, 8, 1] with some structure and 17 levels."""
    centre = rng.uniform(2, 6, size=(64, 2))
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="ij"), -1)
    distance = np.square(grid[None] - centre[:, None, None]).sum(-1)
    levels = np.floor(16 * np.exp(-distance / 4) + rng.uniform(0, 1, distance.shape))
    return (levels.clip(0, 16) * 8).astype(np.uint8)[..., None]


def small_config(**changes) -> ModelConfig:
    settings = {
        "image_shape": (8, 8, 1),
        "n_bits": 5,
        "num_blocks": 2,
        "flow_steps": 2,
        "width": 8,
        "parts": "across_block:2",
    }
    return ModelConfig(**{**settings, **changes})


def small_glow(dtype: str = "float32", perturbed: bool = True, **changes) -> Flow:
    flow = Flow(small_config(**changes), dtype=dtype, name="glow")
    if perturbed:
        perturb(flow)
    return flow


def small_levels(dtype: str | None = None, **changes) -> Flow:
    """Returns a model of levels, not initialised; two of them over images of 8×8×3, if not said otherwise."""
    settings = {"image_shape": (8, 8, 3), "num_blocks": 2, "flow_steps": 2, "width": 6}
    settings |= {"architecture": "levels", "condition_features": 4} | changes
    return Flow(ModelConfig(**settings), dtype=dtype)


def rewound(make):
    """Makes a trainer for each set of arguments once, and gives it out each time as it was at first.

    What it has traced stays traced, which is most of a small trainer's time. Tests that compile it anew, or
    change more than variables, make their own.
    """

    @functools.cache
    def once(*args, **kwargs):
        trainer = make(*args, **kwargs)
        variables = [*trainer.flow.variables, *(v for own in trainer.optimizers for v in own.variables)]
        return trainer, variables, [v.numpy() for v in variables]

    @functools.wraps(make)
    def again(*args, **kwargs):
        trainer, variables, values = once(*args, **kwargs)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return trainer

    return again


def fit_phases(
    trainer, *data, initial_epoch=0, epochs=None, callbacks=(), **options
) -> dict[str, list[float]]:
    """Trains each epoch in its phase; returns the logs, NaN in an epoch that does not compute them."""
    logs, last = [], len(trainer.phases) if epochs is None else epochs
    with OneTraining(callbacks, trainer, last) as given:
        for epoch in range(initial_epoch, last):
            trainer.set_phase(trainer.phases[epoch])
            fit = {"initial_epoch": epoch, "epochs": epoch + 1, "callbacks": given, "verbose": 0}
            logs.append(trainer.fit(*data, **fit, **options).history)
            if trainer.stop_training:
                break
    return {name: [own.get(name, [math.nan])[0] for own in logs] for name in {n for own in logs for n in own}}


@contextlib.contextmanager
def copy_of(stack, k):
    """Yields the bijector of a stack; within the context it has the weights of copy k, from 0."""
    with with_weights(stack._untracked.bijector, stack._weights()[k]):
        yield stack._untracked.bijector


def make_coupling(width: int = 6, seed: int = 0, dtype: str | None = None, **settings) -> Coupling:
    return Coupling(CouplingConfig(width, **settings), seed=seed, dtype=dtype)


def make_flow_step(
    width: int = 6,
    permutation: str = "lu",
    seed: int = 0,
    dtype: str | None = None,
    name: str | None = None,
    **settings,
) -> FlowStep:
    return FlowStep(CouplingConfig(width, **settings), permutation, seed=seed, dtype=dtype, name=name)


class InfoNCE(glow_tf.LocalObjective):
    """Finds each output among those of its batch, seen through noise."""

    metric_names = ("nce", "hits")

    def losses(self, view):
        h = tf.math.l2_normalize(tf.reshape(view.output, (tf.shape(view.output)[0], -1)), 1)
        noisy = h + 0.1 * tf.random.stateless_normal(tf.shape(h), view.seed)
        logits, places = tf.matmul(h, noisy, transpose_b=True) / 0.1, tf.range(tf.shape(h)[0])
        nce = tf.nn.sparse_softmax_cross_entropy_with_logits(places, logits)
        return nce, {"nce": tf.reduce_mean(nce), "hits": tf.argmax(logits, 1, tf.int32) == places}


def objectives(trainer: PartsTrainer, images, phase: Phase, condition=None):
    """Returns what a phase minimises, of each image, and the truncated likelihoods of its parts."""
    passage = entering(trainer.flow, {"images": images, "condition": condition}, trainer.seed)
    return trainer.forward_pass.evaluate(passage, phase)[:2]


def perturb(layer: keras.layers.Layer, scale: float = 0.1, seed: int = 0) -> None:
    """Adds noise to every trainable weight, because many start at zero or as the identity."""
    generator = np.random.default_rng(seed)
    for weight in layer.trainable_variables:
        weight.assign(weight + scale * generator.normal(size=weight.shape))


def architecture() -> dict[str, bool]:
    """Returns the files that docs/architecture.md names, relative to the repository → whether they are pure.

    The mark of a folder holds for what is in it, but for what needs Matplotlib.
    """
    found, folders, marks = {}, [], []
    document = (ROOT / "docs" / "architecture.md").read_text()
    tree = re.search(r"^    glow_tf/\n(?:    .*\n|\n)*", document, re.MULTILINE).group()
    for line in tree.splitlines():
        words, pure = line.split(), line.endswith("(pure)")
        level = (len(line) - len(line.lstrip()) - 4) // 2
        if words and words[0].endswith("/"):
            folders, marks = [*folders[:level], words[0]], [*marks[:level], pure]
        pure |= any(marks[:level]) and "matplotlib" not in line
        found |= {"".join([*folders[:level], word]): pure for word in words if word.endswith(".py")}
    return found


def weight_of(layer: keras.layers.Layer, ending: str) -> keras.Variable:
    """Returns the only weight whose path has this ending."""
    (weight,) = [w for w in layer.weights if w.path.endswith(ending)]
    return weight


def assert_density_is_of_the_jacobian(flow, v):
    """Asserts that an image comes back, and that its density is that of latents and whole Jacobian.

    Args:
      flow: a model in float64.
      v: the image with noise, [1, H, W, C].
    """
    size = flow.dimensions
    eps, log_det = flow.forward_and_log_det(v)
    np.testing.assert_allclose(log_det, log_det_of_jacobian(flow.forward_and_log_det, v), rtol=1e-8)
    normal = -0.5 * (tf.reduce_sum(eps**2) + size * np.log(2 * np.pi))
    np.testing.assert_allclose(flow.dequantized_log_prob(v)[0], normal + log_det[0], rtol=1e-10)
    np.testing.assert_allclose(flow.inverse(eps), v, atol=1e-9)


def run_program(program: str, *arguments: object, cwd: pathlib.Path | None = None) -> str:
    """Runs Python code in a new process, which must succeed, and returns what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_main(*flags: str, cwd: pathlib.Path = ROOT, check: bool = True) -> subprocess.CompletedProcess:
    """Runs train/main.py in a new process."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "train" / "main.py"), *flags],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result
