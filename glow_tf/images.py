"""Pictures of many images."""

from __future__ import annotations

import io
import math

import numpy as np

MIN_TILE = 64  # pixels; smaller images are enlarged by whole factors so that they can be seen


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lays images uint8 [N, H, W, C] out in rows, with a thin border: → uint8 [H', W', C]."""
    count, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    zoom = max(1, MIN_TILE // max(height, width))
    tiles = np.full((rows * columns, height * zoom + 2, width * zoom + 2, channels), 255, np.uint8)
    tiles[:count, 1:-1, 1:-1] = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    tiles = tiles.reshape(rows, columns, *tiles.shape[1:]).swapaxes(1, 2)
    return tiles.reshape(rows * tiles.shape[1], -1, channels)


def png(image: np.ndarray) -> bytes:
    """Encodes uint8 [H, W, 1 or 3] as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def stretched(images: np.ndarray, top: int) -> np.ndarray:
    """Spreads levels 0 … top over 0 … 255, for data that does not use the whole range."""
    return np.clip(images.astype(np.float32) * (255 / top), 0, 255).astype(np.uint8)
