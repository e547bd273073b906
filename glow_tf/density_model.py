"""What `Glow` and its trainer share as Keras models."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from glow_tf.errors import ConfigError


def checked_policy(policy: keras.DTypePolicy) -> str:
    """Returns the name of a dtype policy; ConfigError unless it computes and stores in float32 or float64."""
    if policy.compute_dtype != policy.variable_dtype or policy.compute_dtype not in ("float32", "float64"):
        raise ConfigError(
            "Glow computes in float32 or float64; ModelConfig(precision='mixed_bfloat16') puts the "
            "coupling networks in bfloat16, and keras.config.set_dtype_policy('float32') resets a global "
            f"policy. Received: dtype policy {policy.name!r}"
        )
    return policy.name


class DensityModel(keras.Model):
    """A model that maps images to one log-probability each, and that is saved as a `.keras` file."""

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None]:
        """Returns the shape of the log-probabilities of images [B, H, W, C]: (B,)."""
        return (input_shape[0],)

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the model, and of a trainer the optimizers, as keras.Model.save does.

        Args:
          filepath: a file that ends in `.keras`.
          overwrite: as in Keras.
          **kwargs: as in Keras.

        Raises:
          ConfigError: the file ends otherwise.
        """
        if pathlib.Path(filepath).suffix != ".keras":
            raise ConfigError(
                "models are saved as .keras files; glow_tf.export(glow, folder) writes a SavedModel, and "
                f"save_weights takes .weights.h5. Received: filepath={os.fspath(filepath)!r}"
            )
        super().save(filepath, overwrite=overwrite, **kwargs)
