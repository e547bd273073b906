"""Presets of runs: the model of a finished one, or levels that were trained apart."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from glow_tf.architectures.schedule import phases_of
from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.durable_files import check_place
from glow_tf.core.errors import ConfigError
from glow_tf.data.loading import load as load_data
from glow_tf.model.glow import Glow
from glow_tf.presets import OWN
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checksums import check_same_data, fingerprints, read_data
from glow_tf.run.files.flags_file import command_of, read_config
from glow_tf.run.files.saved import load as load_glow
from glow_tf.run.files.workdir import BEST_EPOCH, is_finished, read_summary
from glow_tf.use.evaluation import evaluate, mean_and_error


def save_run_to_preset(
    workdir: pathlib.Path,
    folder: pathlib.Path,
    weights_dtype: str = "float16",
    data_dir: str | os.PathLike = "",
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes the model of a run as a preset, whose card has its score on the run's test images.

    It returns what the preset says about itself, and `run_test_bpd`, the score before weights were rounded.

    Args:
      workdir: of the run.
      folder: of the preset.
      weights_dtype: `float16` or `float32`. The score is that of the weights as they are kept.
      data_dir: TFDS's; empty is the run's.
      texts: more of what the card says: `title`, `limits`, `licence`, and `command` in place of the one that
        the run's settings make.

    Raises:
      ConfigError: the folder is no workdir, its run is not finished or trained one part of a new model alone,
        or the images are not those of the run.
      OSError: the run's summary is damaged, or the preset cannot be written.
    """
    workdir, folder = pathlib.Path(workdir), pathlib.Path(folder)
    check_place(folder, "preset", OWN)
    config = read_config(workdir)
    summary = _summary_of_finished(workdir, config)
    images = load_data(dataclasses.replace(config.data, data_dir=data_dir or config.data.data_dir))
    glow = load_glow(workdir)
    check_same_data(workdir / "checkpoints", glow.config, fingerprints(images))
    about: dict[str, Any] = {
        "data": f"{config.data.dataset}, {len(images.train)} training images",
        "seed": config.seed,
        "epochs": summary.get(BEST_EPOCH, summary["epochs"]),
        **({"top": images.top} if config.model.data_dtype == "uint8" else {}),
        "command": command_of(config),
        **(texts or {}),
    }
    with tempfile.TemporaryDirectory() as temporary:  # the score is on the card when the preset appears
        glow.save_to_preset(f"{temporary}/model", about, weights_dtype)
        kept = Glow.from_preset(f"{temporary}/model")
    found = evaluate(kept, images.test, seed=config.seed, condition=images.conditions.get("test"))
    bpd, error = mean_and_error(found.per_image)
    about |= {"test_bpd": round(bpd, 5), "test_examples": len(images.test)}
    about |= {"test_bpd_se": round(error, 5)} if len(images.test) > 1 else {}
    glow.save_to_preset(folder, about, weights_dtype)
    return {**about, "run_test_bpd": summary["test_bpd"]}


def _summary_of_finished(workdir: pathlib.Path, config: RunConfig) -> dict[str, Any]:
    """Returns the summary of a run; ConfigError unless it has made all its epochs, and a whole model."""
    if config.train.only_part and not config.init_from:
        raise ConfigError(
            "a preset has a whole model, and the run trained one part of it: `glow-tf assemble` puts parts "
            f"together. Received: workdir={str(workdir)!r}, with only_part={config.train.only_part}"
        )
    summary, epochs = read_summary(workdir), len(phases_of(config))
    if not is_finished(summary, config):
        raise ConfigError(
            f"the run must be finished: its command goes on. Received: workdir={str(workdir)!r}, with "
            f"{summary.get('epochs', 0)} of {epochs} epochs in its summary"
        )
    return summary


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
        _Run(path, read_config(path), checkpoint_files.finished(path / "checkpoints"), load_glow(path))
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
