"""The figures of a study's report. Needs matplotlib, which is slow to load: import it late."""

import io
import itertools
import math
import pathlib
import statistics
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib import ticker

from lab.studies.comparison import Outcome, Rows, curves
from lab.studies.runs import FINISHED, UNFINISHED
from lab.studies.study import Study

plt.rcParams.update(
    {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "0"}
)
COLOURS = plt.get_cmap("tab10").colors + plt.get_cmap("Dark2").colors
SETTLED_SHARE = 0.7  # of the height of a learning curve's axis is for the values of the second half of a run
LONG_TITLE = 38  # characters; longer titles make a legend of one column, and labels of several lines


def learning_curves(study: Study, rows: Rows) -> plt.Figure:
    """Draws test bits/dim against epoch and against seconds: the mean over seeds, the range as a band.

    A circle marks where a variant's end-to-end epochs begin. The values of early epochs, which may be many
    times the later ones, are above a line from which on the scale is logarithmic.
    """
    shown = [variant for variant in study.variants if curves(rows, variant.name)]
    columns = 1 if max(len(variant.title) for variant in shown) > LONG_TITLE else 2
    height = 7.2 + 0.21 * math.ceil(len(shown) / columns)  # inches; the legend is below the axes
    figure, axes = plt.subplots(2, 1, figsize=(7, height), layout="constrained")
    settled, every = [], []
    for colour, variant in zip(itertools.cycle(COLOURS), shown, strict=False):
        runs = list(curves(rows, variant.name).values())
        epochs = min(len(history) for history in runs)
        bpd = [[float(history[e]["test_bpd"]) for history in runs] for e in range(epochs)]
        seconds = [statistics.median(float(h[e]["total_seconds"]) for h in runs) for e in range(epochs)]
        mean = [statistics.fmean(values) for values in bpd]
        lowest, highest = [min(values) for values in bpd], [max(values) for values in bpd]
        every += highest
        settled += [*mean[epochs // 2 :], *lowest[epochs // 2 :]]
        kinds = [row["phase"] for row in runs[0][:epochs]]
        switch = kinds.index("end_to_end") if "end_to_end" in kinds else None
        for axis, x in zip(axes, (list(range(1, epochs + 1)), seconds), strict=True):
            axis.plot(x, mean, color=colour, label=variant.title, linewidth=1.6)
            axis.fill_between(x, lowest, highest, color=colour, alpha=0.15, linewidth=0)
            if switch:  # not None, and not 0, which is end to end from the start
                axis.plot(x[switch - 1], mean[switch - 1], "o", color=colour, mfc="white", zorder=3)
    for axis, label in zip(axes, ("epoch", "seconds of training"), strict=True):
        axis.set_xlabel(label)
        axis.set_ylabel("test bits/dim")
        settled_scale(axis, settled, every)
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def gaps(found: Sequence[Outcome]) -> plt.Figure:
    """Draws paired differences to the baseline with 95 % intervals, at equal epochs and at equal time."""
    shown = [o for o in found if o.behind]
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(shown) + 1.5), layout="constrained")
    labelled = set()
    for place, outcome in enumerate(shown):
        # A row with one difference has it beside its label; two are drawn above and below.
        apart = 0.14 if outcome.behind_at_equal_time else 0.0
        for shift, gap, colour, label in (
            (-apart, outcome.behind, "tab:blue", "at equal epochs"),
            (apart, outcome.behind_at_equal_time, "tab:orange", "at equal time"),
        ):
            if gap:
                error = None if gap.count < 2 else gap.half_width
                new = None if label in labelled else label
                axis.errorbar(gap.mean, place + shift, xerr=error, fmt="o", color=colour, label=new)
                labelled.add(label)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(shown)), [textwrap.fill(o.variant.title, LONG_TITLE) for o in shown])
    axis.set_ylim(len(shown) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(5))
    axis.set_xlabel("bits/dim behind the baseline (left is better)")
    axis.grid(axis="x", alpha=0.25)
    if len(labelled) > 1:
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def lengths(found: Mapping[str, Sequence[tuple[float, float]]]) -> plt.Figure:
    """Draws what runs of several lengths end with: test bits/dim against seconds of training, by group."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for colour, (group, points) in zip(itertools.cycle(COLOURS), found.items(), strict=False):
        axis.plot(*zip(*points, strict=True), "o-", color=colour, label=group, markersize=4)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.minorticks_off()
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("test bits/dim at the end")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    return figure


TUNING_SHOWN = 0.35  # bits/dim above a variant's best value; what is worse is drawn at the upper edge


def tuning(study: Study, rows: Rows) -> plt.Figure:
    """Draws how far each value of the tuned flag is behind the variant's best; a panel for each group.

    At the upper edge, a cross stands for a value with which training stopped, and a triangle for one that is
    further behind. Values that were not run are left out.
    """
    flag, values = study.tuned
    try:
        places = {value: float(value) for value in values}
        numeric = min(places.values()) > 0
    except ValueError:
        numeric = False
    if not numeric:
        places = {value: float(place) for place, value in enumerate(values)}
    bpd = _tuned_bpd(flag, rows)
    shown = [variant for variant in study.variants if any(name == variant.name for name, _ in bpd)]
    groups = list(dict.fromkeys(variant.group for variant in shown))
    columns = min(len(groups), 2)
    lines = math.ceil(len(groups) / columns)
    size = (4.5 * columns, 3.4 * lines)
    figure, grid = plt.subplots(
        lines, columns, figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for axis in grid.flat[len(groups) :]:
        axis.remove()
    for axis, group in zip(grid.flat, groups, strict=False):
        for colour, variant in zip(COLOURS, (v for v in shown if v.group == group), strict=False):
            found = {v: bpd[variant.name, v] for v in values if (variant.name, v) in bpd}
            best = min(found.values())
            points = [(places[v], y - best) for v, y in found.items()]
            inside = [point for point in points if point[1] < TUNING_SHOWN]
            axis.plot(*zip(*inside, strict=True), "o-", color=colour, label=variant.title, markersize=4)
            for x, behind in points:
                if behind >= TUNING_SHOWN:
                    marker = "^" if math.isfinite(behind) else "x"
                    axis.plot(x, TUNING_SHOWN, marker, color=colour, markersize=5, fillstyle="none")
        if numeric:
            axis.set_xscale("log", base=2)
        axis.set_xticks([*places.values()], [f"{places[v]:g}" if numeric else v for v in values], fontsize=8)
        axis.minorticks_off()
        axis.set_ylim(-0.01, 1.03 * TUNING_SHOWN)
        axis.set_title(group, fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    figure.supxlabel(flag, fontsize=10)
    figure.supylabel("validation bits/dim above the best value", fontsize=10)
    return figure


def _tuned_bpd(flag: str, rows: Rows) -> dict[tuple[str, str], float]:
    """Returns (variant, value of the tuned flag) → last validation bpd; inf if training stopped."""
    found = {}
    for row in rows:  # of a run the last epoch comes last
        if row["outcome"] == FINISHED:
            found[row["variant"], row[flag]] = float(row["validation_bpd"])
        elif row["outcome"] != UNFINISHED:
            found[row["variant"], row[flag]] = math.inf
    finished = {variant for (variant, _), bpd in found.items() if math.isfinite(bpd)}
    return {key: bpd for key, bpd in found.items() if key[0] in finished}


def as_svg(figure: plt.Figure) -> str:
    """Returns a figure as an SVG element that scales with its container."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def write_png(figure: plt.Figure, path: pathlib.Path) -> None:
    """Writes a figure as PNG and frees its memory."""
    figure.savefig(path, dpi=130)
    plt.close(figure)


def settled_scale(axis: plt.Axes, settled: Sequence[float], every: Sequence[float], above: int = 4) -> None:
    """Makes the y-axis linear where the settled values are, and logarithmic above up to the largest value.

    The logarithmic part has `above` ticks.
    """
    settled = [value for value in settled if math.isfinite(value)]
    low, high = min(settled), max(settled)
    margin = 0.05 * (high - low) or 0.05
    low, knee = low - margin, high + 2 * margin
    top = max((value for value in every if math.isfinite(value)), default=knee)
    if top <= knee + (knee - low):  # nothing is far above
        axis.set_ylim(low, max(knee, top + margin))
        return
    height = (1 / SETTLED_SHARE - 1) * (knee - low)
    unit = (knee - low) / 4
    whole = math.log1p((top - knee) / unit)

    def place(y: np.ndarray) -> np.ndarray:
        above = np.log1p(np.maximum(y - knee, 0) / unit) * height / whole
        return np.minimum(y, knee) + above

    def value(p: np.ndarray) -> np.ndarray:
        above = np.expm1(np.maximum(p - knee, 0) * whole / height) * unit
        return np.minimum(p, knee) + above

    axis.set_yscale("function", functions=(place, value))
    axis.set_ylim(low, value(knee + 1.03 * height))
    linear = [tick for tick in ticker.MaxNLocator(6).tick_values(low, knee) if low <= tick <= knee]
    step = linear[1] - linear[0]
    digits = max(0, -math.floor(math.log10(step)))
    digits += not math.isclose(step, round(step, digits))
    labels = [f"{tick:.{digits}f}" for tick in linear]
    ticks = list(linear)
    for tick in value(knee + height * np.arange(1, above + 1) / above):
        rounded = float(f"{tick:.2g}")
        ticks.append(rounded)
        labels.append(f"{rounded:g}")
    axis.set_yticks(ticks, labels)
    axis.minorticks_off()
    axis.axhline(knee, color="grey", linewidth=0.8, linestyle="--")
    where = {"xycoords": ("axes fraction", "data"), "xytext": (-2, 2), "textcoords": "offset points"}
    axis.annotate("logarithmic above this line", (1, knee), **where, color="grey", fontsize=8, ha="right")
