"""A study file: the variants of one run that are compared, over several seeds. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NoReturn

from glow_tf.config import all_settings
from glow_tf.core.errors import ConfigError
from lab.sections import Sections

VARIANT = "variant "
TRAIN = "train"  # the program of a variant that names no other
OWN_KEYS = ("title", "equal_time", "program", "group", "machine", "seeds")  # of a variant, beside its flags

MOST_CELLS = 10_000  # variants that a grid may make

Contents = dict[str, dict[str, str]]  # section → key → value


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of a comparison.

    Attributes:
      name: unique within the study.
      title: the variant's name in tables and figures.
      flags: its differences, flag → value.
      equal_time: the variant that it is compared with at equal time, or empty.
      program: `train`, or the path of a Python script with its own flags, which also takes those of `train`
        and leaves the same files.
      group: variants of a group share a panel in the figure of the tuning.
      row: its line in the table of a grid: the title in the file, and its values of all flags of the grid
        but the last; empty without a grid.
      machine: on which it ran, if that was another than that of the study's other variants: its time is then
        compared with no other's.
      seeds: those of the study that it is run with.
    """

    name: str
    title: str
    flags: Mapping[str, str]
    equal_time: str = ""
    program: str = TRAIN
    group: str = ""
    row: tuple[str, ...] = ()
    machine: str = ""
    seeds: tuple[int, ...] = ()


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
                                   program (`train`, or a Python script, relative to the lab's folder, with
                                   flags of its own);
                                   group (of the variants that share a panel in the figure of the tuning;
                                   without [tune], of runs of several lengths: see `comparison.lengths`);
                                   machine (a name, where it is not that of the other variants: times of
                                   different machines are not compared);
                                   seeds (some of the study's; all by default)

    Later sections win: flagfile, all, variant, grid, tune (in tuning runs; other runs get the value it
    chose), quick. Lines that start with # are comments. A run that diverges fails.

    Attributes:
      name: of the file, without its ending.
      title: the question that the study asks.
      flagfile: the flags that all runs start from.
      seeds: each variant runs once per seed, unless it names fewer.
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
    file = _File(pathlib.Path(path))
    sections = {name: dict(own) for name, own in file.contents.items()}
    own = sections.pop("study", {})
    variants = {
        name.removeprefix(VARIANT).strip(): sections.pop(name)
        for name in list(sections)
        if name.startswith(VARIANT)
    }
    groups = {name: sections.pop(name, {}) for name in ("all", "quick", "tune", "grid")}
    _check_names(file, own, groups, variants, sections)
    tuned = _tuned(file, groups["tune"])
    grid = {flag: tuple(values.split()) for flag, values in groups["grid"].items()}
    variants = _in_cells(file, variants, grid)
    seeds = _seeds(file, own.get("seeds", "0"))
    return Study(
        name=file.path.stem,
        title=own.get("title", file.path.stem),
        flagfile=own.get("flagfile", "configs/defaults.cfg"),
        seeds=seeds,
        baseline=_baseline(file, own, variants, grid),
        all_flags=groups["all"],
        quick_flags=groups["quick"],
        tune_flags={name: value for name, value in groups["tune"].items() if not tuned or name != tuned[0]},
        tuned=tuned,
        variants=tuple(_variant(file, name, flags, grid, seeds) for name, flags in variants.items()),
        grid=grid,
    )


class _File:
    """A study file, whose errors name it and the line.

    Args:
      path: of the file.

    Raises:
      ConfigError: it is another kind of file.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        try:
            self._sections = Sections(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"study must be a study file: {error}. Received: study={str(path)!r}") from None
        self.contents = self._sections.contents

    def refuse(self, expected: str, section: str, key: str = "") -> NoReturn:
        """Raises ConfigError that says what was expected at a section's line, or at that of a key in it."""
        line = self._sections.line_of(section, key)
        where = f", line {line}" if line else ""
        raise ConfigError(f"study file: {expected}. Received: study={str(self.path)!r}{where}")


def _check_names(
    file: _File, own: Mapping[str, str], groups: Contents, variants: Contents, others: Contents
) -> None:
    """Refuses sections and keys that a study file does not have."""
    for name in others:
        file.refuse(f"sections must be study, all, quick, tune, grid or variant NAME, not {name!r}", name)
    for key in sorted(set(own) - {"flagfile", "seeds", "baseline", "title"}):
        file.refuse(f"[study] must hold flagfile, seeds, baseline and title, not {key!r}", "study", key)
    if not variants:
        file.refuse("there must be a [variant NAME]", "")
    flag_names = {setting.name for setting in all_settings()} - {"workdir", "seed", "data_dir"}
    for name, flags in groups.items():
        for key in sorted(set(flags) - flag_names - ({"seed"} if name == "tune" else set())):
            file.refuse(f"[{name}] must hold flags of a run other than workdir, not {key!r}", name, key)
    for name, flags in variants.items():
        section = VARIANT + name
        if not name or "/" in name or name in (".", ".."):  # it names a folder
            file.refuse(f"a variant must have a name without /, not {name!r}", section)
        for key in sorted(set(flags) - flag_names - set(OWN_KEYS)):
            file.refuse(f"[{section}] must hold flags of a run other than workdir, not {key!r}", section, key)


def _in_cells(file: _File, variants: Contents, grid: Mapping[str, tuple[str, ...]]) -> Contents:
    """Returns the variants' flags with a title and, if there is a grid, with those of each of its cells."""
    for flag, values in grid.items():
        if not values or len(set(values)) < len(values) or any("/" in value for value in values):
            file.refuse(
                f"{flag} must have different values without /, not {' '.join(values)!r}", "grid", flag
            )
        if set_by := [name for name, flags in variants.items() if flag in flags]:
            file.refuse(
                f"[grid] must hold flags that no variant sets, not {flag}, which {set_by} set", "grid", flag
            )
    if (cells := math.prod(map(len, grid.values())) * len(variants)) > MOST_CELLS:
        file.refuse(f"[grid] must make {MOST_CELLS} variants at most, not {cells}", "grid")
    found: Contents = {}
    for values in itertools.product(*grid.values()):
        for name, flags in variants.items():
            cell = {"title": name.replace("_", " "), **flags, **dict(zip(grid, values, strict=True))}
            if "equal_time" in flags:
                cell["equal_time"] = "_".join((flags["equal_time"], *values))
            found["_".join((name, *values))] = cell
    return found


def _seeds(file: _File, text: str) -> tuple[int, ...]:
    seeds = text.split()
    numbers = all(seed.isascii() and seed.isdigit() and len(seed) < 20 for seed in seeds)
    if not numbers or len(set(seeds)) < len(seeds) or not seeds:
        file.refuse(
            f"seeds must be different integers separated by spaces, not {text[:80]!r}", "study", "seeds"
        )
    return tuple(int(seed) for seed in seeds)


def _baseline(
    file: _File, own: Mapping[str, str], variants: Contents, grid: Mapping[str, tuple[str, ...]]
) -> str:
    baseline = next(iter(variants))
    if "baseline" in own:
        baseline = "_".join((own["baseline"], *(values[0] for values in grid.values())))
    for name in (baseline, *(v["equal_time"] for v in variants.values() if "equal_time" in v)):
        if name not in variants:
            file.refuse(f"baseline and equal_time must name a variant, not {name!r}", "study", "baseline")
    return baseline


def _tuned(file: _File, tune: Mapping[str, str]) -> tuple[str, tuple[str, ...]] | None:
    several = {name: tuple(value.split()) for name, value in tune.items() if len(value.split()) > 1}
    if tune and len(several) != 1:
        file.refuse(f"[tune] must give one flag several values, not {sorted(several) or 'none'}", "tune")
    if tune and not tune.get("validation_examples", "0").strip("0"):
        file.refuse("[tune] must set validation_examples, by which the values are compared", "tune")
    return next(iter(several.items()), None)


def _variant(
    file: _File,
    name: str,
    flags: Mapping[str, str],
    grid: Mapping[str, tuple[str, ...]],
    seeds: Sequence[int],
) -> Variant:
    title, cell = flags["title"], [flags[flag] for flag in grid]
    own = flags.get("seeds", " ".join(map(str, seeds))).split()
    if not own or not set(own) <= set(map(str, seeds)):
        file.refuse(f"seeds must be some of {list(seeds)}, not {' '.join(own)!r}", VARIANT + name, "seeds")
    return Variant(
        name,
        ", ".join((title, *(f"{flag} {value}" for flag, value in zip(grid, cell, strict=True)))),
        {flag: value for flag, value in flags.items() if flag not in OWN_KEYS},
        flags.get("equal_time", ""),
        flags.get("program", TRAIN),
        flags.get("group", ""),
        (title, *cell[:-1]) if cell else (),
        flags.get("machine", ""),
        tuple(map(int, own)),
    )
