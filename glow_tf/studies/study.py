"""A study file: the variants of one run that are compared, over several seeds. Pure Python: no TensorFlow."""

from __future__ import annotations

import configparser
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping

from glow_tf.config import all_settings
from glow_tf.errors import ConfigError

VARIANT = "variant "
TRAIN = "train"  # the program of a variant that names no other
OWN_KEYS = ("title", "equal_time", "program", "factors", "group")  # of a variant, beside its flags

Sections = dict[str, dict[str, str]]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
      name: unique within the study.
      title: the variant's name in tables and figures.
      flags: its differences, flag → value.
      equal_time: the variant that it is compared with at equal time, or empty.
      program: `train`, or the path of a Python script that takes the same flags and leaves the same files.
      factors: one per part; part k uses the tuned flag's value times factor k. Empty if all parts use the
        same value.
      group: variants of a group share a panel in the figure of the tuning.
      row: its line in the table of a grid: the title in the file, and its values of all flags of the grid
        but the last; empty without a grid.
    """

    name: str
    title: str
    flags: Mapping[str, str]
    equal_time: str = ""
    program: str = TRAIN
    factors: tuple[float, ...] = ()
    group: str = ""
    row: tuple[str, ...] = ()

    def scaled(self, value: str) -> str:
        """Returns a value of the tuned flag as the variant uses it: as it is, or times each factor."""
        return ",".join(f"{float(value) * factor:g}" for factor in self.factors) or value


@dataclasses.dataclass(frozen=True)
class Study:
    """The contents of a study file.

        [study]                    flagfile, seeds, baseline (a variant; the first by default), title
        [all]                      flags of every run
        [quick]                    flags that a quick run of the study adds to every run
        [tune]                     flags of the tuning runs. One flag has several values, separated by
                                   spaces: it is tuned. Each variant that does not set this flag gets the
                                   value with the lowest validation bpd in the last epoch
        [grid]                     flags with several values each, separated by spaces. Each variant is run
                                   with every combination, as NAME_VALUE_VALUE; the first flag changes
                                   slowest, the variant fastest
        [variant NAME]             flags of the variant; title; equal_time (another variant's name);
                                   program (`train`, or a Python script, relative to the current folder);
                                   factors (one per part), by which the tuned flag's value is multiplied;
                                   group (of the variants that share a panel in the figure of the tuning)

    Later sections win: flagfile, all, variant, grid, tune (in tuning runs; other runs get the value it
    chose), quick. Lines that start with # are comments.

    Attributes:
      name: of the file, without its ending.
      title: the question that the study asks.
      flagfile: the flags that all runs start from.
      seeds: each variant runs once per seed.
      baseline: name of the variant that the others are compared with; with a grid, in its first cell.
      all_flags, quick_flags: flags of the sections all and quick.
      tune_flags: flags of the tuning runs, without the tuned one.
      tuned: the flag that is tuned and its values, or None.
      variants: in the order of the file; with a grid, one for each of its cells.
      grid: flag → values, in the order of the file; empty without a grid.
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
    grid: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


def read_study(path: str | pathlib.Path) -> Study:
    """Reads a study file.

    Raises:
      ConfigError: the file does not exist, or holds something that a study cannot.
    """
    path = pathlib.Path(path)
    sections = _sections(path)
    own = sections.pop("study", {})
    variants = {
        name.removeprefix(VARIANT).strip(): sections.pop(name)
        for name in list(sections)
        if name.startswith(VARIANT)
    }
    groups = {name: sections.pop(name, {}) for name in ("all", "quick", "tune", "grid")}
    _check_names(path, own, groups, variants, sections)
    tuned = _tuned(path, groups["tune"])
    grid = {flag: tuple(values.split()) for flag, values in groups["grid"].items()}
    variants = _in_cells(path, variants, grid)
    return Study(
        name=path.stem,
        title=own.get("title", path.stem),
        flagfile=own.get("flagfile", "configs/base.cfg"),
        seeds=_seeds(path, own.get("seeds", "0")),
        baseline=_baseline(path, own, variants, grid),
        all_flags=groups["all"],
        quick_flags=groups["quick"],
        tune_flags={name: value for name, value in groups["tune"].items() if not tuned or name != tuned[0]},
        tuned=tuned,
        variants=tuple(_variant(path, name, flags, tuned, grid) for name, flags in variants.items()),
        grid=grid,
    )


def _sections(path: pathlib.Path) -> Sections:
    parser = configparser.ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None)
    parser.optionxform = str
    try:
        with path.open(encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"study must be a study file: {reason}. Received: study={str(path)!r}") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _check_names(
    path: pathlib.Path, own: Mapping[str, str], groups: Sections, variants: Sections, others: Sections
) -> None:
    """Refuses sections and keys that a study file does not have."""
    if others:
        _refuse(path, f"sections must be study, all, quick, tune, grid or variant NAME, not {sorted(others)}")
    if unknown := set(own) - {"flagfile", "seeds", "baseline", "title"}:
        _refuse(path, f"[study] must hold flagfile, seeds, baseline and title, not {sorted(unknown)}")
    if not variants:
        _refuse(path, "there must be a [variant NAME]")
    flag_names = {setting.name for setting in all_settings()} - {"workdir", "seed", "data_dir"}
    for name, flags in {**groups, **variants}.items():
        allowed = flag_names | (set(OWN_KEYS) if name in variants else {"seed"} if name == "tune" else set())
        if unknown := set(flags) - allowed:
            _refuse(path, f"[{name}] must hold flags of a run other than workdir, not {sorted(unknown)}")


def _in_cells(path: pathlib.Path, variants: Sections, grid: Mapping[str, tuple[str, ...]]) -> Sections:
    """Returns the variants' flags with a title and, if there is a grid, with those of each of its cells."""
    for flag, values in grid.items():
        if not values or len(set(values)) < len(values) or any("/" in value for value in values):
            _refuse(path, f"{flag} of [grid] must have different values without /, not {' '.join(values)!r}")
        if set_by := [name for name, flags in variants.items() if flag in flags]:
            _refuse(path, f"[grid] must hold flags that no variant sets, not {flag}, which {set_by} set")
    found: Sections = {}
    for values in itertools.product(*grid.values()):
        for name, flags in variants.items():
            cell = {"title": name.replace("_", " "), **flags, **dict(zip(grid, values, strict=True))}
            if "equal_time" in flags:
                cell["equal_time"] = "_".join((flags["equal_time"], *values))
            found["_".join((name, *values))] = cell
    return found


def _seeds(path: pathlib.Path, text: str) -> tuple[int, ...]:
    seeds = text.split()
    if not all(seed.isdigit() for seed in seeds) or len(set(seeds)) < len(seeds) or not seeds:
        _refuse(path, f"seeds must be different integers separated by spaces, not {text!r}")
    return tuple(int(seed) for seed in seeds)


def _baseline(
    path: pathlib.Path, own: Mapping[str, str], variants: Sections, grid: Mapping[str, tuple[str, ...]]
) -> str:
    baseline = next(iter(variants))
    if "baseline" in own:
        baseline = "_".join((own["baseline"], *(values[0] for values in grid.values())))
    for name in (baseline, *(v["equal_time"] for v in variants.values() if "equal_time" in v)):
        if name not in variants:
            _refuse(path, f"baseline and equal_time must name a variant, not {name!r}")
    return baseline


def _tuned(path: pathlib.Path, tune: Mapping[str, str]) -> tuple[str, tuple[str, ...]] | None:
    several = {name: tuple(value.split()) for name, value in tune.items() if len(value.split()) > 1}
    if tune and len(several) != 1:
        _refuse(path, f"[tune] must give one flag several values, not {sorted(several) or 'none'}")
    if tune and not tune.get("validation_examples", "0").strip("0"):
        _refuse(path, "[tune] must set validation_examples, by which the values are compared")
    return next(iter(several.items()), None)


def _variant(
    path: pathlib.Path,
    name: str,
    flags: Mapping[str, str],
    tuned: tuple[str, tuple[str, ...]] | None,
    grid: Mapping[str, tuple[str, ...]],
) -> Variant:
    title, cell = flags["title"], [flags[flag] for flag in grid]
    return Variant(
        name,
        ", ".join((title, *(f"{flag} {value}" for flag, value in zip(grid, cell, strict=True)))),
        {flag: value for flag, value in flags.items() if flag not in OWN_KEYS},
        flags.get("equal_time", ""),
        flags.get("program", TRAIN),
        _factors(path, name, flags, tuned is not None and tuned[0] not in flags),
        flags.get("group", ""),
        (title, *cell[:-1]) if cell else (),
    )


def _factors(path: pathlib.Path, name: str, flags: Mapping[str, str], tuned: bool) -> tuple[float, ...]:
    text = flags.get("factors", "")
    try:
        factors = tuple(float(factor) for factor in text.split())
    except ValueError:
        factors = (0.0,)
    if factors and (min(factors) <= 0 or not tuned):
        _refuse(
            path,
            f"factors of [{name}] must be positive numbers; they need a flag that [tune] tunes and the "
            f"variant does not set, not {text!r}",
        )
    return factors


def _refuse(path: pathlib.Path, expected: str) -> None:
    raise ConfigError(f"study file: {expected}. Received: study={str(path)!r}")
