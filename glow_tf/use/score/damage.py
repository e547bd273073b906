"""Copies of images with damage drawn into them, by which a detector chooses what it looks at.

Nothing is learned from them, and they look like no defect in particular: what is best on them is what sees a
small change of an image at all. CutPaste (Li et al. 2021, https://arxiv.org/abs/2104.04015) trains on such.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

KINDS = ("hole", "crack", "break", "fray", "uneven")


def damaged(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns copies of images [N, H, W, C] with one damage each, kinds in turn, and masks bool [N, H, W]."""
    rng, sides = np.random.default_rng(seed % 2**32), (images.shape[2], images.shape[1])
    low, high = 0, 255
    if images.dtype != np.uint8 and len(images):
        low, high = images.min(), images.max()
    copies, masks = np.empty_like(images), np.empty(images.shape[:3], bool)
    for k, image in enumerate(images):
        kind, other = KINDS[k % len(KINDS)], images[rng.integers(len(images))] - float(low)
        other = np.rot90(other, 1 if sides[0] == sides[1] else 2)
        mask, blur = _shape(kind, sides, rng)
        inside = _inside(kind, image - float(low), other, rng)
        share = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur)))[..., np.newaxis] / 255
        copy = np.clip((1 - share) * (image - float(low)) + share * inside, 0, high - low) + low
        copies[k] = copy.round() if images.dtype == np.uint8 else copy
        masks[k] = np.asarray(mask) > 0
    return copies, masks


def _shape(kind: str, sides: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, float]:
    """Returns where a damage is, 0 or 255, and how many pixels its edge is wide."""
    mask, side = Image.new("L", sides), min(sides)
    draw, centre = ImageDraw.Draw(mask), rng.uniform(0.1, 0.9, 2) * sides
    if kind == "hole":
        radii = np.maximum(rng.uniform(0.006, 0.015, 2) * side, 0.5)
        draw.ellipse([*(centre - radii), *(centre + radii)], fill=255)
        return mask, 0.002 * side
    if kind == "crack":
        angles = rng.uniform(0, np.pi) + np.cumsum(rng.normal(0, 0.3, rng.integers(8, 20)))
        steps = 0.015 * side * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        points = centre + np.cumsum(steps, axis=0)
        draw.line([*map(tuple, points)], fill=255, width=max(1, round(side / 250)))
        return mask, 0.001 * side
    if kind == "break":  # at an edge
        axis = rng.integers(2)
        centre[axis] = sides[axis] * rng.choice([0.03, 0.97])
    angles = np.sort(rng.uniform(0, 2 * np.pi, 10))
    rays = rng.uniform(0.04, 0.12) * side * rng.uniform(0.5, 1, 10)
    corners = centre + np.stack([rays * np.cos(angles), rays * np.sin(angles)], axis=1)
    draw.polygon([*map(tuple, corners)], fill=255)
    return mask, (0.02 if kind == "uneven" else 0.002) * side


def _inside(kind: str, image: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns what is seen in place of an image; `other` is another good one, turned, and has its light."""
    if kind == "hole":
        return image * rng.uniform(0.2, 0.5)
    if kind == "crack":
        return image * rng.uniform(0.3, 0.7)
    if kind == "uneven":
        return image * (1 + rng.choice([-1, 1]) * rng.uniform(0.25, 0.5))
    own = other * (image.mean() / max(other.mean(), 1e-3))
    return own * rng.uniform(0.4, 0.8) if kind == "break" else own
