"""The least and the most usual of the images that a run does not train on."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from glow_tf.model.conditions import some_of
from glow_tf.model.glow import Glow
from glow_tf.run import pictures
from glow_tf.run.context import Run

SHOWN = 8  # images at each end
VALUES = 2**20  # of all images that are scored, so that it takes seconds: 341 images of 32×32×3
LARGEST_SIDE = 128  # pixels; larger images are shown smaller


def scored_images(run: Run, glow: Glow) -> dict[str, Any]:
    """Scores images with a run's model, and returns what `RunContent.scored` is.

    The images are those held out to choose the best epoch, if there are some, otherwise test images. Empty of
    data that make no pictures, and where a single level is trained.
    """
    if not glow.config.is_pictures or run.config.train.only_part:
        return {}
    split = "validation" if len(run.images.validation) else "test"
    images = getattr(run.images, split)
    images = np.asarray(images[: max(VALUES // images[0].size, 1)])
    given, size = run.images.conditions.get(split), run.config.train.batch_size
    batches = [slice(start, start + size) for start in range(0, len(images), size)]
    bits = [glow.bits_per_dim(images[own], run.config.seed, some_of(given, own)) for own in batches]
    bits = np.concatenate(bits)
    order = np.flatnonzero(np.isfinite(bits))
    order = order[np.argsort(bits[order], kind="stable")]
    count = min(SHOWN, len(order) // 2)
    names = run.images.names.get(split) or [f"image {k}" for k in range(len(images))]

    def told(places: Sequence[int]) -> list[dict[str, Any]]:
        shown = pictures.stretched(images[places], run.images.top)
        pngs = [base64.b64encode(pictures.png(image, LARGEST_SIDE)).decode() for image in shown]
        return [
            {"name": names[k], "bits": float(bits[k]), "png": p} for k, p in zip(places, pngs, strict=True)
        ]

    ends = {"usual": told(order[:count]), "unusual": told(order[::-1][:count])}
    return {"split": split, "count": len(images), **ends}
