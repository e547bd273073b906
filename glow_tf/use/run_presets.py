"""The model of a finished run, kept as a preset."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from glow_tf.config import RunConfig
from glow_tf.core.durable_files import check_place
from glow_tf.core.errors import ConfigError
from glow_tf.data.loading import ImageData
from glow_tf.data.loading import load as load_data
from glow_tf.layout.schedule import phases_of
from glow_tf.model.glow import Glow
from glow_tf.presets import OWN
from glow_tf.run.files.checksums import check_same_data, fingerprints
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
    about |= _score(kept, images, config.seed)
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


def _score(glow: Glow, images: ImageData, seed: int) -> dict[str, Any]:
    found = evaluate(glow, images.test, seed=seed, condition=images.conditions.get("test"))
    bpd, error = mean_and_error(found.per_image)
    score = {"test_bpd": round(bpd, 5), "test_examples": len(images.test)}
    return score | ({"test_bpd_se": round(error, 5)} if len(images.test) > 1 else {})
