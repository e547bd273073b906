"""Models for programs without this package: a SavedModel needs TensorFlow alone, ONNX not even that."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Sequence

import tensorflow as tf

from glow_tf.bijectors.mode import Mode
from glow_tf.core.durable_files import (
    check_can_be_read_again,
    check_place,
    held,
    replaced_folder,
    write_atomically,
)
from glow_tf.core.errors import ConfigError, in_one_line, reason_of
from glow_tf.core.progress import with_progress
from glow_tf.model.flow import Flow
from glow_tf.run.workdir import SAVED_MODEL

NOT_EXPORTED = "sample_dequantized"  # `sample` before its values are rounded down
# File → endpoint. `sample` is not among them: TensorFlow's stateless random numbers are not in ONNX.
# Draw latents, standard normal times a temperature, and decode them.
FILES = {"encode": "encode", "decode": "decode", "score": "serving_default"}
OPSET = 17  # of ONNX


def export(flow: Flow, path: str | pathlib.Path) -> None:
    """Writes a SavedModel that needs TensorFlow alone.

    Endpoints (D = H·W·C). All but the first, which a model server calls, and the `checked` return one tensor:
      serving_default(images uint8 [B, H, W, C]) → {log_prob nats, bits_per_dim}, float32 [B] each, at the
        middle of the bins, without a seed
      sample(num int32[], temperature float32[], seed int32[]) → images uint8 [num, H, W, C]
      sample_checked(num int32[], temperature float32[], seed int32[]) → {images, limited}: as `sample`, and
        bool [num], whether activations were clipped to keep them finite
      encode(images uint8 [B, H, W, C]) → eps float32 [B, D], every latent, whitened by its base
      decode(eps float32 [B, D]) → images uint8 [B, H, W, C]
      log_prob(images uint8 [B, H, W, C], seed int32[]) → nats float32 [B]
      bits_per_dim(images uint8 [B, H, W, C], seed int32[]) → float32 [B]
      sample_each(seeds int32[B], temperatures float32[B]) → images uint8 [B, H, W, C], and
      log_prob_each(images uint8 [B, H, W, C], seeds int32[B]) → nats float32 [B]: as `sample` and `log_prob`
        of one image, so that a server may join requests to a batch
    What a model is given comes last, `condition` [B, …] or each by its name, as eps; bytes x as x/256 − ½.

    Args:
      flow: the model.
      path: the folder to write. An existing folder is replaced when the new one is complete.

    Raises:
      ConfigError: the path has a sign that TensorFlow cannot read.
      OSError: the folder cannot be written, or holds something else than a SavedModel. It is kept then.
    """
    path = pathlib.Path(path)
    check_target(path)
    functions = {
        name: tf.function(function, input_signature=signature, autograph=False)
        for name, (function, signature) in flow.endpoints().items()
        if name != NOT_EXPORTED
    }
    write(_Exported(flow, functions), functions, path)


def check_target(path: pathlib.Path) -> None:
    """Raises ConfigError or OSError, as `export` does, before time is spent."""
    check_can_be_read_again("path", path)
    check_place(path, "SavedModel", SAVED_MODEL)


def write(module: tf.Module, functions: dict[str, Callable], path: pathlib.Path) -> None:
    """Writes functions of a module as a SavedModel; OSError if that cannot be, and an old folder is kept."""
    try:
        with replaced_folder(path, "SavedModel", SAVED_MODEL) as temporary:
            tf.saved_model.save(module, str(temporary), signatures=functions)
    except (OSError, tf.errors.OpError) as error:
        raise OSError(f"the SavedModel {path} could not be written: {reason_of(error)}.") from None


class _Exported(tf.Module):
    """What a file holds: functions, and variables as Keras's ExportArchive names them.

    The archive traces every function twice.
    """

    variables = trainable_variables = non_trainable_variables = None  # of a tf.Module they are in no file

    def __init__(self, flow: Flow, functions: dict[str, Callable]):
        super().__init__()
        self.variables = [weight.value for weight in flow.weights]
        self.trainable_variables = [weight.value for weight in flow.trainable_weights]
        self.non_trainable_variables = [weight.value for weight in flow.non_trainable_weights]
        for name, function in functions.items():
            setattr(self, name, function)


def export_onnx(flow: Flow, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes and returns encode.onnx, decode.onnx and score.onnx; in a clone, `pip install '.[onnx]'` first.

    Each has one input with an open batch size: images uint8 [B, H, W, C], or eps float32 [B, D]. A model that
    is given something has it as the input `condition`, float32, or each by its name; bytes x are to be given
    as x/256 − ½. Encode and decode have one output; score has `log_prob` and `bits_per_dim`, at the middle of
    the bins.

    Raises:
      ConfigError: tf2onnx is not installed, or ONNX has no such operation as the model needs.
      OSError: a file cannot be written.
    """
    endpoints = flow.endpoints(Mode(inlined=True))
    folder = pathlib.Path(folder)
    contents = {
        folder / f"{name}.onnx": to_onnx(*endpoints[own])
        for name, own in with_progress(FILES.items(), len(FILES), "Converting, files")
    }
    with held(folder, [path.name for path in contents]):
        folder.mkdir(exist_ok=True)
        for path, content in contents.items():
            write_atomically(path, content)
    return list(contents)


def to_onnx(function: Callable, signature: Sequence[tf.TensorSpec]) -> bytes:
    """Returns a function of tensors as ONNX; ConfigError as in `export_onnx`."""
    try:
        from onnx import checker
        from tf2onnx import convert
    except ImportError:
        raise ConfigError(
            "ONNX needs the package tf2onnx, in a clone: pip install '.[onnx]'. Received: format='onnx'"
        ) from None
    whole = tf.function(function, input_signature=signature, autograph=False)
    model, _ = convert.from_function(whole, input_signature=signature, opset=OPSET)
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise ConfigError(
            "format=onnx needs a model of operations that the format has; those of layers of one's own "
            "may be others: a SavedModel has all. "
            f"Received: {in_one_line(str(error))[:200]}"
        ) from None
    return model.SerializeToString()
