"""Images to latents and back, in batches."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from glow_tf.bijectors.condition import Condition
from glow_tf.core.errors import ConfigError
from glow_tf.core.machine import check_memory
from glow_tf.core.progress import with_progress
from glow_tf.model.conditions import check_given, in_arrays, some_of
from glow_tf.model.flow import Flow

BATCH = 250  # images that a model takes at a time, of sides up to 32
PIXELS = 2**18  # at most, of all images of a batch; but a batch has one image at least
COPIES = 4  # of latents, while batches are joined and a file is made of them


def seed_of(seed: int, place: int) -> int:
    """Returns the seed of a batch, or of a draw, counted from 0.

    The first has the seed itself, so that one batch alone is what the seed draws. Those of the others share
    nothing with the batches of another seed, such as the next one.
    """
    own = [seed % 2**32, place]  # NumPy takes no negative seed
    return seed if place == 0 else int(np.random.SeedSequence(own).generate_state(1)[0] >> 1)


def batch_of(image_shape: Sequence[int], most: int = 0) -> int:
    """Returns how many images (H, W, C) a model takes at a time: `most`, or `BATCH`; fewer if large."""
    return max(1, min(most or BATCH, PIXELS // math.prod(image_shape[:2])))


def in_batches(
    function: Callable[..., np.ndarray],
    values: np.ndarray,
    task: str,
    empty: np.ndarray,
    condition: Condition = None,
    size: int = 0,
) -> np.ndarray:
    """Applies a function to values [N, …], `size` at a time, with a line that says how far the task is.

    Without a size, values are images, and it is that of `batch_of`. The function gets no empty batch, at
    which TensorFlow's fused convolutions fail; no values give `empty`, [0, …]. Its `condition` is what the
    model is given with each value.
    """
    condition = in_arrays(condition)  # once, and not for each batch
    size = size or batch_of(values.shape[1:])
    places = [slice(start, start + size) for start in range(0, len(values), size)]
    results = [
        np.asarray(function(values[place], condition=some_of(condition, place)))
        for place in with_progress(places, len(places), f"{task}, batches of {size}")
    ]
    return np.concatenate([empty, *results])


def encode(model: Flow, images: np.ndarray, condition: Condition = None) -> np.ndarray:
    """Returns the whitened latents of images at the middle of their bins: uint8 [N, H, W, C] → [N, D].

    `condition` is what the model is given with each image, an array [N, …] or a dictionary of them.
    ConfigError if the latents do not fit into memory, or the condition does not fit the model.
    """
    check_given(model, condition, len(images))
    needed = COPIES * 4 * len(images) * model.dimensions
    check_memory(needed, f"the latents of {len(images)} images", "encode fewer")
    empty = np.empty((0, model.dimensions), np.float32)
    return in_batches(model.encode, images, "Encoding", empty, condition)


def decode(model: Flow, eps: np.ndarray, condition: Condition = None) -> np.ndarray:
    """Returns the images of whitened latents: [N, D] → uint8 [N, H, W, C]; `condition` as in `encode`.

    ConfigError if D is not the model's, latents are not finite, or the condition does not fit the model.
    """
    check_given(model, condition, len(eps))
    empty = np.empty((0, *model.image_shape), model.data_dtype)
    return in_batches(
        model.decode, np.asarray(eps), "Decoding", empty, condition, batch_of(model.image_shape)
    )


class Drawn(NamedTuple):
    """Images, [num, H, W, C], and of how many of them activations were clipped, so that they stay finite."""

    images: np.ndarray
    limited: int


def draw_checked(
    model: Flow,
    num: int,
    temperature: float,
    seed: int,
    condition: Condition = None,
) -> Drawn:
    """Draws images, as many at a time as `batch_of` says, and counts those that had to be kept finite.

    Args:
      model: to draw from.
      num: number of images, from 1.
      temperature: standard deviation of the whitened latents; 0 is the mode.
      seed: of the latents; see `seed_of`.
      condition: what each image is drawn given, an array [num, …] or a dictionary of them.

    Raises:
      ConfigError: the images do not fit into memory, the condition does not fit the model, or num is below 1.
    """
    check_given(model, condition, num)
    check_memory(num * model.dimensions * np.dtype(model.data_dtype).itemsize, f"{num} images", "draw fewer")
    if num < 1:
        raise ConfigError(f"num must be a positive number of images. Received: num={num}")
    condition = in_arrays(condition)
    size = batch_of(model.image_shape)
    starts = range(0, num, size)
    images, limited = [], 0
    for k, start in enumerate(with_progress(starts, len(starts), f"Drawing, batches of {size}")):
        given, count = some_of(condition, slice(start, start + size)), min(size, num - start)
        found = model.sample_checked(count, temperature, seed_of(seed, k), condition=given)
        images.append(np.asarray(found["images"]))
        limited += int(np.sum(found["limited"]))
    return Drawn(np.concatenate(images), limited)


def levels(flow: Flow) -> list[slice]:
    """Returns where the latents of each level are in the D of `encode`, from the finest to the coarsest."""
    of_parts = [[math.prod(shape) for shape in part.latent_shapes] for part in flow.parts]
    of_parts[-1].append(math.prod(flow.parts[-1].output_event_shape))
    if flow.design.images_between_parts:  # a last row is of the level that the details beside it are
        of_parts = [[sum(own)] for own in of_parts]
    sizes = [size for own in of_parts for size in own]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
