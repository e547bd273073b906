"""What is made of runs: a trainer that goes on, a preset, one model of levels that were trained apart."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from glow_tf import store
from glow_tf.architectures import design_of
from glow_tf.architectures.schedule import end_to_end, phases_of
from glow_tf.config import ModelConfig, RunConfig
from glow_tf.core.durable_files import check_place
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import check_path
from glow_tf.data.loading import load as load_data
from glow_tf.model.flow import Flow
from glow_tf.run.checkpoints import state_of
from glow_tf.run.checksums import check_same_data, fingerprints, read_data
from glow_tf.run.context import compiled_trainer, steps_per_epoch
from glow_tf.run.flags_file import command_of, read_config
from glow_tf.run.workdir import BEST_EPOCH, is_finished, read_summary
from glow_tf.store import checkpoints
from glow_tf.store.files import OWN
from glow_tf.training.trainer import PartsTrainer
from glow_tf.use.evaluation import evaluate, mean_and_error


def load_trainer(workdir: str | os.PathLike, which: str = "last") -> PartsTrainer:
    """Loads a trainer, with the state of its optimizers and its phases; `load` loads a model alone.

        trainer = glow_tf.load_trainer("runs/mine")
        trainer.evaluate(test_images, return_dict=True)  # the last epoch's test_bpd
        trainer.fit(images, initial_epoch=trainer.finished_epochs, epochs=trainer.finished_epochs + 5)

    It is in the phase of the epoch that follows, end to end after the run's schedule. There it needs a run
    with `rate_schedule="constant"`: a cosine is over with the schedule, and `fit` then raises ConfigError.
    With the run's training images and batch size, `fit` takes the steps that the run would have taken, where
    the run neither augments images nor sets `cache_prefix`. The workdir stays as it is. Of a run with `ema`,
    the trainer has the weights; `with trainer.averages.in_place():` has what the run evaluated, the averages.

    Args:
      workdir: of a run, or a `.keras` file that `PartsTrainer.save` wrote.
      which: the `last` checkpoint of a workdir, or the `best`, if there were validation images.

    Returns:
      The trainer, compiled, in the current distribution strategy, on one device otherwise. Its attribute
      `finished_epochs` is the number of epochs that the checkpoint has finished; a `.keras` file has 0.

    Raises:
      FileNotFoundError: there is no such folder or checkpoint.
      OSError: the checkpoint is damaged.
      ValueError: the folder is not the workdir of a run, or the file has no trainer.
    """
    check_path("workdir", workdir)
    workdir = pathlib.Path(workdir)
    if not workdir.exists():
        raise FileNotFoundError(f"There is no such folder. Received: workdir={str(workdir)!r}")
    if not workdir.is_dir():
        found = store.load_keras_file(workdir)
        if not isinstance(found, PartsTrainer):
            raise ConfigError(
                "load_trainer needs the workdir of a run, or a file that PartsTrainer.save wrote; "
                f"glow_tf.load loads what Glow.save wrote. Received: {str(workdir)!r}"
            )
        return found
    path = checkpoints.path_of(workdir, which)
    config = read_config(workdir)
    images = int(read_data(workdir / "checkpoints")["train images"].split()[0])
    flow = Flow(store.settings_of(workdir), name="glow")
    trainer = compiled_trainer(config, flow, phases_of(config), steps_per_epoch(config, images))
    epochs = tf.Variable(0, dtype=tf.int64)
    checkpoints.read({**state_of(trainer), "epochs": epochs}, path, partly=True)
    trainer.averages.swap()  # a checkpoint's model has the averages
    trainer.finished_epochs = int(epochs)
    phases = (*trainer.phases, end_to_end(len(trainer.flow.parts)))
    trainer.set_phase(phases[min(trainer.finished_epochs, len(phases) - 1)])
    return trainer


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
    flow = store.load(workdir)
    check_same_data(workdir / "checkpoints", flow.config, fingerprints(images))
    about: dict[str, Any] = {
        "data": f"{config.data.dataset}, {len(images.train)} training images",
        "seed": config.seed,
        "epochs": summary.get(BEST_EPOCH, summary["epochs"]),
        **({"top": images.top} if config.model.data_dtype == "uint8" else {}),
        "command": command_of(config),
        **(texts or {}),
    }
    with tempfile.TemporaryDirectory() as temporary:  # the score is on the card when the preset appears
        store.save(flow, f"{temporary}/model", about, weights_dtype)
        kept = store.load(f"{temporary}/model")
    found = evaluate(kept, images.test, seed=config.seed, condition=images.conditions.get("test"))
    bpd, error = mean_and_error(found.per_image)
    about |= {"test_bpd": round(bpd, 5), "test_examples": len(images.test)}
    about |= {"test_bpd_se": round(error, 5)} if len(images.test) > 1 else {}
    store.save(flow, folder, about, weights_dtype)
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

    flow: Flow
    about: dict[str, Any]
    sources: tuple[str, ...]


class _Run(NamedTuple):
    path: pathlib.Path
    config: RunConfig
    epochs: int  # finished when the model was read, or a moment before
    flow: Flow

    @property
    def model(self) -> ModelConfig:
        return dataclasses.replace(self.flow.config, seed=0)


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
        _Run(path, read_config(path), checkpoints.finished(path / "checkpoints"), store.load(path))
        for path in paths
    ]
    first = runs[0]
    design = design_of(first.model)
    if not design.separable:
        raise ConfigError(
            "only levels are put together: the parts of a Glow are made for one another. "
            f"Received: {first.path}, architecture={first.model.architecture!r}"
        )
    for run in runs[1:]:
        _check_same(first, run)
    of_parts = _run_of_each_part(runs, design.num_parts)
    flow = Flow(first.flow.config, name="glow")
    flow.dequantize.set_weights(first.flow.dequantize.get_weights())  # of the data, which are the same
    for k, (part, run) in enumerate(zip(flow.parts, of_parts, strict=True)):
        part.set_weights(run.flow.parts[k].get_weights())
    sources = tuple(str(run.path) for run in of_parts)
    about = {"data": first.config.data.dataset, "seed": first.config.seed, "parts_from": list(sources)}
    return Assembled(flow, about, sources)


def _check_copied(workdir: pathlib.Path) -> None:
    """Raises OSError if a workdir's newest checkpoint is not there, as where a copy has not ended."""
    folder = workdir / "checkpoints"
    newest = checkpoints.pointed_to(folder)
    missing = newest and newest not in checkpoints.complete(folder)
    if missing and newest == checkpoints.pointed_to(folder):  # else the run has saved again meanwhile
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
