"""Copies of images, spoiled on purpose: what a score sees, shown without images of another kind."""

import numpy as np
from PIL import Image, ImageFilter

PATCHES = 4  # along a side, shuffled
NOISE = 1 / 16  # standard deviation, of the largest level
BLUR = 1.0  # pixels


def spoiled_copies(images: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns copies of images, uint8 [N, H, W, C], by name: noised, blurred, with shuffled patches, emptied.

    The seed is that of the noise and of the places of the patches.
    """
    rng = np.random.default_rng(seed % 2**32)
    top = float(images.max(initial=1))
    noise = rng.normal(0, NOISE * top, images.shape)
    copies = {
        "noised": np.clip(np.round(images + noise), 0, top),
        "blurred": [_blurred(image) for image in images],
        "shuffled patches": [_shuffled(image, rng) for image in images],
        "emptied": [_emptied(image) for image in images],
    }
    return {name: np.array(found, np.uint8).reshape(images.shape) for name, found in copies.items()}


def _emptied(image: np.ndarray) -> np.ndarray:
    """Returns an image of one colour: in each channel, the level that most pixels have."""
    channels = np.moveaxis(image, -1, 0)
    return np.broadcast_to([np.bincount(channel.ravel()).argmax() for channel in channels], image.shape)


def _blurred(image: np.ndarray) -> np.ndarray:
    channels = [Image.fromarray(channel) for channel in np.moveaxis(image, -1, 0)]
    return np.stack([np.asarray(c.filter(ImageFilter.GaussianBlur(BLUR))) for c in channels], axis=-1)


def _shuffled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shuffles patches; a rest at the right and the bottom, where sides do not divide, stays in place."""
    shuffled = image.copy()
    h, w = (max(side // PATCHES, 1) for side in image.shape[:2])
    places = [(top, left) for top in range(0, PATCHES * h, h) for left in range(0, PATCHES * w, w)]
    places = [(i, j) for i, j in places if i + h <= image.shape[0] and j + w <= image.shape[1]]
    for (i, j), k in zip(places, rng.permutation(len(places)), strict=True):
        top, left = places[k]
        shuffled[i : i + h, j : j + w] = image[top : top + h, left : left + w]
    return shuffled
