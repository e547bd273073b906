"""Makes what the docs' page `try.md` loads: a preset as ONNX for the browser, and the program that runs it.

    make try

writes docs/try/model/ and docs/try/runtime/, which git does not keep. The model is the preset `photographs`.
Its part of details serves every size, so there is a graph for each direction and each size of the details,
and one file of weights for all graphs. The runtime is onnxruntime-web, which npm fetches; its version and its
SHA-256 are below. Everything large is gzipped, and the page unpacks it.

    python -m lab.prior_pictures --pictures=pictures --side=128 --train=1 --others=400 --output=runs/squares
    python -m lab.try_page --squares=runs/squares/test.npy

writes docs/try/usual.json, which git keeps: what is usual of photographs. See `usual`.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import flags

import glow_tf
from glow_tf.bijectors.bijector import log_det_by_place
from glow_tf.bijectors.mode import Context, Mode
from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.progress import with_progress
from glow_tf.model.endpoints import ActivationLimit
from glow_tf.model.parts import Part
from glow_tf.use.exports import to_onnx
from glow_tf.use.score.rule import place_maps, places_in_part

PRESET = "photographs"
FOLDER = pathlib.Path(__file__).parent.parent / "docs" / "try"
LEAST = 2  # the side of the coarsest image
FORWARD = (2, 4, 8, 16, 32, 64)  # sides of the details that are read, of images of up to 128×128
INVERSE = (*FORWARD, 128)  # and of those that are drawn
EXACTLY = Context(mode=Mode(full_precision=True, inlined=True))
RUNTIME = "onnxruntime-web@1.30.0"
RUNTIME_SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"
RUNTIME_FILES = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
WEIGHTS = "weights.bin"
SMALL = 1024  # bytes of a tensor that stays in its graph
CHANCES = (0.5, 0.1, 0.01, 0.001, 0.0001)  # that a usual place is as unusual


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "squares", "", "A .npy file of photographs 128×128: writes usual.json alone.", flag_values=values
    )


def main(given: flags.FlagValues) -> None:
    """Writes the files, and says how large they are."""
    if given.squares:
        found = usual(np.load(given.squares))
        (FOLDER / "usual.json").write_text(json.dumps(found) + "\n", encoding="utf-8")
        return
    _write(FOLDER / "runtime", runtime_files())
    _write(FOLDER / "model", model_files())


def model_files() -> dict[str, bytes]:
    """Returns the graphs and their weights, by the names of the files."""
    flow = glow_tf.load(PRESET, image_shape=(2 * LEAST, 2 * LEAST, 3))
    details, coarsest = flow.parts
    channels = flow.image_shape[-1]
    small = (LEAST, LEAST, channels)
    graphs: dict[str, tuple[Callable, list[tf.TensorSpec]]] = {
        "forward_coarsest": (functools.partial(forward_of_coarsest, coarsest), _specs(image=small)),
        "inverse_coarsest": (
            functools.partial(inverse_of_coarsest, coarsest),
            _specs(eps=coarsest.output_event_shape),
        ),
    }
    for side in FORWARD:
        large = (2 * side, 2 * side, channels)
        graphs[f"forward_{side}"] = functools.partial(forward_of_details, details), _specs(image=large)
    for side in INVERSE:
        specs = _specs(image=(side, side, channels), eps=(side, side, 3 * channels))
        graphs[f"inverse_{side}"] = functools.partial(inverse_of_details, details), specs
    models = {name: to_onnx(*graph) for name, graph in with_progress(graphs.items(), len(graphs), "Graphs")}
    return with_shared_weights(models)


def forward_of_details(part: Part, image: tf.Tensor) -> dict[str, tf.Tensor]:
    """Takes an image [1, 2h, 2w, C] apart: into the one of half its size, latents and their log-density.

    `log_prob` is the log-density of the details given the smaller image, by place, [1, h, w], nats.
    """
    h, (eps,), log_det = _through(part, image)
    return {"small": h, "eps": eps, "log_prob": log_det + _normal(eps)}


def inverse_of_details(part: Part, image: tf.Tensor, eps: tf.Tensor) -> dict[str, tf.Tensor]:
    """Makes an image of twice the size, of an image [1, h, w, C] and latents [1, h, w, 3C]."""
    return {"large": part.inverse(image, [eps], ActivationLimit(), EXACTLY)}


def forward_of_coarsest(part: Part, image: tf.Tensor) -> dict[str, tf.Tensor]:
    """Whitens the coarsest image; `log_prob` is its log-density, [1, 1, 1], nats."""
    h, _, log_det = _through(part, image)
    eps, whitening = log_det_by_place(part.base, h, EXACTLY)
    return {"eps": eps, "log_prob": log_det + whitening + _normal(eps)}


def inverse_of_coarsest(part: Part, eps: tf.Tensor) -> dict[str, tf.Tensor]:
    """Inverts `forward_of_coarsest`."""
    h, _ = part.base.inverse_and_log_det(eps, EXACTLY)
    return {"image": part.inverse(h, [], ActivationLimit(), EXACTLY)}


def _through(part: Part, h: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...], tf.Tensor]:
    latents, total = (), 0.0
    for bijector in part.bijectors:
        h, eps, log_det = places_in_part(bijector, h, EXACTLY)
        latents, total = (*latents, *eps), total + log_det
    return h, latents, total


def _normal(eps: tf.Tensor) -> tf.Tensor:
    return -0.5 * (tf.reduce_sum(tf.square(eps), axis=-1) + eps.shape[-1] * math.log(2 * math.pi))


def _specs(**shapes: tuple[int, ...]) -> list[tf.TensorSpec]:
    # One image at a time: of an open batch size, ONNX lacks what maps of log-determinants need.
    return [tf.TensorSpec((1, *shape), tf.float32, name) for name, shape in shapes.items()]


def with_shared_weights(models: dict[str, bytes]) -> dict[str, bytes]:
    """Moves the large tensors of the models into one file, each of them once."""
    import onnx

    places: dict[bytes, int] = {}
    weights = bytearray()
    files = {}
    for name, content in models.items():
        model = onnx.load_from_string(content)
        for tensor in model.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor).tobytes()
            if len(values) < SMALL:
                continue
            if values not in places:
                places[values] = len(weights)
                weights += values
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            where = {"location": WEIGHTS, "offset": places[values], "length": len(values)}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
        files[f"{name}.onnx.gz"] = gzip.compress(model.SerializeToString(), mtime=0)
    return {**files, f"{WEIGHTS}.gz": gzip.compress(bytes(weights), mtime=0)}


def runtime_files() -> dict[str, bytes]:
    """Returns the files of the runtime that a browser needs.

    Raises:
      ConfigError: npm is not there, does not reach its registry, or brings another file.
    """
    if not shutil.which("npm"):
        raise ConfigError(f"the page's runtime, {RUNTIME}, needs npm. Received: no npm on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", RUNTIME]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = list(pathlib.Path(folder).glob("*.tgz"))
        if done.returncode or not found:
            last = in_one_line(done.stderr)
            raise ConfigError(f"npm must fetch {RUNTIME}, the page's runtime. Received: {last}")
        sha256 = hashlib.sha256(found[0].read_bytes()).hexdigest()
        if sha256 != RUNTIME_SHA256:
            raise ConfigError(f"{RUNTIME} must have SHA-256 {RUNTIME_SHA256}. Received: {sha256}")
        with tarfile.open(found[0]) as package:
            contents = [package.extractfile(f"package/dist/{name}").read() for name in RUNTIME_FILES]
    program, compiled = contents
    return {RUNTIME_FILES[0]: program, f"{RUNTIME_FILES[1]}.gz": gzip.compress(compiled, mtime=0)}


def usual(squares: np.ndarray) -> dict[str, list]:
    """Returns how large the mean squares of latents at a place are among natural images.

    Args:
      squares: photographs, uint8 [N, 128, 128, 3], which the preset was not trained on.

    Returns:
      `chances`, and for each side of the details the mean squares that such a share of places exceeds.
    """
    flow = glow_tf.load(PRESET, image_shape=squares.shape[1:])
    squares_of = tf.function(
        lambda image: {h: own[..., 1] for (h, _), own in place_maps(flow, image).items()}
    )
    maps: dict[int, list[np.ndarray]] = {}
    for image in with_progress(squares, len(squares), "Squares"):
        for side, own in squares_of(image[np.newaxis]).items():
            maps.setdefault(side, []).append(own.numpy().ravel())
    limits = {
        str(side): np.quantile(np.concatenate(own), 1 - np.array(CHANCES)).round(3).tolist()
        for side, own in maps.items()
        if side in FORWARD
    }
    return {"chances": list(CHANCES), **limits}


def _write(folder: pathlib.Path, contents: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    print(f"{folder}: {len(contents)} files, {sum(map(len, contents.values())) / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
