"""The flag --image_size of commands for trained models: images of other sizes than the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.config import MOST_SIDE
from glow_tf.core.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.model.glow import Glow
    from glow_tf.use import UsedImages


def define(values: flags.FlagValues, reads_images: bool = True) -> None:
    """Defines --image_size; 0 is for commands that read images."""
    own = "0: each image at its own; " if reads_images else ""
    about = f"Size of the images: {own}64, or 48x64 (height x width); empty: the model's, or its preset's."
    parsing.define(values, image_size=("", about))


def size_of(values: flags.FlagValues) -> tuple[int, int] | None:
    """Returns the height and width that --image_size says; (0, 0): each its own; None: the model's.

    Where the flag is empty, it is the `image_size` of the card of a preset that has one.
    """
    from glow_tf.presets import about

    text = values.image_size or str(about(values.model).get("image_size", ""))
    if not text:
        return None
    sides = [int(side) if side.isascii() and side.isdigit() else -1 for side in text[:20].split("x")]
    height, width = sides[0], sides[-1]
    fits = 1 <= min(sides) <= max(sides) <= MOST_SIDE or (height == width == 0)
    if len(sides) > 2 or not fits:
        raise ConfigError(
            "image_size must be empty, a side in pixels, height x width such as 48x64, or 0: their own. "
            f"Received: image_size={text!r}"
        )
    return height, width


def sized_model(values: flags.FlagValues, model: Glow, gradient: bool = False) -> Glow:
    """Returns the model for images of the size that --image_size says; 0 is the model's own.

    ConfigError as in `check_fits`.
    """
    from glow_tf.use.sized import fitted

    size = size_of(values)
    return fitted(model, size, gradient) if size and max(size) else model


def models_and_images(
    values: flags.FlagValues, model: Glow, gradient: bool = False
) -> Iterator[tuple[Glow, UsedImages]]:
    """Reads images as `images_of` does, at the size that --image_size says: each size with a model for it.

    ConfigError also as in `check_fits`.
    """
    from glow_tf.use.sized import check_fits, fitted

    if size_of(values) != (0, 0):
        model = sized_model(values, model, gradient)
        yield model, model_flags.images_of(values, model)
        return
    groups = model_flags.images_by_size(values, model)
    for used in groups:  # before time is spent
        check_fits(model, used.images.shape[1:3], used.names[0], gradient)
    for used in groups:
        yield fitted(model, used.images.shape[1:3]), used


def model_and_images(values: flags.FlagValues, model: Glow) -> tuple[Glow, UsedImages]:
    """As `models_and_images`; ConfigError unless the images have one size."""
    found = models_and_images(values, model)
    first = next(found)
    if (second := next(found, None)) is not None:
        sizes = ["×".join(map(str, used.images.shape[1:3])) for _, used in (first, second)]
        raise ConfigError(
            "the images must have one size; --image_size=64 brings them to one. "
            f"Received: {' and '.join(sizes)}"
        )
    return first
