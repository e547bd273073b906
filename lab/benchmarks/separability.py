r"""What does it cost that levels share nothing? Levels end to end, beside levels in parts.

    taskset -c 1 python -m lab.benchmarks.separability --data_dir=PATH --csv=separability.csv
    taskset -c 1 python -m lab.benchmarks.separability --turns=9

Trains a Glow as published (`glow_pixels`), one whose squeeze is the Haar transform (`glow_haar`), levels in
one part (`levels_together`), and levels in parts, each with its optimizer, as in the package (`levels`).

All have the same scales, coupling networks per scale, width, and recipe: one epoch. It has as many images as
take the CPU time that `glow_pixels` takes for `--images` (see `COST`); with `--equal=images`, it has as many.
With `--turns` the models take steps in turns, and what is printed is what `COST` holds: the median CPU time
per image, over that of `glow_pixels`. One thread computes. `cpu_seconds` are those of training, where a
traced step counts as an average one. Runs whose row is in the CSV are not repeated. Of a model of levels the
last scale is the coarsest image.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import DataConfig, Flow, ModelConfig, PartsTrainer, TrainConfig, data
from glow_tf.architectures import Levels
from glow_tf.architectures.partition import PartLayout
from glow_tf.commands import cli
from glow_tf.use import evaluate
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to, measured

BATCH, SKIPPED = 8, 5  # images per step; steps at first that are not timed
ABOUT = ("variant", "seed", "width", "num_blocks", "flow_steps", "learning_rate", "train_images")
COLUMNS = (*ABOUT, "parameters", "cpu_seconds", "test_bpd", "test_bpd_se")
Name = TypeVar("Name")
VARIANTS = {
    "glow_pixels": {"squeeze": "pixels"},
    "glow_haar": {},
    "levels_together": {"architecture": "lab.benchmarks.separability:LevelsTogether"},
    "levels": {"architecture": "levels"},
}
# Of width 32, four scales of eight flow steps; `--turns` measures others.
COST = dict(zip(VARIANTS, (1.0, 1.0, 1.07, 1.07), strict=True))


class LevelsTogether(Levels):
    """Levels as one part, which one optimizer trains end to end."""

    name = "levels in one part"
    separable = False

    @property
    def cuts(self) -> tuple[int, ...]:
        """One part of all flow steps."""
        return (sum(super().cuts),)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of the one part."""
        return super().widths[:1]

    def steps_in_series(self, k: int) -> int:
        """Returns as many as the longest level has."""
        return max(Levels(self.config).cuts)

    def lay_out(self) -> tuple[PartLayout, ...]:
        """Returns the layouts of all levels as one."""
        apart = Levels(self.config).lay_out()
        elements = tuple(element for layout in apart for element in layout.elements)
        return (PartLayout(elements, apart[-1].output_shape),)


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("dataset", "cifar10", "Of TFDS.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_integer("width", 32, "Of the coupling networks.", lower_bound=1, **own)
    flags.DEFINE_integer("num_blocks", 4, "Scales.", lower_bound=2, **own)
    flags.DEFINE_integer("flow_steps", 8, "Of each scale.", lower_bound=2, **own)
    flags.DEFINE_float("learning_rate", 0.1, "As of `glow-tf train`; 0.1 is its default.", **own)
    flags.DEFINE_integer("images", 10_000, "Training images of glow_pixels.", lower_bound=8 * BATCH, **own)
    flags.DEFINE_integer("test_examples", 1024, "Test images.", lower_bound=2, **own)
    flags.DEFINE_list("seeds", ["40", "41", "42"], "Seeds.", **own)
    flags.DEFINE_list("variants", list(VARIANTS), "Names of variants.", **own)
    flags.DEFINE_enum("equal", "time", ["time", "images"], "What is the same for all models.", **own)
    flags.DEFINE_integer("turns", 0, "If not 0, only measure costs, in as many turns.", **own)
    flags.DEFINE_string("csv", "separability.csv", "To add to: one row per run.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the runs one after another, and prints a line for each."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if given.turns:
        _print_costs(given)
        return
    done = measured(given.csv, ABOUT)
    with added_to(given.csv, COLUMNS) as add:
        for seed in given.seeds:
            for variant in given.variants:
                cost = COST[variant] if given.equal == "time" else 1.0
                count = int(given.images / cost) // BATCH * BATCH
                about = (variant, seed, *(given[name].value for name in ABOUT[2:-1]), count)
                if tuple(map(str, about)) not in done:
                    row = dict(zip(ABOUT, about, strict=True)) | _run(given, variant, int(seed), count)
                    add(row)
                    print(*row.values(), flush=True)


def model_of(variant: str, image_shape: tuple[int, int, int], num_blocks: int, **settings) -> ModelConfig:
    """Returns the model of a variant with as many scales; `settings` are those of all variants."""
    if variant.startswith("levels"):
        num_blocks -= 1  # the last scale is the coarsest image
        settings["level_steps"] = (settings["flow_steps"],) * (num_blocks + 1)
        settings["coarsest_squeeze"] = "on"
    return ModelConfig(image_shape, num_blocks=num_blocks, **settings, **VARIANTS[variant])


def _trainer(given: flags.FlagValues, variant: str, seed: int, steps: int, epochs: int = 1) -> PartsTrainer:
    keras.backend.clear_session()
    shape = (32, 32, 3)
    settings = {"flow_steps": given.flow_steps, "width": given.width, "seed": seed}
    flow = Flow(model_of(variant, shape, given.num_blocks, **settings))
    schedule = "simultaneous" if flow.design.separable else "end_to_end"
    trainer = PartsTrainer(flow, seed=seed)
    own = {"schedule": schedule, "learning_rate": given.learning_rate, "batch_size": BATCH}
    trainer.compile(TrainConfig(part_epochs=epochs, finetune_epochs=0, **own), steps_per_epoch=steps)
    return trainer


def _run(given: flags.FlagValues, variant: str, seed: int, count: int) -> dict[str, object]:
    """Trains and evaluates a model, and returns the other cells of its row."""
    numbers = {"train_examples": count, "test_examples": given.test_examples}
    images = data.load(DataConfig(given.dataset, given.data_dir, **numbers))
    trainer, clock = _trainer(given, variant, seed, count // BATCH), Clock()
    trainer.fit(images.train, verbose=0, callbacks=[clock])
    mean, error = mean_and_error(evaluate(trainer.flow, images.test, seed=seed).per_image)
    return {
        "parameters": trainer.flow.count_params(),
        "cpu_seconds": f"{clock.seconds:.1f}",
        "test_bpd": f"{mean:.6f}",
        "test_bpd_se": f"{error:.6f}",
    }


class Clock(keras.callbacks.Callback):
    """The CPU seconds of epochs; the first steps of the first one count as the others in its mean.

    Attributes:
      seconds: of the last epoch.
      total: of all epochs.
    """

    total = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Counts from here on."""
        self.start, self.before = time.process_time(), self.total

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts the step."""
        now, traces = time.process_time(), not self.before
        if traces and batch == SKIPPED - 1:
            self.start = now
        counted = batch + 1 - SKIPPED if traces else batch + 1
        if counted > 0:
            self.seconds = (now - self.start) / counted * (batch + 1)
            self.total = self.before + self.seconds


def costs_in_turns(
    epochs: Mapping[Name, Callable[[int], float]], images: int, turns: int
) -> dict[Name, np.ndarray]:
    """Returns the CPU seconds of an image in each turn, [turns].

    Args:
      epochs: by name, what trains in a turn, from 0, on so many images, and returns CPU seconds.
      images: of an epoch.
      turns: how many.
    """
    found = {name: [] for name in epochs}
    for turn in range(turns):
        for name, epoch in epochs.items():
            found[name].append(epoch(turn) / images)
    return {name: np.array(times) for name, times in found.items()}


def timed_epoch(trainer: PartsTrainer, images: np.ndarray, turn: int) -> float:
    """Trains for an epoch, and returns its CPU seconds."""
    clock = Clock()
    trainer.fit(images, initial_epoch=turn, epochs=turn + 1, verbose=0, callbacks=[clock])
    return clock.seconds


def _print_costs(given: flags.FlagValues) -> None:
    steps = 4 * SKIPPED
    images = np.random.default_rng(0).integers(0, 256, (steps * BATCH, 32, 32, 3)).astype(np.uint8)
    trainers = {name: _trainer(given, name, 0, steps, given.turns) for name in given.variants}
    epochs = {name: functools.partial(timed_epoch, own, images) for name, own in trainers.items()}
    found = costs_in_turns(epochs, len(images), given.turns)
    base = found[given.variants[0]]
    for name, times in found.items():
        ratio = np.median(times / base)
        print(f"{name}: {1e3 * np.median(times):.2f} ms an image, {ratio:.3f} of {given.variants[0]}")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
