"""A study: variants of one run, several seeds each, and the one table they yield."""

from __future__ import annotations

import configparser
import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence

from glow_tf.config import ConfigError, RunConfig, all_settings
from glow_tf.schedule import epoch_costs
from glow_tf.workdir import history_columns, refuse_other_configuration, write_atomically

VARIANT = "variant "
FAILURE = "failure.txt"
FINISHED, UNFINISHED = "finished", "unfinished"  # outcomes; any other is why a run failed
OWN_KEYS = ("title", "equal_time", "program", "factors")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
      name: unique within the study.
      title: what tables and figures call it.
      flags: its differences, flag → value.
      equal_time: the variant that it is to be compared with at equal time, or empty.
      program: in train/, what runs it.
      factors: of the tuned flag's value, one a part; empty if all parts have the same.
    """

    name: str
    title: str
    flags: Mapping[str, str]
    equal_time: str = ""
    program: str = "main.py"
    factors: tuple[float, ...] = ()

    def scaled(self, value: str) -> str:
        """Returns a value of the tuned flag as the variant uses it: once, or times each factor."""
        return ",".join(f"{float(value) * factor:g}" for factor in self.factors) or value


@dataclasses.dataclass(frozen=True)
class Study:
    """What a study file says.

        [study]                    flagfile, seeds, baseline (a variant; the first by default), title
        [all]                      flags of every run
        [quick]                    flags that a quick run of the study adds to every run
        [tune]                     flags of the tuning runs; a flag with several values, separated by
                                   spaces, is tuned: for each variant that does not set it, the value with
                                   the lowest validation bpd in the last epoch
        [variant NAME]             flags of the variant; title; equal_time (another variant's name); program;
                                   factors, one a part, by which the tuned flag's value is multiplied

    Later sections win: flagfile, all, variant, tune (in tuning runs; in the others its choice), quick.
    Lines that start with # are comments.

    Attributes:
      name: that of the file.
      title: what it asks.
      flagfile: what all runs start from.
      seeds: one run a variant and seed.
      baseline: name of the variant that the others are compared with.
      all_flags, quick_flags: see above.
      tune_flags: of the tuning runs, without what is tuned.
      tuned: the flag that is tuned and its values, or None.
      variants: in the order of the file.
    """

    name: str
    title: str
    flagfile: str
    seeds: tuple[int, ...]
    baseline: str
    all_flags: Mapping[str, str]
    quick_flags: Mapping[str, str]
    tune_flags: Mapping[str, str]
    tuned: tuple[str, tuple[str, ...]] | None
    variants: tuple[Variant, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      variant: which.
      label: what sets it apart within the variant: the seed, or the value that is tried.
      seed: its seed.
      value: of the tuned flag; empty if none is.
      flags: all of them but the flagfile, flag → value.
      config: what they make.
      kept: its rows of a table, where they stand for the workdir; see `keep`.
    """

    variant: Variant
    label: str
    seed: int
    value: str
    flags: Mapping[str, str]
    config: RunConfig
    kept: tuple[Mapping[str, str], ...] = ()

    @property
    def workdir(self) -> pathlib.Path:
        """Its folder."""
        return pathlib.Path(self.config.workdir)

    @property
    def epoch_costs(self) -> list[float]:
        """Predicted cost of every epoch; an end-to-end epoch of the same model is 1.

        Of images of 32×32×3, until a run has written down what its own are.
        """
        if self.kept:
            return [float(row["predicted_cost"]) for row in self.history()]
        model, saved = self.config.model, self.workdir / "checkpoints" / "model.json"
        if saved.exists():
            shape = json.loads(saved.read_text())["image_shape"]
            model = dataclasses.replace(model, image_shape=tuple(shape))
        return epoch_costs(model.plans(), self.config.phases(), self.config.train.cache_prefix)

    @property
    def cost(self) -> float:
        """Predicted cost of the whole, in multiply-adds of an image, comparable within a study."""
        macs = 3 * sum(plan.forward_macs for plan in self.config.model.plans())
        return macs * sum(self.epoch_costs) * max(self.config.data.train_examples, 1)

    @property
    def finished(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return bool(self.kept) or (self.workdir / "summary.json").exists() or bool(self.failure)

    @property
    def failure(self) -> str:
        """Why it stopped before its end; empty if it did not."""
        if self.kept:
            outcome = self.kept[0]["outcome"]
            return "" if outcome == FINISHED else outcome
        path = self.workdir / FAILURE
        return path.read_text().strip() if path.exists() else ""

    def check(self) -> None:
        """Raises ConfigError if what lies in its folder is a run of another configuration."""
        refuse_other_configuration(self.workdir, self.config)

    def fail(self, reason: str) -> None:
        """Records that it cannot be brought to its end."""
        write_atomically(self.workdir / FAILURE, (" ".join(reason.split()) + "\n").encode())

    def history(self) -> list[Mapping[str, str]]:
        """Rows of its history.csv so far."""
        if self.kept:
            return [row for row in self.kept if row.get("epoch")]
        path = self.workdir / "history.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))


def read_study(path: str | pathlib.Path) -> Study:
    """Reads a study file.

    Raises:
      ConfigError: it is not there, or says something that a study cannot.
    """
    path = pathlib.Path(path)
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str
    try:
        with path.open() as file:
            parser.read_file(file)
    except (OSError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"study must be a study file: {reason}. Received: study={str(path)!r}") from None
    sections = {name: dict(parser[name]) for name in parser.sections()}
    own = sections.pop("study", {})
    variants = {
        name.removeprefix(VARIANT).strip(): sections.pop(name)
        for name in list(sections)
        if name.startswith(VARIANT)
    }
    groups = {name: sections.pop(name, {}) for name in ("all", "quick", "tune")}
    if sections:
        _refuse(path, f"sections must be study, all, quick, tune or variant NAME, not {sorted(sections)}")
    if unknown := set(own) - {"flagfile", "seeds", "baseline", "title"}:
        _refuse(path, f"[study] must hold flagfile, seeds, baseline and title, not {sorted(unknown)}")
    if not variants:
        _refuse(path, "there must be a [variant NAME]")
    flag_names = {setting.name for setting in all_settings()} - {"workdir", "seed", "data_dir"}
    for name, flags in {**groups, **variants}.items():
        allowed = flag_names | (set(OWN_KEYS) if name in variants else {"seed"} if name == "tune" else set())
        if unknown := set(flags) - allowed:
            _refuse(path, f"[{name}] must hold flags of a run other than workdir, not {sorted(unknown)}")
    seeds = own.get("seeds", "0").split()
    if not all(seed.isdigit() for seed in seeds) or len(set(seeds)) < len(seeds) or not seeds:
        _refuse(path, f"seeds must be different integers separated by spaces, not {own.get('seeds')!r}")
    baseline = own.get("baseline", next(iter(variants)))
    for name in (baseline, *(v["equal_time"] for v in variants.values() if "equal_time" in v)):
        if name not in variants:
            _refuse(path, f"baseline and equal_time must name a variant, not {name!r}")
    several = {name: tuple(value.split()) for name, value in groups["tune"].items() if len(value.split()) > 1}
    if groups["tune"] and len(several) != 1:
        _refuse(path, f"[tune] must give one flag several values, not {sorted(several) or 'none'}")
    if groups["tune"] and not groups["tune"].get("validation_examples", "0").strip("0"):
        _refuse(path, "[tune] must set validation_examples, by which the values are compared")
    return Study(
        name=path.stem,
        title=own.get("title", path.stem),
        flagfile=own.get("flagfile", "configs/base.cfg"),
        seeds=tuple(int(seed) for seed in seeds),
        baseline=baseline,
        all_flags=groups["all"],
        quick_flags=groups["quick"],
        tune_flags={name: value for name, value in groups["tune"].items() if name not in several},
        tuned=next(iter(several.items()), None),
        variants=tuple(
            Variant(
                name,
                flags.get("title", name.replace("_", " ")),
                {flag: value for flag, value in flags.items() if flag not in OWN_KEYS},
                flags.get("equal_time", ""),
                flags.get("program", "main.py"),
                _factors(path, name, flags, bool(set(several) - set(flags))),
            )
            for name, flags in variants.items()
        ),
    )


def tuning_runs(
    study: Study, folder: pathlib.Path, configure: Callable[[Mapping[str, str]], RunConfig]
) -> list[Run]:
    """Returns the runs that choose each variant's value of the tuned flag; none if none is tuned.

    Args:
      study: the study.
      folder: their workdirs lie under it.
      configure: makes a run's configuration of its flags.
    """
    if study.tuned is None:
        return []
    flag, values = study.tuned
    runs = []
    for variant in (v for v in study.variants if flag not in v.flags):
        for value in values:
            label = f"{flag}_{value}"
            flags = {"seed": "0", **study.all_flags, **variant.flags, **study.tune_flags}
            flags[flag] = variant.scaled(value)
            flags |= {
                "workdir": str(folder / "tuning" / variant.name / label),
                "tensorboard": "false",
                "sample_every": "0",
                "export": "false",
            }
            runs.append(Run(variant, label, int(flags["seed"]), value, flags, configure(flags)))
    return runs


def tuned_values(runs: Sequence[Run]) -> dict[str, str]:
    """Returns each variant's best value, by the validation bpd of the last epoch.

    Raises:
      ConfigError: not one run of a variant came to its end.
    """
    best: dict[str, tuple[float, str]] = {}
    for run in runs:
        bpd = math.inf if run.failure else float(run.history()[-1]["validation_bpd"])
        if math.isfinite(bpd):
            best[run.variant.name] = min(best.get(run.variant.name, (math.inf, "")), (bpd, run.value))
    if missing := {run.variant.name for run in runs} - set(best):
        raise ConfigError(
            f"[tune] must hold a value with which every variant trains. Received: all of those of "
            f"{', '.join(sorted(missing))} failed"
        )
    return {variant: value for variant, (_, value) in best.items()}


def runs_of(
    study: Study,
    folder: pathlib.Path,
    configure: Callable[[Mapping[str, str]], RunConfig],
    values: Mapping[str, str],
    quick: bool = False,
) -> list[Run]:
    """Returns the runs of a study, all variants of a seed before the next seed.

    Args:
      study: the study.
      folder: their workdirs lie under it.
      configure: makes a run's configuration of its flags.
      values: the tuned flag's value for each variant, where it was tuned.
      quick: one seed, with the flags of the section quick.
    """
    runs = []
    for seed in study.seeds[:1] if quick else study.seeds:
        for variant in study.variants:
            flags = {**study.all_flags, **variant.flags}
            if variant.name in values:
                flags[study.tuned[0]] = variant.scaled(values[variant.name])
            flags |= study.quick_flags if quick else {}
            flags |= {"seed": str(seed), "workdir": str(folder / variant.name / f"seed_{seed}")}
            value = flags.get(study.tuned[0], "") if study.tuned else ""
            runs.append(Run(variant, f"seed {seed}", seed, value, flags, configure(flags)))
    return runs


def table_of(study: Study, runs: Sequence[Run]) -> str:
    """Returns the study's CSV: a row a run and epoch.

    Columns: `variant`, `seed`, the tuned flag if there is one, `outcome` (`finished`, `unfinished`, or why it
    failed), `predicted_cost` of the epoch (an end-to-end epoch of the same model is 1), and those of
    history.csv.
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
    num_parts = max((len(run.config.model.flow_step_counts) for run in runs), default=1)
    ordered = history_columns(num_parts, validation=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [*own, *(c for c in ordered if c in found)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def keep(runs: Sequence[Run], table: pathlib.Path) -> list[Run]:
    """Returns the runs, those without a workdir that are finished in a table with their rows of it.

    So a study goes on, or gets more seeds or variants, on a machine that has only its CSV.

    Args:
      runs: some.
      table: a file as `table_of` writes it; need not be there.

    Raises:
      ConfigError: it is another file.
    """
    if not table.exists():
        return list(runs)
    rows: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if "outcome" not in columns:
            raise ConfigError(f"a study's table must have the column outcome. Received: {str(table)!r}")
        own = columns.index("outcome")
        for row in reader:
            if row["outcome"] != UNFINISHED:
                rows.setdefault(tuple(row.values())[:own], []).append(row)

    def key(run: Run) -> tuple[str, ...]:
        return (run.variant.name, str(run.seed), run.value)[:own]

    def stands_for(run: Run) -> tuple[Mapping[str, str], ...]:
        found = tuple(rows.get(key(run), ()))
        whole = found and (found[0]["outcome"] != FINISHED or len(found) == len(run.epoch_costs))
        return found if whole else ()

    return [run if run.workdir.exists() else dataclasses.replace(run, kept=stands_for(run)) for run in runs]


def _factors(path: pathlib.Path, name: str, flags: Mapping[str, str], tuned: bool) -> tuple[float, ...]:
    text = flags.get("factors", "")
    try:
        factors = tuple(float(factor) for factor in text.split())
    except ValueError:
        factors = (0.0,)
    if factors and (min(factors) <= 0 or not tuned):
        _refuse(
            path,
            f"factors of [{name}] must be positive numbers, of a flag that [tune] tunes and the variant does "
            f"not set, not {text!r}",
        )
    return factors


def _refuse(path: pathlib.Path, expected: str) -> None:
    raise ConfigError(f"study file: {expected}. Received: study={str(path)!r}")
