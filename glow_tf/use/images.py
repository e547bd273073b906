"""The images on which a trained model is used, brought to its shape, and the model for images of a size."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from glow_tf.architectures import design_of
from glow_tf.bijectors.flow_split import LARGE, SIDE, FlowSplit
from glow_tf.config import FOLDER, DataConfig
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import check_memory
from glow_tf.data.arrays import Examples
from glow_tf.data.folder import read_pictures
from glow_tf.data.loading import load_split
from glow_tf.data.sources import DIGITS_SIDE
from glow_tf.model.conditions import by_name, of_names
from glow_tf.model.flow import Flow

# Of memory: per pixel and channel of the networks, for a gradient also per flow step (measured: 5); and
# per pixel where tiles hold the networks (measured: 90).
BYTES, BYTES_BESIDE = 8, 100
FILLED = "Grey images fill all three channels."


@dataclasses.dataclass(frozen=True)
class UsedImages:
    """Images of a model's shape, and what is known about them.

    Attributes:
      images: [N, H, W, C], of the type of the model's data.
      names: the file of each image, relative to its folder; the place of each otherwise.
      labels: the class of each image, int64 [N], counting in `class_names`; None if there are no classes.
      class_names: names of the classes.
      notes: sentences about how the images were read.
      condition: what is given with each image, as the data set has it; None if nothing is.
    """

    images: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    condition: np.ndarray | None = None


def read_images(
    image_shape: tuple[int, int, int],
    dataset: str,
    data_dir: str | os.PathLike = "",
    split: str = "",
    count: int = 0,
    data_dtype: str = "uint8",
    condition: str = "",
) -> UsedImages:
    """Reads images for a model.

    Where a model's images are square, the largest centred square of other images is resized to their size.
    Grey images fill the channels of a model for colours.

    Args:
      image_shape: (H, W, C) of the model's images; (0, 0, C) keeps their size, which must be one.
      dataset: `digits`, a TFDS image data set by name, `folder:PATH` or `file:PATH.npy`.
      data_dir: TFDS's.
      split: `train`, `test` or `all`; empty: the test images, or all of a folder without test/.
      count: how many images, the first ones; 0 is all.
      data_dtype: of the model's data.
      condition: what is given with each image; see `DataConfig`.

    Raises:
      ConfigError: there are no such images, or too few, or they have another shape that cannot be changed.
    """
    config = DataConfig(dataset, data_dir, test_examples=count, dtype=data_dtype, condition=condition)
    (found,) = read_by_size(image_shape, config, split)
    return found


def read_by_size(
    image_shape: tuple[int, int, int], config: DataConfig, split: str, any_size: bool = False
) -> list[UsedImages]:
    """As `read_images`; those of one size together, in the order of the first of each.

    With `any_size`, where images keep their size, those of a folder, without a condition, may differ in it.
    """
    config = dataclasses.replace(config, image_size=(size := _side(image_shape)))
    examples, class_names, notes = load_split(config, split, any_size)
    if config.dataset == "digits" and size not in (0, DIGITS_SIDE):
        notes = (*notes, f"Resized from {DIGITS_SIDE}×{DIGITS_SIDE} to {size}×{size}.")
    if examples.images.dtype != object:
        return [_as_used(examples, class_names, notes, image_shape, config.dataset)]
    places: dict[tuple[int, ...], list[int]] = {}
    for place, image in enumerate(examples.images):
        places.setdefault(image.shape, []).append(place)
    groups = []
    for own in places.values():
        some = examples[np.array(own)]
        some = dataclasses.replace(some, images=np.stack(some.images.tolist()))
        groups.append(_as_used(some, class_names, () if groups else notes, image_shape, config.dataset))
    return groups


def _as_used(
    examples: Examples,
    class_names: tuple[str, ...],
    notes: tuple[str, ...],
    image_shape: tuple[int, int, int],
    dataset: str,
) -> UsedImages:
    """Returns examples as images of a model's channels; ConfigError if they have another shape."""
    images = _in_shape(examples.images, image_shape, dataset)
    if images is not examples.images:
        notes = (*notes, FILLED)
    named = examples.names is not None
    names = examples.names.tolist() if named else [f"{place:06d}" for place in range(len(images))]
    return UsedImages(images, tuple(names), examples.labels, class_names, tuple(notes), examples.condition)


def read_files(
    image_shape: tuple[int, int, int], paths: Sequence[str | os.PathLike], data_dtype: str = "uint8"
) -> np.ndarray:
    """Reads image files for a model, to the byte as training reads those of a folder.

    Score what this returns: an image that another program resized has other bits. Pictures are turned
    upright; the rest is as in `read_images`.

    Args:
      image_shape: (H, W, C) of the model's images; (0, 0, C) keeps their size, which must be one.
      paths: of the files, PNG, JPEG, WebP, BMP, GIF, TIFF or .npy.
      data_dtype: of the model's data.

    Returns:
      The images, [N, H, W, C], in the order of the paths.

    Raises:
      ConfigError: there are no paths, a file cannot be read, or a shape is another one and cannot be changed.
    """
    files = [pathlib.Path(path) for path in paths]
    if not files:
        raise ConfigError("paths must be those of one file or more. Received: paths=[]")
    config = DataConfig(f"{FOLDER}{files[0].parent}", image_size=_side(image_shape), dtype=data_dtype)
    pictures = read_pictures(config, files, len(files))
    if len(pictures.files) < len(files):
        unread = [str(path) for path in files if path not in pictures.files]
        raise ConfigError(f"every file must be readable. {' '.join(pictures.notes())} Received: {unread[:5]}")
    return _in_shape(pictures.array, image_shape, config.dataset)


def _side(image_shape: tuple[int, int, int]) -> int:
    """Returns the side to which images are resized for a model; 0: they are not."""
    height, width, _ = image_shape
    return height if height == width else 0


def _in_shape(images: np.ndarray, image_shape: tuple[int, int, int], dataset: str) -> np.ndarray:
    """Returns images with the channels of a model; ConfigError unless they have its shape then."""
    height, width, channels = image_shape
    if images.shape[-1] == 1 and channels == 3 and images.dtype == np.uint8:
        images = np.repeat(images, 3, axis=-1)
    if images.shape[1:] == image_shape or (height == width == 0 and images.shape[-1] == channels):
        return images
    if (channels, images.shape[-1]) == (1, 3):
        raise ConfigError(
            "the model is for grey images, and these are in colour; convert them to grey first. "
            f"Received: {dataset!r}"
        )
    raise ConfigError(
        f"the model is for images of {height}×{width}×{channels} (height × width × channels). "
        f"Received: {dataset!r} with images of {'×'.join(map(str, images.shape[1:]))}"
    )


def fitted_condition(model: Flow, condition: Any, source: str) -> Any:
    """Returns a condition, [N, …] or a dictionary of them, in a model's shapes; None if it is given none.

    One channel fills three. ConfigError if it does not fit; the message names its source.
    """
    shapes = model.condition_shapes
    given = by_name(condition)
    if given.keys() != shapes.keys():
        needs = [f"{name!r} of shape {shape}" if name else str(shape) for name, shape in shapes.items()]
        raise ConfigError(
            f"{source} must give the model {' and '.join(needs) or 'nothing'} with each image. "
            f"Received: {sorted(name or 'one array' for name in given) or 'nothing'}"
        )
    fitted = {}
    for name, shape in shapes.items():
        own = given[name]
        if own.shape[1:] == (*shape[:-1], 1) and shape[-1] == 3:
            own = np.repeat(own, 3, axis=-1)
        if own.shape[1:] != shape:
            raise ConfigError(
                f"{source} must give the model {f'{name!r} of ' if name else ''}shape {shape} with each "
                f"image. Received: shape {own.shape[1:]}"
            )
        fitted[name] = own
    return of_names(fitted)


def fitted(model: Flow, size: Sequence[int], gradient: bool = False) -> Flow:
    """Returns a model for images of a size (H, W): the model itself at its own size, otherwise `resized`.

    ConfigError as in `check_fits`.
    """
    check_fits(model, size, "images", gradient)
    same = tuple(size) == tuple(model.image_shape[:2])
    return model if same else model.resized((*size, model.image_shape[-1]))


def check_fits(model: Flow, size: Sequence[int], name: str, gradient: bool = False) -> None:
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
    design = model.design
    if gradient:
        steps = design.cuts[0] if design.any_size else model.config.flow_steps
        needed = BYTES * steps * design.widths[0] * size[0] * size[1]
        remedy = "crop the image, or leave it out"
        check_memory(needed, f"what the gradient of {name}, {shape}, needs", remedy)
    else:
        check_needed(model, size, name, "crop or shrink them")
    resized, _ = design.resized((*size, model.image_shape[-1]))
    design_of(resized).check_size(size, f"{name} of {shape}")


def check_needed(flow: Flow, size: Sequence[int], name: str, remedy: str) -> None:
    """Raises ConfigError, with a remedy, unless memory suffices to run a model on images of a size (H, W)."""
    pixels = size[0] * size[1]
    is_tiled = any(isinstance(b, FlowSplit) and b.takes_tiles for b in flow.parts[0].bijectors)
    at_once = min(pixels, 4 * LARGE * SIDE**2) if is_tiled else pixels
    needed = BYTES * max(flow.design.widths) * at_once + BYTES_BESIDE * pixels
    check_memory(needed, f"what {name} of {'×'.join(map(str, size))} need", remedy)
