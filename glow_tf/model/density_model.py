"""What `Flow` and its trainer share as Keras models."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Array
from glow_tf.core.durable_files import replaced_file
from glow_tf.core.errors import ConfigError


def checked_policy(policy: keras.DTypePolicy) -> str:
    """Returns the name of a dtype policy; ConfigError unless it computes and stores in float32 or float64."""
    if policy.compute_dtype != policy.variable_dtype or policy.compute_dtype not in ("float32", "float64"):
        raise ConfigError(
            "Glow computes in float32 or float64; ModelConfig(precision='mixed_bfloat16') puts the "
            "coupling networks in bfloat16, and keras.config.set_dtype_policy('float32') resets a global "
            f"policy. Received: dtype policy {policy.name!r}"
        )
    return policy.name


def checked_images(images: Array, image_shape: tuple[int, int, int], data_dtype: str) -> tf.Tensor:
    """Checks images and converts them to a tensor of the model's data type, [B, H, W, C].

    Real numbers of any precision become float32. ConfigError if images have another type or shape than
    `data_dtype` and `image_shape`, B is 0, or real data are not finite. Within a `tf.function` a shape that
    is not known yet passes, and so do values that are not finite.
    """
    try:  # of a list TensorFlow would forget the type
        images = tf.convert_to_tensor(np.asarray(images) if isinstance(images, list | tuple) else images)
    except (ValueError, TypeError, NotImplementedError):  # lists of several lengths, or (x, y) in one
        raise ConfigError(
            f"images must be an array {data_dtype} of shape (batch, {', '.join(map(str, image_shape))}). "
            f"Received: images={type(images).__name__} of {len(images)} that make no array"
        ) from None
    fits = images.shape.is_compatible_with([None, *image_shape]) and has_type(images.dtype, data_dtype)
    none = images.shape.num_elements() == 0
    if none or not fits:
        raise ConfigError(
            f"images must be {data_dtype} of shape (batch, {', '.join(map(str, image_shape))})"
            f"{', one image or more' if none else '; its n_bits and data say which type a model takes'}. "
            f"Received: {images.dtype.name} of shape {images.shape}"
        )
    if not images.dtype.is_floating:
        return images
    images = tf.cast(images, data_dtype)
    if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(images))):
        raise ConfigError("real data must be finite. Received: images with NaN or infinity")
    return images


def has_type(dtype: tf.DType, data_dtype: str) -> bool:
    """Whether images of a type are data of a model: for `float32`, real numbers of any precision are."""
    return dtype.is_floating if data_dtype == "float32" else dtype.name == data_dtype


class DensityModel(keras.Model):
    """A model that maps images to one log-probability each, and that is saved as a `.keras` file."""

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None]:
        """Returns the shape of the log-probabilities of images [B, H, W, C]: (B,)."""
        return (input_shape[0],)

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Saves the model, and of a trainer the optimizers, as keras.Model.save does.

        ConfigError unless the path ends in `.keras`; OSError if it cannot be written; an old file stays.
        """
        path = pathlib.Path(filepath)
        if path.suffix != ".keras":
            raise ConfigError(
                "models are saved as .keras files; glow_tf.export(flow, folder) writes a SavedModel, and "
                f"save_weights takes .weights.h5. Received: filepath={os.fspath(filepath)!r}"
            )
        asks, is_folder = path.exists() and not overwrite, kwargs.get("zipped") is False
        if asks or is_folder or not path.parent.is_dir():  # or somewhere else than on a disk
            super().save(filepath, overwrite=overwrite, **kwargs)
        else:  # Keras writes in place
            with replaced_file(path.resolve(), path.suffix) as temporary:
                super().save(temporary, **kwargs)
