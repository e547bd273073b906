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


# Pictures as an attacker would craft them: each small file asks for minutes or gigabytes.


def crafted(side: int = 9_480) -> dict[str, bytes]:
    """Returns crafted pictures, which are not to be read: what each is → the file."""
    how = {"progressive": True, "subsampling": 0}
    jpegs = {mode: saved(Image.new(mode, (16, 16)), "JPEG", **how) for mode in ("L", "RGB", "CMYK")}
    found = {
        f"a progressive JPEG of {large}², {mode}": sized(content, large, large)
        for mode, content in jpegs.items()
        for large in (side, 13_370)
        if mode != "L" or large > side
    }
    scans = {2_000: 600, 1_000: 4_200, 8: 300_000}
    found |= {f"{count} scans of {large}²": refined(large, count) for large, count in scans.items()}
    # 0xCA: arithmetic coding, which is slower than Huffman's.
    found[f"20 arithmetic scans of {side}²"] = refined(side, 20).replace(b"\xff\xc2", b"\xff\xca")
    whole = saved(Image.new("RGB", (16, 16)), "JPEG", subsampling=0)
    alone = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"  # a scan of one colour of three
    found[f"a baseline JPEG of one colour of three, {side}²"] = sized(
        whole[: whole.index(b"\xff\xda")] + alone + bytes(3) + b"\xff\xd9", side, side
    )
    found["a BMP of 89,000,000 pixels in runs"] = runs(89_000_000, 1, b"\x01\x01\x00\x00")
    return found


def sized(jpeg: bytes, width: int, height: int) -> bytes:
    """Returns a JPEG that claims another size."""
    at = next(jpeg.index(marker) for marker in (b"\xff\xc2", b"\xff\xc0") if marker in jpeg)
    return jpeg[: at + 5] + struct.pack(">HH", height, width) + jpeg[at + 9 :]


def refined(side: int, count: int) -> bytes:
    """Returns a progressive JPEG of one colour whose scans look at every coefficient, and change none."""
    jpeg = sized(saved(Image.new("L", (16, 16)), "JPEG", progressive=True), side, side)
    tables = b"".join(
        b"\xff\xc4\x00\x14" + bytes([kind, 1, *[0] * 15, symbol])
        for kind, symbol in ((0x00, 0), (0x10, 0xE0))
    )
    first = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00\x00"
    skips = -(-((-(-side // 8)) ** 2) // 32_767)  # one code skips so many blocks
    bits = ("0" + 14 * "1") * skips
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[k : k + 8], 2) for k in range(0, len(bits), 8)).replace(b"\xff", b"\xff\x00")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x10" + data
    return jpeg[: jpeg.index(b"\xff\xda")] + tables + first + scan * count + b"\xff\xd9"


def runs(width: int, height: int, body: bytes) -> bytes:
    """Returns a grey BMP in runs."""
    palette = bytes(level for k in range(256) for level in (k, k, k, 0))
    start = 14 + 40 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + header + palette + body
