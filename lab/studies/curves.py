"""Curves of bits by time, from CSVs of `lab.benchmarks.curves`: one ahead of the other by which factor?"""

from __future__ import annotations

import collections
import csv
import dataclasses
import math
import pathlib
import types
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import curve_fit

from lab.studies.comparison import Estimate, estimate, seconds_to

SUBJECT = ("dataset", "model", "width", "flow_steps")
HALF = "_bfloat16"  # after a data set's name, of models in that precision
EMPTY: Mapping[Any, float] = types.MappingProxyType({})


class Run(NamedTuple):
    """A run: CPU seconds, bits of all test images and of groups of them, its flow steps and images."""

    seconds: float
    bits: np.ndarray
    about: tuple[int, int]


Curve = Sequence[Run]  # by seconds


def curves(
    paths: Sequence[str], seeds: Container[str], costs: Mapping[tuple[str, ...], float] = EMPTY
) -> dict[tuple[str, str, str], Curve]:
    """Returns by data set, model and seed what runs take and reach that no shorter run beats, by seconds."""
    points = collections.defaultdict(list)
    for row in _rows(paths, costs):
        if row["seed"] in seeds:
            bits = np.array([float(number) for number in (row["test_bpd"], *row["group_bpds"].split())])
            run = Run(float(row["cpu_seconds"]), bits, (int(row["flow_steps"]), int(row["images"])))
            points[row["dataset"], row["model"], row["seed"]].append(run)
    found = {}
    for key, runs in points.items():
        runs.sort(key=lambda run: run.seconds)
        found[key] = [run for k, run in enumerate(runs) if all(run.bits[0] < own.bits[0] for own in runs[:k])]
    return found


@dataclasses.dataclass(frozen=True)
class Beside:
    """A Glow beside levels of the same seeds.

    Attributes:
      seeds: which.
      longer: flow steps and images of a run → how many times as long it takes as levels do to its bits, the
        geometric mean over seeds with its 95 % interval; without runs that a shorter one beats, or whose bits
        are not among those of levels.
      after: seconds → bits of levels, bits of the Glow, and how far it is behind, over seeds and over groups
        of images.
    """

    seeds: tuple[str, ...]
    longer: Mapping[tuple[int, int], tuple[float, float, float]]
    after: Mapping[float, tuple[float, float, Estimate, Estimate]]


def compared(
    found: Mapping[tuple[str, str, str], Curve], times: Sequence[float]
) -> dict[tuple[str, str], Beside]:
    """Returns for data sets and Glows what curves say; times that not all runs reach are left out."""
    every = {}
    for name, model in dict.fromkeys(key[:2] for key in found if key[1] != "levels"):
        seeds = [own for *about, own in found if about == [name, model] and (name, "levels", own) in found]
        if not seeds:
            continue
        ours, theirs = ([found[name, own, seed] for seed in seeds] for own in ("levels", model))
        of_seeds, longer, after = list(map(factors, ours, theirs)), {}, {}
        for about in sorted(set(of_seeds[0]).intersection(*of_seeds)):
            logs = estimate([math.log(own[about]) for own in of_seeds])
            ends = logs.mean, logs.mean - logs.half_width, logs.mean + logs.half_width
            longer[about] = tuple(map(math.exp, ends))
        for seconds in times:
            levels, glows = (np.array([bits_at(own, seconds) for own in side]) for side in (ours, theirs))
            behind = glows - levels
            if np.isfinite(behind).all():
                over = estimate(behind[:, 0]), estimate(behind[:, 1:].mean(axis=0))
                after[seconds] = (levels[:, 0].mean(), glows[:, 0].mean(), *over)
        every[name, model] = Beside(tuple(seeds), longer, after)
    return every


def mean_lines(
    paths: Sequence[str],
    same: Sequence[str],
    length: str,
    only: Mapping[str, str],
    costs: Mapping[tuple[str, ...], float] = EMPTY,
) -> dict[str, list[tuple[float, float]]]:
    """Returns means over seeds, seconds and bits: a line for rows of which columns are the same."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for row in _rows(paths, costs):
        if only.items() <= row.items():
            line = ", ".join(f"{name} {row[name]}" for name in same)
            found[line][int(row[length])].append((float(row["cpu_seconds"]), float(row["test_bpd"])))
    return {
        line: [tuple(np.mean(points[key], axis=0)) for key in sorted(points)]
        for line, points in found.items()
    }


def _rows(paths: Sequence[str], costs: Mapping[tuple[str, ...], float]) -> Iterator[dict[str, Any]]:
    """Yields the rows of files; their seconds are those of their images wherever a model's cost is known."""
    for path in paths:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                cost = costs.get(_subject(row))
                yield row if cost is None else row | {"cpu_seconds": cost * int(row["images"])}


def seconds_per_image(path: str | pathlib.Path, runs: Sequence[str]) -> dict[tuple[str, ...], float]:
    """Returns what an image costs each model of a CSV of costs, in CPU seconds; nothing without a path.

    Of the model of a data set with the most runs in the CSVs `runs`, it is the median over these; that of
    another one is as many times as much as it was within a turn, in the median. So a machine whose speed
    changes does not matter.
    """
    turns, taken = collections.defaultdict(list), collections.defaultdict(list)
    for row in _rows([path], EMPTY) if path else ():
        turns[_subject(row)] += map(float, row["milliseconds"].split())
    for row in _rows(runs, EMPTY):
        taken[_subject(row)].append(float(row["cpu_seconds"]) / int(row["images"]))
    found, name_of = {}, lambda subject: subject[0].removesuffix(HALF)
    for name in dict.fromkeys(map(name_of, turns)):
        own = {subject: times for subject, times in turns.items() if name_of(subject) == name}
        base = max(own, key=lambda subject: len(taken[subject]))
        for subject, times in own.items():
            found[subject] = float(np.median(np.divide(times, own[base])) * np.median(taken[base]))
    return found


def _subject(row: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(row[name] for name in SUBJECT)


def factors(first: Curve, other: Curve) -> dict[tuple[int, int], float]:
    """Returns for runs of `other` whose bits `first` reaches how many times as long they take as it does."""
    points = [(run.seconds, run.bits[0]) for run in first]
    found = {run.about: run.seconds / seconds_to(run.bits[0], points) for run in other}
    return {about: factor for about, factor in found.items() if not math.isnan(factor)}


def bits_at(curve: Curve, seconds: float) -> np.ndarray:
    """Returns the bits of a curve after so many seconds; NaN beyond its runs."""
    place, places = math.log(seconds), [math.log(run.seconds) for run in curve]
    every = np.transpose([run.bits for run in curve])
    return np.array([np.interp(place, places, own, np.nan, np.nan) for own in every])


def fits(
    found: Mapping[tuple[str, str, str], Curve],
) -> dict[tuple[str, str], tuple[Callable[[float], float], float]]:
    """Returns for data sets and models what `fitted` says of all seeds' runs, where there are enough."""
    every = collections.defaultdict(list)
    for (name, model, _), curve in found.items():
        every[name, model] += curve
    return {key: fitted(runs) for key, runs in every.items() if len(runs) > 4}  # of three numbers


def fitted(runs: Sequence[Run]) -> tuple[Callable[[float], float], float]:
    """Fits bits = a + b·t^−c to runs of all seeds, by least squares.

    Returns:
      The bits after so many seconds, and the root mean square of what the fit misses.
    """
    seconds, bits = np.transpose([(run.seconds, run.bits[0]) for run in runs])
    law = lambda t, a, b, c: a + b * t**-c  # noqa: E731
    found, _ = curve_fit(law, seconds, bits, p0=(3.5, 2.0, 0.4), maxfev=10_000)
    return lambda t: float(law(t, *found)), float(np.std(law(seconds, *found) - bits))
