"""The SavedModel that is used without this package."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import tensorflow as tf

from glow_tf.bijectors.pieces import number_of_streams
from glow_tf.core.durable_files import check_can_be_read_again, check_place, replaced_folder
from glow_tf.core.errors import reason_of
from glow_tf.model.endpoints import Endpoint
from glow_tf.model.glow import Glow
from glow_tf.run.files.workdir import SAVED_MODEL

NOT_EXPORTED = "sample_dequantized"  # `sample` before its values are rounded down


def export(glow: Glow, path: str | pathlib.Path) -> None:
    """Writes a SavedModel that needs TensorFlow alone.

    Endpoints (D = H·W·C). All but the first, which a model server calls, and the `checked` return one tensor:
      serving_default(images uint8 [B, H, W, C]) → {log_prob nats, bits_per_dim}, float32 [B] each, at the
        middle of the bins, without a seed
      sample(num int32[], temperature float32[], seed int32[]) → images uint8 [num, H, W, C]
      sample_checked(num int32[], temperature float32[], seed int32[]) → {images, limited}: as `sample`, and
        bool [num], whether activations were clipped to keep them finite
      encode(images uint8 [B, H, W, C]) → eps float32 [B, D], every latent, whitened by its prior
      decode(eps float32 [B, D]) → images uint8 [B, H, W, C]
      log_prob(images uint8 [B, H, W, C], seed int32[]) → nats float32 [B]
      bits_per_dim(images uint8 [B, H, W, C], seed int32[]) → float32 [B]
      sample_each(seeds int32[B], temperatures float32[B]) → images uint8 [B, H, W, C], and
      log_prob_each(images uint8 [B, H, W, C], seeds int32[B]) → nats float32 [B]: as `sample` and `log_prob`
        of one image, so that a server may join requests to a batch
    What a model is given comes last, `condition` [B, …] or each by its name, as eps; bytes x as x/256 − ½.

    Args:
      glow: the model.
      path: the folder to write. An existing folder is replaced when the new one is complete.

    Raises:
      ConfigError: the path has a sign that TensorFlow cannot read.
      OSError: the folder cannot be written, or holds something else than a SavedModel. It is kept then.
    """
    path = pathlib.Path(path)
    check_target(path)
    glow = without_backward_pass(glow)
    functions = {
        name: tf.function(function, input_signature=signature, autograph=False)
        for name, (function, signature) in endpoints_of(glow).items()
        if name != NOT_EXPORTED
    }
    write(_Exported(glow, functions), functions, path)


def check_target(path: pathlib.Path) -> None:
    """Raises ConfigError or OSError, as `export` does, before time is spent."""
    check_can_be_read_again("path", path)
    check_place(path, "SavedModel", SAVED_MODEL)


def write(module: tf.Module, functions: dict[str, Callable], path: pathlib.Path) -> None:
    """Writes functions of a module as a SavedModel; OSError if that cannot be, and an old folder is kept."""
    try:
        with (
            replaced_folder(path, "SavedModel", SAVED_MODEL) as temporary,
            number_of_streams(1),  # other processes set no threads for several
        ):
            tf.saved_model.save(module, str(temporary), signatures=functions)
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"the SavedModel {path} could not be written: {reason_of(error)}.") from None


class _Exported(tf.Module):
    """What a file holds: functions, and variables as Keras's ExportArchive names them.

    The archive traces every function twice.
    """

    variables = trainable_variables = non_trainable_variables = None  # of a tf.Module they are in no file

    def __init__(self, glow: Glow, functions: dict[str, Callable]):
        super().__init__()
        self.variables = [weight.value for weight in glow.weights]
        self.trainable_variables = [weight.value for weight in glow.trainable_weights]
        self.non_trainable_variables = [weight.value for weight in glow.non_trainable_weights]
        for name, function in functions.items():
            setattr(self, name, function)


def endpoints_of(glow: Glow) -> dict[str, Endpoint]:
    """Returns the model's functions for a file: without the backward pass that a reversible one has."""
    return without_backward_pass(glow).endpoints()


def without_backward_pass(glow: Glow) -> Glow:
    """Returns a model of the same weights without operations that only training needs."""
    return glow.recut() if any(part.reversible for part in glow.parts) else glow
