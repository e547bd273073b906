"""The figures of a study's report. Needs matplotlib: `pip install 'glow_tf[bench]'`."""

import io
import itertools
import pathlib
import statistics
from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from glow_tf.studies.comparison import Outcome, Rows, curves
from glow_tf.studies.study import Study

plt.rcParams.update(
    {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "0"}
)
COLOURS = plt.get_cmap("tab10").colors + plt.get_cmap("Dark2").colors


def learning_curves(study: Study, rows: Rows) -> plt.Figure:
    """Draws test bits/dim against epoch and against seconds: the mean over seeds, the range as a band.

    A dotted line marks where a variant's end-to-end epochs begin.
    """
    figure, axes = plt.subplots(2, 1, figsize=(7, 8.5), layout="constrained")
    settled = []
    for colour, variant in zip(itertools.cycle(COLOURS), study.variants, strict=False):
        runs = list(curves(rows, variant.name).values())
        if not runs:
            continue
        epochs = min(len(history) for history in runs)
        bpd = [[float(history[e]["test_bpd"]) for history in runs] for e in range(epochs)]
        seconds = [statistics.median(float(h[e]["total_seconds"]) for h in runs) for e in range(epochs)]
        mean = [statistics.fmean(values) for values in bpd]
        settled += mean[epochs // 2 :]
        kinds = [row["phase"] for row in runs[0][:epochs]]
        switch = kinds.index("end_to_end") if "end_to_end" in kinds else None
        for axis, x in zip(axes, (list(range(1, epochs + 1)), seconds), strict=True):
            axis.plot(x, mean, color=colour, label=variant.title, linewidth=1.6)
            axis.fill_between(
                x, [min(v) for v in bpd], [max(v) for v in bpd], color=colour, alpha=0.15, linewidth=0
            )
            if switch:  # not None, and not 0, which is end to end from the start
                axis.axvline(x[switch - 1], color=colour, linestyle=":", linewidth=1)
    low, high = min(settled), max(settled)
    for axis, label in zip(axes, ("epoch", "seconds of training"), strict=True):
        axis.set_xlabel(label)
        axis.set_ylabel("test bits/dim")
        axis.set_ylim(low - 0.05 * (high - low), high + 0.5 * (high - low))
        axis.grid(alpha=0.25)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def gaps(found: Sequence[Outcome]) -> plt.Figure:
    """Draws paired differences to the baseline with 95 % intervals, at equal epochs and at equal time."""
    shown = [o for o in found if o.behind]
    apart = 0.12 if any(o.behind_at_equal_time for o in shown) else 0.0
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(shown) + 1.5), layout="constrained")
    for place, outcome in enumerate(shown):
        for shift, gap, colour, label in (
            (-apart, outcome.behind, "tab:blue", "at equal epochs"),
            (apart, outcome.behind_at_equal_time, "tab:orange", "at equal time"),
        ):
            if gap:
                error = None if gap.count < 2 else gap.half_width
                known = label in axis.get_legend_handles_labels()[1]
                axis.errorbar(
                    gap.mean, place + shift, xerr=error, fmt="o", color=colour, label=None if known else label
                )
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(shown)), [o.variant.title for o in shown])
    axis.invert_yaxis()
    axis.set_xlabel("bits/dim behind the baseline (left is better)")
    axis.grid(axis="x", alpha=0.25)
    if apart:
        figure.legend(loc="outside upper right", ncols=2, frameon=False)
    return figure


def as_svg(figure: plt.Figure) -> str:
    """Returns a figure as an SVG element that scales with its container."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def write_png(figure: plt.Figure, path: pathlib.Path) -> None:
    """Writes a figure as PNG and frees its memory."""
    figure.savefig(path, dpi=130)
    plt.close(figure)
