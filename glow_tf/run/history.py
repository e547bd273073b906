"""history.csv: one row per epoch. Pure Python: no TensorFlow."""

import csv
import io
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from glow_tf.architectures import design_of
from glow_tf.config import ModelConfig
from glow_tf.core.text_files import read_text

# What differs from run to run and from machine to machine.
MEASURED_COLUMNS = ("seconds", "total_seconds", "eval_seconds", "images_per_second", "peak_memory_mb")
HISTORY_COLUMNS = ("epoch", "phase", "active_parts", *MEASURED_COLUMNS, "train_bpd")
# Words and numbers that every row has, whatever the release that wrote it. Other cells may be empty.
WORDS = ("phase", "active_parts")
NUMBERS = ("epoch", "seconds", "total_seconds", "test_bpd", "test_bpd_se")


def history_columns(num_parts: int, validation: bool) -> tuple[str, ...]:
    """Returns the columns of history.csv for a number of parts, with or without validation images."""
    evaluated = ["test_bpd", "test_bpd_se", *(["validation_bpd", "validation_bpd_se"] if validation else [])]
    local = [f"local_bpd_{k + 1}" for k in range(num_parts)]
    return (*HISTORY_COLUMNS, *local, *evaluated)


def score_cells(scores: Mapping[str, tuple[float, float]]) -> dict[str, str]:
    """Returns the cells of bits/dim and their standard errors, by `test` and `validation`."""
    found = {}
    for name, (bpd, error) in scores.items():
        found |= {f"{name}_bpd": f"{bpd:.6f}", f"{name}_bpd_se": f"{error:.6f}"}
    return found


def read_rows(path: pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a history.csv, if it exists; OSError if damaged."""
    if not path.exists():
        return []
    if not path.is_file():
        raise OSError(f"{path} must be a file. Remove what is there, or choose another workdir.")
    try:
        reader = csv.DictReader(io.StringIO(read_text(path)))
        found, rows = reader.fieldnames or (), list(reader)
        wrong = _what_is_wrong(found, rows)
    except (csv.Error, ValueError) as error:
        wrong = f"it is not a table ({error})"
    if wrong:
        raise OSError(
            f"{path} is damaged: {wrong}. Put an intact copy in its place, or choose another workdir."
        )
    return rows


def _what_is_wrong(found: Sequence[str], rows: Sequence[Mapping[str, str]]) -> str:
    """Says what is wrong with a table; empty if nothing is."""
    if missing := [name for name in (*NUMBERS, *WORDS) if name not in found]:
        return f"its first line must name {', '.join(missing)}, not {','.join(found)[:80]!r}"
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            return f"line {line} must have {len(found)} cells"
        for name in set(found) - set(WORDS):
            # A model that diverged has no finite score.
            needed = name in NUMBERS
            finite = needed and not name.startswith("test_bpd")
            if not (reads_as_number(row[name], finite=finite) or (row[name] == "" and not needed)):
                return f"line {line} must have a number under {name}, not {row[name][:80]!r}"
        if row["epoch"] != str(line - 1):
            return f"line {line} must be of epoch {line - 1}, not {row['epoch']}"
    return ""


def reads_as_number(text: str, finite: bool = False) -> bool:
    """Whether a text is a number, infinite or NaN included, as a training that diverges has them."""
    try:
        return math.isfinite(float(text)) or not finite
    except ValueError:
        return False


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Returns rows as the text of a history.csv: these columns, and after them what else rows have."""
    columns = [*dict.fromkeys((*columns, *itertools.chain(*rows)))]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def bits_of_levels(means: Mapping[str, float], model: ModelConfig) -> dict[int, float]:
    """Returns the term of the likelihood that each part of levels has, by part from 1, in bits/dim.

    `local_bpd_k` adds up the terms of the parts that ran, and a uniform density of what they leave. Empty for
    a Glow, whose parts have no terms of their own, and for real data, which have no uniform density.
    """
    found: dict[int, float] = {}
    design = design_of(model)
    if not design.separable or model.bits is None:
        return found
    before = float(model.bits)
    for k in range(1, design.num_parts + 1):
        if math.isfinite(so_far := means.get(f"local_bpd_{k}", math.nan)):
            found[k], before = so_far - before, so_far
    return found
