"""Measures what a condition costs in a training step.

    taskset -c 0 python -m lab.benchmarks.conditions --widths=32,96,128 --output=docs/results/conditions.csv
    taskset -c 0 python -m lab.benchmarks.conditions --study=levels_form --output=steps.csv

A Glow of 3 × 4 flow steps that is given nothing, the same given a map of 16 features, a deeper Glow, and
levels take steps in turns, in one process on one core; then a Glow and levels of grey images of 28×28. The
CSV has the CPU milliseconds of every turn. What is printed are medians, and beside them the ratio that
multiply-adds predict. With `--all_cores` the steps use all cores, as a run does, and the clock on the wall;
that needs a quiet machine. With `--study`, the models of that study take turns instead, in batches of 8.
"""

from __future__ import annotations

import csv
import pathlib
import time

import numpy as np
import tensorflow as tf
from absl import app, flags

from glow_tf import Glow, ModelConfig, PartsTrainer, TrainConfig
from glow_tf.devices import use_streams
from glow_tf.partition import part_layouts
from lab.experiment import experiment_of
from lab.studies.runs import runs_of

FLAGS = flags.FLAGS
SIDE, BATCH, STEPS = 32, 8, 16


def _subjects(width: int) -> dict[str, ModelConfig]:
    shape, common = (SIDE, SIDE, 3), {"num_blocks": 3, "width": width}
    return {
        "nothing given": ModelConfig(shape, flow_steps=4, **common),
        "16 features given": ModelConfig(
            shape, flow_steps=4, condition_shape=(SIDE, SIDE, 16), condition_features=0, **common
        ),
        "Glow 3 x 8": ModelConfig(shape, flow_steps=8, **common),
        "levels 8, 4, 4, 4": ModelConfig(shape, architecture="levels", flow_steps=8, **common),
        "grey Glow 2 x 6": ModelConfig((28, 28, 1), num_blocks=2, flow_steps=6, width=width),
        "grey levels 8, 4": ModelConfig(
            (28, 28, 1), architecture="levels", num_blocks=1, level_steps="8,4", width=width
        ),
        "grey Glow 2 x 6, equalized": ModelConfig(
            (28, 28, 1), num_blocks=2, flow_steps=6, width=width, equalize=0.5
        ),
        "grey Glow 2 x 9, equalized": ModelConfig(
            (28, 28, 1), num_blocks=2, flow_steps=9, width=width, equalize=0.5
        ),
        "grey levels 8, 4, 4, equalized": ModelConfig(
            (28, 28, 1), architecture="levels", num_blocks=2, level_steps="8,4,4", width=width, equalize=0.5
        ),
    }


def _subjects_of(name: str) -> dict[str, ModelConfig]:
    """Returns the models of a study's variants, which are taken to be for images of 32×32×3."""
    experiment = experiment_of(name)
    runs = runs_of(experiment.study, experiment.folder, experiment.configure, {}, quick=True)
    return {run.variant.name: run.config.model for run in runs}


def _base(name: str) -> str:
    """Returns which subject another one is compared with."""
    if FLAGS.study:
        return experiment_of(FLAGS.study).study.baseline
    if "given" in name:
        return "nothing given"
    return "grey Glow 2 x 6" if "grey" in name else "Glow 3 x 8"


def _trainer(config: ModelConfig, epochs: int) -> PartsTrainer:
    trainer = PartsTrainer(Glow(config))
    schedule = "simultaneous" if config.has_levels else "end_to_end"
    settings = TrainConfig(schedule=schedule, part_epochs=epochs, finetune_epochs=0, batch_size=BATCH)
    trainer.compile(settings, steps_per_epoch=STEPS)
    return trainer


def main(argv: list[str]) -> None:
    """Measures, prints and writes."""
    del argv
    clock = time.perf_counter
    if FLAGS.all_cores:
        use_streams(BATCH)
    else:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        clock = time.process_time  # which other work on the core does not disturb
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH * STEPS, SIDE, SIDE, 3)).astype(np.uint8)
    given = rng.normal(size=(BATCH * STEPS, SIDE, SIDE, 16)).astype(np.float32)
    rows = []
    for width in ["of the study"] if FLAGS.study else map(int, FLAGS.widths):
        subjects = _subjects_of(FLAGS.study) if FLAGS.study else _subjects(width)
        trainers = {name: _trainer(config, FLAGS.turns + 2) for name, config in subjects.items()}
        found: dict[str, list[float]] = {name: [] for name in subjects}
        for turn in range(FLAGS.turns + 1):
            for name, trainer in trainers.items():
                height, width_of_images, channels = subjects[name].image_shape
                x = images[:, :height, :width_of_images, :channels]
                y = given if subjects[name].condition_shape else None
                start = clock()
                trainer.fit(x, y, initial_epoch=turn, epochs=turn + 1, verbose=0)
                if turn:  # the first traces
                    found[name].append((clock() - start) / STEPS * 1e3)
                    rows.append({"width": width, "subject": name, "turn": turn, "ms": found[name][-1]})
        macs = {name: sum(p.forward_macs for p in part_layouts(c)) for name, c in subjects.items()}
        for name, times in found.items():
            base = _base(name)
            ratio = float(np.median(np.array(times) / np.array(found[base])))
            print(
                f"width {width}, {name}: {np.median(times):.1f} ms a step, {ratio:.3f} of '{base}', "
                f"{macs[name] / macs[base]:.3f} by multiply-adds"
            )
    if FLAGS.output:
        with pathlib.Path(FLAGS.output).open("w", newline="") as file:
            writer = csv.DictWriter(file, ["width", "subject", "turn", "ms"], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    flags.DEFINE_list("widths", ["32", "128"], "Widths, comma-separated.")
    flags.DEFINE_string(
        "study", "", "A study whose models are timed instead: a path, or a name of the lab's."
    )
    flags.DEFINE_bool("all_cores", False, "Use all cores, as a run does, and the clock on the wall.")
    flags.DEFINE_integer("turns", 7, "Turns that are timed.")
    flags.DEFINE_string("output", "", "The CSV to write.")
    app.run(main)
