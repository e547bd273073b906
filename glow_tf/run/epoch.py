"""What a run finds out about an epoch; the callbacks share one of these."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from glow_tf.run.history import TRAFFIC_COLUMNS
from glow_tf.schedule import Phase
from glow_tf.training.conditioning import Conditioning
from glow_tf.training.traffic import Traffic


def computed(logs: Mapping[str, float] | None) -> dict[str, float]:
    """Returns the entries of `fit`'s logs that the phase computed.

    The logs of every epoch have the same keys, with NaN where nothing was computed. `loss` is left out: it is
    `bpd` under the name that Keras's callbacks expect.
    """
    return {k: v for k, v in (logs or {}).items() if k != "loss" and not math.isnan(v)}


@dataclasses.dataclass
class EpochResult:
    """One epoch of a run, filled in by the callbacks of the run, one after another.

    Attributes:
      epoch: its number, from 1.
      phase: what it trains.
      cache_seconds: time spent on filling a prefix cache before it.
      means: of what the training steps reported, such as `local_bpd_1`.
      seconds: training alone, the filling of a cache included; so far, while the epoch runs.
      save_seconds: time spent on saving within the epoch.
      total_seconds: `seconds` of this and all earlier epochs.
      eval_seconds: time spent on evaluation.
      images_per_second: training images per second of training.
      waits: for parts on their own devices, part (from 1) → the fraction of `seconds` that it waited.
      test: test bits/dim and its standard error.
      validation: the same on validation images; None if there are none.
      conditioning: what decides how exact a round trip is; None if it was not measured.
      recoveries: how often the run went back to a checkpoint before the epoch.
      traffic: what a training step moved between devices.
      peak_memory_mb: the process's peak memory so far.
      troubles: what is wrong although every number is finite; see `health.troubles`.
      grid: the sample grid, uint8 [H, W, C]; None if none was drawn.
      non_finite_samples: pixels of the grid that were not finite; None if none was drawn.
    """

    epoch: int = 0
    phase: Phase | None = None
    cache_seconds: float = 0.0
    means: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    save_seconds: float = 0.0
    total_seconds: float = 0.0
    eval_seconds: float = 0.0
    images_per_second: float = 0.0
    waits: Mapping[int, float] = dataclasses.field(default_factory=dict)
    test: tuple[float, float] | None = None
    validation: tuple[float, float] | None = None
    conditioning: Conditioning | None = None
    recoveries: int = 0
    traffic: Traffic | None = None
    peak_memory_mb: float = 0.0
    troubles: Sequence[str] = ()
    grid: np.ndarray | None = None
    non_finite_samples: int | None = None

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
        row["skipped_steps"] = str(self.skipped_steps)
        row["recoveries"] = str(self.recoveries)
        if self.conditioning is not None:
            row["largest_log_scale"] = f"{self.conditioning.largest_log_scale:.4g}"
            row["round_trip_error"] = f"{self.conditioning.round_trip_error:.3g}"
        for name in ("test", "validation"):
            if found := getattr(self, name):
                row[f"{name}_bpd"], row[f"{name}_bpd_se"] = (f"{value:.6f}" for value in found)
        row.update({name: str(value) for name, value in zip(TRAFFIC_COLUMNS, self.traffic, strict=True)})
        return row
