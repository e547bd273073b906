"""Reads a study's table: means over seeds, paired differences, times. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from lab.studies.runs import FINISHED, UNFINISHED
from lab.studies.study import Study, Variant

Rows = list[Mapping[str, str]]

# Flags that change a model's cost.
SIZES = ("dataset", "image_size", "num_blocks", "flow_steps", "width", "coupling")


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
      mean: mean of the values.
      standard_error: standard error of the mean; NaN for a single value.
      half_width: half of Student's 95 % interval around the mean; NaN for a single value.
      count: number of values.
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
    """The results of a variant.

    Attributes:
      variant: the variant.
      finished: the seeds whose runs finished.
      failures: the reasons why the other runs failed.
      epochs: number of epochs of a run.
      test_bpd: test bits/dim in the last epoch; None if no run finished.
      behind: the paired difference to the baseline in the last epoch, in bits/dim; positive is worse.
      behind_at_equal_time: the paired difference to the variant's `equal_time`, which takes as long.
      time: training seconds divided by those of the baseline, median over seeds; NaN if that ran on another
        machine. An epoch counts as the median of its kind within the run, so that one that other work
        disturbed does not count.
      predicted_time: the same ratio by the cost model and the number of images; NaN if the variants have
        models of different sizes.
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


def estimate(values: Sequence[float]) -> Estimate:
    """Returns the mean with its standard error and Student's 95 % interval (scipy's one-sample t-test).

    Given the differences of pairs, this is the interval of the paired t-test.
    """
    count = len(values)
    mean = statistics.fmean(values)
    if count < 2:
        return Estimate(mean, math.nan, math.nan, count)
    if len(set(values)) == 1:  # scipy's interval of equal values is not a number
        return Estimate(mean, 0.0, 0.0, count)
    from scipy import stats  # takes a second to import

    low, high = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    return Estimate(mean, float(stats.sem(values)), float(high - low) / 2, count)


def outcomes(study: Study, rows: Rows) -> list[Outcome]:
    """Returns the results of every variant, in the order of the study."""
    runs = {variant.name: _runs(rows, variant.name) for variant in study.variants}
    return [_outcome(study, variant, runs) for variant in study.variants]


def _outcome(study: Study, variant: Variant, runs: Mapping[str, Mapping[int, Rows]]) -> Outcome:
    baseline = study.baseline
    own, base = runs[variant.name], runs[baseline]
    last = {name: _last_bpd(found) for name, found in runs.items()}
    values = list(last[variant.name].values())
    return Outcome(
        variant=variant,
        finished=tuple(_finished(own)),
        failures=tuple(
            h[-1]["outcome"] for h in own.values() if h[-1]["outcome"] not in (FINISHED, UNFINISHED)
        ),
        epochs=max((sum(bool(row.get("epoch")) for row in history) for history in own.values()), default=0),
        test_bpd=estimate(values) if values else None,
        behind=None if variant.name == baseline else _paired(last[variant.name], last[baseline]),
        behind_at_equal_time=(
            _paired(last[variant.name], last[variant.equal_time]) if variant.equal_time else None
        ),
        time=(
            _ratio(_undisturbed_seconds(own), _undisturbed_seconds(base))
            if _on_one_machine(study, variant)
            else math.nan
        ),
        predicted_time=_ratio(_work(own), _work(base)) if _equally_large(study, variant) else math.nan,
    )


def lengths(study: Study, rows: Rows) -> dict[str, list[tuple[float, float]]]:
    """Returns what runs of several lengths end with: group → (seconds, test bits/dim), shortest first.

    A group has a variant for each length. Seconds are of training, counted as in `Outcome.time`: the median
    over the seeds; bits/dim the mean. Variants that have no group or no finished run, or ran on another
    machine than the baseline, are left out.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for variant in study.variants:
        runs = _runs(rows, variant.name)
        comparable = variant.group and _on_one_machine(study, variant)
        if comparable and (bpd := _last_bpd(runs).values()):
            seconds = _undisturbed_seconds(runs).values()
            found.setdefault(variant.group, []).append((statistics.median(seconds), statistics.fmean(bpd)))
    return {group: sorted(points) for group, points in found.items()}


def seconds_to(bpd: float, points: Sequence[tuple[float, float]]) -> float:
    """Returns the seconds to a test bpd, interpolated between lengths linearly in the logarithm of the time.

    Args:
      bpd: test bits/dim to reach.
      points: seconds and bits/dim of runs of several lengths, shortest first.

    Returns:
      NaN if the shortest run is below it already, or the longest above.
    """
    for (earlier, high), (later, low) in itertools.pairwise(points):
        if high >= bpd >= low:
            share = (high - bpd) / (high - low) if high > low else 0.0
            return earlier * (later / earlier) ** share
    return math.nan


def curves(rows: Rows, variant: str) -> dict[int, Rows]:
    """Returns the history of every finished seed (seed → rows); if there is none, of all seeds with rows."""
    runs = _runs(rows, variant)
    return _finished(runs) or {seed: h for seed, h in runs.items() if h[0].get("epoch")}


def last_bpd(rows: Rows, variant: str) -> dict[int, float]:
    """Returns the test bits/dim at the end of every finished seed of a variant."""
    return _last_bpd(_runs(rows, variant))


def _runs(rows: Rows, variant: str) -> dict[int, Rows]:
    runs: dict[int, Rows] = {}
    for row in rows:
        if row["variant"] == variant:
            runs.setdefault(int(row["seed"]), []).append(row)
    return runs


def _finished(runs: Mapping[int, Rows]) -> dict[int, Rows]:
    return {seed: history for seed, history in runs.items() if history[-1]["outcome"] == FINISHED}


def _last_bpd(runs: Mapping[int, Rows]) -> dict[int, float]:
    return {seed: float(history[-1]["test_bpd"]) for seed, history in _finished(runs).items()}


def _undisturbed_seconds(runs: Mapping[int, Rows]) -> dict[int, float]:
    """Returns the training seconds of every finished seed if every epoch were the median one of its kind.

    Epochs are of one kind if they train the same parts at the same predicted cost. That of an epoch which
    fills a cache is higher.
    """
    seconds = {}
    for seed, history in _finished(runs).items():
        kinds: dict[tuple[str | None, ...], list[float]] = {}
        before = 0.0
        for row in history:
            kind = tuple(row.get(name) for name in ("phase", "active_parts", "predicted_cost"))
            kinds.setdefault(kind, []).append(float(row["total_seconds"]) - before)
            before = float(row["total_seconds"])
        seconds[seed] = sum(len(epochs) * statistics.median(epochs) for epochs in kinds.values())
    return seconds


def _work(runs: Mapping[int, Rows]) -> dict[int, float]:
    """Returns the predicted cost of every finished seed, in end-to-end passes of one image."""
    return {
        seed: sum(float(row["predicted_cost"]) * _images(row) for row in history)
        for seed, history in _finished(runs).items()
    }


def _images(row: Mapping[str, str]) -> int:
    """Returns the images of an epoch; 1 if the row does not tell."""
    return round(float(row.get("images_per_second") or 0) * float(row.get("seconds") or 0)) or 1


def _baseline_of(study: Study) -> Variant:
    return next(variant for variant in study.variants if variant.name == study.baseline)


def _on_one_machine(study: Study, variant: Variant) -> bool:
    """Whether the variant ran where the baseline did."""
    return variant.machine == _baseline_of(study).machine


def _equally_large(study: Study, variant: Variant) -> bool:
    """Whether an end-to-end pass of an image costs the variant's model as much as the baseline's."""
    flags = [{**study.all_flags, **v.flags} for v in (variant, _baseline_of(study))]
    return all(flags[0].get(name) == flags[1].get(name) for name in SIZES)


def _paired(own: Mapping[int, float], other: Mapping[int, float]) -> Estimate | None:
    both = sorted(set(own) & set(other))
    return estimate([own[seed] - other[seed] for seed in both]) if both else None


def _ratio(own: Mapping[int, float], other: Mapping[int, float]) -> float:
    both = sorted(set(own) & set(other))
    return statistics.median(own[seed] / other[seed] for seed in both) if both else math.nan
