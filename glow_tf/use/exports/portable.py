"""Models as ONNX, which needs no TensorFlow."""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Sequence

import tensorflow as tf

from glow_tf.bijectors.pieces import number_of_streams
from glow_tf.bijectors.tracing import functions_inlined
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.progress import with_progress
from glow_tf.model.glow import Glow
from glow_tf.use.exports.saved_model import endpoints_of

# File → endpoint. `sample` is not among them: TensorFlow's stateless random numbers are not in ONNX.
# Draw latents, standard normal times a temperature, and decode them.
FILES = {"encode": "encode", "decode": "decode", "score": "serving_default"}
OPSET = 17  # of ONNX


def export_onnx(glow: Glow, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes and returns encode.onnx, decode.onnx and score.onnx; in a clone, `pip install '.[onnx]'` first.

    Each has one input with an open batch size: images uint8 [B, H, W, C], or eps float32 [B, D]. A model that
    is given something has it as the input `condition`, float32, or each by its name; bytes x are to be given
    as x/256 − ½. Encode and decode have one output; score has `log_prob` and `bits_per_dim`, at the middle of
    the bins.

    Raises:
      ConfigError: tf2onnx is not installed, or ONNX has no such operation as the model needs.
      OSError: a file cannot be written.
    """
    endpoints = endpoints_of(glow)
    folder = pathlib.Path(folder)
    contents = {
        folder / f"{name}.onnx": to_onnx(*endpoints[own])
        for name, own in with_progress(FILES.items(), len(FILES), "Converting, files")
    }
    folder.mkdir(parents=True, exist_ok=True)
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
    with number_of_streams(1), functions_inlined():
        # A partial, so that nothing is traced already, with the functions of stacks kept whole.
        whole = tf.function(functools.partial(function), input_signature=signature, autograph=False)
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
