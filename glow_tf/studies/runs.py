"""The runs of a study, what became of each, and the table of them all. Pure Python: no TensorFlow."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

from glow_tf.config import RunConfig
from glow_tf.durable_files import write_atomically
from glow_tf.errors import ConfigError
from glow_tf.partition import part_layouts
from glow_tf.presets import read_model_file
from glow_tf.run.history import WORDS, reads_as_number
from glow_tf.run.workdir import history_columns, refuse_other_configuration
from glow_tf.schedule import epoch_costs, phases_of
from glow_tf.studies.study import Study, Variant
from glow_tf.text_files import read_text

FAILURE = "failure.txt"
FINISHED, UNFINISHED = "finished", "unfinished"  # outcomes; any other is the reason why a run failed

NEEDED = ("predicted_cost", "test_bpd", "total_seconds")  # numbers of every epoch in a table

# Otherwise a run that diverges would go on with half the rate, and count as one with the rate compared.
AS_SET = {"on_divergence": "stop"}

Configure = Callable[[Mapping[str, str]], RunConfig]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      variant: the variant that it is a run of.
      label: tells it from the variant's other runs: the seed, or the value that is tried.
      seed: its seed.
      value: of the tuned flag; empty if none is tuned.
      flags: all flags but the flagfile, flag → value.
      config: the configuration that the flags make.
      saved_rows: its rows of an earlier table, if they stand for its workdir; see `with_saved_rows`.
    """

    variant: Variant
    label: str
    seed: int
    value: str
    flags: Mapping[str, str]
    config: RunConfig
    saved_rows: tuple[Mapping[str, str], ...] = ()

    @property
    def workdir(self) -> pathlib.Path:
        """Its folder."""
        return pathlib.Path(self.config.workdir)

    @property
    def epoch_costs(self) -> list[float]:
        """Predicted cost of every epoch; an end-to-end epoch of the same model is 1.

        Assumes images of 32×32×3 until the run has written down the shape of its own.
        """
        if self.saved_rows:
            return [float(row["predicted_cost"]) for row in self.history()]
        model, saved = self.config.model, self.workdir / "checkpoints" / "model.json"
        if saved.exists():
            model = dataclasses.replace(model, image_shape=read_model_file(saved).image_shape)
        return epoch_costs(part_layouts(model), phases_of(self.config), self.config.train.cache_prefix)

    @property
    def cost(self) -> float:
        """Predicted cost of the whole run in multiply-adds; comparable within a study."""
        macs = 3 * sum(layout.forward_macs for layout in part_layouts(self.config.model))
        return macs * sum(self.epoch_costs) * max(self.config.data.train_examples, 1)

    @property
    def finished(self) -> bool:
        """Whether the run is over, with or without success."""
        return bool(self.saved_rows) or (self.workdir / "summary.json").exists() or bool(self.failure)

    @property
    def failure(self) -> str:
        """Why the run failed; empty if it did not."""
        if self.saved_rows:
            outcome = self.saved_rows[0]["outcome"]
            return "" if outcome == FINISHED else outcome
        path = self.workdir / FAILURE
        return path.read_text().strip() if path.exists() else ""

    def check(self) -> None:
        """Raises ConfigError if its folder holds a run of another configuration."""
        refuse_other_configuration(self.workdir, self.config)

    def fail(self, reason: str) -> None:
        """Records that the run failed and cannot be resumed."""
        write_atomically(self.workdir / FAILURE, (" ".join(reason.split()) + "\n").encode())

    def history(self) -> list[Mapping[str, str]]:
        """Returns the rows of its history.csv so far; OSError if the file is damaged."""
        if self.saved_rows:
            return [row for row in self.saved_rows if row.get("epoch")]
        path = self.workdir / "history.csv"
        try:
            return list(csv.DictReader(io.StringIO(read_text(path)))) if path.exists() else []
        except (ValueError, csv.Error) as error:
            raise OSError(f"{path} is damaged: {error}.") from None


def tuning_runs(study: Study, folder: pathlib.Path, configure: Configure) -> list[Run]:
    """Returns the runs that choose each variant's value of the tuned flag; none if no flag is tuned.

    Args:
      study: the study.
      folder: the workdirs lie under it.
      configure: makes a configuration from a run's flags.
    """
    if study.tuned is None:
        return []
    flag, values = study.tuned
    runs = []
    for variant in (v for v in study.variants if flag not in v.flags):
        for value in values:
            label = f"{flag}_{value}"
            flags = {"seed": "0", **AS_SET, **study.all_flags, **variant.flags, **study.tune_flags}
            flags[flag] = variant.scaled(value)
            flags |= {
                "workdir": str(folder / "tuning" / variant.name / label),
                "tensorboard": "false",
                "sample_every": "0",
                "export": "false",
            }
            config = configure(flags)
            runs.append(Run(variant, label, config.seed, value, flags, config))
    return runs


def tuned_values(runs: Sequence[Run]) -> dict[str, str]:
    """Returns each variant's best value, by the validation bpd of the last epoch.

    Raises:
      ConfigError: all tuning runs of a variant failed.
    """
    best: dict[str, tuple[float, str]] = {}
    for run in runs:
        last = [] if run.failure else run.history()[-1:]
        bpd = float(last[0].get("validation_bpd") or "inf") if last else math.inf
        if math.isfinite(bpd):
            best[run.variant.name] = min(best.get(run.variant.name, (math.inf, "")), (bpd, run.value))
    if missing := {run.variant.name for run in runs} - set(best):
        raise ConfigError(
            f"[tune] must hold a value with which every variant trains. Received: all runs of "
            f"{', '.join(sorted(missing))} failed"
        )
    return {variant: value for variant, (_, value) in best.items()}


def runs_of(
    study: Study,
    folder: pathlib.Path,
    configure: Configure,
    values: Mapping[str, str],
    quick: bool = False,
) -> list[Run]:
    """Returns the runs of a study; all variants of a seed come before the next seed.

    Args:
      study: the study.
      folder: the workdirs lie under it.
      configure: makes a configuration from a run's flags.
      values: the tuned flag's value for each variant that was tuned.
      quick: one seed only, with the flags of the section quick.
    """
    runs = []
    for seed in study.seeds[:1] if quick else study.seeds:
        for variant in study.variants:
            flags = {**AS_SET, **study.all_flags, **variant.flags}
            if variant.name in values:
                flags[study.tuned[0]] = variant.scaled(values[variant.name])
            flags |= study.quick_flags if quick else {}
            flags |= {"seed": str(seed), "workdir": str(folder / variant.name / f"seed_{seed}")}
            value = flags.get(study.tuned[0], "") if study.tuned else ""
            runs.append(Run(variant, f"seed {seed}", seed, value, flags, configure(flags)))
    return runs


def table_of(study: Study, runs: Sequence[Run]) -> str:
    """Returns the study's CSV: one row per run and epoch.

    Columns: `variant`, `seed`, the tuned flag if there is one, `outcome` (`finished`, `unfinished`, or the
    reason why the run failed), `predicted_cost` of the epoch (an end-to-end epoch of the same model is 1),
    and the columns of history.csv.
    """
    tuned = [study.tuned[0]] if study.tuned else []
    own = ["variant", "seed", *tuned, "outcome", "predicted_cost"]
    rows, found = [], set()
    for run in runs:
        outcome = run.failure or (FINISHED if run.finished else UNFINISHED)
        first = dict(
            zip(own, [run.variant.name, run.seed, *([run.value] if tuned else []), outcome], strict=False)
        )
        history = run.history()
        rows += [
            {**row, **first, "predicted_cost": f"{cost:.6f}"}
            for cost, row in zip(run.epoch_costs, history, strict=False)
        ] or [first]
        found |= set().union(*history)
    num_parts = max((run.config.model.num_parts for run in runs), default=1)
    ordered = history_columns(num_parts, validation=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*own, *(c for c in ordered if c in found)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_table(path: str | pathlib.Path) -> list[Mapping[str, str]]:
    """Reads a study's CSV; see `table_of`.

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
    for line, row in enumerate(rows, start=2):
        if wrong := _what_is_wrong(row):
            raise ConfigError(f"csv must be a study's table: line {line} {wrong}. Received: {str(path)!r}")
    return rows


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


def with_saved_rows(runs: Sequence[Run], table: pathlib.Path) -> list[Run]:
    """Attaches the saved rows to runs that have no workdir and are over in a table.

    So a study continues, or gets more seeds or variants, on a machine that has only its CSV.

    Args:
      runs: runs of a study.
      table: a file as `table_of` writes it; it may be missing.

    Raises:
      ConfigError: the file is not a study's table.
    """
    if not table.exists():
        return list(runs)
    rows: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    own = 0
    for row in read_table(table):
        own = list(row).index("outcome")
        if row["outcome"] != UNFINISHED:
            rows.setdefault(tuple(row.values())[:own], []).append(row)

    def saved(run: Run) -> tuple[Mapping[str, str], ...]:
        found = tuple(rows.get((run.variant.name, str(run.seed), run.value)[:own], ()))
        complete = found and (found[0]["outcome"] != FINISHED or len(found) == len(run.epoch_costs))
        return found if complete else ()

    return [run if run.workdir.exists() else dataclasses.replace(run, saved_rows=saved(run)) for run in runs]
