"""What a report reads in a workdir. Pure Python: no TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from glow_tf import presets
from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_json
from glow_tf.layout.schedule import phases_of
from glow_tf.run.files import checkpoint_files, history
from glow_tf.run.files.flags_file import read_config
from glow_tf.run.files.workdir import read_summary


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
    # `split`, `count` (of images), and `usual` and `unusual`: images with bits, a name, and a PNG in base64
    # each; empty if none were scored.
    scored: Mapping[str, Any] = dataclasses.field(default_factory=dict)

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


def read_run(folder: pathlib.Path, stopped: str = "", scored: Mapping[str, Any] | None = None) -> RunContent:
    """Reads a workdir; ConfigError if it is none, OSError if a file of it is damaged.

    Args:
      folder: the workdir.
      stopped: why the run stopped before its end.
      scored: what `scored_images` returns.
    """
    config, checkpoints = read_config(folder), folder / "checkpoints"
    columns = history.history_columns(config.model.num_parts, bool(config.data.validation_examples))
    summary = read_summary(folder)
    best = checkpoint_files.best_epoch(checkpoints)
    model, counts = None, {}
    rows = history.read_rows(folder / "history.csv", columns)
    if (path := checkpoints / "model.json").exists():
        with contextlib.suppress(ConfigError):  # it names code of one's own
            model = presets.read_model_file(path)
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        told = read_json(checkpoints / checkpoint_files.DATA)
        counts = {n.removesuffix(" images"): int(t.split()[0]) for n, t in told.items() if " images" in n}
    return RunContent(
        folder,
        config,
        model,
        counts,
        rows,
        history.score_cells(checkpoint_files.read_untouched(checkpoints)),
        best,
        summary if summary.get("epochs") == len(rows) else {},  # it has gone on since
        stopped,
        scored or {},
    )
