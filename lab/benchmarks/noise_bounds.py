"""Bits of test images under trained models, bounded by uniform and by variational noise.

    python -m lab.benchmarks.noise_bounds --data_dir=PATH --models=cifar10,cifar10_small --test_examples=0
    python -m lab.benchmarks.noise_bounds --data_dir=PATH --models=runs/studies/network/levels_32/seed_40
    R="--dataset=folder:runs/photographs --workdir=runs/photographs_32"
    glow-tf train --flagfile=recommended --init_from= --width=32 --part_epochs=1 --test_examples=1024 $R
    python -m lab.benchmarks.noise_bounds --dataset=folder:runs/photographs --models=runs/photographs_32

A model is a preset, a workdir or a file, as in `glow-tf evaluate --help`. Both bounds are of one draw, and of
the same weights; see `variational_noise`. Rows that the CSV has are not measured again.
"""

import pathlib
import sys
import time

from absl import flags

from glow_tf import DataConfig, data
from glow_tf.commands import cli
from glow_tf.config.choices import NOISES
from glow_tf.store import load
from glow_tf.use import evaluate
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to, measured

ABOUT = ("model", "noise", "images")
COLUMNS = (*ABOUT, "test_bpd", "test_bpd_se", "cpu_seconds")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_list("models", [], "As in `glow-tf evaluate --help`.", **own)
    flags.DEFINE_string("dataset", "cifar10", "Of TFDS.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_integer("test_examples", 1024, "Test images; 0: all.", lower_bound=0, **own)
    flags.DEFINE_string("csv", "noise_bounds.csv", "To add to: one row per model and noise.", **own)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    numbers = {"train_examples": 8, "test_examples": given.test_examples}
    images = data.load(DataConfig(given.dataset, given.data_dir, **numbers)).test
    done = measured(given.csv, ABOUT)
    with added_to(given.csv, COLUMNS) as add:
        for place in given.models:
            name, model = "/".join(pathlib.Path(place).parts[-2:]), load(place)
            for noise in NOISES:
                if (name, noise, str(len(images))) in done:
                    continue
                start = time.process_time()
                mean, error = mean_and_error(evaluate(model, images, noise=noise).per_image)
                seconds = time.process_time() - start
                row = (name, noise, len(images), f"{mean:.6f}", f"{error:.6f}", f"{seconds:.1f}")
                add(row)
                print(*row, flush=True)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
