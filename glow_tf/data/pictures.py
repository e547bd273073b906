"""One image file, or array in a .npy file → pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import pathlib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from glow_tf.data.arrays import resize, why_of_another_type

if TYPE_CHECKING:
    from PIL import Image

SUFFIX = ".npy"

# NumPy parses the header of a file by Python's parser, which fails now and then where several threads use it
# at once ("AST constructor recursion depth mismatch" in Python 3.11): a sound file would be left out.
_HEADERS = threading.Lock()

# A large picture is decoded or reduced to 1/2, 1/4, … of its size if this many times the wanted side remain.
DRAFT_OVERSAMPLING = 4
# Of the kinds that PIL knows; for some of the others it starts programs, such as Ghostscript.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF")
LARGE = 25_000_000  # pixels of a picture that is reduced before it is resized, which takes its room in floats
MOST_BEFORE_PIXELS = 2**22  # bytes; profiles, thumbnails and texts seldom have half of it
MOST_OF_PIXELS = 3  # times the bytes of the pixels, that a file may have; 16 bits of three channels have 2
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 8 are turned or mirrored


@dataclasses.dataclass(frozen=True)
class Picture:
    """What was read from one image file."""

    # uint8 [H, W, 1] if the picture is grey, else [H, W, 3]; empty if it could not be read. Of an array, and
    # of pixels read as they are, another type, and any number of channels.
    pixels: np.ndarray
    side: int = 0  # the shorter side of the picture in the file, in pixels
    turned: bool = False  # whether its EXIF orientation was applied
    problem: str = ""  # why it could not be read, or empty
    top: int = 0  # its largest grey value, if it has 16 bits; otherwise 0


def read_picture(path: pathlib.Path, size: int, dtype: str = "uint8") -> Picture:
    """Reads the first frame of an image file, upright, or an array [H, W] or [H, W, C] of a .npy file.

    Its largest centred square is resized to the side `size`, unless that is 0. Other than as `uint8`, pixels
    are read as they are, or not at all: grey ones of 16 bits as `uint16`, and those of a TIFF of floats as
    `float32`. An array has numbers of this type, and any number of channels. Pillow's own limits hold.
    """
    from PIL import Image

    if path.suffix.lower() == SUFFIX:
        return _read_array(path, size, dtype)

    try:
        with _File(path) as file, Image.open(file, formats=FORMATS) as image:
            file.check(image)
            side = min(image.size)
            if size:
                image.draft(None, (DRAFT_OVERSAMPLING * size,) * 2)  # does nothing but to JPEG
            picture = _decode(image, size, dtype)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        return Picture(np.empty(0, np.uint8), problem="it is not a PNG, JPEG, WebP, BMP, GIF or TIFF image")
    # PIL's readers raise almost any exception at damaged files.
    except Exception as error:
        return Picture(np.empty(0, np.uint8), problem=str(error) or type(error).__name__)
    return dataclasses.replace(picture, side=side)


def _read_array(path: pathlib.Path, size: int, dtype: str) -> Picture:
    try:
        array = opened_array(path, (2, 3), dtype)
    except ValueError as error:
        return Picture(np.empty(0, np.uint8), problem=str(error))
    array = array[..., np.newaxis] if array.ndim == 2 else array
    return Picture(np.asarray(resize(np.array(array, dtype), size)), min(array.shape[:2]))


class _File(io.BufferedReader):
    """A file of a picture, of which a bounded part is read before its pixels, and for each of them.

    Pillow reads all that stands before the pixels, whatever it is, before it knows how many they are. Within
    these bounds that takes seconds.
    """

    def __init__(self, path: pathlib.Path):
        super().__init__(io.FileIO(path))
        self._size = path.stat().st_size
        start = self.peek(12)
        is_whole = start[8:12] == b"WEBP"  # which is read whole, and has a bound of its own
        most = MOST_BEFORE_PIXELS // 4 if start[1:4] == b"PNG" else MOST_BEFORE_PIXELS  # it is compressed
        self._left = math.inf if is_whole else most

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._size if size is None or size < 0 else size
        if min(wanted, self._size) > self._left:
            raise ValueError("too much stands before its pixels: profiles, texts, or places of strips")
        data = super().read(size)
        self._left -= len(data)
        return data

    def check(self, image: Image.Image) -> None:
        """Ends what stands before the pixels; ValueError if the file is far larger than they are."""
        self._left = math.inf
        each = 2 if image.mode == "I;16" else 4 if image.mode in ("I", "F") else len(image.getbands())
        if self._size > MOST_BEFORE_PIXELS + MOST_OF_PIXELS * each * image.width * image.height:
            raise ValueError("its file is far larger than its pixels")


def type_of_inputs(paths: Iterable[pathlib.Path]) -> str:
    """Returns `uint8`, or `float32` where the first .npy file among images has other numbers than bytes."""
    for path in paths:
        if path.suffix.lower() == SUFFIX:
            with contextlib.suppress(ValueError):  # as in `read_picture`, which says what is wrong
                return "uint8" if opened_array(path, (2, 3)).dtype == np.uint8 else "float32"
    return "uint8"


def opened_array(path: pathlib.Path, ranks: tuple[int, int], dtype: str = "") -> np.ndarray:
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


def _decode(image: Image.Image, size: int, dtype: str) -> Picture:
    """Reads the pixels of an opened picture, upright, and resizes them."""
    from PIL import ImageOps

    orientation = _orientation(image)
    least = DRAFT_OVERSAMPLING * size if image.width * image.height > LARGE else 0
    image.load()
    if image.format != "TIFF":  # which PIL itself turns upright while it loads it
        with contextlib.suppress(Exception):  # damaged EXIF data; the picture itself may be whole
            ImageOps.exif_transpose(image, in_place=True)
    top = int(image.convert("I").getextrema()[1]) if image.mode.startswith("I") else 0
    pixels = _pixels(image, least) if dtype == "uint8" else _pixels_as_they_are(image, dtype)
    if not pixels.size:
        raise ValueError("it has no pixels")
    if size and pixels.shape[:2] != (size, size):
        pixels = _resizer(dtype)(pixels, size).numpy()
    return Picture(pixels, turned=orientation > 1, top=top)


def _orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, from 1 to 8."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF data; the picture itself may be whole
        return 1
    return found if found in range(1, 9) else 1


def _pixels(image: Image.Image, least: int) -> np.ndarray:
    """Returns a loaded picture as uint8 [H, W, 1] if it is grey, else [H, W, 3].

    It is reduced by a whole factor that leaves its shorter side `least` pixels; 0 keeps it.
    """
    from PIL import Image

    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):  # 16 bits are I;16 there
        kind, or_train = "integers of 32 bits, and", ""
        if image.mode == "F":
            kind, or_train = "floats", ", or train with --data=real"
        raise ValueError(f"its pixels are {kind} of unknown range; save it with 8 or 16 bits{or_train}")
    deep = image.mode.startswith("I")  # 16 bits per pixel, which PIL's convert would cut off at 255
    if deep:
        image = image.convert("I").point([(value + 128) // 257 for value in range(2**16)], "L")
    # Transparent pixels would otherwise show whatever colour lies hidden under them.
    transparent = not deep and ("A" in image.getbands() or "transparency" in image.info)
    kind = "L" if image.mode in ("1", "L", "LA") or _has_grey_palette(image) else "RGB"
    if image.mode != (wanted := "RGBA" if transparent else kind):
        image = image.convert(wanted)
    if least and (factor := min(image.size) // least) > 1:
        image = image.reduce(factor)
    if transparent:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert(kind)
    pixels = np.asarray(image)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _has_grey_palette(image: Image.Image) -> bool:
    """Whether a picture's few colours are shades of grey, as programs write that make files small."""
    if image.mode != "P":
        return False
    used = [place for _, place in image.getcolors(256)]
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)[used]
    return bool((colours == colours[:, :1]).all())


def _pixels_as_they_are(image: Image.Image, dtype: str) -> np.ndarray:
    """Returns a loaded grey picture as `uint16` or `float32` [H, W, 1]; ValueError if it has others."""
    kinds = {"F": "float32", "I": "uint16" if image.format == "PNG" else "int32"}
    found = "uint16" if image.mode.startswith("I;16") else kinds.get(image.mode, "uint8")
    if why := why_of_another_type(found, dtype):
        colour = "; colours are read with 8 bits, so save others as .npy" if len(image.getbands()) > 1 else ""
        raise ValueError(why + colour)
    return np.asarray(image).astype(dtype)[..., np.newaxis]


@functools.cache
def _resizer(dtype: str) -> tf.types.experimental.GenericFunction:
    """Returns `resize`, traced once for pictures of all sizes."""
    signature = [tf.TensorSpec([None, None, None], dtype), tf.TensorSpec([], tf.int32)]
    return tf.function(functools.partial(resize), input_signature=signature, autograph=False)
