"""Arrays in .npy files: one example in each, or a whole data set in one."""

from __future__ import annotations

import contextlib
import pathlib
import threading
from collections.abc import Iterable

import numpy as np

from glow_tf.config import DataConfig, file_of
from glow_tf.core.errors import ConfigError
from glow_tf.core.memory import fits
from glow_tf.data.arrays import DataSet, Examples, new_array, resize, why_of_another_type
from glow_tf.data.pictures import Picture

SUFFIX = ".npy"

# NumPy parses the header of a file by Python's parser, which fails now and then where several threads use it
# at once ("AST constructor recursion depth mismatch" in Python 3.11): a sound file would be left out.
_HEADERS = threading.Lock()


def read_array(path: pathlib.Path, size: int, dtype: str) -> Picture:
    """Reads an array [H, W] or [H, W, C] of a .npy file as a picture of any number of channels.

    Its largest centred square is resized to the side `size`, unless that is 0. An array of another type than
    `dtype`, that of the model's data, is a problem, and so are Python objects.
    """
    try:
        array = _opened(path, (2, 3), dtype)
    except ValueError as error:
        return Picture(np.empty(0, np.uint8), problem=str(error))
    array = array[..., np.newaxis] if array.ndim == 2 else array
    return Picture(np.asarray(resize(np.array(array, dtype), size)), min(array.shape[:2]))


def size_of_array(path: pathlib.Path) -> tuple[int, int] | None:
    """Returns the height and width of the array in a .npy file; None if it cannot be read."""
    try:
        height, width = _opened(path, (2, 3)).shape[:2]
    except ValueError:  # as in `read_array`, which says what is wrong
        return None
    return height, width


def type_of_inputs(paths: Iterable[pathlib.Path]) -> str:
    """Returns `uint8`, or `float32` where the first .npy file among images has other numbers than bytes."""
    for path in paths:
        if path.suffix.lower() == SUFFIX:
            with contextlib.suppress(ValueError):  # as in `read_array`, which says what is wrong
                return "uint8" if _opened(path, (2, 3)).dtype == np.uint8 else "float32"
    return "uint8"


def read_file(config: DataConfig) -> DataSet:
    """Reads the data set that is one file: an array [N, H, W, C], or [N, H, W].

    One that does not fit into memory, of the run's type and size, is mapped from the file. ConfigError if
    there is no such file or array, another does not fit into memory, or real data are not finite.
    """
    path, received = file_of(config.dataset), f"Received: dataset={config.dataset!r}"
    try:
        array = _opened(path, (3, 4), config.dtype)
    except ValueError as error:
        raise ConfigError(f"dataset=file:PATH.npy cannot be read: {error}. {received}") from None
    array = array[..., np.newaxis] if array.ndim == 3 else array
    size = config.image_size
    shape = (*array.shape[:1], *((size, size) if size else array.shape[1:3]), array.shape[-1])
    stays = (array.shape, array.dtype) == (shape, config.dtype) and not fits(array.nbytes)
    images = array if stays else new_array(shape, config.dtype, config)
    for place, example in enumerate(array):
        if not stays:
            images[place] = resize(np.array(example, config.dtype), size)
        if images.dtype.kind == "f" and not np.isfinite(images[place]).all():
            raise ConfigError(f"real data must be finite. {received} with NaN or infinity in example {place}")
    return DataSet(Examples(images))


def _opened(path: pathlib.Path, ranks: tuple[int, int], dtype: str = "") -> np.ndarray:
    """Opens an array, of any type unless one is given, without reading it; ValueError says what is wrong."""
    try:
        # Mapped, so that a short file cannot claim gigabytes; without pickle, which could run code.
        with _HEADERS:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy's reader raises almost any at damaged files
        raise ValueError(f"it is not an array of numbers ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(array, np.ndarray):
        raise ValueError("it is an archive of arrays")
    if not array.size:
        raise ValueError(f"it is empty, of shape {array.shape}")
    if array.ndim not in ranks:
        raise ValueError(f"its shape is {array.shape}, and it must have {ranks[0]} or {ranks[1]} dimensions")
    if dtype and (why := why_of_another_type(array.dtype, dtype)):
        raise ValueError(why)
    return array
