"""Images to latents and back, in batches; what can be done between the two."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from glow_tf.bijectors.condition import Condition
from glow_tf.core.errors import ConfigError
from glow_tf.core.memory import check_memory
from glow_tf.core.progress import with_progress
from glow_tf.model.compiled_model import check_finite
from glow_tf.model.conditions import check_given, in_arrays, some_of
from glow_tf.model.glow import Glow
from glow_tf.use.models import TrainedModel

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


def encode(model: TrainedModel, images: np.ndarray, condition: Condition = None) -> np.ndarray:
    """Returns the whitened latents of images at the middle of their bins: uint8 [N, H, W, C] → [N, D].

    `condition` is what the model is given with each image, an array [N, …] or a dictionary of them.
    ConfigError if the latents do not fit into memory, or the condition does not fit the model.
    """
    check_given(model, condition, len(images))
    needed = COPIES * 4 * len(images) * model.dimensions
    check_memory(needed, f"the latents of {len(images)} images", "encode fewer")
    empty = np.empty((0, model.dimensions), np.float32)
    return in_batches(model.encode, images, "Encoding", empty, condition)


def decode(model: TrainedModel, eps: np.ndarray, condition: Condition = None) -> np.ndarray:
    """Returns the images of whitened latents: [N, D] → uint8 [N, H, W, C]; `condition` as in `encode`.

    ConfigError if D is not the model's, or the condition does not fit the model.
    """
    check_given(model, condition, len(eps))
    empty = np.empty((0, *model.image_shape), model.data_dtype)
    size = batch_of(model.image_shape)
    return in_batches(model.decode, checked_latents(model, eps), "Decoding", empty, condition, size)


def checked_latents(model: TrainedModel, eps: Any) -> np.ndarray:
    """Returns latents in the model's dtype; ConfigError unless they have the shape [N, D] of the model's."""
    eps = np.asarray(eps).astype(model.compute_dtype, copy=False)
    if eps.ndim != 2 or eps.shape[1] != model.dimensions:
        raise ConfigError(
            f"latents must have the shape (N, {model.dimensions}) for this model. Received: {eps.shape}"
        )
    check_finite("latents", eps)
    return eps


class Drawn(NamedTuple):
    """Images, [num, H, W, C], and of how many of them activations were clipped, so that they stay finite."""

    images: np.ndarray
    limited: int


def draw(
    model: TrainedModel,
    num: int,
    temperature: float,
    seed: int,
    condition: Condition = None,
) -> np.ndarray:
    """Returns the images of `draw_checked`, uint8 [num, H, W, C]; arguments and errors as there."""
    return draw_checked(model, num, temperature, seed, condition).images


def draw_checked(
    model: TrainedModel,
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


def interpolate(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Returns whitened latents on the way from one point to another: [N, D] twice → [N, steps, D].

    ConfigError if there are fewer than two steps, the ends, or latents have other shapes.

    The way turns from the first direction to the other, and its length changes evenly. A straight line would
    pass nearer to the origin, where images are blurred: latents of D dimensions have lengths of about √D.
    Between opposite directions no turn is the shortest one, and the way is straight.
    """
    if steps < 2:
        raise ConfigError(f"interpolate needs two steps or more, the ends. Received: {steps=}")
    start, end = map(np.asarray, (start, end))
    if start.ndim != 2 or start.shape != end.shape:
        raise ConfigError(f"latents must be [N, D] twice. Received: {start.shape} and {end.shape}")
    weights = np.linspace(0, 1, steps)[:, None]
    ends = [eps[:, None].astype(np.float64) for eps in (start, end)]
    lengths = [np.linalg.norm(eps, axis=2, keepdims=True) for eps in ends]
    # The origin has no direction: the way to it keeps that of the other end.
    own = [np.where(lengths[k] > 0, ends[k], ends[1 - k]) for k in range(2)]
    units = [eps / np.maximum(np.linalg.norm(eps, axis=2, keepdims=True), 1e-12) for eps in own]
    angle = np.arccos(np.clip(np.sum(units[0] * units[1], axis=2, keepdims=True), -1, 1))
    turned = np.sin((1 - weights) * angle) * units[0] + np.sin(weights * angle) * units[1]
    straight = (1 - weights) * units[0] + weights * units[1]
    turns = np.sin(angle) > 1e-3
    directions = np.where(turns, turned / np.where(turns, np.sin(angle), 1), straight)
    between = directions * ((1 - weights) * lengths[0] + weights * lengths[1])
    between = between.astype(np.result_type(start, np.float32))
    between[:, 0], between[:, -1] = start, end
    return between


def levels(glow: Glow) -> list[slice]:
    """Returns where the latents of each level are in the D of `encode`, from the finest to the coarsest."""
    of_parts = [[math.prod(shape) for shape in part.latent_shapes] for part in glow.parts]
    of_parts[-1].append(math.prod(glow.parts[-1].output_event_shape))
    if glow.config.design.images_between_parts:  # a last row is of the level that the details beside it are
        of_parts = [[sum(own)] for own in of_parts]
    sizes = [size for own in of_parts for size in own]
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def without_finest(
    glow: Glow, eps: np.ndarray, count: int, temperature: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Returns whitened latents, [N, D], whose `count` finest levels are replaced.

    What replaces them is drawn from the seed at the temperature; 0 is each one's mode, given the coarser.
    """
    check_finite("temperature", temperature, lowest=0)
    if count < 0:
        raise ConfigError(f"count must be 0 or more levels. Received: {count=}")
    replaced = np.array(eps)
    rng = np.random.default_rng(seed % 2**32)
    for level in levels(glow)[:count]:
        replaced[:, level] = temperature * rng.standard_normal(replaced[:, level].shape)
    return replaced


def direction(
    model: TrainedModel,
    away: np.ndarray,
    towards: np.ndarray,
    conditions: tuple[Condition, Condition] = (None, None),
) -> np.ndarray:
    """Returns the difference of the mean latents of two sets of images, uint8 [n, H, W, C] each: [D].

    `conditions` are what the model is given with the images of each set. ConfigError if a set is empty.
    """
    if not (len(away) and len(towards)):
        raise ConfigError(
            f"direction needs images of both sets. Received: {len(away)} and {len(towards)} images"
        )
    sets = zip((away, towards), conditions, strict=True)
    before, after = (encode(model, *own).mean(axis=0) for own in sets)
    return after - before


def edited(eps: np.ndarray, along: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    """Moves latents along a direction: [N, D] and [D] → [N, len(strengths), D]."""
    return eps[:, None] + np.asarray(strengths, np.float32)[None, :, None] * along
