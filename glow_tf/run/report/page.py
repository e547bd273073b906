"""The page of a run. Needs matplotlib, which is slow to load: import it late."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence

import numpy as np

from glow_tf.core import html_page
from glow_tf.run.files.flags_file import NAME as FLAGS
from glow_tf.run.files.history import bits_of_levels
from glow_tf.run.report import content
from glow_tf.run.report.charts import Line, chart
from glow_tf.run.report.content import RunContent

CURVES = {"train_bpd": "training", "validation_bpd": "held out", "test_bpd": "test"}
BITS = "bits/dim (less is better)"
COLUMNS, SHOWN = 8, 4  # images in a row of a sample grid, and of these in the strip
ROWS_SHOWN = (0, 6)  # rows of a sample grid that are in the strip: the first ones of temperatures 0.7 and 1
STRIP_NOTE = "Left: four samples at temperature 0.7. Right: the same latents at temperature 1."
MOST_STRIPS = 10
WIDEST = 600  # pixels of a strip


def run_page(run: RunContent) -> bytes:
    """Returns the page of a run."""
    flags = (run.folder / FLAGS).read_bytes().decode(errors="surrogateescape")
    return html_page.page(
        f"Run {run.folder}",
        html_page.paragraph(content.result(run)),
        _what_went_wrong(run.troubles()),
        html_page.section(
            "Settings",
            html_page.paragraph(content.images(run)),
            html_page.folded("All flags", html_page.code(flags)),
        ),
        html_page.section("Curves", html_page.side_by_side(_charts(run), "charts")),
        _samples("Samples over time", [(_epoch(epoch), data) for epoch, data in _strips(run)]),
        html_page.section("Time and memory", html_page.items(content.time_and_memory(run))),
        html_page.section("To repeat it", html_page.code(content.command(run))),
    )


def _what_went_wrong(troubles: Sequence[str]) -> str:
    said = html_page.items(troubles, "wrong") or html_page.paragraph("Nothing.")
    return html_page.section("What went wrong", said)


def _epoch(epoch: int) -> str:
    return f"epoch {epoch}" if epoch else "untouched"


def _charts(run: RunContent) -> list[str]:
    lines = [Line(label, *run.points(column)) for column, label in CURVES.items()]
    if run.untouched:
        lines.append(Line("untouched (held out)", (), [float(run.untouched["validation_bpd"])]))
    if run.best_epoch:
        bits = float(run.scores["validation_bpd"])
        lines.append(Line("best epoch", [run.best_epoch], [bits], ringed=True))
    title, parts = _parts(run)
    columns = {"training": "seconds", "evaluation": "eval_seconds"}
    seconds = [Line(label, *run.points(column)) for label, column in columns.items()]
    return [
        *_drawn(lines, "epoch", BITS, settles=True),
        *(_drawn(parts, "epoch", title, settles=True) if len(parts) > 1 else ()),
        *_drawn(seconds, "epoch", "seconds per epoch"),
        *_drawn([Line("memory", *run.points("peak_memory_mb"))], "epoch", "peak memory so far, MB"),
    ]


def _parts(run: RunContent) -> tuple[str, list[Line]]:
    """Returns what the curves of the parts are, and the curves."""
    model = run.model or run.config.model
    columns = {k: f"local_bpd_{k}" for k in range(1, model.num_parts + 1)}
    if not model.design.separable or model.bits is None:
        lines = [Line(f"part {k}", *run.points(column)) for k, column in columns.items()]
        return "objective of each part, bits/dim", lines
    points: dict[int, tuple[list[float], list[float]]] = {k: ([], []) for k in columns}
    for row in run.rows:
        means = {column: float(row[column]) for column in columns.values() if row.get(column)}
        for k, bits in bits_of_levels(means, model).items():
            points[k][0].append(float(row["epoch"]))
            points[k][1].append(bits)
    ends = {1: " (finest)", model.num_parts: " (coarsest)"}
    lines = [Line(f"level {k}{ends.get(k, '')}", *own) for k, own in points.items()]
    return "bits/dim that each level adds (below 0: saves)", lines


def _drawn(lines: Sequence[Line], x_label: str, title: str, *, settles: bool = False) -> list[str]:
    """Returns a chart, if a line has finite values."""
    names = ", ".join(line.label for line in lines if line.is_drawn)
    if not names:
        return []
    data = chart(lines, x_label, title, settles=settles)
    return [html_page.picture(data, html_page.SVG, f"Chart of {title} by {x_label}: {names}")]


def _strips(run: RunContent) -> list[tuple[int, bytes]]:
    """Returns epochs and a picture of their samples, evenly spaced."""
    found = (run.folder / "samples").glob("epoch_*.png")
    paths = sorted(path for path in found if path.stem.removeprefix("epoch_").isdecimal())
    chosen = sorted({round(k) for k in np.linspace(0, len(paths) - 1, min(len(paths), MOST_STRIPS))})
    return [(int(paths[k].stem.removeprefix("epoch_")), _strip(paths[k])) for k in chosen]


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


def _samples(heading: str, strips: Sequence[tuple[str, bytes]]) -> str:
    shown = [html_page.picture(data, html_page.PNG, f"Samples: {name}", name) for name, data in strips]
    note = html_page.paragraph(STRIP_NOTE, "notes") if shown else ""
    return html_page.section(heading, note, html_page.side_by_side(shown, "strip"))
