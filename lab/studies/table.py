"""The table of a study's runs: a CSV with a row for each run and epoch. Pure Python: no TensorFlow."""

from __future__ import annotations

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence

from glow_tf.architectures import design_of
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_text
from glow_tf.run.history import WORDS, reads_as_number
from glow_tf.run.workdir import history_columns
from lab.studies.runs import FINISHED, UNFINISHED, Run, SavedRun
from lab.studies.study import TRAIN, Study

NEEDED = ("predicted_cost", "test_bpd", "total_seconds")  # numbers of every epoch

MOVE = "Move it away, or give another --output"

Key = tuple[str, ...]


def table_of(study: Study, runs: Sequence[Run]) -> str:
    """Returns the study's CSV: one row per run and epoch.

    Columns: `variant`, `seed`, the tuned flag if there is one, `settings` (see `Run.fingerprint`), `device`,
    `outcome`
    (`finished`, `unfinished`, or the reason why the run failed), `predicted_cost` of the epoch (an end-to-end
    epoch of the same model is 1), and the columns of history.csv.
    """
    rows, found = [], set()
    for run in runs:
        outcome = run.failure or (FINISHED if run.finished else UNFINISHED)
        first = {**_key(study, run), "settings": run.fingerprint, "device": run.device, "outcome": outcome}
        history = run.history()
        rows += [
            {**row, **first, "predicted_cost": f"{cost:.6f}"}
            for cost, row in zip(run.epoch_costs, history, strict=False)
        ] or [first]
        found |= set().union(*history)
    num_parts = max((design_of(run.config.model).num_parts for run in runs), default=1)
    columns = [c for c in history_columns(num_parts, validation=True) if c in found]
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        [*_key_columns(study), "settings", "device", "outcome", "predicted_cost", *columns],
        lineterminator="\n",
        extrasaction="ignore",  # empty columns of saved rows: of variants with more parts, since removed
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_table(path: str | pathlib.Path) -> list[Mapping[str, str]]:
    """Reads a study's CSV; see `table_of`. Older tables have no column `settings` or `device`.

    Raises:
      ConfigError: the file does not exist, or is not a study's table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path))))
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"csv must be a study's table: {reason}. Received: {str(path)!r}") from None
    if not rows or not {"variant", "seed", "outcome", "predicted_cost"} <= set(rows[0]):
        raise ConfigError(
            f"csv must have the columns variant, seed, outcome and predicted_cost. Received: {str(path)!r}"
        )
    epochs: dict[Key, int] = {}
    for line, row in enumerate(rows, start=2):
        if wrong := _what_is_wrong(row) or _what_is_wrong_with_the_epoch(row, epochs):
            raise ConfigError(f"csv must be a study's table: line {line} {wrong}. Received: {str(path)!r}")
    return rows


def with_saved_rows(study: Study, runs: Sequence[Run], path: pathlib.Path) -> list[Run]:
    """Attaches the saved rows to runs that have no workdir and are over in a table.

    So a study continues, or gets more seeds or variants, on a machine that has only its CSV.

    Args:
      study: the study.
      runs: its runs.
      path: a file as `table_of` writes it; it may be missing.

    Raises:
      ConfigError: the file is not the study's table, or holds results that writing it anew would lose.
    """
    if not path.exists():
        return list(runs)
    rows: dict[Key, list[Mapping[str, str]]] = {}
    for row in read_table(path):
        if (found := list(row)[: len(_key_columns(study))]) != _key_columns(study):
            raise ConfigError(
                f"{path} must be a table of study {study.name}, whose first columns are "
                f"{', '.join(_key_columns(study))}. {MOVE}. Received: {', '.join(found)}"
            )
        if row["outcome"] != UNFINISHED:
            rows.setdefault(tuple(row[name] for name in found), []).append(row)
    attached = []
    for run in runs:
        saved = tuple(rows.pop(tuple(_key(study, run).values()), ()))
        if not saved or run.workdir.exists():
            attached.append(run)
            continue
        if wrong := _what_differs(run, saved):
            raise ConfigError(
                f"{path} must be of study {study.name} as it is now. {MOVE}. Received: {run.variant.name}, "
                f"{run.label}, {wrong}"
            )
        attached.append(SavedRun(**vars(run), rows=saved))
    if rows:
        names = ["/".join(key) for key in rows]
        raise ConfigError(
            f"{path} must hold no other runs than study {study.name} has now: their rows would be lost. "
            f"{MOVE}. Received: {len(names)} more, {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        )
    return attached


def _key_columns(study: Study) -> list[str]:
    """Returns the columns that tell a run from the others."""
    return ["variant", "seed", *([study.tuned[0]] if study.tuned else [])]


def _key(study: Study, run: Run) -> dict[str, str]:
    values = (run.variant.name, str(run.seed), run.value)
    return dict(zip(_key_columns(study), values, strict=False))


def _what_differs(run: Run, saved: Sequence[Mapping[str, str]]) -> str:
    """Says in what a run differs from its saved rows; empty if it does not, as far as the rows tell."""
    if before := saved[0].get("settings"):
        return "" if before == run.fingerprint else f"with settings={before}, not {run.fingerprint}"
    if saved[0]["outcome"] != FINISHED:
        return ""
    if len(saved) != len(run.epoch_costs):
        return f"with {len(saved)} epochs, not {len(run.epoch_costs)}"
    if run.variant.program != TRAIN:
        return ""
    for row, phase in zip(saved, run.phases, strict=True):
        now = {"phase": phase.kind, "active_parts": phase.active_parts}
        if differing := [name for name in now if row.get(name, now[name]) != now[name]]:
            name = differing[0]
            return f"with {name} {row[name]!r} in epoch {row['epoch']}, not {now[name]!r}"
    return ""


def _what_is_wrong(row: Mapping[str, str]) -> str:
    """Says what is wrong with a row of a table; empty if nothing is."""
    if None in row or None in row.values():
        return "must have as many cells as the first line"
    if not (row["seed"].isascii() and row["seed"].isdigit() and len(row["seed"]) < 20):
        return f"must have an integer under seed, not {row['seed'][:80]!r}"
    if row["outcome"] == FINISHED and not row.get("epoch"):
        return "is of a finished run and must have an epoch"
    if missing := set(NEEDED) - set(row) if row.get("epoch") else ():
        return f"must have numbers under {', '.join(sorted(missing))}"
    names = list(row)
    for name in names[names.index("outcome") + 1 :]:
        needed = name in NEEDED and row.get("epoch")
        if name not in WORDS and not (reads_as_number(row[name]) if needed or row[name] else True):
            return f"must have a number under {name}, not {row[name][:80]!r}"
    return ""


def _what_is_wrong_with_the_epoch(row: Mapping[str, str], epochs: dict[Key, int]) -> str:
    """Says if a row is out of order; notes its epoch, run → last epoch, if it is not."""
    names = list(row)
    run = tuple(row[name] for name in names[: names.index("outcome")])
    before = epochs.get(run, 0)
    epochs[run] = before + 1
    if row.get("epoch", "") in ("", str(before + 1)) and (row.get("epoch") or not before):
        return ""
    return f"must have epoch {before + 1} of its run, not {row.get('epoch') or 'none'}"
