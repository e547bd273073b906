"""A file of weights, looked into before it is loaded. Pure Python: no TensorFlow.

Anybody may have written it. An HDF5 file can refer to other files, and a small one can claim gigabytes.
"""

import dataclasses
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from glow_tf.config import ModelConfig
from glow_tf.cost import weight_bytes
from glow_tf.errors import ConfigError, in_one_line
from glow_tf.partition import FLOAT_BYTES, part_layouts

GZIP, SHUFFLE = 1, 2  # HDF5's numbers of filters; others would be loaded as plugins
MOST_OBJECTS, MOST_DEPTH = 2**17, 64
ROOM, MOST_GROWTH = 2**26, 20  # bytes that any file may claim, and how many more for each of its own
ENOUGH = 0.9  # of the weights that the settings ask for; those of biases are not counted there


def check_weights(
    source: str | os.PathLike | IO[bytes],
    size: int,
    model: ModelConfig,
    what: str,
    compressed: bool = True,
    own_networks: bool = False,
) -> None:
    """Raises ConfigError unless an HDF5 file holds numbers and nothing else, as many as a model has weights.

    The source is the file, or its bytes as a file that can be read, of `size` bytes; `what` names it in
    messages. It may be `compressed`. Nobody knows the size of condition networks of one's own.
    """
    import h5py

    try:
        with h5py.File(source, "r") as file:
            datasets = [(item.size, item.nbytes) for item in _datasets(file, what, compressed, set())]
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:  # h5py's, of damaged files
        raise ConfigError(f"{what} must be an HDF5 file. Received: {in_one_line(str(error))}") from None
    found, claimed = (sum(pair[k] for pair in datasets) for k in (0, 1))
    if claimed > ROOM + MOST_GROWTH * size:
        raise ConfigError(
            f"{what} must hold at most {MOST_GROWTH} times its size and {ROOM >> 20} MiB. "
            f"Received: {claimed >> 20} MiB of numbers in {size / 2**20:.2f} MiB"
        )
    needed = model_bytes(model, networks=not own_networks) // FLOAT_BYTES
    if found < ENOUGH * needed or len(datasets) < model.num_parts:
        raise ConfigError(
            f"{what} must hold the weights that the settings of its model ask for, about {needed} numbers in "
            f"{model.num_parts} or more arrays. Received: {found} numbers in {len(datasets)} arrays"
        )


def model_bytes(model: ModelConfig, networks: bool = True) -> int:
    """Returns the bytes of a model's weights, in float32 and nearly: those of biases are not counted.

    Those of the parts' condition networks are left out if `networks` is false.
    """
    layouts = part_layouts(model)
    if not networks:
        own = [tuple(e for e in layout.given if e.kind != "condition") for layout in layouts]
        layouts = [dataclasses.replace(p, given=kept) for p, kept in zip(layouts, own, strict=True)]
    of_classes = 2 * len(model.classes) * math.prod(layouts[-1].output_shape)
    elements = [e for layout in layouts for e in (*layout.elements, *layout.head) if e.kind == "flow_step"]
    fixed = 0 if model.permutation in ("lu", "plain") else sum(e.channels**2 for e in elements)
    return int(weight_bytes(layouts)) + FLOAT_BYTES * (of_classes - fixed)


def _datasets(group: Any, what: str, compressed: bool, seen: set[int], depth: int = 0) -> Iterator[Any]:
    """Yields the datasets of a file, each once; raises ConfigError at what no weights file has."""
    import h5py

    for name in group:
        place = f"{group.name.rstrip('/')}/{name}"[-100:]
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = type(link).__name__
            raise ConfigError(f"{what} must not refer to other places. Received: {place!r}, a {kind}")
        item = group[name]
        address = h5py.h5o.get_info(item.id).addr
        if address in seen:
            raise ConfigError(f"{what} must hold everything once. Received: {place!r} under two names")
        seen.add(address)
        if len(seen) > MOST_OBJECTS or depth > MOST_DEPTH:
            raise ConfigError(f"{what} must not hold so much, or so deep. Received: {place!r}")
        if isinstance(item, h5py.Group):
            yield from _datasets(item, what, compressed, seen, depth + 1)
        else:
            _check_dataset(item, what, place, compressed)
            yield item


def _check_dataset(item: Any, what: str, place: str, compressed: bool) -> None:
    import h5py

    if not isinstance(item, h5py.Dataset) or item.dtype.kind not in "fiub":
        kind = getattr(item, "dtype", type(item).__name__)
        raise ConfigError(f"{what} must hold numbers. Received: {place!r}, of type {kind}")
    if item.external or item.is_virtual:
        raise ConfigError(
            f"{what} must not refer to other files. Received: {place!r}, whose numbers are elsewhere"
        )
    properties = item.id.get_create_plist()
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if filters not in ([], [GZIP], [SHUFFLE, GZIP]) or (filters and not compressed):
        raise ConfigError(
            f"{what} must be {'compressed with gzip, or not' if compressed else 'uncompressed'}. "
            f"Received: {place!r} with filters {filters}"
        )
    if item.chunks and not _chunks_are_sound(item, math.prod(item.chunks) * item.dtype.itemsize, filters):
        raise ConfigError(
            f"{what} must have chunks that hold what they claim. Received: {place!r}, {item.chunks}"
        )


def _chunks_are_sound(item: Any, size: int, filters: Sequence[int]) -> bool:
    """Returns whether chunks are not larger than their array, nor inflate to more than they claim."""
    if size > 2 * item.nbytes + ROOM:
        return False
    for k in range(item.id.get_num_chunks() if filters else 0):
        _, content = item.id.read_direct_chunk(item.id.get_chunk_info(k).chunk_offset)
        if len(zlib.decompressobj().decompress(content, size + 1)) > size:
            return False
    return True
