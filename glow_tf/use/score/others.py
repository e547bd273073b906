"""Images of other kinds than most good ones, to see whether a detector tells them from these."""

from __future__ import annotations

import numpy as np
from PIL import Image

COUNT = 60  # of each kind
DIGIT, FRAME = 21, 28  # pixels of a digit without its frame, and with it, as MNIST's have
THIN, CONTRAST = 170.0, 4.0  # what becomes middle grey, and how much darker and lighter others do


def others(shape: tuple[int, int, int], seed: int) -> dict[str, np.ndarray]:
    """Returns what is pictured → images uint8 [60, H, W, C] of it: what scikit-learn has within it.

    Digits are drawn thin, in a frame of 28×28 pixels, and enlarged: blurred ones that fill the image are told
    easily. Of the two photographs, squares are shrunk or enlarged.
    """
    from sklearn.datasets import load_digits, load_sample_images

    rng, (height, width, channels) = np.random.default_rng(seed % 2**32), shape
    digits, pictures = load_digits().images, load_sample_images().images
    squares = []
    for k in range(COUNT):
        picture = pictures[k % len(pictures)]
        side = rng.integers(64, min(picture.shape[:2]) + 1)
        top, left = (rng.integers(length - side + 1) for length in picture.shape[:2])
        squares.append(picture[top : top + side, left : left + side])
    size = width, height
    drawn = [_of_size(np.uint8(own * 255 / 16), (DIGIT, DIGIT), 1) for own in rng.permutation(digits)[:COUNT]]
    thin = np.clip(CONTRAST * (np.stack(drawn)[..., 0] - THIN) + 128, 0, 255).astype(np.uint8)
    before = (FRAME - DIGIT) // 2
    framed = np.pad(thin, [(0, 0), *[(before, FRAME - DIGIT - before)] * 2])
    return {
        name: np.stack([_of_size(own, size, channels) for own in images])
        for name, images in {"handwritten digits": framed, "pieces of photographs": squares}.items()
    }


def _of_size(image: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    mode = "L" if channels == 1 else "RGB"
    found = np.asarray(Image.fromarray(image).convert(mode).resize(size, Image.Resampling.BICUBIC))
    return found.reshape(*found.shape[:2], channels)
