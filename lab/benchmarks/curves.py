r"""Bits per dimension by CPU seconds of training: levels, a Glow with Haar's squeeze, a Glow as published.

    taskset -c 1 python -m lab.benchmarks.curves --data_dir=PATH --widths=32,64 --images=3200,12800,51200
    taskset -c 1 python -m lab.benchmarks.curves --data_dir=PATH --widths=64 --images=204800
    python -m lab.benchmarks.curves --csv=docs/results/curves.csv --figure=docs/results/curves.png

Each length is a run of its own, in which the rate falls to 0 as a cosine. Images are new ones until all have
been seen. One thread computes. `cpu_seconds` are those of training without tracing; bits are of test images,
by uniform noise and by variational noise. Runs whose row is in the CSV are not repeated.

What is printed at the end is how many times as long a Glow takes to the bits of each of its runs as levels
do, of the same seed. Of each model the best width at any time counts; between its runs, bits are taken to be
linear in the logarithm of time, and beyond them nothing is said. `--figure` draws the curves, and those of
`--autoregressive`, a CSV of `autoregressive.py`.
"""

from __future__ import annotations

import collections
import csv
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import DataConfig, Glow, ModelConfig, PartsTrainer, TrainConfig, data
from glow_tf.commands import cli
from glow_tf.use import evaluate
from glow_tf.use.evaluation import NOISES, mean_and_error
from lab.benchmarks.rows import added_to, measured
from lab.benchmarks.separability import BATCH, Clock

MODELS = {
    "levels": {"architecture": "levels"},
    "glow_haar": {},
    "glow_pixels": {"squeeze": "pixels"},
}
ABOUT = ("model", "width", "images", "seed")
COLUMNS = (*ABOUT, "cpu_seconds", "test_bpd", "test_bpd_se", "variational_bpd", "variational_bpd_se")
Curve = Sequence[tuple[float, float]]  # seconds and bits, by seconds


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("dataset", "cifar10", "Of TFDS.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir; empty: no runs are made.", **own)
    flags.DEFINE_list("models", list(MODELS), "Names of models.", **own)
    flags.DEFINE_list("widths", ["32"], "Of the coupling networks.", **own)
    flags.DEFINE_list("images", ["3200", "12800", "51200"], "Training images that a run sees.", **own)
    flags.DEFINE_list("seeds", ["60"], "Seeds.", **own)
    flags.DEFINE_integer("test_examples", 1024, "Test images.", lower_bound=2, **own)
    flags.DEFINE_string("csv", "curves.csv", "To add to: one row per run.", **own)
    flags.DEFINE_string("autoregressive", "", "A CSV to draw beside.", **own)
    flags.DEFINE_string("figure", "", "A PNG to draw.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the runs one after another, prints a line for each, and then the factors of time."""
    if given.data_dir:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _make_runs(given)
    found = curves(given.csv)
    for other in list(MODELS)[1:]:
        of_seeds = [
            factors(found["levels", seed], own) for (name, seed), own in found.items() if name == other
        ]
        if values := [round(factor, 2) for own in of_seeds for factor in own]:
            print(f"{other} takes {min(values)} to {max(values)} times as long as levels: {values}")
    if given.figure:
        from lab.studies.figures import lengths, write_png

        drawn = {f"{name}, seed {seed}": curve for (name, seed), curve in found.items()}
        if given.autoregressive:
            with open(given.autoregressive, newline="") as file:
                points = [(float(row["cpu_seconds"]), float(row["test_bpd"])) for row in csv.DictReader(file)]
            drawn["autoregressive"] = sorted(points)
        write_png(lengths(drawn), pathlib.Path(given.figure))


def _make_runs(given: flags.FlagValues) -> None:
    all_images = data.load(DataConfig(given.dataset, given.data_dir, test_examples=given.test_examples))
    done = measured(given.csv, ABOUT)
    with added_to(given.csv, COLUMNS) as add:
        for seed, images, width, model in _each(given):
            if (model, width, images, seed) in done:
                continue
            trainer, clock = _trained(model, int(width), int(images), int(seed), all_images.train)
            found = [evaluate(trainer.glow, all_images.test, seed=int(seed), noise=noise) for noise in NOISES]
            bits = [f"{number:.6f}" for own in found for number in mean_and_error(own.per_image)]
            add((model, width, images, seed, f"{clock.total:.1f}", *bits))
            print(model, width, images, seed, f"{clock.total:.1f}", *bits, flush=True)


def _each(given: flags.FlagValues) -> Iterator[tuple[str, str, str, str]]:
    for seed in given.seeds:
        for images in given.images:
            for width in given.widths:
                for model in given.models:
                    yield seed, images, width, model


def _trained(model: str, width: int, count: int, seed: int, images: np.ndarray) -> tuple[PartsTrainer, Clock]:
    """Trains a model on as many images as it is to see."""
    keras.backend.clear_session()
    epochs = -(-count // len(images))
    images = images[: count // epochs // BATCH * BATCH]
    settings = {"num_blocks": 3, "flow_steps": 8, "width": width, "seed": seed}
    glow, clock = Glow(ModelConfig(images.shape[1:], **settings, **MODELS[model])), Clock()
    trainer = PartsTrainer(glow, seed=seed)
    schedule = "simultaneous" if glow.config.design.separable else "end_to_end"
    own = {"schedule": schedule, "batch_size": BATCH, "part_epochs": epochs, "finetune_epochs": 0}
    trainer.compile(TrainConfig(**own), steps_per_epoch=len(images) // BATCH)
    trainer.fit(images, epochs=epochs, verbose=0, callbacks=[clock])
    return trainer, clock


def curves(path: str) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """Returns for each model and seed the seconds and bits that no run has at once fewer of, by seconds."""
    points = collections.defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            points[row["model"], row["seed"]].append((float(row["cpu_seconds"]), float(row["test_bpd"])))
    return {
        key: [own for k, own in enumerate(runs) if all(own[1] < bits for _, bits in runs[:k])]
        for key, runs in ((key, sorted(found)) for key, found in points.items())
    }


def factors(first: Curve, other: Curve) -> list[float]:
    """Returns the times of points of `other` over those that `first` takes to their bits, if it gets there."""
    times, bits = np.log([seconds for seconds, _ in first]), [-own for _, own in first]
    return [
        seconds / math.exp(np.interp(-own, bits, times))
        for seconds, own in other
        if bits[0] <= -own <= bits[-1]
    ]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
