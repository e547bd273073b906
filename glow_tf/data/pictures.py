"""One image file → pixels."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from glow_tf.data.arrays import resize

if TYPE_CHECKING:
    from PIL import Image

# A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size if this many times the wanted side remain.
DRAFT_OVERSAMPLING = 4
ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 2 to 8 are turned or mirrored


@dataclasses.dataclass(frozen=True)
class Picture:
    """What was read from one image file.

    Attributes:
      pixels: uint8 [H, W, 1] if the picture is grey, else [H, W, 3]; empty if it could not be read.
      side: the shorter side of the picture in the file, in pixels.
      turned: whether its EXIF orientation was applied.
      problem: why it could not be read, or empty.
    """

    pixels: np.ndarray
    side: int = 0
    turned: bool = False
    problem: str = ""


def read_picture(path: pathlib.Path, size: int) -> Picture:
    """Reads the first frame of an image file, upright.

    Args:
      path: the file.
      size: the largest centred square is resized to this side; 0 keeps the picture as it is.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            side = min(image.size)
            pixels, turned = _decode(image, size)
    except MemoryError:
        raise
    except Image.UnidentifiedImageError:
        return Picture(np.empty(0, np.uint8), problem="it is not an image, or of a kind that PIL cannot read")
    # PIL's readers raise almost any exception at damaged files.
    except Exception as error:
        return Picture(np.empty(0, np.uint8), problem=str(error) or type(error).__name__)
    return Picture(_resized(pixels, size).numpy() if size else pixels, side, turned)


def _decode(image: Image.Image, size: int) -> tuple[np.ndarray, bool]:
    """Returns the pixels of an opened picture, upright, and whether they had to be turned."""
    from PIL import ImageOps

    if size:
        image.draft(None, (DRAFT_OVERSAMPLING * size,) * 2)  # does nothing but to JPEG
    # PIL itself turns a TIFF upright while it loads it, and then forgets the orientation.
    turned_by_pil = image.format == "TIFF" and _is_turned(image)
    image.load()
    if turned_by_pil or not _is_turned(image):
        return _pixels(image), turned_by_pil
    return _pixels(ImageOps.exif_transpose(image)), True


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ORIENTATION) in range(2, 9)
    except Exception:  # damaged EXIF data; the picture itself may be whole
        return False


def _pixels(image: Image.Image) -> np.ndarray:
    """Returns a loaded picture as uint8 [H, W, 1] if it is grey, else [H, W, 3]."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range; save it with 8 or 16 bits")
    grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    # Transparent pixels would otherwise show whatever colour lies hidden under them.
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode.startswith("I"):  # 16 bits per pixel, which PIL's convert would cut off at 255
        pixels = (np.asarray(image, np.float64) / 257).round().clip(0, 255).astype(np.uint8)
    else:
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


@tf.function(
    input_signature=[tf.TensorSpec([None, None, None], tf.uint8), tf.TensorSpec([], tf.int32)],
    autograph=False,
)
def _resized(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """`resize`, traced once for pictures of all sizes."""
    return resize(image, size)
