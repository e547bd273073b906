"""Measures what a condition costs in a training step.

    taskset -c 0 python -m lab.benchmarks.conditions --widths=32,96,128 --output=docs/results/conditions.csv
    taskset -c 0 python -m lab.benchmarks.conditions --study=levels_form --output=steps.csv

A Glow of 3 × 4 flow steps that is given nothing, the same given a map of 16 features, a deeper Glow, and
levels take steps in turns, in one process on one core; then a Glow and levels of grey images of 28×28. The
CSV has the CPU milliseconds of every turn. What is printed are medians, and beside them the ratio that
multiply-adds predict. With `--all_cores` the steps use all cores, as a run does, and the clock on the wall;
that needs a quiet machine. Batches are of 8 images. With `--study`, the models of that study take turns
instead, in batches of its size. With `--plain` each model takes turns with its like whose 1×1 convolutions
have TensorFlow's own gradient:

    taskset -c 0 python -m lab.benchmarks.conditions --study=pointwise --plain --output=pointwise.csv
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from unittest import mock

import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import Glow, ModelConfig, PartsTrainer, TrainConfig
from glow_tf.bijectors import networks
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.devices import use_streams
from glow_tf.layout.partition import part_layouts
from lab.benchmarks.rows import added_to
from lab.experiment import experiment_of
from lab.studies.runs import runs_of

SIDE, BATCH, STEPS = 32, 8, 16
COLUMNS = ("width", "subject", "turn", "ms")
PLAIN = ", TensorFlow's gradients"


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_list("widths", ["32", "128"], "Widths, comma-separated.", **own)
    flags.DEFINE_string("study", "", "A study whose models are timed: a path, or a name of the lab's.", **own)
    flags.DEFINE_bool("all_cores", False, "Use all cores, as a run does, and the clock on the wall.", **own)
    flags.DEFINE_bool("plain", False, "Also time TensorFlow's own gradient of 1×1 convolutions.", **own)
    flags.DEFINE_integer("turns", 7, "Turns that are timed.", **own)
    flags.DEFINE_string("output", "conditions.csv", "The CSV, to add to: one row per turn.", **own)


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


def _subjects_of(name: str) -> tuple[dict[str, ModelConfig], int]:
    """Returns the models of a study's variants, taken to be for images of 32×32×3, and their batch size."""
    experiment = experiment_of(name)
    runs = runs_of(experiment.study, experiment.folder, experiment.configure, {}, quick=True)
    sizes = {run.config.train.batch_size for run in runs}
    if len(sizes) > 1:
        raise ConfigError(f"study must have one batch size. Received: {sorted(sizes)} in {name!r}")
    return {run.variant.name: run.config.model for run in runs}, sizes.pop()


def _base(name: str, study: str) -> str:
    """Returns which subject another one is compared with."""
    if name.endswith(PLAIN):
        return name.removesuffix(PLAIN)
    if study:
        return experiment_of(study).study.baseline
    if "given" in name:
        return "nothing given"
    return "grey Glow 2 x 6" if "grey" in name else "Glow 3 x 8"


def _trainer(config: ModelConfig, batch: int, epochs: int) -> PartsTrainer:
    trainer = PartsTrainer(Glow(config))
    schedule = "simultaneous" if config.design.separable else "end_to_end"
    settings = TrainConfig(schedule=schedule, part_epochs=epochs, finetune_epochs=0, batch_size=batch)
    trainer.compile(settings, steps_per_epoch=STEPS)
    return trainer


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    of_study, batch = _subjects_of(given.study) if given.study else ({}, BATCH)
    clock = time.perf_counter
    if given.all_cores:
        use_streams(batch)
    else:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        clock = time.process_time  # which other work on the core does not disturb
    with added_to(given.output, COLUMNS) as add:
        for width in ["of the study"] if given.study else map(int, given.widths):
            subjects = of_study or _subjects(width)
            if given.plain:
                subjects = {name + kind: config for name, config in subjects.items() for kind in ("", PLAIN)}
            found: dict[str, list[float]] = {name: [] for name in subjects}
            for turn, name, ms in _turns(subjects, batch, given.turns, clock):
                found[name].append(ms)
                add((width, name, turn, ms))
            macs = {name: sum(p.forward_macs for p in part_layouts(c)) for name, c in subjects.items()}
            for name, times in found.items():
                base = _base(name, given.study)
                ratio = float(np.median(np.array(times) / np.array(found[base])))
                print(
                    f"width {width}, {name}: {np.median(times):.1f} ms a step, {ratio:.3f} of '{base}', "
                    f"{macs[name] / macs[base]:.3f} by multiply-adds"
                )


def _turns(
    subjects: Mapping[str, ModelConfig], batch: int, turns: int, clock: Callable[[], float]
) -> Iterator[tuple[int, str, float]]:
    """Yields the turn, from 1, the model, and its milliseconds per step; the models take steps in turns."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch * STEPS, SIDE, SIDE, 3)).astype(np.uint8)
    maps = rng.normal(size=(batch * STEPS, SIDE, SIDE, 16)).astype(np.float32)
    trainers = {name: _trainer(config, batch, turns + 2) for name, config in subjects.items()}
    for turn in range(turns + 1):
        for name, trainer in trainers.items():
            height, width, channels = subjects[name].image_shape
            x = images[:, :height, :width, :channels]
            y = maps if subjects[name].condition_shape else None
            convolve = _plain if name.endswith(PLAIN) else networks.convolve
            start = clock()
            with mock.patch.object(networks, "convolve", convolve):
                trainer.fit(x, y, initial_epoch=turn, epochs=turn + 1, verbose=0)
            if turn:  # the first traces
                yield turn, name, (clock() - start) / STEPS * 1e3


def _plain(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None) -> tf.Tensor:
    y = tf.nn.conv2d(x, kernel, 1, "SAME")
    return y if bias is None else tf.nn.bias_add(y, bias)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
