r"""Bits per dimension by CPU seconds of training: levels, a Glow with Haar's squeeze, a Glow as published.

    B="taskset -c 1 python -m lab.benchmarks.curves"
    $B --data_dir=PATH
    P="--dataset=folder:runs/photographs --test_groups=15"  # of `python -m lab.photographs`
    $B $P --images=1600 --models=levels
    $B $P --images=3200,12800
    P="--dataset=folder:runs/photographs_64 --num_blocks=4 --test_groups=15"  # the same with --side=64
    $B $P --images=800 --models=levels
    $B $P --images=1600,4800
    F="--dataset=folder:runs/photographs --test_groups=15 --csv=docs/results/curves_folds.csv"  # for --fold=K
    $B $F --seeds=7K --images=12800 --models=glow_haar,levels
    $B $F --seeds=7K --images=3200 --models=levels
    C="--dataset=folder:PATH/clothes --num_blocks=2 --equalize=0.5 --images=3200,12800,51200"
    $B $C --models=levels  # Fashion-MNIST as files
    $B $C --models=glow_haar,glow_pixels --flow_steps=9
    S="--data_dir=PATH --csv=docs/results/curves_steps.csv"
    $B $S --images=12800,25600 --models=levels
    $B $S --images=25600 --models=glow_haar --flow_steps=8,12
    $B $S --seeds=61 --images=51200,102400 --models=levels
    $B $S --seeds=61 --images=102400 --models=glow_haar,glow_pixels
    $B $S --seeds=61 --images=102400 --models=levels,glow_haar --flow_steps=12
    $B $S --seeds=62,63 --images=51200,102400 --models=levels
    $B $S --seeds=62,63 --images=102400 --models=glow_haar --flow_steps=12
    $B $S --seeds=61,62 --images=204800 --models=levels --flow_steps=12
    $B $S --seeds=61 --images=204800 --models=levels
    $B $S --seeds=61,62 --images=409600 --models=glow_haar --flow_steps=12
    $B $S --seeds=61 --images=409600 --models=levels --flow_steps=12
    W="--data_dir=PATH --widths=96 --precisions=float32,mixed_bfloat16"
    $B $W --csv=docs/results/curves_96.csv --seeds=61,62 --images=6400,12800 --models=levels
    $B $W --csv=docs/results/curves_96.csv --seeds=61,62 --images=12800 --models=glow_haar
    $B $W --costs=docs/results/curves_96_costs.csv --turns=15 --models=levels,glow_haar
    X="--data_dir=PATH --widths=256 --precisions=mixed_bfloat16 --csv=docs/results/curves_256.csv"
    $B $X --seeds=61,62 --images=6400,12800,25600 --models=levels
    $B $X --seeds=61,62 --images=12800,25600 --models=glow_haar
    $B $X --seeds=61 --images=51200,102400 --models=levels
    $B $X --seeds=61 --images=102400 --models=glow_haar
    $B $X --seeds=61 --images=51200 --models=levels,glow_haar --flow_steps=12
    $B $X --costs=docs/results/curves_256_costs.csv --turns=9 --models=levels,glow_haar --flow_steps=8,12
    $B --data_dir=PATH --costs=docs/results/curves_costs.csv --turns=15 --flow_steps=6,8,12  # 11, and 15
    N="--data_dir=PATH --csv=docs/results/curves_normflows.csv"  # needs pip install -e '.[lab]'
    $B $N --seeds=61 --images=12800 --models=normflows
    $B $N --costs=docs/results/curves_normflows_costs.csv --turns=11 --models=levels,normflows
    R="--images= --csv=docs/results/curves.csv,docs/results/curves_steps.csv"
    python -m lab.benchmarks.curves $R --costs=docs/results/curves_costs.csv --figure=docs/results/curves.png

The pictures are those of Debian's budgie-backgrounds, mate-backgrounds, ukui-wallpapers, phosh-wallpapers,
lomiri-wallpapers-16.04 and lomiri-wallpapers-20.04: 46 give training squares, 15 others test squares. Where a
Glow of seed 63 has fewer bits than levels' last run, levels have a longer one: 25,600, 9,600 at 64×64.

Each length is a run of its own, in which the rate falls to 0 as a cosine. Images are new ones until all have
been seen. One thread computes. `cpu_seconds` are those of training without tracing. They differ by up to two
where a machine's speed changes: so `--turns` measures what an image costs each model, in turns, and with
`--costs` a run's time is that of its images. Bits are of test images, by uniform noise, and beside their mean
those of groups, for intervals over images: of squares of photographs as `lab.photographs` writes them,
`--test_groups` is the number of pictures that the test squares are of. Runs whose row is in the CSV are not
repeated.

What is printed at the end, of runs of the same seed: how many times as long as levels a Glow takes to the
bits of each of its runs, and how far it is behind them after `--times` seconds. ± is half of the 95 %
interval over seeds, and over groups of images. Of each model the best widths and steps at any time count;
between its runs, bits are taken to be linear in the logarithm of time, and beyond them nothing is said, but
for a fit of a + b·t^−c to a model's runs.
`--figure` draws those of CIFAR-10, and `--autoregressive`, a CSV of `autoregressive.py`.
"""

from __future__ import annotations

import functools
import itertools
import pathlib
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import DataConfig, Flow, ModelConfig, PartsTrainer, RunConfig, TrainConfig, data
from glow_tf.architectures import design_of
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.use import evaluate
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to, measured
from lab.benchmarks.separability import BATCH, SKIPPED, Clock, costs_in_turns, timed_epoch
from lab.benchmarks.train_normflows import Training
from lab.studies.curves import HALF, SUBJECT, compared, curves, fits, mean_lines, seconds_per_image

MODELS = {
    "levels": {"architecture": "levels"},
    "glow_haar": {},
    "glow_pixels": {"squeeze": "pixels"},
    "normflows": {"squeeze": "pixels", "scale": "sigmoid"},
}
OWN = [name for name in MODELS if name != "normflows"]
END_TO_END = {"schedule": "end_to_end", "finetune_epochs": 0}
LENGTHS = ["3200", "6400", "12800", "25600", "51200"]
ABOUT = (*SUBJECT, "images", "seed")
COLUMNS = (*ABOUT, "cpu_seconds", "test_bpd", "test_bpd_se", "group_bpds")
COSTS = (*SUBJECT, "milliseconds")  # of an image, in each turn
LABELS = {"float32": "", "mixed_bfloat16": HALF}  # after a data set's name
NAMED = "cifar10"  # of which the figure is


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("dataset", "cifar10", "Of TFDS.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_integer("num_blocks", 3, "Scales of a Glow; levels have the coarsest image beside.", **own)
    flags.DEFINE_list("flow_steps", ["8"], "Of a Glow's blocks, and of the finest level.", **own)
    flags.DEFINE_float("equalize", 0.0, "As of `glow-tf train`.", **own)
    flags.DEFINE_list("models", OWN, f"One or more of {', '.join(MODELS)}.", **own)
    flags.DEFINE_list("widths", ["32"], "Of the coupling networks.", **own)
    flags.DEFINE_list("precisions", ["float32"], f"One or more of {', '.join(LABELS)}.", **own)
    flags.DEFINE_list("images", LENGTHS, "Training images of a run; none: no runs.", **own)
    flags.DEFINE_list("seeds", ["61", "62", "63"], "Of the runs, and of those that are compared.", **own)
    flags.DEFINE_integer("test_examples", 1024, "Test images.", lower_bound=2, **own)
    flags.DEFINE_integer("test_groups", 64, "Test image k is in group k modulo this.", 2, **own)
    flags.DEFINE_integer("turns", 0, "If not 0, make no runs, but add to `--costs`, in as many turns.", **own)
    flags.DEFINE_string("costs", "", "A CSV of costs: times are those of images; empty: as measured.", **own)
    flags.DEFINE_list("times", ["45", "150"], "CPU seconds to compare after.", **own)
    flags.DEFINE_list("extrapolated", ["3600", "14400"], "CPU seconds of what fits say.", **own)
    flags.DEFINE_list("csv", ["curves.csv"], "To add to, one row per run; and others to read.", **own)
    flags.DEFINE_string("autoregressive", "", "A CSV to draw beside.", **own)
    flags.DEFINE_string("figure", "", "A PNG to draw.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the runs one after another, prints a line for each, and then the factors of time."""
    for name, known in (("models", MODELS), ("precisions", LABELS)):
        if not set(given[name].value) <= set(known):
            raise ConfigError(
                f"{name} must be of {', '.join(known)}. Received: --{name}={','.join(given[name].value)}"
            )
    if given.turns or given.images:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    if given.turns:
        _measure_costs(given)
        return
    if given.images:
        _make_runs(given)
    costs = seconds_per_image(given.costs, given.csv)
    found = curves(given.csv, given.seeds, costs)
    for (name, model), own in compared(found, [float(seconds) for seconds in given.times]).items():
        print(f"{name}, {model}, seeds {', '.join(own.seeds)}:")
        for (steps, images), longer in own.longer.items():
            words = "  {:.2f} [{:.2f}, {:.2f}] times as long as levels".format(*longer)
            print(f"{words} to the bits of {steps} steps, {images} images")
        for seconds, (levels, flow, seeds, images) in own.after.items():
            print(f"  after {seconds:g} s: {flow:.3f}, levels {levels:.3f}, {seeds.mean:.3f} behind", end=" ")
            print(f"± {seeds.half_width:.3f} (seeds) ± {images.half_width:.3f} (images)")
    for (name, model), (law, missed) in sorted(fits(found).items()):
        said = ", ".join(f"{law(t):.3f} after {t:g}" for t in map(float, given.extrapolated))
        print(f"{name}, {model}, a fit that misses runs by {missed:.3f}: {said} seconds")
    if given.figure:
        from lab.studies.figures import lengths, write_png

        drawn = mean_lines(given.csv, ("model", "width", "flow_steps"), "images", {"dataset": NAMED}, costs)
        if given.autoregressive:
            own = mean_lines([given.autoregressive], ("width",), "seconds", {"scored": "test"})
            drawn |= {f"autoregressive, {line}": points for line, points in own.items()}
        write_png(lengths(drawn), pathlib.Path(given.figure))


def _make_runs(given: flags.FlagValues) -> None:
    all_images = _images(given)
    done = measured(given.csv[0], ABOUT)
    with added_to(given.csv[0], COLUMNS) as add:
        for seed, images in itertools.product(given.seeds, given.images):
            for subject, config in _models(given, all_images.image_shape, int(seed)).items():
                about = (*subject, images, seed)
                if about in done:
                    continue
                train = _with_normflows if subject[1] == "normflows" else _trained
                seconds, found = train(config, int(images), all_images)
                groups = (found[k :: given.test_groups].mean() for k in range(given.test_groups))
                bits = [f"{number:.6f}" for number in mean_and_error(found)]
                add((*about, f"{seconds:.1f}", *bits, " ".join(f"{number:.4f}" for number in groups)))
                print(*about, f"{seconds:.1f}", *bits, flush=True)


def _images(given: flags.FlagValues) -> data.ImageData:
    return data.load(DataConfig(given.dataset, given.data_dir, test_examples=given.test_examples))


def _models(
    given: flags.FlagValues, image_shape: tuple[int, int, int], seed: int
) -> dict[tuple[str, ...], ModelConfig]:
    """Returns the models that the flags name, by what the CSV says of them."""
    found, name = {}, given.dataset.rpartition("/")[-1]
    every = itertools.product(given.widths, given.flow_steps, given.models, given.precisions)
    for width, steps, model, precision in every:
        settings = {"num_blocks": given.num_blocks, "equalize": given.equalize} | MODELS[model]
        settings |= {"width": int(width), "flow_steps": int(steps), "seed": seed, "precision": precision}
        found[name + LABELS[precision], model, width, steps] = ModelConfig(image_shape, **settings)
    return found


def _measure_costs(given: flags.FlagValues) -> None:
    """Adds what an image costs each model that the flags name; they take turns."""
    if not given.costs:
        raise ConfigError("turns need a CSV to add costs to, --costs. Received: costs=''")
    all_images = _images(given)
    images, epochs = all_images.train[: 4 * SKIPPED * BATCH], {}
    for subject, config in _models(given, all_images.image_shape, 0).items():
        if subject[1] == "normflows":
            training = _normflows(config, given.turns, images)
            epochs[subject] = functools.partial(_timed_normflows, training)
        else:
            epochs[subject] = functools.partial(
                timed_epoch, _trainer(config, given.turns, len(images)), images
            )
    with added_to(given.costs, COSTS) as add:
        for subject, times in costs_in_turns(epochs, len(images), given.turns).items():
            add((*subject, " ".join(f"{1e3 * seconds:.3f}" for seconds in times)))
            print(*subject, f"{1e3 * np.median(times):.2f} ms an image", flush=True)


def _trained(config: ModelConfig, count: int, all_images: data.ImageData) -> tuple[float, np.ndarray]:
    """Trains a model on as many images as it is to see, and returns CPU seconds and bits of test images."""
    keras.backend.clear_session()
    images, epochs = _images_and_epochs(all_images, count)
    trainer, clock = _trainer(config, epochs, len(images)), Clock()
    trainer.fit(images, epochs=epochs, verbose=0, callbacks=[clock])
    return clock.total, evaluate(trainer.flow, all_images.test, seed=config.seed).per_image


def _with_normflows(config: ModelConfig, count: int, all_images: data.ImageData) -> tuple[float, np.ndarray]:
    """As `_trained`, with normflows' Glow of the same sizes."""
    images, epochs = _images_and_epochs(all_images, count)
    training = _normflows(config, epochs, images)
    seconds = sum(_timed_normflows(training, epoch) for epoch in range(epochs))
    return seconds, training.per_image(all_images.test)


def _normflows(config: ModelConfig, epochs: int, images: np.ndarray) -> Training:
    """Returns what trains normflows' Glow, at the rate of the study `time_of_levels`."""
    import torch

    torch.set_num_threads(1)
    train = TrainConfig(
        batch_size=BATCH, part_epochs=epochs, learning_rate="16e-3", rate_scaling="none", **END_TO_END
    )
    run = RunConfig(workdir="unused", seed=config.seed, model=config, train=train)
    return Training(run, data.ImageData(images, images[:0], images[:0]))


def _timed_normflows(training: Training, epoch: int) -> float:
    start = time.process_time()
    training.epoch()
    return time.process_time() - start


def _images_and_epochs(all_images: data.ImageData, count: int) -> tuple[np.ndarray, int]:
    epochs = -(-count // len(all_images.train))
    return all_images.train[: count // epochs // BATCH * BATCH], epochs


def _trainer(config: ModelConfig, epochs: int, count: int) -> PartsTrainer:
    trainer = PartsTrainer(Flow(config), seed=config.seed)
    own = END_TO_END | ({"schedule": "simultaneous"} if design_of(config).separable else {})
    trainer.compile(TrainConfig(batch_size=BATCH, part_epochs=epochs, **own), steps_per_epoch=count // BATCH)
    return trainer


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
