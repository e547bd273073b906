r"""Bits per dimension by CPU seconds of training: levels, a Glow with Haar's squeeze, a Glow as published.

    taskset -c 1 python -m lab.benchmarks.curves --data_dir=PATH --widths=32,64
    taskset -c 1 python -m lab.benchmarks.curves --dataset=folder:runs/photographs
    C="--dataset=folder:PATH/clothes --num_blocks=2 --equalize=0.5"  # Fashion-MNIST as files
    taskset -c 1 python -m lab.benchmarks.curves $C --models=levels
    taskset -c 1 python -m lab.benchmarks.curves $C --models=glow_haar,glow_pixels --flow_steps=9
    python -m lab.benchmarks.curves --images= --csv=docs/results/curves.csv --figure=docs/results/curves.png

Each length is a run of its own, in which the rate falls to 0 as a cosine. Images are new ones until all have
been seen. One thread computes. `cpu_seconds` are those of training without tracing; bits are of test images,
by uniform noise, and beside their mean those of groups, for intervals over images: of squares of photographs
as `lab.photographs` writes them, `--test_groups` is the number of pictures that the test squares are of.
Runs whose row is in the CSV are not repeated.

What is printed at the end is how many times as long a Glow takes to the bits of each of its runs as levels
do, of the same seed. Of each model the best widths and steps at any time count; between its runs, bits are
taken to be linear in the logarithm of time, and beyond them nothing is said. `--figure` draws those of
CIFAR-10, and `--autoregressive`, a CSV of `autoregressive.py`.
"""

from __future__ import annotations

import collections
import csv
import itertools
import math
import pathlib
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import DataConfig, Glow, ModelConfig, PartsTrainer, TrainConfig, data
from glow_tf.commands import cli
from glow_tf.use import evaluate
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to, measured
from lab.benchmarks.separability import BATCH, Clock

MODELS = {
    "levels": {"architecture": "levels"},
    "glow_haar": {},
    "glow_pixels": {"squeeze": "pixels"},
}
LENGTHS = ["3200", "6400", "12800", "25600", "51200"]
ABOUT = ("dataset", "model", "width", "flow_steps", "images", "seed")
COLUMNS = (*ABOUT, "cpu_seconds", "test_bpd", "test_bpd_se", "group_bpds")
NAMED = "cifar10"  # of which the figure is
Curve = Sequence[tuple[float, float]]  # seconds and bits, by seconds


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("dataset", "cifar10", "Of TFDS.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_integer("num_blocks", 3, "Scales of a Glow; levels have the coarsest image beside.", **own)
    flags.DEFINE_list("flow_steps", ["8"], "Of a Glow's blocks, and of the finest level.", **own)
    flags.DEFINE_float("equalize", 0.0, "As of `glow-tf train`.", **own)
    flags.DEFINE_list("models", list(MODELS), "Names of models.", **own)
    flags.DEFINE_list("widths", ["32"], "Of the coupling networks.", **own)
    flags.DEFINE_list("images", LENGTHS, "Training images of a run; none: no runs.", **own)
    flags.DEFINE_list("seeds", ["60"], "Seeds.", **own)
    flags.DEFINE_integer("test_examples", 1024, "Test images.", lower_bound=2, **own)
    flags.DEFINE_integer("test_groups", 64, "Test image k is in group k modulo this.", 2, **own)
    flags.DEFINE_string("csv", "curves.csv", "To add to: one row per run.", **own)
    flags.DEFINE_string("autoregressive", "", "A CSV to draw beside.", **own)
    flags.DEFINE_string("figure", "", "A PNG to draw.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the runs one after another, prints a line for each, and then the factors of time."""
    if given.images:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _make_runs(given)
    found = curves(given.csv)
    for (dataset, model, seed), curve in found.items():
        levels = found.get((dataset, "levels", seed), ())
        if model != "levels" and (times := factors(levels, curve)):
            leads = [f"{bits_at(curve, seconds) - bits:.3f}" for seconds, bits in levels]
            print(f"{dataset}, {model}, seed {seed}, against levels:")
            print(f"  {', '.join(f'{own:.2f}' for own in times)} times as long to equal bits")
            print(f"  {', '.join(leads)} bits/dim behind in equal time")
    if given.figure:
        from lab.studies.figures import lengths, write_png

        drawn = {
            ", ".join((*key[1:2], "seed " + key[2])): own for key, own in found.items() if key[0] == NAMED
        }
        if given.autoregressive:
            with open(given.autoregressive, newline="") as file:
                points = [(float(row["cpu_seconds"]), float(row["test_bpd"])) for row in csv.DictReader(file)]
            drawn["autoregressive"] = sorted(points)
        write_png(lengths(drawn), pathlib.Path(given.figure))


def _make_runs(given: flags.FlagValues) -> None:
    name = given.dataset.rpartition("/")[-1]
    all_images = data.load(DataConfig(given.dataset, given.data_dir, test_examples=given.test_examples))
    done = measured(given.csv, ABOUT)
    with added_to(given.csv, COLUMNS) as add:
        every = itertools.product(given.seeds, given.images, given.widths, given.flow_steps, given.models)
        for seed, images, width, steps, model in every:
            about = (name, model, width, steps, images, seed)
            if about in done:
                continue
            settings = {"num_blocks": given.num_blocks, "equalize": given.equalize} | MODELS[model]
            settings |= {"width": int(width), "flow_steps": int(steps), "seed": int(seed)}
            config = ModelConfig(all_images.image_shape, **settings)
            glow, clock = _trained(config, int(images), all_images.train)
            found = evaluate(glow, all_images.test, seed=int(seed)).per_image
            groups = (found[k :: given.test_groups].mean() for k in range(given.test_groups))
            bits = [f"{number:.6f}" for number in mean_and_error(found)]
            add((*about, f"{clock.total:.1f}", *bits, " ".join(f"{number:.4f}" for number in groups)))
            print(*about, f"{clock.total:.1f}", *bits, flush=True)


def _trained(config: ModelConfig, count: int, images: np.ndarray) -> tuple[Glow, Clock]:
    """Trains a model on as many images as it is to see."""
    keras.backend.clear_session()
    epochs = -(-count // len(images))
    images = images[: count // epochs // BATCH * BATCH]
    glow, clock = Glow(config), Clock()
    trainer = PartsTrainer(glow, seed=config.seed)
    schedule = "simultaneous" if config.design.separable else "end_to_end"
    own = {"schedule": schedule, "batch_size": BATCH, "part_epochs": epochs, "finetune_epochs": 0}
    trainer.compile(TrainConfig(**own), steps_per_epoch=len(images) // BATCH)
    trainer.fit(images, epochs=epochs, verbose=0, callbacks=[clock])
    return glow, clock


def curves(path: str) -> dict[tuple[str, str, str], list[tuple[float, float]]]:
    """Returns by data set, model and seed what runs take and reach that no shorter run beats, by seconds."""
    points = collections.defaultdict(list)
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            key = (row["dataset"], row["model"], row["seed"])
            points[key].append((float(row["cpu_seconds"]), float(row["test_bpd"])))
    return {
        key: [own for k, own in enumerate(runs) if all(own[1] < bits for _, bits in runs[:k])]
        for key, runs in ((key, sorted(found)) for key, found in points.items())
    }


def factors(first: Curve, other: Curve) -> list[float]:
    """Returns the times of points of `other` over those of `first` to their bits, where it gets there."""
    reached = [(bits, seconds) for seconds, bits in other if first and first[-1][1] <= bits <= first[0][1]]
    times, bits = np.log([seconds for seconds, _ in first]), [-own for _, own in first]
    return [seconds / math.exp(np.interp(-own, bits, times)) for own, seconds in reached]


def bits_at(curve: Curve, seconds: float) -> float:
    """Returns the bits of a curve after so many seconds; NaN beyond its runs."""
    times, bits = zip(*curve, strict=True)
    return float(np.interp(math.log(seconds), np.log(times), bits, left=np.nan, right=np.nan))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
