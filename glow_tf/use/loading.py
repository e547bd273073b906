"""Models loaded from what a run or `save` wrote."""

from __future__ import annotations

import json
import pathlib

import keras
import tensorflow as tf

from glow_tf.config import ModelConfig
from glow_tf.glow import Glow
from glow_tf.run.checkpoints import by_path
from glow_tf.training.trainer import PartsTrainer


def load(path: str | pathlib.Path, which: str = "last") -> Glow:
    """Loads a model.

    Args:
      path: a `.keras` file that `Glow.save` or `PartsTrainer.save` wrote, or the workdir of a run.
      which: the `last` or the `best` checkpoint of a workdir; `best` exists where there were validation
        images.

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
      ValueError: path is neither a `.keras` file nor a workdir.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no such file or folder. Received: path={str(path)!r}")
    if path.suffix == ".keras":
        model = keras.saving.load_model(path)
        return model.glow if isinstance(model, PartsTrainer) else model
    if (path / "saved_model.pb").exists():
        raise ValueError(
            "load needs a .keras file or a run's workdir; a SavedModel loads with tf.saved_model.load, "
            f"without this package. Received: path={str(path)!r}"
        )
    if which not in ("last", "best"):
        raise ValueError(f"which must be last or best. Received: which={which!r}")
    folder = path / "checkpoints"
    newest = tf.train.latest_checkpoint(str(folder if which == "last" else folder / "best"))
    if newest is None:
        raise FileNotFoundError(f"There is no {which} checkpoint. Received: path={str(path)!r}")
    glow = Glow(ModelConfig(**json.loads((folder / "model.json").read_text())), name="glow")
    checkpoint = tf.train.Checkpoint(model=by_path(glow.variables))
    checkpoint.restore(newest).expect_partial().assert_existing_objects_matched()
    return glow
