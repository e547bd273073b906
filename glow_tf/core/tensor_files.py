"""Files of named arrays, in the format of `safetensors`, checked before they are read. No TensorFlow."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from glow_tf.core.errors import ConfigError, in_one_line

TYPES = {"F16": "f", "F32": "f", "F64": "f", "I64": "i"}  # that a file may hold, and their kinds in NumPy


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file of arrays by name; OSError if it cannot be written."""
    from safetensors.numpy import save

    path.write_bytes(save({name: np.asarray(value, order="C") for name, value in arrays.items()}))


def shapes_of(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array in a file, by its name; ConfigError if it is no such file."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read(path: pathlib.Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name.

    ConfigError, before any of them is read, unless they have the names, the shapes and the kinds of numbers
    (`shape` and `dtype`) of what is expected; also if one has numbers that are not finite.
    """
    with _opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if differing := sorted(found.keys() ^ expected.keys()):
            missing = [name for name in differing if name not in found]
            raise ConfigError(
                f"{path} must hold an array for each of {len(expected)} names, and no other. Received: "
                f"{'none' if missing else 'one'} for {(missing or differing)[0][:100]!r}"
            )
        for name, own in found.items():
            dtype = expected[name].dtype  # of NumPy, TensorFlow or Keras
            shape, kind = tuple(expected[name].shape), np.dtype(getattr(dtype, "name", dtype)).kind
            if (tuple(own.get_shape()), TYPES.get(own.get_dtype())) != (shape, kind):
                numbers = "real numbers" if kind == "f" else "integers"
                raise ConfigError(
                    f"{path} must hold {numbers} of shape {shape} as {name!r}. "
                    f"Received: {own.get_dtype()} of shape {tuple(own.get_shape())}"
                )
        arrays = {name: file.get_tensor(name) for name in found}
    for name, value in arrays.items():
        check_finite(name, value, str(path))
    return arrays


def check_finite(name: str, values: np.ndarray, what: str) -> None:
    """Raises ConfigError, which calls the file `what`, unless all numbers of an array are finite."""
    if not np.isfinite(values).all():
        bad = np.asarray(values)[~np.isfinite(values)].flat[0]
        raise ConfigError(f"{what} must have numbers that are finite. Received: {name}, with {bad}")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} must be a file of safetensors, and whole. Received: {in_one_line(str(error))}"
        ) from None
