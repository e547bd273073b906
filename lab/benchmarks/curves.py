r"""Bits per dimension by CPU seconds of training: levels, a Glow with Haar's squeeze, a Glow as published.

    B="taskset -c 1 python -m lab.benchmarks.curves"
    $B --data_dir=PATH
    P="--dataset=folder:runs/photographs --test_groups=15"  # of `python -m lab.photographs`
    $B $P --images=1600 --models=levels
    $B $P --images=3200,12800
    P="--dataset=folder:runs/photographs_64 --num_blocks=4 --test_groups=15"  # the same with --side=64
    $B $P --images=800 --models=levels
    $B $P --images=1600,4800
    C="--dataset=folder:PATH/clothes --num_blocks=2 --equalize=0.5 --images=3200,12800,51200"
    $B $C --models=levels  # Fashion-MNIST as files
    $B $C --models=glow_haar,glow_pixels --flow_steps=9
    S="--data_dir=PATH --csv=docs/results/curves_steps.csv"
    $B $S --images=12800,25600 --models=levels
    $B $S --images=25600 --models=glow_haar --flow_steps=8,12
    $B $S --seeds=61 --images=51200,102400 --models=levels
    $B $S --seeds=61 --images=102400 --models=glow_haar,glow_pixels
    $B $S --seeds=61 --images=102400 --models=levels,glow_haar --flow_steps=12
    $B $S --seeds=62 --images=51200,102400 --models=levels
    $B $S --seeds=62 --images=102400 --models=glow_haar --flow_steps=12
    $B $S --seeds=61 --images=204800 --models=levels --flow_steps=8,12
    $B $S --seeds=61 --images=409600 --models=glow_haar --flow_steps=12
    python -m lab.benchmarks.curves --images= --csv=docs/results/curves.csv --figure=docs/results/curves.png

The pictures are those of Debian's budgie-backgrounds, mate-backgrounds, ukui-wallpapers, phosh-wallpapers,
lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04: 46 give training squares, 15 others test squares. Where a
Glow of seed 63 has fewer bits than levels' last run, levels have a longer one: 25,600, 9,600 at 64×64.

Each length is a run of its own, in which the rate falls to 0 as a cosine. Images are new ones until all have
been seen. One thread computes. `cpu_seconds` are those of training without tracing; bits are of test images,
by uniform noise, and beside their mean those of groups, for intervals over images: of squares of photographs
as `lab.photographs` writes them, `--test_groups` is the number of pictures that the test squares are of.
Runs whose row is in the CSV are not repeated.

What is printed at the end, of runs of the same seed: how many times as long as levels a Glow takes to the
bits of each of its runs, and how far it is behind them after `--times` seconds. ± is half of the 95 %
interval over seeds, and over groups of images. Of each model the best widths and steps at any time count;
between its runs, bits are taken to be linear in the logarithm of time, and beyond them nothing is said.
`--figure` draws those of CIFAR-10, and `--autoregressive`, a CSV of `autoregressive.py`.
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import math
import pathlib
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

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
from lab.studies.comparison import Estimate, estimate, seconds_to

MODELS = {
    "levels": {"architecture": "levels"},
    "glow_haar": {},
    "glow_pixels": {"squeeze": "pixels"},
}
LENGTHS = ["3200", "6400", "12800", "25600", "51200"]
ABOUT = ("dataset", "model", "width", "flow_steps", "images", "seed")
COLUMNS = (*ABOUT, "cpu_seconds", "test_bpd", "test_bpd_se", "group_bpds")
NAMED = "cifar10"  # of which the figure is


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
    flags.DEFINE_string("precision", "float32", "As of `glow-tf train`; each has a CSV of its own.", **own)
    flags.DEFINE_list("images", LENGTHS, "Training images of a run; none: no runs.", **own)
    flags.DEFINE_list("seeds", ["61", "62", "63"], "Of the runs, and of those that are compared.", **own)
    flags.DEFINE_integer("test_examples", 1024, "Test images.", lower_bound=2, **own)
    flags.DEFINE_integer("test_groups", 64, "Test image k is in group k modulo this.", 2, **own)
    flags.DEFINE_list("times", ["45", "150"], "CPU seconds to compare after.", **own)
    flags.DEFINE_list("csv", ["curves.csv"], "To add to, one row per run; and others to read.", **own)
    flags.DEFINE_string("autoregressive", "", "A CSV to draw beside.", **own)
    flags.DEFINE_string("figure", "", "A PNG to draw.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the runs one after another, prints a line for each, and then the factors of time."""
    if given.images:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        _make_runs(given)
    found = curves(given.csv, given.seeds)
    for (name, model), own in compared(found, [float(seconds) for seconds in given.times]).items():
        print(f"{name}, {model}, seeds {', '.join(own.seeds)}:")
        for (steps, images), longer in own.longer.items():
            words = "  {:.2f} [{:.2f}, {:.2f}] times as long as levels".format(*longer)
            print(f"{words} to the bits of {steps} steps, {images} images")
        for seconds, (levels, glow, seeds, images) in own.after.items():
            print(f"  after {seconds:g} s: {glow:.3f}, levels {levels:.3f}, {seeds.mean:.3f} behind", end=" ")
            print(f"± {seeds.half_width:.3f} (seeds) ± {images.half_width:.3f} (images)")
    if given.figure:
        from lab.studies.figures import lengths, write_png

        drawn = mean_lines(given.csv, ("model", "width", "flow_steps"), "images", {"dataset": NAMED})
        if given.autoregressive:
            own = mean_lines([given.autoregressive], ("width",), "seconds", {"scored": "test"})
            drawn |= {f"autoregressive, {line}": points for line, points in own.items()}
        write_png(lengths(drawn), pathlib.Path(given.figure))


def _make_runs(given: flags.FlagValues) -> None:
    name = given.dataset.rpartition("/")[-1]
    all_images = data.load(DataConfig(given.dataset, given.data_dir, test_examples=given.test_examples))
    done = measured(given.csv[0], ABOUT)
    with added_to(given.csv[0], COLUMNS) as add:
        every = itertools.product(given.seeds, given.images, given.widths, given.flow_steps, given.models)
        for seed, images, width, steps, model in every:
            about = (name, model, width, steps, images, seed)
            if about in done:
                continue
            settings = {"num_blocks": given.num_blocks, "equalize": given.equalize} | MODELS[model]
            settings |= {"width": int(width), "flow_steps": int(steps), "seed": int(seed)}
            settings |= {"precision": given.precision}
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


class Run(NamedTuple):
    """A run: CPU seconds, bits of all test images and of groups of them, its flow steps and images."""

    seconds: float
    bits: np.ndarray
    about: tuple[int, int]


Curve = Sequence[Run]  # by seconds


def curves(paths: Sequence[str], seeds: Container[str]) -> dict[tuple[str, str, str], Curve]:
    """Returns by data set, model and seed what runs take and reach that no shorter run beats, by seconds."""
    points = collections.defaultdict(list)
    for row in _rows(paths):
        if row["seed"] in seeds:
            bits = np.array([float(number) for number in (row["test_bpd"], *row["group_bpds"].split())])
            run = Run(float(row["cpu_seconds"]), bits, (int(row["flow_steps"]), int(row["images"])))
            points[row["dataset"], row["model"], row["seed"]].append(run)
    found = {}
    for key, runs in points.items():
        runs.sort(key=lambda run: run.seconds)
        found[key] = [run for k, run in enumerate(runs) if all(run.bits[0] < own.bits[0] for own in runs[:k])]
    return found


@dataclasses.dataclass(frozen=True)
class Beside:
    """A Glow beside levels of the same seeds.

    Attributes:
      seeds: which.
      longer: flow steps and images of a run → how many times as long it takes as levels do to its bits, the
        geometric mean over seeds with its 95 % interval; without runs that a shorter one beats, or whose bits
        are not among those of levels.
      after: seconds → bits of levels, bits of the Glow, and how far it is behind, over seeds and over groups
        of images.
    """

    seeds: tuple[str, ...]
    longer: Mapping[tuple[int, int], tuple[float, float, float]]
    after: Mapping[float, tuple[float, float, Estimate, Estimate]]


def compared(
    found: Mapping[tuple[str, str, str], Curve], times: Sequence[float]
) -> dict[tuple[str, str], Beside]:
    """Returns for data sets and Glows what curves say; times that not all runs reach are left out."""
    every = {}
    for name, model in dict.fromkeys(key[:2] for key in found if key[1] != "levels"):
        seeds = [own for *about, own in found if about == [name, model] and (name, "levels", own) in found]
        ours, theirs = ([found[name, own, seed] for seed in seeds] for own in ("levels", model))
        of_seeds, longer, after = list(map(factors, ours, theirs)), {}, {}
        for about in sorted(set(of_seeds[0]).intersection(*of_seeds)) if of_seeds else ():
            logs = estimate([math.log(own[about]) for own in of_seeds])
            ends = logs.mean, logs.mean - logs.half_width, logs.mean + logs.half_width
            longer[about] = tuple(map(math.exp, ends))
        for seconds in times:
            levels, glows = (np.array([bits_at(own, seconds) for own in side]) for side in (ours, theirs))
            behind = glows - levels
            if np.isfinite(behind).all():
                over = estimate(behind[:, 0]), estimate(behind[:, 1:].mean(axis=0))
                after[seconds] = (levels[:, 0].mean(), glows[:, 0].mean(), *over)
        every[name, model] = Beside(tuple(seeds), longer, after)
    return every


def mean_lines(
    paths: Sequence[str], same: Sequence[str], length: str, only: Mapping[str, str]
) -> dict[str, list[tuple[float, float]]]:
    """Returns means over seeds, seconds and bits: a line for rows of which columns are the same."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in _rows(paths):
        if only.items() <= row.items():
            line = ", ".join(f"{name} {row[name]}" for name in same)
            found[line][int(row[length])].append((float(row["cpu_seconds"]), float(row["test_bpd"])))
    return {
        line: [tuple(np.mean(points[key], axis=0)) for key in sorted(points)]
        for line, points in found.items()
    }


def _rows(paths: Sequence[str]) -> Iterator[dict[str, str]]:
    for path in paths:
        with open(path, newline="") as file:
            yield from csv.DictReader(file)


def factors(first: Curve, other: Curve) -> dict[tuple[int, int], float]:
    """Returns for runs of `other` whose bits `first` reaches how many times as long they take as it does."""
    points = [(run.seconds, run.bits[0]) for run in first]
    found = {run.about: run.seconds / seconds_to(run.bits[0], points) for run in other}
    return {about: factor for about, factor in found.items() if not math.isnan(factor)}


def bits_at(curve: Curve, seconds: float) -> np.ndarray:
    """Returns the bits of a curve after so many seconds; NaN beyond its runs."""
    place, places = math.log(seconds), [math.log(run.seconds) for run in curve]
    every = np.transpose([run.bits for run in curve])
    return np.array([np.interp(place, places, own, np.nan, np.nan) for own in every])


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
