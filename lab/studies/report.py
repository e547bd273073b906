"""Tables, figures and a self-contained page from a study's CSV. Pure Python: no TensorFlow."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping, Sequence

from glow_tf.core import html_page
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from lab.studies import comparison
from lab.studies.comparison import Estimate, Outcome, Rows
from lab.studies.study import Study
from lab.studies.table import read_table

HEADER = (
    "variant",
    "seeds",
    "epochs",
    "test bpd",
    "behind the baseline",
    "behind it at equal time",
    "time",
    "predicted",
)

NOTES = {  # column → what it means
    "test bpd": "Test bpd: mean ± standard error over the seeds, last epoch, one noise draw per test image.",
    "behind the baseline": "Behind: the difference in bits/dim within each seed, mean and 95 % "
    "t-interval; positive is worse.",
    "behind it at equal time": "At equal time: against an end-to-end run of fewer epochs, whose rate "
    "decays within these epochs.",
    "time": "Time: training seconds over the baseline's, from the median epoch of each kind, median over the "
    "seeds; predicted by the cost model.",
}

MOST_TENTHS = 8  # columns of the times to a test bpd

FIGURES = {  # name of the file → what stands above it in the page
    "curves": "<h2>Test bits/dim against epoch and against time</h2>\n"
    '<p class="notes">Mean over the seeds, the range as a band. A circle marks where a variant\'s '
    "end-to-end epochs begin.</p>",
    "gaps": "<h2>Paired differences</h2>",
    "tuning": "<h2>What was tuned</h2>",
    "lengths": "<h2>Test bits/dim at the end of runs of several lengths</h2>",
}


def write_report(study: Study, table: pathlib.Path, folder: pathlib.Path) -> str:
    """Writes report.html, report.md and figures as PNG; returns the table as Markdown.

    The figures are curves.png and gaps.png, which a study with a grid does not have; if the study's tuning
    has a table, tuning.png; and lengths.png if its variants form groups and nothing is tuned.

    Args:
      study: the study.
      table: its CSV; sample grids come from the workdirs beside it. The table of the tuning is tuning.csv
        beside results.csv, and NAME_tuning.csv beside NAME.csv.
      folder: the folder of the report; it is made if absent.

    Raises:
      ConfigError: no run has finished.
    """
    rows = read_table(table)
    found = comparison.outcomes(study, rows)
    if not any(o.finished for o in found):
        raise ConfigError(f"csv must hold a finished run of the study. Received: {str(table)!r}")
    tuned = table.with_name(f"{table.stem}_tuning.csv".replace("results_", ""))
    tuning = read_table(tuned) if study.tuned and tuned.exists() else None
    by_length = {} if study.tuned else comparison.lengths(study, rows)
    svgs = {}
    if not study.grid or tuning is not None or by_length:
        svgs = _draw(study, rows, found, tuning, by_length, folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = _page(study, found, svgs, _samples(study, table.parent))
    write_atomically(folder / "report.html", page)
    cells = _table(study, found)
    tables = [_markdown_table(cells)]
    if by_length:
        tables.append(_markdown_table(_times(by_length)))
    text = "\n\n".join([f"# {study.title}", *tables, "\n".join([*_notes(cells), *_failures(found)])])
    write_atomically(folder / "report.md", (text + "\n").encode())
    return "\n\n".join(tables)


def _draw(
    study: Study,
    rows: Rows,
    found: Sequence[Outcome],
    tuning: Rows | None,
    by_length: Mapping[str, Mapping],
    folder: pathlib.Path,
) -> dict[str, str]:
    """Draws the figures of a study, writes each as PNG, and returns them as SVG by name."""
    from lab.studies import figures  # loads matplotlib

    drawn = {}
    if not study.grid:  # a grid has too many variants for one figure
        drawn["curves"] = figures.learning_curves(study, rows)
        if any(o.behind for o in found):
            drawn["gaps"] = figures.gaps(found)
    if tuning is not None:
        drawn["tuning"] = figures.tuning(study, tuning)
    if by_length:
        drawn["lengths"] = figures.lengths(by_length)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in drawn.items():
        figures.write_png(figure, folder / f"{name}.png")
    return {name: figures.as_svg(figure) for name, figure in drawn.items()}


def _page(study: Study, found: Sequence[Outcome], svgs: Mapping[str, str], samples: str) -> bytes:
    cells = _table(study, found)
    return html_page.page(
        study.title,
        _html_table(cells),
        *(html_page.paragraph(note, "notes") for note in _notes(cells)),
        *(html_page.paragraph(text) for text in _failures(found)),
        *(f"{FIGURES[name]}\n{svg}" for name, svg in svgs.items()),
        samples,
    )


def _html_table(cells: list[list[str]]) -> str:
    def line(row: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html_page.escaped(cell)}</{tag}>" for cell in row) + "</tr>"

    lines = [line(cells[0], "th"), *(line(row, "td") for row in cells[1:])]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _notes(cells: list[list[str]]) -> list[str]:
    return [note for column, note in NOTES.items() if column in cells[0]] or [NOTES["test bpd"]]


def _failures(found: Sequence[Outcome]) -> list[str]:
    return [f"{o.variant.title}: {reason}" for o in found for reason in o.failures]


def _table(study: Study, found: Sequence[Outcome]) -> list[list[str]]:
    """Returns a line for each variant; with a grid, its last flag's values are columns of test bits/dim."""
    if study.grid:
        return _grid_table(study, found)
    cells = [list(HEADER), *(_cells(outcome) for outcome in found)]
    if any(o.behind_at_equal_time for o in found):
        return cells
    return [row[:5] + row[6:] for row in cells]


def _grid_table(study: Study, found: Sequence[Outcome]) -> list[list[str]]:
    *others, last = study.grid
    lines: dict[tuple[str, ...], list[str]] = {}
    for outcome in found:
        lines.setdefault(outcome.variant.row, []).append(_bpd(outcome.test_bpd) + _failed(outcome))
    header = ["variant", *others, *(f"{last} {value}" for value in study.grid[last])]
    return [header, *([*row, *bpds] for row, bpds in lines.items())]


def _times(by_length: Mapping[str, Sequence[tuple[float, float]]]) -> list[list[str]]:
    """Returns a line for each group: the seconds to the lowest tenths of a bit/dim that one passes."""
    every = [bpd for points in by_length.values() for _, bpd in points if math.isfinite(bpd)] or [0.0]
    lowest = math.ceil(10 * min(every))
    tenths = range(min(math.floor(10 * max(every)), lowest + MOST_TENTHS - 1), lowest - 1, -1)
    lines = {
        group: [comparison.seconds_to(tenth / 10, points) for tenth in tenths]
        for group, points in by_length.items()
    }
    header = ["seconds to a test bpd of", *(f"{tenth / 10:.1f}" for tenth in tenths)]
    return [
        header,
        *([group, *("–" if math.isnan(s) else f"{s:.0f}" for s in own)] for group, own in lines.items()),
    ]


def _cells(outcome: Outcome) -> list[str]:
    return [
        outcome.variant.title,
        f"{len(outcome.finished)}{_failed(outcome)}",
        f"{outcome.epochs}",
        _bpd(outcome.test_bpd),
        _gap(outcome.behind),
        _gap(outcome.behind_at_equal_time),
        _number(outcome.time),
        _number(outcome.predicted_time),
    ]


def _failed(outcome: Outcome) -> str:
    return f" (+{len(outcome.failures)} failed)" if outcome.failures else ""


def _bpd(bpd: Estimate | None) -> str:
    if bpd is None:
        return "–"
    return f"{bpd.mean:.4f}" + (f" ± {bpd.standard_error:.4f}" if bpd.count > 1 else "")


def _gap(gap: Estimate | None) -> str:
    return "" if gap is None else str(gap)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _markdown_table(cells: list[list[str]]) -> str:
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _samples(study: Study, runs: pathlib.Path) -> str:
    """Returns the last sample grid of every variant's first seed; empty without workdirs."""
    shown = []
    for variant in study.variants:
        grids = sorted((runs / variant.name / f"seed_{study.seeds[0]}" / "samples").glob("epoch_*.png"))
        if grids:
            caption = f"{variant.title}, {grids[-1].stem.replace('_', ' ')}"
            data = grids[-1].read_bytes()
            shown.append(html_page.picture(data, html_page.PNG, f"samples of {caption}", caption))
    return html_page.section("Samples", html_page.side_by_side(shown, "grids"))
