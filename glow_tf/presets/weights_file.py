"""A file of weights, looked into before it is loaded. Pure Python: no TensorFlow.

Anybody may have written it. An HDF5 file can refer to other files, and a small one can claim gigabytes.
"""

import collections
import dataclasses
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import numpy as np

from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.layout.cost import weight_bytes
from glow_tf.layout.partition import FLOAT_BYTES, Element, part_layouts

Shapes = Mapping[str, tuple[int, ...]]  # of each array in a file, by its place

GZIP, SHUFFLE = 1, 2  # HDF5's numbers of filters; others would be loaded as plugins
MOST_OBJECTS, MOST_DEPTH = 2**15, 64  # of a file
MOST_CHUNKS = 2**14  # of an array; h5py makes some thousands of 1 GB
ROOM, MOST_GROWTH = 2**26, 20  # bytes that any file may claim, or have, and how many more for each of its own
MOST_WEIGHT = 10**6  # training gives weights far below; activations are clipped to a hundredth
ENOUGH = 0.9  # of the weights that the settings ask for; those of biases are not counted there


def check_size(size: int, model: ModelConfig, what: str) -> None:
    """Raises ConfigError if a file of so many bytes is much larger than the weights of its model.

    Nobody knows the size of layers of one's own: with them a file may have any.
    """
    needed = model_bytes(model)
    if not model.has_own_steps and size > (most := ROOM + MOST_GROWTH * needed):
        raise ConfigError(
            f"{what} must have at most {most >> 20} MiB, for a model of {needed / 2**20:.2f} MiB. "
            f"Received: {size >> 20} MiB"
        )


def check_weights(
    source: str | os.PathLike | IO[bytes],
    size: int,
    model: ModelConfig,
    what: str,
    compressed: bool = True,
    own_networks: bool = False,
) -> Shapes:
    """Returns the shape of each array in an HDF5 file of so many bytes, by its place; see `load_checked`.

    ConfigError, which calls the file `what`, unless it holds numbers and nothing else, as many as a model has
    weights or more, and `compressed` only if it may be. Nobody knows the size of condition networks of one's
    own, so the weights of `own_networks` are not counted.
    """
    import h5py

    try:
        with h5py.File(source, "r") as file:
            arrays, claimed = _arrays(file, what, compressed)
    except ConfigError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, zlib.error) as error:  # of damaged files
        raise ConfigError(f"{what} must be an HDF5 file. Received: {in_one_line(str(error))}") from None
    if claimed > ROOM + MOST_GROWTH * size:
        raise ConfigError(
            f"{what} must hold at most {MOST_GROWTH} times its size and {ROOM >> 20} MiB. "
            f"Received: {claimed >> 20} MiB of numbers in {size / 2**20:.2f} MiB"
        )
    needed = model_bytes(model, networks=not own_networks) // FLOAT_BYTES
    found = sum(map(math.prod, arrays.values()))
    if found < ENOUGH * needed or len(arrays) < model.num_parts:
        raise ConfigError(
            f"{what} must hold the weights that the settings of its model ask for, about {needed} numbers "
            f"in {model.num_parts} or more arrays. Received: {found} numbers in {len(arrays)} arrays"
        )
    return arrays


def load_checked(
    model: Any, load: Callable[[], None], arrays: Shapes, what: str, most: float = MOST_WEIGHT
) -> None:
    """Loads the weights of a Keras model from a file, `what`; ConfigError unless they are its, and sound.

    Keras raises an error if it finds no array for a weight. So each array of the file is loaded if there are
    as many as weights. The arrays are those that `check_weights` found; of a trainer's file, the model's.
    """
    weights = {weight.path: tuple(weight.shape) for weight in model.variables}
    found, expected = (collections.Counter(shapes.values()) for shapes in (arrays, weights))
    for name, shape in (*arrays.items(), *weights.items()):
        if found[shape] != expected[shape]:
            raise ConfigError(
                f"{what} must hold one array for each weight of its model, and no other. Received: "
                f"{found[shape]} arrays of shape {shape} for {expected[shape]} weights, as {name[-100:]!r}"
            )
    try:
        load()
    except Exception:  # of Keras, in words about its own objects
        raise ConfigError(
            f"{what} must hold its arrays under the names that `save` of this package gives them. "
            f"Received: {len(arrays)} arrays of the right shapes, and another name of some"
        ) from None
    for weight in model.variables:
        check_weight(weight.path, weight.numpy(), what, most)


def check_weight(path: str, values: np.ndarray, what: str, most: float = MOST_WEIGHT) -> None:
    """Raises ConfigError unless a weight's numbers are finite, and are from -most to most.

    The mean and the deviation of real data may be any finite numbers.
    """
    most = math.inf if "/standardize/" in path else most
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if not (math.isfinite(low) and math.isfinite(high) and -most <= low and high <= most):  # NaN is neither
        limit = "" if most == math.inf else f", and at most {most:,}"
        raise ConfigError(
            f"{what} must have weights that are finite{limit}. Received: {path}, from {low:.3g} to {high:.3g}"
        )


def model_bytes(model: ModelConfig, networks: bool = True) -> int:
    """Returns the bytes of a model's weights, in float32 and nearly: those of biases are not counted.

    Those of layers of one's own are not counted either, and those of the parts' condition networks only if
    `networks` is true.
    """
    unknown = {"condition": not networks, "flow_step": model.has_own_steps}

    def counted(elements: Sequence[Element]) -> tuple[Element, ...]:
        return tuple(e for e in elements if not unknown.get(e.kind))

    layouts = [
        dataclasses.replace(p, elements=counted(p.elements), given=counted(p.given))
        for p in part_layouts(model)
    ]
    elements = [e for layout in layouts for e in layout.elements if e.kind == "flow_step"]
    fixed = 0 if model.permutation in ("lu", "plain") else sum(e.channels**2 for e in elements)
    return int(weight_bytes(layouts)) - FLOAT_BYTES * fixed


def _arrays(file: Any, what: str, compressed: bool) -> tuple[Shapes, int]:
    """Returns the shape of each array of a file, and their bytes; ConfigError at what no weights file has.

    Everything is asked for by the low-level interface of h5py: the other takes ten times as long.
    """
    import h5py

    links: list[tuple[str, int]] = []

    def add(name: bytes, link: Any) -> bool | None:
        links.append((name.decode(errors="replace"), link.type))
        return True if len(links) > MOST_OBJECTS else None  # which ends it

    file.id.links.visit(add, info=True)
    if len(links) > MOST_OBJECTS or max((name.count("/") for name, _ in links), default=0) > MOST_DEPTH:
        raise ConfigError(
            f"{what} must have at most {MOST_OBJECTS} groups and arrays, {MOST_DEPTH} deep. "
            f"Received: {links[-1][0][-100:]!r} and others"
        )
    arrays, seen, claimed = {}, {h5py.h5o.get_info(file.id).addr}, 0
    for name, kind in links:
        place = f"/{name}"[-100:]
        if kind != h5py.h5l.TYPE_HARD:
            raise ConfigError(f"{what} must not refer to other places. Received: {place!r}, a link")
        about = h5py.h5o.get_info(file.id, name.encode())
        if about.addr in seen:
            raise ConfigError(f"{what} must hold everything once. Received: {place!r} under two names")
        seen.add(about.addr)
        if about.type != h5py.h5o.TYPE_GROUP:
            item = h5py.h5o.open(file.id, name.encode())
            _check_dataset(item, what, place, compressed)
            arrays[name] = item.shape
            claimed += math.prod(item.shape) * item.dtype.itemsize
    return arrays, claimed


def _check_dataset(item: Any, what: str, place: str, compressed: bool) -> None:
    import h5py

    if not isinstance(item, h5py.h5d.DatasetID) or item.dtype.kind not in "fiub":
        kind = getattr(item, "dtype", type(item).__name__)
        raise ConfigError(f"{what} must hold numbers. Received: {place!r}, of type {kind}")
    properties = item.get_create_plist()
    layout = properties.get_layout()
    if properties.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise ConfigError(
            f"{what} must not refer to other files. Received: {place!r}, whose numbers are elsewhere"
        )
    filters = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    if filters not in ([], [GZIP], [SHUFFLE, GZIP]) or (filters and not compressed):
        raise ConfigError(
            f"{what} must be {'compressed with gzip, or not' if compressed else 'uncompressed'}. "
            f"Received: {place!r} with filters {filters}"
        )
    chunks = properties.get_chunk() if layout == h5py.h5d.CHUNKED else None
    if chunks and not _chunks_are_sound(item, math.prod(chunks) * item.dtype.itemsize, filters):
        raise ConfigError(
            f"{what} must have chunks that hold what they claim, at most {MOST_CHUNKS}. "
            f"Received: {place!r}, {chunks}"
        )


def _chunks_are_sound(item: Any, size: int, filters: Sequence[int]) -> bool:
    """Returns whether chunks are few, not larger than their array, and inflate to no more than they claim."""
    if size > 2 * math.prod(item.shape) * item.dtype.itemsize + ROOM:
        return False
    offsets: list[tuple[int, ...]] = []

    def add(chunk: Any) -> bool | None:
        offsets.append(chunk.chunk_offset)
        return True if len(offsets) > MOST_CHUNKS else None  # which ends it

    item.chunk_iter(add)
    if len(offsets) > MOST_CHUNKS:
        return False
    for offset in offsets if filters else ():
        _, content = item.read_direct_chunk(offset)
        if len(zlib.decompressobj().decompress(content, size + 1)) > size:
            return False
    return True
