"""Measures what a training step of each model of a study costs: the models take steps in turns.

    taskset -c 0 python -m lab.benchmarks.turns --study=network --output=docs/results/network_steps.csv

All take turns in one process on one core, in batches of the study's size, so a machine whose speed changes
does not change their ratios. The CSV has the CPU milliseconds of every turn. What is printed are medians, and
beside them the ratio that multiply-adds predict.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import Flow, ModelConfig, PartsTrainer, TrainConfig
from glow_tf.architectures import design_of
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from lab.benchmarks.rows import added_to
from lab.experiment import experiment_of
from lab.studies.runs import runs_of

SIDE, STEPS = 32, 16
COLUMNS = ("width", "subject", "turn", "ms")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("study", "", "A study whose models are timed: a path, or a name of the lab's.", **own)
    flags.DEFINE_integer("turns", 7, "Turns that are timed.", **own)
    flags.DEFINE_string("output", "turns.csv", "The CSV, to add to: one row per turn.", **own)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    experiment = experiment_of(given.study)
    runs = runs_of(experiment.study, experiment.folder, experiment.configure, {}, quick=True)
    sizes = {run.config.train.batch_size for run in runs}
    if len(sizes) > 1:
        raise ConfigError(f"study must have one batch size. Received: {sorted(sizes)} in {given.study!r}")
    models = {run.variant.name: run.config.model for run in runs}
    base = experiment.study.baseline
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    found: dict[str, list[float]] = {name: [] for name in models}
    with added_to(given.output, COLUMNS) as add:
        for turn, name, ms in _turns(models, sizes.pop(), given.turns):
            found[name].append(ms)
            add(("of the study", name, turn, ms))
    macs = {name: sum(p.forward_macs for p in design_of(c).layouts) for name, c in models.items()}
    for name, times in found.items():
        ratio = float(np.median(np.array(times) / np.array(found[base])))
        print(
            f"{name}: {np.median(times):.1f} ms a step, {ratio:.3f} of '{base}', "
            f"{macs[name] / macs[base]:.3f} by multiply-adds"
        )


def _turns(models: Mapping[str, ModelConfig], batch: int, turns: int) -> Iterator[tuple[int, str, float]]:
    """Yields the turn, from 1, the model, and its milliseconds per step; images are of 32×32×3."""
    images = np.random.default_rng(0).integers(0, 256, (batch * STEPS, SIDE, SIDE, 3)).astype(np.uint8)
    trainers = {name: _trainer(config, batch, turns + 2) for name, config in models.items()}
    for turn in range(turns + 1):
        for name, trainer in trainers.items():
            start = time.process_time()  # which other work on the core does not disturb
            trainer.fit(images, initial_epoch=turn, epochs=turn + 1, verbose=0)
            if turn:  # the first traces
                yield turn, name, (time.process_time() - start) / STEPS * 1e3


def _trainer(config: ModelConfig, batch: int, epochs: int) -> PartsTrainer:
    trainer = PartsTrainer(Flow(config))
    schedule = "simultaneous" if design_of(config).separable else "end_to_end"
    settings = TrainConfig(schedule=schedule, part_epochs=epochs, finetune_epochs=0, batch_size=batch)
    trainer.compile(settings, steps_per_epoch=STEPS)
    return trainer


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
