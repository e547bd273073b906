"""Large images in tiles: a map of neighbourhoods, computed piece by piece in the memory of one piece."""

from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

SIDE = 384  # places of a tile without its margin; of a part of width 192, one activation has 130 MB
LARGE = 2  # tensors of more such tiles are cut


def needs_tiles(shape: Sequence[int | None]) -> bool:
    """Returns whether a tensor [B, H, W, C] is so large that it is cut; False where H or W is not known."""
    _, height, width, _ = shape
    return bool(height and width) and height * width > LARGE * SIDE**2


def in_tiles(
    function: Callable[..., Sequence[tf.Tensor]], radius: int, *tensors: tf.Tensor
) -> list[tf.Tensor]:
    """Returns function(*tensors), computed tile by tile; all tensors are [B, H, W, …].

    What the function returns for a place must follow from the tensors within `radius` places of it, and from
    whether the image ends there. Tiles overlap by that much, so the result is the same but for rounding.
    """
    height, width = tensors[0].shape[1:3]
    rows, before = [], []
    for of_image, of_tile in _cuts(height, radius):
        row = []
        for across_image, across_tile in _cuts(width, radius):
            with tf.control_dependencies(before):  # one tile after another, so that memory holds one
                tile = [tf.identity(tensor[:, of_image, across_image]) for tensor in tensors]
            before = [result[:, of_tile, across_tile] for result in function(*tile)]
            row.append(before)
        rows.append([tf.concat(results, axis=2) for results in zip(*row, strict=True)])
    return [tf.concat(results, axis=1) for results in zip(*rows, strict=True)]


def _cuts(length: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """Yields, of an axis, what each tile reads, and what of the tile counts. All tiles have one length."""
    read = min(SIDE + 2 * radius, length)
    for start in range(0, length, SIDE):
        first = min(max(start - radius, 0), length - read)
        yield slice(first, first + read), slice(start - first, min(start + SIDE, length) - first)
