"""Files of pictures of any kind: animated, turned, damaged, or much larger than they look."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from lab.benchmarks.hostile_damage import damaged

SUFFIXES = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "BMP": "bmp", "GIF": "gif", "TIFF": "tif"}

OTHERS = (
    "PPM",
    "TGA",
    "ICO",
    "PDF",
    "EPS",
    "JPEG2000",
    "SGI",
    "PCX",
    "ICNS",
    "DIB",
    "MPO",
    "XBM",
    "IM",
    "DDS",
)


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Returns a picture as a file; as PNG if the kind cannot hold it."""
    content = io.BytesIO()
    try:
        picture.save(content, kind, **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, struct.error):
        content = io.BytesIO()
        picture.convert("RGB").save(content, "PNG")
    return content.getvalue()


def bomb(width: int, height: int, pixels: bool = True) -> bytes:
    """Returns a PNG of some kilobytes that claims a size, with all of its black pixels or with one row."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    squeeze, squeezed = zlib.compressobj(9), []
    for _ in range(height if pixels else 1):
        squeezed.append(squeeze.compress(bytes(3 * min(width, 2**16) + 1)))
    squeezed.append(squeeze.flush())
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", b"".join(squeezed))
        + chunk(b"IEND", b"")
    )


def _random_picture(rng: random.Random) -> Image.Image:
    width, height = rng.choice(((16, 16), (8, 8), (1, 30_000), (30_000, 1), (1, 1), (40, 24), (5, 300)))
    generator = np.random.default_rng(rng.randrange(2**32))
    mode = rng.choice(
        ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16", "I", "F")
    )
    if mode in ("I;16", "I", "F"):
        types = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        return Image.fromarray(generator.integers(0, 2**16, (height, width)).astype(types[mode]))
    pixels = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    return (pixels.convert("L") if mode in ("LA", "PA") else pixels).convert(mode if mode != "PA" else "P")


def picture_file(rng: random.Random) -> bytes:
    """Returns a picture of any kind: animated, turned, with a palette, of 16 bits, or damaged."""
    kind = rng.choice((*SUFFIXES, *SUFFIXES, *OTHERS))
    picture = _random_picture(rng)
    options: dict[str, Any] = {}
    if rng.random() < 0.2 and kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"save_all": True, "append_images": [picture.copy() for _ in range(rng.randrange(1, 4))]}
    if rng.random() < 0.2 and kind in ("JPEG", "WEBP", "PNG", "TIFF"):
        exif = Image.Exif()
        exif[0x0112] = rng.choice((1, 2, 3, 6, 8, 9, 0, 65535))
        options["exif"] = exif
    content = saved(picture, kind, **options)
    return damaged(rng, content, rng.randbytes(50)) if rng.random() < 0.7 else content
