"""Writes a model, or a detector, in a format that needs no glow_tf: SavedModel or ONNX.

    glow-tf export --model=digits --output=exported
    glow-tf export --model=runs/mine --format=onnx --output=mine_onnx
    glow-tf export --model=detector --format=onnx --output=exported

A SavedModel needs TensorFlow alone and has every endpoint. ONNX (encode.onnx, decode.onnx, score.onnx; in a
clone, `pip install '.[onnx]'` first) needs no TensorFlow. It does not draw: decode latents that are standard
normal, times a temperature.

Of a detector a SavedModel has one endpoint, and ONNX one file, detector.onnx, of one image at a time:
images → score, p_value and map. A detector whose features are your own network is exported from Python.
"""

import pathlib

from absl import flags

from glow_tf.commands import input_flags, model_flags
from glow_tf.config.choices import EXPORTS
from glow_tf.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="exported")
    input_flags.define_size(values, reads_images=False)
    flags.DEFINE_enum("format", "savedmodel", EXPORTS, "savedmodel or onnx.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    folder = model_flags.output_folder(values)
    from glow_tf.use import NoveltyDetector, export, export_onnx
    from glow_tf.use.score import kept

    if pathlib.Path(values.model, kept.ABOUT).is_file():
        if values.image_size:
            raise ConfigError(
                "a detector keeps the size of its good images, which fit --image_size chooses. Received: "
                f"image_size={values.image_size}"
            )
        onnx = values.format == "onnx"
        path = folder / "detector.onnx" if onnx else folder
        detector = NoveltyDetector.load(values.model)
        path.parent.mkdir(parents=True, exist_ok=True)
        detector.export(path, values.format)
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB" if onnx else f"{path}: a SavedModel")
        return
    flow = input_flags.sized_model(values, model_flags.model_of(values))
    if values.format == "savedmodel":
        export(flow, folder)
        print(f"{folder}: a SavedModel")
        return
    for path in export_onnx(flow, folder):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
