"""The page of one run, and that of several. Needs matplotlib, which is slow to load: import it late."""

from __future__ import annotations

import base64
import contextlib
import io
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from glow_tf.core import html_page
from glow_tf.run.files.flags_file import NAME as FLAGS
from glow_tf.run.files.flags_file import read_settings
from glow_tf.run.files.history import bits_of_levels
from glow_tf.run.report import words
from glow_tf.run.report.charts import Line, chart
from glow_tf.run.report.content import RunContent
from glow_tf.run.tables import bpd_text

CURVES = {"train_bpd": "training", "validation_bpd": "held out", "test_bpd": "test"}
BITS = "bits/dim (less is better)"
RESULTS = ("run", "test", "held out", "untouched", "epoch kept", "epochs", "seconds", "parameters", "MB")
RESULTS_NOTE = "Bits/dim, less is better, ± standard errors, of the epoch that a run ends with."
NOTHING = "–"
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
        html_page.paragraph(words.result(run)),
        _what_went_wrong(run.troubles()),
        html_page.section(
            "Settings",
            html_page.items(words.settings(run)),
            html_page.folded("All settings", html_page.code(flags)),
        ),
        html_page.section("Curves", html_page.side_by_side(_charts(run), "charts")),
        _samples("Samples over time", [(_epoch(epoch), data) for epoch, data in _strips(run)]),
        _scored(run, "unusual", "least usual", "most"),
        _scored(run, "usual", "most usual", "fewest"),
        html_page.section("Time and memory", html_page.items(words.time_and_memory(run))),
        html_page.section("To repeat it", html_page.code(words.command(run))),
    )


def comparison_page(runs: Sequence[RunContent]) -> bytes:
    """Returns a page that compares runs, which it numbers in their order."""
    numbered = [(f"run {number}", run) for number, run in enumerate(runs, start=1)]
    last = [(f"{name}, {_epoch(epoch)}", data) for name, run in numbered for epoch, data in _strips(run)[-1:]]
    return html_page.page(
        f"{len(runs)} runs",
        html_page.table([RESULTS, *(_results(*one) for one in numbered)]),
        html_page.paragraph(RESULTS_NOTE, "notes"),
        _what_went_wrong([f"{name}: {text}" for name, run in numbered for text in run.troubles()]),
        html_page.section("Settings that differ", _differing(numbered)),
        html_page.section("Curves", html_page.side_by_side(_charts_of_several(numbered), "charts")),
        _samples("Samples", last),
        html_page.section("To repeat them", html_page.code("\n".join(words.command(run) for run in runs))),
    )


def _what_went_wrong(troubles: Sequence[str]) -> str:
    said = html_page.items(troubles, "wrong") or html_page.paragraph("Nothing.")
    return html_page.section("What went wrong", said)


def _epoch(epoch: int) -> str:
    return f"epoch {epoch}" if epoch else "untouched"


def _results(name: str, run: RunContent) -> list[str]:
    rows, memory = run.rows, max(run.points("peak_memory_mb")[1], default=math.nan)
    parameters = run.summary.get("parameters")
    return [
        f"{name}: {run.folder}",
        _score(run.scores, "test"),
        _score(run.scores, "validation"),
        _score(run.untouched, "test"),
        (f"{len(rows)}" if rows else NOTHING) if run.best_epoch is None else f"{run.best_epoch}",
        f"{len(rows)}" if len(rows) == run.planned else f"{len(rows)} (of {run.planned})",
        f"{float(rows[-1]['total_seconds']):.1f}" if rows else NOTHING,
        f"{parameters:,}" if parameters else NOTHING,
        f"{memory:,.0f}" if math.isfinite(memory) else NOTHING,
    ]


def _score(cells: Mapping[str, str], split: str) -> str:
    bits, error = cells.get(f"{split}_bpd"), cells.get(f"{split}_bpd_se")
    return bpd_text(float(bits), float(error or "nan")) if bits else NOTHING


def _differing(numbered: Sequence[tuple[str, RunContent]]) -> str:
    every = [read_settings(run.folder) for _, run in numbered]
    names = [name for name in every[0] if name != "workdir" and len({own.get(name) for own in every}) > 1]
    rows = [[name, *(own.get(name) or NOTHING for own in every)] for name in names]
    header = ["setting", *(name for name, _ in numbered)]
    return html_page.table([header, *rows]) if rows else html_page.paragraph("None.")


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


def _charts_of_several(numbered: Sequence[tuple[str, RunContent]]) -> list[str]:
    found = []
    for column in ("test_bpd", "validation_bpd"):
        by_epoch, by_time = [], []
        for name, run in numbered:
            epochs, bits = run.points(column)
            total = dict(zip(*run.points("total_seconds"), strict=True))
            by_epoch.append(Line(name, epochs, bits))
            by_time.append(Line(name, [total[epoch] for epoch in epochs], bits))
        title = f"{CURVES[column]} {BITS}"
        found += _drawn(by_epoch, "epoch", title, settles=True)
        found += _drawn(by_time, "seconds of training", title, settles=True)
    return found


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


def _scored(run: RunContent, which: str, name: str, number: str) -> str:
    """Returns images that were scored, as the run kept them; nothing if their file is not sound."""
    with contextlib.suppress(LookupError, TypeError, ValueError, AttributeError):
        shown = []
        for image in run.scored[which]:
            data, bits = base64.b64decode(image["png"]), f"{image['bits']:.2f} bits/dim"
            shown.append(html_page.picture(data, html_page.PNG, "", str(image["name"]), bits))
        split = "held-out" if run.scored["split"] == "validation" else "test"
        note = f"Among {run.scored['count']} {split} images, these need the {number} bits." if shown else ""
        pictures = html_page.side_by_side(shown, "pictures")
        return html_page.section(f"The {name} images", html_page.paragraph(note, "notes"), pictures)
    return ""
