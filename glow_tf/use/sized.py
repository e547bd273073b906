"""A model on images of other sizes than its own; see `Glow.resized`."""

from collections.abc import Sequence

from glow_tf.bijectors.flow_split import LARGE, SIDE
from glow_tf.config import check_divisible
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import check_memory
from glow_tf.model.glow import Glow

# Of memory: per pixel and channel of the networks, for a gradient also per flow step (measured: 5); and
# per pixel where tiles hold the networks (measured: 90).
BYTES, BYTES_BESIDE = 8, 100


def fitted(model: Glow, size: Sequence[int], gradient: bool = False) -> Glow:
    """Returns a model for images of a size (H, W): the model itself at its own size, otherwise `resized`.

    ConfigError as in `check_fits`.
    """
    check_fits(model, size, "images", gradient)
    same = tuple(size) == tuple(model.image_shape[:2])
    return model if same else model.resized((*size, model.image_shape[-1]))


def check_fits(model: Glow, size: Sequence[int], name: str, gradient: bool = False) -> None:
    """Raises ConfigError, naming an image, unless a model can take images of a size, and memory suffices.

    With `gradient` that of the image must fit into memory, too.
    """
    if (size := tuple(size)) == tuple(model.image_shape[:2]):
        return
    shape, own = ("×".join(map(str, sides)) for sides in (size, model.image_shape[:2]))
    if model.condition_shapes:
        raise ConfigError(
            f"a model that is given something with each image takes images of {own} alone: resize the others "
            f"first. Received: {name} of {shape}"
        )
    config = model.config
    if gradient:
        steps = config.design.cuts(config).counts[0] if config.design.any_size else config.flow_steps
        needed = BYTES * steps * config.widths[0] * size[0] * size[1]
        remedy = "crop the image, or leave it out"
        check_memory(needed, f"what the gradient of {name}, {shape}, needs", remedy)
    else:
        check_needed(model, size, name, "crop or shrink them")
    resized, _ = config.design.resized(config, (*size, model.image_shape[-1]))
    check_divisible(size, resized, f"{name} of {shape}")


def check_needed(glow: Glow, size: Sequence[int], name: str, remedy: str) -> None:
    """Raises ConfigError, with a remedy, unless memory suffices to run a model on images of a size (H, W)."""
    pixels = size[0] * size[1]
    is_tiled = any(bijector.takes_tiles for bijector in glow.parts[0].bijectors)
    at_once = min(pixels, 4 * LARGE * SIDE**2) if is_tiled else pixels
    needed = BYTES * max(glow.config.widths) * at_once + BYTES_BESIDE * pixels
    check_memory(needed, f"what {name} of {'×'.join(map(str, size))} need", remedy)
