"""The charts of a report. Needs matplotlib, which takes a second to load: import it late."""

import dataclasses
import io
import itertools
import math
import warnings
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
