"""Does a trained model do on real images what is promised of it?

    python -m lab.benchmarks.presets --model=cifar10_small --dataset=cifar10 --data_dir=PATH

Test images are encoded to a file and decoded in a new process. Samples are drawn at temperatures from 0 to
1.2. The exported SavedModel scores batches of several sizes; ONNX encodes, decodes and scores. The
table has a row for each of these checks: on how many images, and what was found.
"""

import pathlib
import sys
import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf.commands import cli, model_flags
from glow_tf.core.errors import ConfigError
from glow_tf.model.flow import Flow
from glow_tf.store import load
from glow_tf.use import decode, draw_checked, encode, export_onnx, read_images
from glow_tf.use.exports import export
from lab.benchmarks.rows import added_to

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
BATCHES = (1, 2, 7, 32, 100, 256)
COLUMNS = ("model", "check", "images", "found")  # on how many images, and what was found
FEW = 8  # images for ONNX


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "digits", "A preset, workdir or .keras file.", flag_values=values)
    flags.DEFINE_string("dataset", "digits", "Whose test images are used.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_string("split", "test", "test, train or all.", flag_values=values)
    flags.DEFINE_integer("examples", 1000, "Images to encode.", flag_values=values)
    flags.DEFINE_integer("samples", 250, "Images to draw at each temperature.", flag_values=values)
    flags.DEFINE_list(
        "formats",
        ["saved_model", "onnx"],
        "Formats to check; they take minutes.",
        flag_values=values,
    )
    flags.DEFINE_string("csv", "presets.csv", "To add to: one row per check.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Checks, prints and writes."""
    if unknown := set(given.formats) - set(FORMATS):
        raise ConfigError(f"formats must be some of {', '.join(FORMATS)}. Received: {sorted(unknown)}")
    for name in ("examples", "samples"):
        model_flags.count_of(given, name)
    flow = load(given.model)
    images = read_images(flow.image_shape, given.dataset, given.data_dir, given.split, given.examples).images
    with added_to(given.csv, COLUMNS) as add:
        for check, count, found in _checks(given, flow, images):
            add((given.model, check, count, found))
            print(f"{check}: {found:.2g} ({count} images)")


def _checks(given: flags.FlagValues, flow: Flow, images: np.ndarray) -> Iterator[tuple[str, int, float]]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        yield (
            "images that change through files and processes",
            len(images),
            _changed(flow, images),
        )
        mode = np.asarray(flow.decode(np.zeros((1, flow.dimensions), np.float32)))
        drawn = np.asarray(flow.sample(FEW, 0.0))
        yield (
            "images at temperature 0 that are not the mode",
            FEW,
            int(np.sum(np.any(drawn != mode, (1, 2, 3)))),
        )
        for temperature in TEMPERATURES:
            yield from _samples(flow, given.samples, temperature)
        for name in given.formats:
            yield from FORMATS[name](flow, images, folder / name)


def _changed(flow: Flow, images: np.ndarray) -> int:
    """Returns how many images are others after `encode` and `decode`."""
    cleared = flow.dequantize.bin_width
    decoded = decode(flow, encode(flow, images))
    return int(np.sum(np.any(decoded != images // cleared * cleared, axis=(1, 2, 3))))


def _samples(flow: Flow, count: int, temperature: float) -> Iterator[tuple[str, int, float]]:
    drawn = draw_checked(flow, count, temperature, seed=0)
    rng = np.random.default_rng(0)
    eps = temperature * rng.standard_normal((count, flow.dimensions), np.float32)
    exact = np.concatenate([tf.reshape(flow.inverse(own), [len(own), -1]) for own in np.array_split(eps, 10)])
    at = f"at temperature {temperature:g}"
    yield f"samples not finite without clipping {at}", count, int(np.sum(~np.isfinite(exact).all(axis=1)))
    yield f"samples with clipped activations {at}", count, drawn.limited
    yield (
        f"samples of a single level {at}",
        count,
        int(np.sum(np.ptp(drawn.images.reshape(count, -1), 1) == 0)),
    )


def _saved_model(flow: Flow, images: np.ndarray, folder: pathlib.Path) -> Iterator[tuple[str, int, float]]:
    export(flow, folder)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    for size in BATCHES:
        batch = np.resize(images, (size, *images.shape[1:]))
        served, own = serve(tf.constant(batch))["log_prob"], flow.score(batch)["log_prob"]
        yield f"SavedModel, batch of {size}: relative error of log_prob", size, _largest(served, own)


def _onnx(flow: Flow, images: np.ndarray, folder: pathlib.Path) -> Iterator[tuple[str, int, float]]:
    import onnxruntime

    sessions = {path.stem: onnxruntime.InferenceSession(path) for path in export_onnx(flow, folder)}

    def run(name: str, batch: np.ndarray) -> dict[str, np.ndarray]:
        session = sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(None, {session.get_inputs()[0].name: batch}), strict=True))

    few = images[:FEW]
    (eps,) = run("encode", few).values()
    yield "ONNX: largest error of a latent", FEW, float(np.max(np.abs(eps - flow.encode(few))))
    (decoded,) = run("decode", eps).values()
    expected = np.asarray(flow.decode(flow.encode(few)))
    yield "ONNX: images that change", FEW, int(np.sum(np.any(decoded != expected, axis=(1, 2, 3))))
    served, own = run("score", few)["log_prob"], flow.score(few)["log_prob"]
    yield "ONNX: relative error of log_prob", FEW, _largest(served, own)


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.max(np.abs(found - expected) / np.abs(expected)))


FORMATS = {"saved_model": _saved_model, "onnx": _onnx}

if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
