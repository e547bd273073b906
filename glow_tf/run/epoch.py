"""What a run finds out about an epoch, which the callbacks share; scores of images held out."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from glow_tf.architectures.schedule import Phase
from glow_tf.devices.workers import holds_anywhere
from glow_tf.run.context import Run
from glow_tf.run.history import score_cells
from glow_tf.run.workdir import is_out_of_patience
from glow_tf.training.trainer import PartsTrainer


def computed(logs: Mapping[str, float] | None) -> dict[str, float]:
    """Returns the entries of `fit`'s logs that the phase computed.

    The logs of every epoch have the same keys, with NaN where nothing was computed. `loss` is left out: it is
    `bpd` under the name that Keras's callbacks expect.
    """
    return {k: v for k, v in (logs or {}).items() if k != "loss" and not math.isnan(v)}


@dataclasses.dataclass
class EpochResult:
    """One epoch of a run, filled in by the callbacks of the run, one after another."""

    epoch: int = 0  # from 1
    phase: Phase | None = None
    cache_seconds: float = 0.0  # spent on filling a prefix cache before it
    means: Mapping[str, float] = dataclasses.field(default_factory=dict)  # of what training steps reported
    seconds: float = 0.0  # training alone, the filling of a cache included
    total_seconds: float = 0.0  # `seconds` of this and all earlier epochs
    eval_seconds: float = 0.0
    images_per_second: float = 0.0  # of training
    test: tuple[float, float] | None = None  # bits/dim and their standard error
    validation: tuple[float, float] | None = None
    peak_memory_mb: float = 0.0
    grid: np.ndarray | None = None  # of samples, uint8 [H, W, C]
    non_finite_samples: int | None = None  # pixels of the grid

    @property
    def skipped_steps(self) -> int:
        """Number of steps of the epoch that were skipped because they were not finite."""
        return round(self.means.get("skipped_steps", 0.0))

    def history_row(self) -> dict[str, str]:
        """Returns the epoch's row of history.csv; columns that the phase does not compute are left out."""
        row = {
            "epoch": str(self.epoch),
            "phase": self.phase.kind,
            "active_parts": self.phase.active_parts,
            "peak_memory_mb": f"{self.peak_memory_mb:.0f}",
            "images_per_second": f"{self.images_per_second:.3f}",
        }
        for name in ("seconds", "total_seconds", "eval_seconds"):
            row[name] = f"{getattr(self, name):.3f}"
        for name, value in self.means.items():
            column = "train_bpd" if name == "bpd" else name
            row[column] = f"{value:.6f}"
        scores = {"test": self.test, "validation": self.validation}
        return row | score_cells({name: found for name, found in scores.items() if found})


class HeldOut:
    """Evaluates a run's model on its test images and, if there are any, on its validation images."""

    def __init__(self, run: Run, trainer: PartsTrainer):
        self._run, self._trainer = run, trainer

    def scores(self) -> dict[str, tuple[float, float]]:
        """Returns bits/dim and their standard errors, by `test` and `validation`."""
        scores = {}
        with self._trainer.averages.in_place():
            for name, batches in self._run.held_out.items():
                found = self._trainer.evaluate(batches, verbose=0, return_dict=True)
                scores[name] = (float(found["bpd"]), float(found["bpd_se"]))
        return scores


def loses_patience(run: Run, epochs: int) -> bool:
    """Returns whether a run ends after so many epochs; all processes come here, and the first one decides."""
    patience = run.config.patience
    if not patience:
        return False
    return holds_anywhere(
        run.strategy, run.is_chief and is_out_of_patience(patience, epochs, run.workdir.best_epoch)
    )
