"""The CSV of a benchmark: rows are added as they are measured, and several calls may share a file."""

import contextlib
import csv
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from glow_tf.run.history import MEASURED_COLUMNS

Row = Sequence[Any] | Mapping[str, Any]


def read(path: str | pathlib.Path) -> list[dict[str, str]]:
    """Returns the rows of a CSV."""
    with pathlib.Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def measured(path: str | pathlib.Path, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """Returns what a CSV's rows have in these columns; nothing if there is no such file."""
    rows = read(path) if pathlib.Path(path).exists() else ()
    return {tuple(row[name] for name in columns) for row in rows}


@contextlib.contextmanager
def added_to(path: str | pathlib.Path, columns: Sequence[str]) -> Iterator[Callable[[Row], None]]:
    """Yields a function that writes a row at the end of a CSV, at once; no row that is there is lost.

    Args:
      path: the file; made with a first line of the columns if it does not exist or is empty.
      columns: names of the columns. A row gives values in this order, or by name; names may be missing.

    Raises:
      ValueError: the file has another first line.
    """
    with pathlib.Path(path).open("a+", newline="") as file:
        file.seek(0)
        first = next(csv.reader(file), None)
        if first not in (None, list(columns)):
            raise ValueError(
                f"csv must be a file with the columns {','.join(columns)}, or a new one. "
                f"Received: {str(path)!r} with {','.join(first)}"
            )
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if first is None:
            writer.writeheader()

        def add(row: Row) -> None:
            writer.writerow(row if isinstance(row, Mapping) else dict(zip(columns, row, strict=True)))
            file.flush()

        yield add


def reproducible(row: Mapping[str, str]) -> dict[str, str]:
    """Returns what a row of history.csv says that follows from the seed: all but times and memory."""
    return {name: value for name, value in row.items() if name not in MEASURED_COLUMNS}
