"""How much memory does a process need that trains a whole flow, recomputes it, or trains one level alone?

    python -m lab.benchmarks.peaks --widths=64,256,512 --csv=docs/results/peaks.csv
    python -m lab.benchmarks.peaks --side=256 --crop=64 --widths=64 --batch=2 --csv=docs/results/peaks.csv

Every row is a process of its own, which makes a model and three training steps. `above_mb` is its peak above
what it held when TensorFlow was loaded and the images were there: weights, optimizer and activations.
"""

import concurrent.futures
import multiprocessing
import resource
import sys

import numpy as np
from absl import flags

from glow_tf.commands import cli
from lab.benchmarks.rows import added_to

COLUMNS = ("side", "crop", "width", "batch", "subject", "above_mb", "peak_mb")
STEPS = 3
SUBJECTS = {
    "Glow 3 x 8, end to end": {},
    "Glow 3 x 8, end to end, recomputed": {"reversible": True},
    "levels 8, 4, 4, 4, all parts": {"architecture": "levels"},
    "levels 8, 4, 4, 4, part 1 alone": {"architecture": "levels", "only_part": 1},
    "levels 8, 4, 4, 4, part 2 alone": {"architecture": "levels", "only_part": 2},
}


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_integer("side", 32, "Of the images.", flag_values=values)
    flags.DEFINE_integer(
        "crop", 0, "If above 0, levels also train on crops of this side.", flag_values=values
    )
    flags.DEFINE_list("widths", ["64"], "Comma-separated.", flag_values=values)
    flags.DEFINE_integer("batch", 8, "Images of a step.", flag_values=values)
    flags.DEFINE_string("csv", "peaks.csv", "To add to.", flag_values=values)


def _megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _measure(side: int, crop: int, width: int, batch: int, subject: str) -> tuple[float, float]:
    """Trains a few steps, and returns the peak above the start, and the peak, in MB."""
    import glow_tf
    from glow_tf import data

    settings = dict(SUBJECTS[subject])
    images = np.random.default_rng(0).integers(0, 256, (batch * STEPS, side, side, 3)).astype(np.uint8)
    multiple = 8
    batches = data.training_batches(images, batch, 0, crop=data.Crop(crop, multiple))
    before = _megabytes()
    architecture = settings.pop("architecture", "glow")
    reversible, only_part = settings.pop("reversible", False), settings.pop("only_part", 0)
    config = glow_tf.ModelConfig((side, side, 3), architecture=architecture, flow_steps=8, width=width)
    trainer = glow_tf.PartsTrainer(glow_tf.Glow(config))
    schedule = "simultaneous" if architecture == "levels" else "end_to_end"
    train = {"schedule": schedule, "part_epochs": 1, "finetune_epochs": 0, "batch_size": batch}
    train |= {"reversible": reversible, "only_part": only_part}
    trainer.compile(glow_tf.TrainConfig(**train), steps_per_epoch=STEPS)
    trainer.initialize(images[:batch, : crop or side, : crop or side])
    trainer.fit(batches, steps_per_epoch=STEPS, epochs=1, verbose=0)
    return _megabytes() - before, _megabytes()


def main(given: flags.FlagValues) -> None:
    """Measures each subject in a process of its own, and writes the CSV."""
    fresh = multiprocessing.get_context("spawn")
    with added_to(given.csv, COLUMNS) as add:
        for width in map(int, given.widths):
            for subject, settings in SUBJECTS.items():
                crops = [0, given.crop] if given.crop and "architecture" in settings else [0]
                for crop in crops:
                    what = (given.side, crop, width, given.batch, subject)
                    with concurrent.futures.ProcessPoolExecutor(1, fresh) as pool:
                        numbers = [f"{number:.0f}" for number in pool.submit(_measure, *what).result()]
                    add([*what, *numbers])
                    print(*what, *numbers, flush=True)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
