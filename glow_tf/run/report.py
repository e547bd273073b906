"""What a report reads in a workdir, and what it says of it in words. Pure Python: no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from glow_tf.architectures.schedule import phases_of
from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.progress import duration
from glow_tf.core.text_files import read_json
from glow_tf.run import history
from glow_tf.run.flags_file import NAME as FLAGS
from glow_tf.run.flags_file import read_config
from glow_tf.run.tables import bpd_text
from glow_tf.run.workdir import read_summary
from glow_tf.store import checkpoints
from glow_tf.store.files import settings_of


@dataclasses.dataclass(frozen=True)
class RunContent:
    """A run as its files tell it."""

    folder: pathlib.Path
    config: RunConfig
    model: ModelConfig | None  # with the size of its images; None before there is one
    counts: Mapping[str, int]  # of images, by `train`, `validation` and `test`; empty if unknown
    rows: Sequence[Mapping[str, str]]  # of history.csv
    untouched: Mapping[str, str]  # cells about the model that the run began with; empty if none
    best_epoch: int | None  # on validation images; None if there are none
    summary: Mapping[str, Any]  # of a run that has ended with these rows; otherwise empty
    stopped: str = ""  # why the run stopped before its end, if it said so

    @property
    def planned(self) -> int:
        """How many epochs the settings ask for."""
        return len(phases_of(self.config))

    @property
    def scores(self) -> Mapping[str, str]:
        """Cells of history.csv about the model that the run ends with; empty before there is one."""
        if self.best_epoch == 0:
            return self.untouched
        return self.rows[: self.best_epoch or None][-1] if self.rows else {}

    def points(self, column: str) -> tuple[list[float], list[float]]:
        """Returns the epochs in which a column of history.csv has a number, and these numbers."""
        found = [(float(r["epoch"]), float(r[column])) for r in self.rows if r.get(column)]
        return [epoch for epoch, _ in found], [value for _, value in found]

    def troubles(self) -> list[str]:
        """Returns a sentence for everything that went wrong."""
        found = [self.stopped] if self.stopped else []
        epochs = len(self.rows)
        if not (self.summary or self.stopped):
            found.append(f"{epochs} of {self.planned} epochs are finished. The run's command goes on.")
        if self.summary:
            found += [f"{warning}." for warning in self.summary.get("warnings", ())]
        return found


def read_run(folder: pathlib.Path, stopped: str = "") -> RunContent:
    """Reads a workdir; ConfigError if it is none, OSError if a file of it is damaged.

    `stopped` says why the run stopped before its end.
    """
    config, kept = read_config(folder), folder / "checkpoints"
    summary = read_summary(folder)
    best = checkpoints.best_epoch(kept)
    model, counts = None, {}
    rows = history.read_rows(folder / "history.csv")
    with contextlib.suppress(ConfigError, FileNotFoundError):  # it names code of one's own; there is none
        model = settings_of(folder)
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        told = read_json(kept / checkpoints.DATA)
        counts = {n.removesuffix(" images"): int(t.split()[0]) for n, t in told.items() if " images" in n}
    return RunContent(
        folder,
        config,
        model,
        counts,
        rows,
        history.score_cells(checkpoints.read_untouched(kept)),
        best,
        summary if summary.get("epochs") == len(rows) else {},  # it has gone on since
        stopped,
    )


def images(run: RunContent) -> str:
    """Says which images a run has, as far as that is known."""
    shape = f" of {'×'.join(map(str, run.model.image_shape))}" if run.model else ""
    splits = [split for split in ("train", "validation", "test") if run.counts.get(split)]
    counts = ", ".join(f"{run.counts[split]:,} for {split}" for split in splits)
    return f"Images{shape} from {run.config.data.dataset}{': ' if counts else ''}{counts}."


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


def counted(number: int, what: str) -> str:
    """Returns such as `1 epoch` or `2 epochs`."""
    return f"{number} {what}{'' if number == 1 else 's'}"
