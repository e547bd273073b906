"""The page of a run. Needs matplotlib, which is slow to load: import it late."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import pathlib
import warnings
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glow_tf.architectures import design_of
from glow_tf.core import html_page
from glow_tf.run import report
from glow_tf.run.flags_file import NAME as FLAGS
from glow_tf.run.report import RunContent

CURVES = {"train_bpd": "training", "validation_bpd": "held out", "test_bpd": "test"}
BITS = "bits/dim (less is better)"
COLUMNS, SHOWN = 8, 4  # images in a row of a sample grid, and of these in the strip
ROWS_SHOWN = (0, 6)  # rows of a sample grid that are in the strip: the first ones of temperatures 0.7 and 1
STRIP_NOTE = "Left: four samples at temperature 0.7. Right: the same latents at temperature 1."
MOST_STRIPS = 10
WIDEST = 600  # pixels of a strip
SIZE = (4.6, 3.0)  # inches; a telephone shows it at four fifths of its size
FEW = 25  # points of a line up to which each is marked
SHORT = 4  # points of a line of which all count as settled
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # the reader's browser has letters
    "svg.hashsalt": "0",
    "text.parse_math": False,  # a name may have a $
}


def run_page(run: RunContent) -> bytes:
    """Returns the page of a run."""
    flags = (run.folder / FLAGS).read_bytes().decode(errors="surrogateescape")
    strips = _strips(run)
    return html_page.page(
        f"Run {run.folder}",
        html_page.paragraph(report.result(run)),
        html_page.section(
            "What went wrong", html_page.items(run.troubles(), "wrong") or html_page.paragraph("Nothing.")
        ),
        html_page.section(
            "Settings",
            html_page.paragraph(report.images(run)),
            html_page.folded("All flags", html_page.code(flags)),
        ),
        html_page.section("Curves", html_page.side_by_side(_charts(run), "charts")),
        html_page.section(
            "Samples over time",
            html_page.paragraph(STRIP_NOTE if strips else "", "notes"),
            html_page.side_by_side(strips, "strip"),
        ),
        html_page.section("Time and memory", html_page.items(report.time_and_memory(run))),
        html_page.section("To repeat it", html_page.code(report.command(run))),
    )


def _charts(run: RunContent) -> list[str]:
    lines = [Line(label, *run.points(column)) for column, label in CURVES.items()]
    if run.untouched:
        lines.append(Line("untouched (held out)", (), [float(run.untouched["validation_bpd"])]))
    if run.best_epoch:
        bits = float(run.scores["validation_bpd"])
        lines.append(Line("best epoch", [run.best_epoch], [bits], ringed=True))
    numbers = range(1, design_of(run.model or run.config.model).num_parts + 1)
    parts = [Line(f"part {k}", *run.points(f"local_bpd_{k}")) for k in numbers]
    columns = {"training": "seconds", "evaluation": "eval_seconds"}
    seconds = [Line(label, *run.points(column)) for label, column in columns.items()]
    return [
        *_drawn(lines, "epoch", BITS, settles=True),
        *(_drawn(parts, "epoch", "local_bpd of each part", settles=True) if len(parts) > 1 else ()),
        *_drawn(seconds, "epoch", "seconds per epoch"),
        *_drawn([Line("memory", *run.points("peak_memory_mb"))], "epoch", "peak memory so far, MB"),
    ]


def _drawn(lines: Sequence[Line], x_label: str, title: str, *, settles: bool = False) -> list[str]:
    """Returns a chart, if a line has finite values."""
    names = ", ".join(line.label for line in lines if line.is_drawn)
    if not names:
        return []
    data = chart(lines, x_label, title, settles=settles)
    return [html_page.picture(data, html_page.SVG, f"Chart of {title} by {x_label}: {names}")]


def _strips(run: RunContent) -> list[str]:
    """Returns pictures of the samples of epochs, evenly spaced."""
    found = (run.folder / "samples").glob("epoch_*.png")
    paths = sorted(path for path in found if path.stem.removeprefix("epoch_").isdecimal())
    chosen = sorted({round(k) for k in np.linspace(0, len(paths) - 1, min(len(paths), MOST_STRIPS))})
    shown = {f"epoch {int(paths[k].stem.removeprefix('epoch_'))}": _strip(paths[k]) for k in chosen}
    return [html_page.picture(own, html_page.PNG, f"Samples: {name}", name) for name, own in shown.items()]


def _strip(path: pathlib.Path) -> bytes:
    """Returns a few images of a sample grid in one row, as PNG."""
    from PIL import Image

    with Image.open(path) as grid:
        width, height = grid.width // COLUMNS, grid.height // COLUMNS
        found = [grid.crop((0, row * height, SHOWN * width, (row + 1) * height)) for row in ROWS_SHOWN]
    row = Image.new(found[0].mode, (2 * SHOWN * width + width // 4, height), "white")
    for place, images in zip((0, row.width - SHOWN * width), found, strict=True):
        row.paste(images, (place, 0))
    row.thumbnail((WIDEST, WIDEST))
    data = io.BytesIO()
    row.save(data, "PNG")
    return data.getvalue()


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a chart; without `x` it is one value, drawn all across, and `ringed` it is one point."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    ringed: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether it has a finite value."""
        return any(map(math.isfinite, self.y))


def chart(lines: Sequence[Line], x_label: str, y_label: str, *, settles: bool = False) -> bytes:
    """Draws lines, of which one or more have finite values, as an SVG; other values are left out.

    The other lines have no place in the legend, but a colour, so that several charts of the same runs have
    the same colours. Where a chart `settles`, as learning curves do, the values of the second half count
    most; see `settled_scale`. Otherwise its axis begins at 0.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that matplotlib's font lacks
        figure = Figure(figsize=SIZE, layout="constrained")
        axis = figure.subplots()
        colours = itertools.cycle(mpl.colormaps["tab10"].colors)
        for line in lines:
            _draw(axis, line, colours)
        finite = [[value for value in line.y if math.isfinite(value)] for line in lines]
        every = [value for own in finite for value in own]
        if settles:
            halves = [own[len(own) // 2 if len(own) > SHORT else 0 :] for own in finite]
            settled_scale(axis, [value for own in halves for value in own], every)
        else:
            axis.set_ylim(0, 1.1 * max(every))
        axis.xaxis.set_major_locator(ticker.MaxNLocator(6, integer=True))
        axis.set_xlabel(x_label)
        axis.set_title(y_label, loc="left", fontsize="medium")
        if len(lines) > 1:
            columns = 4 if sum(map(bool, finite)) == 4 else 3
            figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize="small")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue().encode()


def _draw(axis: Axes, line: Line, colours: itertools.cycle) -> None:
    colour = next(colours)
    if not line.is_drawn:
        return
    if line.ringed:
        axis.plot(line.x, line.y, "o", color="black", mfc="none", markersize=9, label=line.label)
    elif not line.x:
        axis.axhline(line.y[0], color="grey", linestyle="--", linewidth=1.2, label=line.label)
    else:
        marker = "." if len(line.x) <= FEW else ""
        y = [value if math.isfinite(value) else math.nan for value in line.y]
        axis.plot(line.x, y, marker=marker, color=colour, linewidth=1.5, label=line.label)


def settled_scale(axis: Axes, settled: Sequence[float], every: Sequence[float]) -> None:
    """Lets the y-axis show the settled values, and of all values above them as much as is about as high."""
    settled = [value for value in settled if math.isfinite(value)]
    low, high = min(settled), max(settled)
    margin = 0.05 * (high - low) or 0.05
    low, high = low - margin, high + 2 * margin
    top = max((value for value in every if math.isfinite(value)), default=high)
    axis.set_ylim(low, min(max(high, top + margin), high + (high - low)))
