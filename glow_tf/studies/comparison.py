"""What a study's table says: means over seeds, paired differences, times."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence

from glow_tf.config import ConfigError
from glow_tf.study import FINISHED, UNFINISHED, Study, Variant

Rows = list[Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
      mean: of the values.
      standard_error: of the mean; NaN for a single value.
      half_width: of Student's 95 % interval around the mean; NaN for a single value.
      count: how many values.
    """

    mean: float
    standard_error: float
    half_width: float
    count: int

    def __str__(self) -> str:
        if math.isnan(self.half_width):
            return f"{self.mean:+.4f}"
        return f"{self.mean:+.4f} [{self.mean - self.half_width:+.4f}, {self.mean + self.half_width:+.4f}]"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a variant.

    Attributes:
      variant: which.
      finished, failures: seeds that came to the end; reasons of those that did not.
      epochs: of a run.
      test_bpd: in the last epoch; None if no run finished.
      behind: the paired difference to the baseline in the last epoch (positive: worse), bits/dim.
      behind_at_equal_time: the same to the variant that takes as long.
      time: training seconds over the baseline's, median over seeds.
      predicted_time: by the cost model.
    """

    variant: Variant
    finished: tuple[int, ...]
    failures: tuple[str, ...]
    epochs: int
    test_bpd: Estimate | None
    behind: Estimate | None
    behind_at_equal_time: Estimate | None
    time: float
    predicted_time: float


def read_table(path: str | pathlib.Path) -> Rows:
    """Reads a study's CSV; raises ConfigError if it is not there or is another file."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"csv must be a study's table: {error.strerror}. Received: {str(path)!r}") from None
    if not rows or not {"variant", "seed", "outcome", "predicted_cost"} <= set(rows[0]):
        raise ConfigError(
            f"csv must have the columns variant, seed, outcome and predicted_cost. Received: {str(path)!r}"
        )
    return rows


def estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean with its standard error and Student's 95 % interval."""
    count = len(values)
    mean = statistics.fmean(values)
    if count < 2:
        return Estimate(mean, math.nan, math.nan, count)
    from scipy import stats

    error = statistics.stdev(values) / math.sqrt(count)
    return Estimate(mean, error, float(stats.t.ppf(0.975, count - 1)) * error, count)


def outcomes(study: Study, rows: Rows) -> list[Outcome]:
    """Returns what became of every variant, in the order of the study."""
    runs = {v.name: _runs(rows, v.name) for v in study.variants}
    last = {name: _column(own, "test_bpd") for name, own in runs.items()}
    baseline = runs[study.baseline]
    result = []
    for variant in study.variants:
        own = runs[variant.name]
        finished = tuple(_finished(own))
        failed = [h[-1]["outcome"] for h in own.values() if h[-1]["outcome"] not in (FINISHED, UNFINISHED)]
        values = list(last[variant.name].values())
        same = variant.name == study.baseline
        result.append(
            Outcome(
                variant,
                finished,
                tuple(failed),
                max((sum(bool(row.get("epoch")) for row in history) for history in own.values()), default=0),
                estimate(values) if values else None,
                None if same else _paired(last[variant.name], last[study.baseline]),
                _paired(last[variant.name], last[variant.equal_time]) if variant.equal_time else None,
                _ratio(_column(own, "total_seconds"), _column(baseline, "total_seconds")),
                _ratio(_predicted(own), _predicted(baseline)),
            )
        )
    return result


def curves(rows: Rows, variant: str) -> dict[int, Rows]:
    """Returns the history of every finished seed, seed → rows; if none is, of those that ran an epoch."""
    runs = _runs(rows, variant)
    return _finished(runs) or {seed: h for seed, h in runs.items() if h[0].get("epoch")}


def _runs(rows: Rows, variant: str) -> dict[int, Rows]:
    runs: dict[int, Rows] = {}
    for row in rows:
        if row["variant"] == variant:
            runs.setdefault(int(row["seed"]), []).append(row)
    return runs


def _finished(runs: Mapping[int, Rows]) -> dict[int, Rows]:
    return {seed: history for seed, history in runs.items() if history[-1]["outcome"] == FINISHED}


def _column(runs: Mapping[int, Rows], column: str) -> dict[int, float]:
    """Returns the last value of a column of every finished seed."""
    return {seed: float(history[-1][column]) for seed, history in _finished(runs).items()}


def _predicted(runs: Mapping[int, Rows]) -> dict[int, float]:
    return {
        seed: sum(float(row["predicted_cost"]) for row in history)
        for seed, history in _finished(runs).items()
    }


def _paired(own: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    both = sorted(set(own) & set(other))
    return estimate([own[seed] - other[seed] for seed in both]) if both else None


def _ratio(own: Mapping[int, float], other: Mapping[int, float]) -> float:
    both = sorted(set(own) & set(other))
    return statistics.median(own[seed] / other[seed] for seed in both) if both else math.nan
