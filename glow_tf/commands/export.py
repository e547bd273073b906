"""Writes a model in a format that needs no glow_tf: SavedModel or ONNX.

    glow-tf export --model=digits --output=exported
    glow-tf export --model=runs/mine --format=onnx --output=mine_onnx

A SavedModel needs TensorFlow alone and has every endpoint. ONNX (encode.onnx, decode.onnx, score.onnx; in a
clone, `pip install '.[onnx]'` first) needs no TensorFlow. It does not draw: decode latents that are standard
normal, times a temperature.
"""

from absl import flags

from glow_tf.commands import input_flags, model_flags
from glow_tf.config.choices import EXPORTS


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="exported")
    input_flags.define_size(values, reads_images=False)
    flags.DEFINE_enum("format", "savedmodel", EXPORTS, "savedmodel or onnx.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    folder = model_flags.output_folder(values)
    from glow_tf.use import export, export_onnx

    flow = input_flags.sized_model(values, model_flags.model_of(values))
    if values.format == "savedmodel":
        export(flow, folder)
        print(f"{folder}: a SavedModel")
        return
    for path in export_onnx(flow, folder):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
