"""Pictures of many images."""

import io
import math

import numpy as np

MIN_TILE = 64  # pixels; smaller images are enlarged, smoothly, so that their shapes can be seen
BORDER = 2  # pixels of white around each


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images uint8 [N, H, W, C] out in rows: → uint8 [H', W', C]."""
    images = enlarged(images, max(1, MIN_TILE // max(images.shape[1:3])))
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    tiles = np.full((rows * columns, height + 2 * BORDER, width + 2 * BORDER, channels), 255, np.uint8)
    tiles[:count, BORDER:-BORDER, BORDER:-BORDER] = images
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    return tiles.reshape(rows * tiles.shape[1], -1, channels)


def enlarged(images: np.ndarray, zoom: int, resampling: str = "BICUBIC") -> np.ndarray:
    """Enlarges images uint8 [N, H, W, C] by a whole factor, with a filter of Pillow's."""
    from PIL import Image

    if zoom == 1:
        return images
    size = (images.shape[2] * zoom, images.shape[1] * zoom)
    large = [np.asarray(to_pil(image).resize(size, Image.Resampling[resampling])) for image in images]
    return np.stack(large).reshape(len(images), size[1], size[0], images.shape[3])


def png(image: np.ndarray, largest_side: int | None = None) -> bytes:
    """Encodes uint8 [H, W, 1 or 3] as PNG, made smaller if its larger side is more than so many pixels."""
    buffer, picture = io.BytesIO(), to_pil(image)
    if largest_side is not None:
        picture.thumbnail((largest_side, largest_side))
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    """Returns an array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def stretched(images: np.ndarray, top: int) -> np.ndarray:
    """Spreads grey values 0 … top over 0 … 255, for data that does not use the whole range."""
    return np.clip(images.astype(np.float32) * (255 / max(top, 1)), 0, 255).astype(np.uint8)


def to_pil(image: np.ndarray):
    """Returns uint8 [H, W, 1 or 3] as an image of Pillow's."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
