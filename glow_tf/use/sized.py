"""A model on images of other sizes than its own; see `Glow.resized`."""

from collections.abc import Sequence

import numpy as np

from glow_tf.bijectors.tiles import LARGE, SIDE
from glow_tf.config import check_divisible
from glow_tf.core.errors import ConfigError
from glow_tf.core.memory import check_memory
from glow_tf.model.glow import Glow
from glow_tf.use.models import TrainedModel

# Of memory: per pixel and channel of the networks, for a gradient also per flow step (measured: 5); and
# per pixel where tiles hold the networks (measured: 90).
BYTES, BYTES_BESIDE = 8, 100


def check_size(glow: Glow, height: int, width: int, name: str) -> None:
    """Raises ConfigError, naming an image, unless a model can restore it at its size, and memory suffices."""
    config = glow.config
    if (height, width) == config.image_shape[:2]:
        return
    _check_alone(glow, (height, width), name)
    needed = BYTES * config.flow_steps * config.width * height * width
    check_memory(
        needed, f"what the gradient of {name}, {height}×{width}, needs", "crop the image, or leave it out"
    )
    if config.design.any_size:
        _check_resizes(glow, (height, width), name)


def of_size(glow: Glow, height: int, width: int) -> Glow:
    """Returns a model of the same weights for images of a size, or of the next larger one that it can have.

    Levels have every size. A Glow's sides are its own, plus or minus multiples of
    what makes them as often even. See `check_size`.
    """
    own, step = glow.image_shape, 1 if glow.config.design.any_size else 2 << glow.config.num_blocks
    sides = (side + (there - side) % step for side, there in zip((height, width), own, strict=False))
    shape = (*sides, own[-1])
    return glow if shape == own else glow.resized(shape)


def extended(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Extends images [N, h, w, …] to [N, height, width, …], below and to the right, by reflection."""
    rest = [(0, 0)] * (images.ndim - 3)
    missing = [(0, height - images.shape[1]), (0, width - images.shape[2])]
    return np.pad(images, [(0, 0), *missing, *rest], "symmetric")


def fitted(model: TrainedModel, size: Sequence[int]) -> TrainedModel:
    """Returns a model for images of a size (H, W): the model itself at its own size, otherwise `resized`.

    ConfigError as in `check_fits`.
    """
    check_fits(model, size, "images")
    same = tuple(size) == tuple(model.image_shape[:2])
    return model if same else model.resized((*size, model.image_shape[-1]))


def check_fits(model: TrainedModel, size: Sequence[int], name: str) -> None:
    """Raises ConfigError, naming an image, unless a model can take images of a size, and memory suffices."""
    if (size := tuple(size)) == tuple(model.image_shape[:2]):
        return
    if not isinstance(model, Glow):
        raise ConfigError(
            "a SavedModel keeps the size of its images: export the model for that size, with --image_size. "
            f"Received: {name} of {'×'.join(map(str, size))} for {'×'.join(map(str, model.image_shape[:2]))}"
        )
    _check_alone(model, size, name)
    check_needed(model, size, name, "crop or shrink them")
    _check_resizes(model, size, name)


def check_needed(glow: Glow, size: Sequence[int], name: str, remedy: str) -> None:
    """Raises ConfigError, with a remedy, unless memory suffices to run a model on images of a size (H, W)."""
    pixels = size[0] * size[1]
    is_tiled = any(bijector.takes_tiles for bijector in glow.parts[0].bijectors)
    at_once = min(pixels, 4 * LARGE * SIDE**2) if is_tiled else pixels
    needed = BYTES * max(glow.config.widths) * at_once + BYTES_BESIDE * pixels
    check_memory(needed, f"what {name} of {'×'.join(map(str, size))} need", remedy)


def _check_alone(glow: Glow, size: tuple[int, int], name: str) -> None:
    if glow.classes or glow.condition_shapes:
        own, received = ("×".join(map(str, sides)) for sides in (glow.image_shape[:2], size))
        raise ConfigError(
            f"a model that knows classes, or is given something with each image, takes images of {own} "
            f"alone: resize the others first. Received: {name} of {received}"
        )


def _check_resizes(glow: Glow, size: tuple[int, int], name: str) -> None:
    config, _ = glow.config.design.resized(glow.config, (*size, glow.image_shape[-1]))
    check_divisible(size, config, f"{name} of {'×'.join(map(str, size))}")
