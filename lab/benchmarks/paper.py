"""What cutting a Glow costs, and what it saves: the table of docs/results/paper.md.

    python -m lab.benchmarks.paper --draw=docs/results/paper.png
    python -m lab.benchmarks.paper --runs=runs/studies/paper --data_dir=PATH --images=paper_images.csv

The first reads the CSVs of the study `paper` in docs/results and prints the table's line for each variant.
Its time is that of `lab.benchmarks.turns`. Equal time is end to end for as long, between runs of 6, 8, 10 and
12 epochs of the same seed, linear in the logarithm of the time. A gap of one seed is as good as those of the
variants that have several, whose deviations over seeds are pooled. The second scores the test images by the
flows that runs ended with: how far each image is behind the same seed end to end, its mean and its error.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
import statistics
import sys
from collections.abc import Mapping, Sequence

from absl import flags

from glow_tf.commands import cli
from lab import CONFIGS
from lab.benchmarks.rows import added_to, measured, read
from lab.studies.comparison import Estimate, Rows, estimate, last_bpd
from lab.studies.study import read_study
from lab.studies.table import read_table

RESULTS = pathlib.Path("docs/results")
LENGTHS = ("end_to_end_6", "end_to_end_8", "end_to_end_10", "end_to_end")  # shortest first
PIXELS = "pixels"  # the baseline of variants with the paper's squeeze, whose names begin with it
NAMED_LEFT = ("across_2", "by_block_3", "by_block_2_parts_alone")  # where names would lie on each other
COLUMNS = ("variant", "seed", "images", "behind", "standard_error")


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a variant costs beside the same flow end to end; bits/dim, positive is worse.

    Attributes:
      time: of its training, over the baseline's.
      bpd: of the test images, over the seeds.
      behind: at equal epochs, paired by seed.
      at_equal_time: behind end to end for as long; None where no run was as short, or as long.
    """

    time: float
    bpd: Estimate
    behind: Estimate
    at_equal_time: Estimate | None


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("draw", "", "A PNG of test bits/dim against time.", **own)
    flags.DEFINE_string("runs", "", "The folder of the study's runs, whose flows score the images.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_string("images", "paper_images.csv", "The CSV of gaps over images, to add to.", **own)


def main(given: flags.FlagValues) -> None:
    """Prints and draws, or scores."""
    if given.runs:
        _score(pathlib.Path(given.runs), given.data_dir, given.images)
        return
    found = costs(read_table(RESULTS / "paper.csv"), times_of(RESULTS / "paper_costs.csv"))
    for name, cost in found.items():
        print(row_of(name, cost))
    if given.draw:
        from lab.studies import figures

        figures.write_png(figure(found), pathlib.Path(given.draw))


def row_of(name: str, cost: Cost) -> str:
    """Returns a variant's line of the table."""

    def gap(found: Estimate | None) -> str:
        if found is None or name in (*LENGTHS[-1:], PIXELS):
            return "–"
        ends = (found.mean, found.mean - found.half_width, found.mean + found.half_width)
        mean, low, high = (f"{round(value, 3) + 0.0:.3f}" for value in ends)  # no −0.000
        return f"{mean} [{low}, {high}]".replace("-", "−")

    cells = (f"`{name}`", cost.bpd.count, f"{cost.time:.2f}", f"{cost.bpd.mean:.3f}", gap(cost.behind))
    equal = None if name in LENGTHS else cost.at_equal_time
    return f"| {' | '.join(map(str, cells))} | {gap(equal)} |"


def times_of(path: pathlib.Path) -> dict[str, float]:
    """Returns variant → the time of its run over the baseline's, the median of turns."""
    from lab.benchmarks import turns

    ratios = turns.whole_runs(turns.runs_of_variants("paper"), read(path))
    return {name: statistics.median(own) for name, own in ratios.items()}


def costs(rows: Rows, times: Mapping[str, float]) -> dict[str, Cost]:
    """Returns what each variant costs that has run, in the order of the study.

    Args:
      rows: of the study's CSV.
      times: what `times_of` returns.
    """
    names = [variant.name for variant in read_study(CONFIGS / "studies" / "paper.cfg").variants]
    last = {name: own for name in names if (own := last_bpd(rows, name))}
    ends = [(times[name], last[name]) for name in LENGTHS if name in last]
    gaps, equal = {}, {}
    for name, own in last.items():
        base = last.get(baseline_of(name), {})
        gaps[name] = [bpd - base[seed] for seed, bpd in own.items() if seed in base]
        at = {seed: _bpd_at(times[name], [(t, of[seed]) for t, of in ends if seed in of]) for seed in own}
        equal[name] = [own[seed] - bpd for seed, bpd in at.items() if baseline_of(name) != PIXELS and bpd]
    several = [own for own in gaps.values() if len(own) > 1 and any(own)]
    spreads = [own for own in equal.values() if len(own) > 1 and any(own)]
    return {
        name: Cost(
            times[name] / times[baseline_of(name)],
            estimate(list(own.values())),
            _estimate(gaps[name], several),
            _estimate(equal[name], spreads) if equal[name] else None,
        )
        for name, own in last.items()
        if gaps[name]
    }


def baseline_of(name: str) -> str:
    """Returns the variant that has the same flow, end to end."""
    return PIXELS if name.startswith(PIXELS) else "end_to_end"


def _bpd_at(time: float, ends: Sequence[tuple[float, float]]) -> float | None:
    """Returns the bits/dim end to end after some time; None if it is not between those of two runs."""
    for (earlier, high), (later, low) in itertools.pairwise(ends):
        if earlier <= time <= later:
            return high + (low - high) * math.log(time / earlier) / math.log(later / earlier)
    return None


def _estimate(gaps: Sequence[float], several: Sequence[Sequence[float]]) -> Estimate:
    """Returns a mean with its interval; one gap has the deviation of those of `several`, pooled."""
    freedom = sum(len(own) - 1 for own in several)
    if len(gaps) > 1 or not freedom:
        return estimate(gaps)
    from scipy import stats

    deviation = math.sqrt(sum((len(own) - 1) * statistics.variance(own) for own in several) / freedom)
    return Estimate(gaps[0], deviation, float(stats.t.ppf(0.975, freedom)) * deviation, 1)


def figure(found: Mapping[str, Cost]) -> object:
    """Draws test bits/dim against time, of Haar's squeeze; end to end of several lengths is a line."""
    from matplotlib import pyplot as plt

    drawn, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    haar = {name: cost for name, cost in found.items() if baseline_of(name) != PIXELS}
    line = [(haar[name].time, haar[name].bpd.mean) for name in LENGTHS if name in haar]
    axis.plot(*zip(*line, strict=True), "o-", color="black", label="end to end, 6 to 12 epochs")
    base = found["end_to_end"].bpd.mean
    for name, cost in haar.items():
        if name in LENGTHS:
            continue
        several = cost.bpd.count > 1
        colour = "tab:orange" if "head" in name else "tab:green" if "alone" in name else "tab:blue"
        place = (cost.time, base + cost.behind.mean)
        axis.errorbar(
            *place,
            yerr=cost.behind.half_width,
            fmt="o",
            color=colour,
            markerfacecolor=colour if several else "white",
            elinewidth=0.8,
        )
        side = "right" if name in NAMED_LEFT else "left"
        axis.annotate(f" {name} ", place, fontsize=7, va="center", ha=side)
    axis.set_xlim(0.4, 1.45)  # with room for names
    axis.set_xlabel("time over that of 12 epochs end to end")
    axis.set_ylabel("test bits/dim")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return drawn


def _score(runs: pathlib.Path, data_dir: str, path: str) -> None:
    """Adds what is not in the CSV yet of runs that are finished."""
    import glow_tf
    from glow_tf import data
    from glow_tf.use import evaluate
    from glow_tf.use.evaluation import mean_and_error

    images = data.load(glow_tf.DataConfig(dataset="cifar10", data_dir=data_dir, test_examples=2048)).test
    done, bits = measured(path, COLUMNS[:2]), {}

    def of(name: str, seed: str) -> object:
        if (name, seed) not in bits:
            bits[name, seed] = evaluate(
                glow_tf.load(runs / name / seed), images, seed=int(seed[5:])
            ).per_image
        return bits[name, seed]

    with added_to(path, COLUMNS) as add:
        for summary in sorted(runs.glob("*/seed_*/summary.json")):
            name, seed = summary.parts[-3:-1]
            base = baseline_of(name)
            if name != base and (name, seed[5:]) not in done and (runs / base / seed / summary.name).exists():
                mean, error = mean_and_error(of(name, seed) - of(base, seed))
                add((name, seed[5:], len(images), f"{mean:.6f}", f"{error:.6f}"))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
