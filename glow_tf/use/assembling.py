"""Levels that were trained apart, put together as one model."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.layout.schedule import phases_of
from glow_tf.model.glow import Glow
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checksums import read_data
from glow_tf.run.files.flags_file import read_config
from glow_tf.run.files.saved import load


class Assembled(NamedTuple):
    """A model of parts from several runs, what a preset of it says about itself, the workdir of each part."""

    glow: Glow
    about: dict[str, Any]
    sources: tuple[str, ...]


class _Run(NamedTuple):
    path: pathlib.Path
    config: RunConfig
    epochs: int  # finished when the model was read, or a moment before
    glow: Glow

    @property
    def model(self) -> ModelConfig:
        return dataclasses.replace(self.glow.config, seed=0)


def assemble(workdirs: Sequence[str | pathlib.Path]) -> Assembled:
    """Puts the parts of levels together, each from the run that trained it.

    A run with `only_part` gives its part. One without gives the parts that no other run has.

    Args:
      workdirs: of runs with the same settings of the model and the same data; finished or not.

    Raises:
      ConfigError: the runs differ in model or data, a part is missing or not trained yet, or two
        runs trained the same one.
      OSError: a file of a run is damaged or missing.
    """
    if not workdirs:
        raise ConfigError("assemble needs the workdirs of runs. Received: none")
    paths = [pathlib.Path(path) for path in workdirs]
    for path in paths:
        _check_copied(path)
    runs = [
        _Run(path, read_config(path), checkpoint_files.finished(path / "checkpoints"), load(path))
        for path in paths
    ]
    first = runs[0]
    if not first.model.design.separable:
        raise ConfigError(
            "only levels are put together: the parts of a Glow are made for one another. "
            f"Received: {first.path}, architecture={first.model.architecture!r}"
        )
    for run in runs[1:]:
        _check_same(first, run)
    of_parts = _run_of_each_part(runs, first.model.num_parts)
    glow = Glow(first.glow.config, name="glow")
    glow.dequantize.set_weights(first.glow.dequantize.get_weights())  # of the data, which are the same
    for k, (part, run) in enumerate(zip(glow.parts, of_parts, strict=True)):
        part.set_weights(run.glow.parts[k].get_weights())
    sources = tuple(str(run.path) for run in of_parts)
    about = {"data": first.config.data.dataset, "seed": first.config.seed, "parts_from": list(sources)}
    return Assembled(glow, about, sources)


def _check_copied(workdir: pathlib.Path) -> None:
    """Raises OSError if a workdir's newest checkpoint is not there, as where a copy has not ended."""
    folder = workdir / "checkpoints"
    newest = checkpoint_files.pointed_to(folder)
    missing = newest and newest not in checkpoint_files.complete(folder)
    if missing and newest == checkpoint_files.pointed_to(folder):  # else the run has saved again meanwhile
        found = sorted(path.name for path in folder.glob(f"ckpt-{newest}.*"))
        raise OSError(
            f"{workdir} is not whole: its checkpoint of epoch {newest} must have an index and data. Copy it "
            f"again. Received: {', '.join(found) or 'none of its files'}"
        )


def _check_same(first: _Run, run: _Run) -> None:
    """Raises ConfigError if a run has another model or other data than the first one."""
    pairs = [(name, value, getattr(run.model, name)) for name, value in vars(first.model).items()]
    found = read_data(run.path / "checkpoints")
    of_first = read_data(first.path / "checkpoints").items()
    pairs += [(name, value, found.get(name)) for name, value in of_first]
    for name, there, here in pairs:
        if here != there:
            raise ConfigError(
                f"the runs must have the same model and data: {name}={there!r} in {first.path}. "
                f"Received: {name}={here!r} in {run.path}"
            )


def _run_of_each_part(runs: Sequence[_Run], num_parts: int) -> list[_Run]:
    whole = [run for run in runs if not run.config.train.only_part]
    found = []
    for k in range(1, num_parts + 1):
        own = [run for run in runs if run.config.train.only_part == k] or whole
        if len(own) != 1:
            raise ConfigError(
                f"part {k} of {num_parts} must come from one run: with only_part={k}, or of all parts. "
                f"Received: {', '.join(str(run.path) for run in own) or 'none'}"
            )
        trained = any(k - 1 in phase.active for phase in phases_of(own[0].config)[: own[0].epochs])
        if not trained and not own[0].config.init_from:
            raise ConfigError(
                f"part {k} of {num_parts} must be trained, and its turn in the run has not come. Received: "
                f"{own[0].path}, {own[0].epochs} epochs of schedule={own[0].config.train.schedule!r}"
            )
        found += own
    return found
