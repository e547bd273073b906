"""A model on images of another size than it was trained on. Its networks are convolutions, so that it may."""

import numpy as np

from glow_tf.core.errors import ConfigError
from glow_tf.core.memory import check_memory
from glow_tf.model.glow import Glow

BYTES = 8  # of memory per pixel, flow step and channel of the networks, for a gradient; measured: 5


def check_size(glow: Glow, height: int, width: int, name: str) -> None:
    """Raises ConfigError, naming an image, unless a model can be used at its size, and memory suffices."""
    config = glow.config
    if (height, width) == config.image_shape[:2]:
        return
    if config.classes or config.condition_shapes:
        own = "×".join(map(str, config.image_shape[:2]))
        raise ConfigError(
            f"a model that knows classes, or is given something with each image, takes images of {own} "
            f"alone: resize the others first. Received: {name} of {height}×{width}"
        )
    needed = BYTES * config.flow_steps * config.width * height * width
    check_memory(
        needed, f"what the gradient of {name}, {height}×{width}, needs", "crop the image, or leave it out"
    )


def of_size(glow: Glow, height: int, width: int) -> Glow:
    """Returns a model of the same weights for images of a size, or of the next larger one that it can have.

    Its sides are the model's, plus or minus multiples of what makes them as often even. See `check_size`.
    """
    step = 2 << glow.config.num_blocks
    sides = (side + (own - side) % step for side, own in zip((height, width), glow.image_shape, strict=False))
    shape = (*sides, glow.image_shape[-1])
    return glow if shape == tuple(glow.image_shape) else glow.recut(image_shape=shape)


def extended(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Extends images [N, h, w, …] to [N, height, width, …], below and to the right, by reflection."""
    rest = [(0, 0)] * (images.ndim - 3)
    missing = [(0, height - images.shape[1]), (0, width - images.shape[2])]
    return np.pad(images, [(0, 0), *missing, *rest], "symmetric")
