"""The settings of a run in words. Pure Python: no TensorFlow."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable

from glow_tf.core.progress import duration
from glow_tf.run.files.flags_file import NAME as FLAGS
from glow_tf.run.report.content import RunContent
from glow_tf.run.tables import bpd_text

SPLITS = {"train": "to train", "validation": "held out to choose the best epoch", "test": "to test"}
SCHEDULES = {
    "end_to_end": "all parts end to end",
    "sequential": "one part after the other",
    "alternating": "one part each, in turn",
    "simultaneous": "all parts at the same time, each on its own objective",
}


def result(run: RunContent) -> str:
    """Says what a run has reached."""
    if not run.scores:
        return "No epoch was finished."
    score = bpd_text(float(run.scores["test_bpd"]), float(run.scores["test_bpd_se"] or math.nan))
    of = "of the untouched start" if run.best_epoch == 0 else ""
    if run.best_epoch:
        of = f"of epoch {run.best_epoch}, the best on held-out images"
    epochs = counted(len(run.rows), "epoch")
    if len(run.rows) != run.planned:
        epochs += f" (of {run.planned})"
    took = f"{duration(float(run.rows[-1]['total_seconds']))} of training" if run.rows else "no training"
    start = f" The untouched start has {float(run.untouched['test_bpd']):.4f}." if run.untouched else ""
    return f"Test {score} bits/dim {of}".rstrip() + f", after {epochs} and {took}. Less is better.{start}"


def settings(run: RunContent) -> list[str]:
    """Returns sentences about the images, the model and its training."""
    return [_images(run), _model(run), *_training(run)]


def _images(run: RunContent) -> str:
    data = run.config.data
    shape = f" of {'×'.join(map(str, run.model.image_shape))}" if run.model else ""
    found = [f"{run.counts[split]:,} {use}" for split, use in SPLITS.items() if run.counts.get(split)]
    counts = f": {_joined(found)}" if found else ""
    notes = [] if run.config.model.is_real else [f"{run.config.model.bits} bits per value"]
    notes += [f"augmented ({data.augment})"] if data.augment != "none" else []
    notes += [f"trained on squares of {data.crop}×{data.crop}"] if data.crop else []
    return f"Images{shape} from {data.dataset}{counts}; {', '.join(notes) or 'real numbers'}."


def _model(run: RunContent) -> str:
    model = run.model or run.config.model
    counts, parts = model.design.flow_step_counts(model), model.num_parts
    numbers = f"{_joined(map(str, counts))} flow steps"
    if model.design.separable:
        cut = f"made of {parts} levels, of {numbers}"
    else:
        cut = f"a Glow of {counted(model.num_blocks, 'block')}, " + (
            f"in {parts} parts of {numbers}" if parts > 1 else numbers
        )
    count = f" and {run.summary['parameters']:,} parameters" if run.summary.get("parameters") else ""
    return f"The model is {cut}, of width {model.width}, with {model.coupling} couplings{count}."


def _training(run: RunContent) -> list[str]:
    train = run.config.train
    phases = []
    if train.part_epochs:
        phases.append(f"{counted(train.part_epochs, 'epoch')} ({SCHEDULES[train.schedule]})")
    if train.finetune_epochs:
        phases.append(f"{counted(train.finetune_epochs, 'epoch')} ({SCHEDULES['end_to_end']})")
    how = f"{train.optimizer} with a rate of {train.learning_rate}"
    how += ", which follows the model's size" if train.rate_scaling == "size" else ""
    how += f", {train.rate_schedule}, after {train.warmup_steps} steps of warm-up"
    only = f", of part {train.only_part} alone" if train.only_part else ""
    planned = f"Planned: {', then '.join(phases)}{only}, in batches of {train.batch_size}."
    found = [planned, f"Optimizer: {how}."]
    start = [f"It started from the model {run.config.init_from}."] if run.config.init_from else []
    return [*start, *found]


def time_and_memory(run: RunContent) -> list[str]:
    """Returns sentences about what the run took, and where it ran."""
    found = []
    if run.rows:
        seconds, evaluation = (sum(run.points(name)[1]) for name in ("seconds", "eval_seconds"))
        speed = sorted(run.points("images_per_second")[1])
        each = f"{seconds / len(run.rows):.1f} s per epoch"
        found.append(f"Training took {duration(seconds)} ({each}), evaluation {duration(evaluation)}.")
        if speed:
            found.append(f"It saw {speed[len(speed) // 2]:,.0f} images per second.")
        memory = [value for value in run.points("peak_memory_mb")[1] if math.isfinite(value)]
        if memory:
            found.append(f"It used up to {max(memory):,.0f} MB of memory.")
    if run.summary:
        versions = run.summary.get("versions", {})
        kept = ", ".join(f"{name} {number}" for name, number in versions.items())
        found.append(f"It ran on {run.summary.get('device', 'a machine that is not known')}, with {kept}.")
    return found


def command(run: RunContent) -> str:
    """Returns the command that repeats a run in another workdir."""
    return shlex.join(["glow-tf", "train", f"--flagfile={run.folder / FLAGS}", "--workdir=ANOTHER"])


def _joined(texts: Iterable[str]) -> str:
    *others, last = texts
    return f"{', '.join(others)} and {last}" if others else last


def counted(number: int, what: str) -> str:
    """Returns such as `1 epoch` or `2 epochs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
