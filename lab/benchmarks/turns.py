"""Measures what a training step costs each variant of a study in each of its phases, and so its whole run.

    taskset -c 1 python -m lab.benchmarks.turns --study=paper --output=docs/results/paper_costs.csv

All phases of all models take turns in one process on one core, in batches of the study's size, so a machine
whose speed changes does not change their ratios. The CSV has the CPU milliseconds of a step, one row per
turn, variant and phase; variants of one model share what is measured. What is printed is each run's time
beside the baseline's, the sum over its epochs: the median of turns, and where 95 % of them are; and the ratio
that multiply-adds predict. Evaluations are not in it.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import Flow, ModelConfig, PartsTrainer, TrainConfig
from glow_tf.architectures.schedule import Phase
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from lab.benchmarks.rows import added_to
from lab.experiment import experiment_of
from lab.studies.runs import Run, runs_of

SIDE, STEPS = 32, 16
COLUMNS = ("variant", "phase", "turn", "ms")
Timed = tuple[ModelConfig, TrainConfig]  # what a step depends on, but for its phase


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("study", "", "A study whose steps are timed: a path, or a name of the lab's.", **own)
    flags.DEFINE_integer("turns", 7, "Turns that are timed.", **own)
    flags.DEFINE_string(
        "output", "turns.csv", "The CSV, to add to: one row per turn, variant and phase.", **own
    )


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    runs = runs_of_variants(given.study)
    sizes = {run.config.train.batch_size for run in runs.values()}
    if len(sizes) > 1:
        raise ConfigError(f"study must have one batch size. Received: {sorted(sizes)} in {given.study!r}")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    rows: list[dict[str, str]] = []
    with added_to(given.output, COLUMNS) as add:
        for turn, timed, phase, ms in _turns(timed_phases(runs.values()), given.turns):
            for name, run in runs.items():
                if timed == _timed(run) and phase in run.phases:
                    rows.append(dict(zip(COLUMNS, (name, str(phase), str(turn), f"{ms:.3f}"), strict=True)))
                    add(rows[-1])
    base = next(iter(runs))
    for name, ratios in whole_runs(runs, rows).items():
        low, median, high = np.percentile(ratios, (2.5, 50, 97.5))
        predicted = runs[name].cost() / runs[base].cost()
        print(f"{name}: {median:.3f} [{low:.3f}, {high:.3f}] of '{base}', {predicted:.3f} by multiply-adds")


def runs_of_variants(file: str) -> dict[str, Run]:
    """Returns one run of each variant of a study, the baseline's first; rates are not tuned."""
    experiment = experiment_of(file)
    study, found = experiment.study, {}
    for run in runs_of(study, experiment.folder, experiment.configure, {}):
        found.setdefault(run.variant.name, run)
    return {study.baseline: found.pop(study.baseline)} | found


def _timed(run: Run) -> Timed:
    """Returns a run's settings without those that say when a phase comes, and at which rate."""
    train, default = run.config.train, TrainConfig()
    others = (
        "schedule",
        "period",
        "part_epochs",
        "finetune_epochs",
        "learning_rate",
        "finetune_learning_rate",
    )
    others += ("steps_per_epoch", "only_part", "cache_prefix")
    return run.config.model, dataclasses.replace(train, **{name: getattr(default, name) for name in others})


def timed_phases(runs: Sequence[Run]) -> dict[Timed, list[Phase]]:
    """Returns the phases of each model, each once."""
    found: dict[Timed, dict[Phase, None]] = {}
    for run in runs:
        found.setdefault(_timed(run), {}).update(dict.fromkeys(run.phases))
    return {timed: list(phases) for timed, phases in found.items()}


def whole_runs(runs: Mapping[str, Run], rows: Sequence[Mapping[str, str]]) -> dict[str, list[float]]:
    """Returns the time of each variant's run beside the first one's, of each turn; rows are of the CSV."""
    ms = {(row["variant"], row["phase"], row["turn"]): float(row["ms"]) for row in rows}
    turns, times = dict.fromkeys(row["turn"] for row in rows), {}
    for name, run in runs.items():
        images = max(run.config.data.train_examples, 1)
        times[name] = [images * sum(ms[name, str(phase), turn] for phase in run.phases) for turn in turns]
    base = next(iter(times.values()))
    return {name: [t / b for t, b in zip(own, base, strict=True)] for name, own in times.items()}


def _turns(models: Mapping[Timed, Sequence[Phase]], turns: int) -> Iterator[tuple[int, Timed, Phase, float]]:
    """Yields the turn, from 1, what took it, and its milliseconds per step; images are of 32×32×3."""
    trainers = {timed: _trainer(*timed, list(phases) * (turns + 1)) for timed, phases in models.items()}
    size = next(iter(models))[1].batch_size
    images = np.random.default_rng(0).integers(0, 256, (size * STEPS, SIDE, SIDE, 3)).astype(np.uint8)
    for turn in range(turns + 1):
        for timed, trainer in trainers.items():
            for k, phase in enumerate(models[timed], start=turn * len(models[timed])):
                start = time.process_time()  # which other work on the core does not disturb
                trainer.set_phase(phase)
                trainer.fit(images, initial_epoch=k, epochs=k + 1, verbose=0)
                if turn:  # the first traces
                    yield turn, timed, phase, (time.process_time() - start) / STEPS * 1e3


def _trainer(model: ModelConfig, train: TrainConfig, phases: Sequence[Phase]) -> PartsTrainer:
    trainer = PartsTrainer(Flow(model))
    trainer.compile(train, phases=phases, steps_per_epoch=STEPS)
    return trainer


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
