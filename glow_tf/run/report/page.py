"""The page of a run. Needs matplotlib, which is slow to load: import it late."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Sequence

import numpy as np

from glow_tf.architectures import design_of
from glow_tf.core import html_page
from glow_tf.run.files.flags_file import NAME as FLAGS
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
    strips = _strips(run)
    return html_page.page(
        f"Run {run.folder}",
        html_page.paragraph(content.result(run)),
        html_page.section(
            "What went wrong", html_page.items(run.troubles(), "wrong") or html_page.paragraph("Nothing.")
        ),
        html_page.section(
            "Settings",
            html_page.paragraph(content.images(run)),
            html_page.folded("All flags", html_page.code(flags)),
        ),
        html_page.section("Curves", html_page.side_by_side(_charts(run), "charts")),
        html_page.section(
            "Samples over time",
            html_page.paragraph(STRIP_NOTE if strips else "", "notes"),
            html_page.side_by_side(strips, "strip"),
        ),
        html_page.section("Time and memory", html_page.items(content.time_and_memory(run))),
        html_page.section("To repeat it", html_page.code(content.command(run))),
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
