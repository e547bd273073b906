"""A file of weights, looked into before it is loaded. Pure Python: no TensorFlow.

Anybody may have written it. An HDF5 file can refer to other files, and a small one can claim gigabytes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

from glow_tf.config import ModelConfig
from glow_tf.cost import weight_bytes
from glow_tf.errors import ConfigError, in_one_line
from glow_tf.partition import FLOAT_BYTES, part_layouts

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}  # HDF5's numbers; others would be loaded as plugins
MOST_OBJECTS, MOST_DEPTH = 2**17, 64
ROOM, MOST_GROWTH = 2**26, 20  # bytes that any file may claim, and how many more for each of its own
ENOUGH = 0.9  # of the weights that the settings ask for; those of biases are not counted there


class _Dataset(NamedTuple):
    size: int
    bytes: int


def check_weights(source: str | os.PathLike | IO[bytes], size: int, model: ModelConfig, what: str) -> None:
    """Checks that a file holds numbers and nothing else, as many as a model has weights.

    Args:
      source: an HDF5 file, or its bytes as a file that can be read.
      size: its bytes on the disk.
      model: the model whose weights it should hold.
      what: names the file in messages.

    Raises:
      ConfigError: it is damaged, holds something else, more than its size makes likely, or fewer numbers.
    """
    import h5py

    try:
        with h5py.File(source, "r") as file:
            datasets = [_Dataset(item.size, item.nbytes) for item in _datasets(file, what, set())]
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # h5py's, of damaged files
        raise ConfigError(f"{what} must be an HDF5 file. Received: {in_one_line(str(error))}") from None
    claimed = sum(dataset.bytes for dataset in datasets)
    if claimed > most_bytes(size):
        raise ConfigError(
            f"{what} must hold at most {MOST_GROWTH} times its size and {ROOM >> 20} MiB. "
            f"Received: {claimed >> 20} MiB of numbers in {size / 2**20:.2f} MiB"
        )
    needed, found = model_bytes(model) // FLOAT_BYTES, sum(dataset.size for dataset in datasets)
    if found < ENOUGH * needed or len(datasets) < model.num_parts:
        raise ConfigError(
            f"{what} must hold the weights that the settings of its model ask for, about {needed} numbers in "
            f"{model.num_parts} or more arrays. Received: {found} numbers in {len(datasets)} arrays"
        )


def most_bytes(size: int) -> int:
    """Returns how many bytes a file of weights may claim, of so many on the disk."""
    return ROOM + MOST_GROWTH * size


def model_bytes(model: ModelConfig) -> int:
    """Returns the bytes of a model's weights, in float32 and nearly: those of biases are not counted."""
    layouts = part_layouts(model)
    of_classes = 2 * len(model.classes) * math.prod(layouts[-1].output_shape)
    elements = [e for layout in layouts for e in (*layout.elements, *layout.head) if e.kind == "flow_step"]
    fixed = 0 if model.permutation in ("lu", "plain") else sum(e.channels**2 for e in elements)
    return int(weight_bytes(layouts)) + FLOAT_BYTES * (of_classes - fixed)


def _datasets(group: Any, what: str, seen: set[int], depth: int = 0) -> Iterator[Any]:
    """Yields the datasets of a file, each once; raises ConfigError at what no weights file has."""
    import h5py

    for name in group:
        place = f"{group.name.rstrip('/')}/{name}"[-100:]
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ConfigError(f"{what} must not refer to other places. Received: {place!r}, a {_kind(link)}")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise ConfigError(f"{what} must hold everything once. Received: {place!r} under two names")
        seen.add(address)
        if len(seen) > MOST_OBJECTS or depth > MOST_DEPTH:
            raise ConfigError(f"{what} must not hold so much, or so deep. Received: {place!r}")
        if isinstance(item, h5py.Group):
            yield from _datasets(item, what, seen, depth + 1)
        else:
            _check_dataset(item, what, place)
            yield item


def _check_dataset(item: Any, what: str, place: str) -> None:
    import h5py

    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub":
        raise ConfigError(
            f"{what} must hold numbers. Received: {place!r}, of type {getattr(item, 'dtype', _kind(item))}"
        )
    if item.external or item.is_virtual:
        raise ConfigError(
            f"{what} must not refer to other files. Received: {place!r}, whose numbers are elsewhere"
        )
    properties = item.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if unknown := [number for number in filters if number not in FILTERS]:
        raise ConfigError(
            f"{what} must be compressed with {' or '.join(FILTERS.values())}, or not. "
            f"Received: {place!r} with filter {unknown[0]}"
        )
    if item.chunks and math.prod(item.chunks) * item.dtype.itemsize > 2 * item.nbytes + ROOM:
        raise ConfigError(
            f"{what} must have chunks of about its arrays' size. Received: {place!r}, {item.chunks}"
        )


def _kind(item: Any) -> str:
    return type(item).__name__
