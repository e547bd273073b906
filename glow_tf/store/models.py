"""Models in and out: `load` whatever keeps one, `save` it as a preset."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from glow_tf.config import SAME_FUNCTION
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.model.flow import Flow
from glow_tf.store import checkpoints, files
from glow_tf.training.trainer import PartsTrainer


def load(
    path: str | os.PathLike, which: str = "", image_shape: Sequence[int] | None = None, **changes: Any
) -> Flow:
    """Loads a model; `load_trainer` loads a trainer. From strangers take presets only: see SECURITY.md.

        flow = glow_tf.load("digits")
        glow_tf.store.names()  # of the presets that come with the package
        glow_tf.store.about("digits")  # what one says about itself

    Args:
      path: a preset: the name of one that comes with the package, a folder from `save`, or
        `hf://OWNER/NAME[@REVISION]`, one on the Hugging Face Hub; or the workdir of a run, or a `.keras` file
        that `Flow.save` or `PartsTrainer.save` wrote.
      which: the `last` or the `best` checkpoint of a workdir; `best` exists where there were validation
        images. Empty: the one that the run's summary and export are of, the best where it exists.
      image_shape: (H, W, C) of the images, where their size is not the model's; see `Flow.resized`.
      **changes: settings of `ModelConfig` that leave the function of the model as it is: `parts`,
        `local_prior`, `precision`, `seed`; see `Flow.recut`. A preset is uncut, and its coupling networks are
        in float32.

    Raises:
      FileNotFoundError: there is no such model or checkpoint.
      OSError: the checkpoint is damaged.
      ConfigError: what keeps the model is damaged or none of these, a preset cannot be fetched, a change is
        another one, or the model cannot have the size.
    """
    if other := sorted(set(changes) - set(SAME_FUNCTION)):
        raise ConfigError(f"a model's {', '.join(SAME_FUNCTION)} may be changed. Received: {other}")
    if (folder := files.folder_of(path)) is not None:
        flow = _of_preset(folder)
    elif not (path := pathlib.Path(path)).exists():
        raise FileNotFoundError(
            f"There is no such file or folder, and no such preset ({', '.join(files.names())}). "
            f"Received: path={str(path)!r}"
        )
    elif path.suffix == ".keras":
        found = load_keras_file(path)
        flow = found.flow if isinstance(found, PartsTrainer) else found
    else:
        flow = _of_workdir(path, which)
    if image_shape is not None and tuple(image_shape) != flow.image_shape:
        flow = flow.resized(image_shape)
    return flow.recut(**changes) if changes else flow


def _of_preset(folder: pathlib.Path) -> Flow:
    flow = Flow(files.settings_of(folder), name="glow")
    weights = flow.named_weights
    for name, value in files.read_arrays(folder / files.WEIGHTS, weights).items():
        weights[name].assign(value)
    return flow


def _of_workdir(workdir: pathlib.Path, which: str) -> Flow:
    found = checkpoints.path_of(workdir, which)
    flow = Flow(files.settings_of(workdir), name="glow")
    while True:
        try:
            checkpoints.read({"model": checkpoints.by_path(flow.variables)}, found, partly=True)
            return flow
        except checkpoints.DamagedCheckpointError:
            if found == (newer := checkpoints.path_of(workdir, which)):
                raise
            found = newer  # the run goes on, and has replaced its checkpoint meanwhile


def load_keras_file(path: pathlib.Path) -> Flow | PartsTrainer:
    """Loads what `Flow.save` or `PartsTrainer.save` wrote, in Keras's safe mode; ConfigError if none did."""
    try:
        found = keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # whatever Keras raises; it names a class that is not registered
        raise ConfigError(
            f"{path} cannot be read as a .keras file of this package, with classes of your own registered "
            f"with Keras. Received: {type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    if not isinstance(found, Flow | PartsTrainer):
        raise ConfigError(f"{path} must hold a Flow or a PartsTrainer. Received: {type(found).__name__}")
    return found


def save(
    model: Flow,
    folder: str | os.PathLike,
    about: Mapping[str, Any] | None = None,
    weights_dtype: str = "float32",
) -> None:
    """Keeps a model as a preset: config.json, model.safetensors and a card, README.md.

    The model is kept whole: without its cuts and without the local bases, which only training uses.

    Args:
      model: to keep.
      folder: to write. If it holds a preset, and nothing else, this is replaced when the new one is complete.
      about: for the card and for programs: `title`, `data`, `command`, `seed`, `test_bpd`, `test_bpd_se`,
        `test_examples`, `epochs`, `top` (the data's largest grey value), `image_size` (what an empty
        --image_size means; 0: each image's own), `limits`, `licence`; any may be absent, and a number that is
        not finite is left out.
      weights_dtype: `float32`, or `float16`, which takes half the space and rounds every weight of a part to
        11 bits, unless it is too large for that.

    Raises:
      ConfigError: weights_dtype is another one.
      OSError: the folder holds something else, or cannot be written.
    """
    parts = model.config.parts if model.has_condition_networks else "1"
    whole = model.recut(dtype="float32", parts=parts, local_prior="standard", precision="float32")
    weights = {name: weight.numpy() for name, weight in whole.named_weights.items()}
    files.write(pathlib.Path(folder), whole.config, weights, about or {}, weights_dtype)
