"""Images to latents and back, in batches; what can be done between the two."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from glow_tf.bijectors.condition import Condition
from glow_tf.conditions import in_arrays, some_of
from glow_tf.data.progress import with_progress
from glow_tf.errors import ConfigError
from glow_tf.glow import Glow
from glow_tf.memory import check_memory
from glow_tf.use.models import TrainedModel, check_given

BATCH = 250  # images that a model takes at a time
COPIES = 4  # of latents, while batches are joined and a file is made of them


def seed_of(seed: int, place: int) -> int:
    """Returns the seed of a batch, or of a draw, counted from 0.

    The first has the seed itself, so that one batch alone is what the seed draws. Those of the others share
    nothing with the batches of another seed, such as the next one.
    """
    return seed if place == 0 else int(np.random.SeedSequence([seed, place]).generate_state(1)[0] >> 1)


def in_batches(
    function: Callable[..., np.ndarray],
    values: np.ndarray,
    task: str,
    empty: np.ndarray,
    condition: Condition = None,
    size: int = BATCH,
) -> np.ndarray:
    """Applies a function to values [N, …], `size` at a time, with a line that says how far the task is.

    The function gets no empty batch, at which TensorFlow's fused convolutions fail; no values give `empty`,
    [0, …]. Its `condition` is what the model is given with each value.
    """
    condition = in_arrays(condition)  # once, and not for each batch
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
    return in_batches(model.decode, checked_latents(model, eps), "Decoding", empty, condition)


def checked_latents(model: TrainedModel, eps: Any) -> np.ndarray:
    """Returns latents in the model's dtype; ConfigError unless they have the shape [N, D] of the model's."""
    eps = np.asarray(eps).astype(model.compute_dtype, copy=False)
    if eps.ndim != 2 or eps.shape[1] != model.dimensions:
        raise ConfigError(
            f"latents must have the shape (N, {model.dimensions}) for this model. Received: {eps.shape}"
        )
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
    labels: np.ndarray | None = None,
    condition: Condition = None,
) -> np.ndarray:
    """Returns the images of `draw_checked`, uint8 [num, H, W, C]; arguments and errors as there."""
    return draw_checked(model, num, temperature, seed, labels, condition).images


def draw_checked(
    model: TrainedModel,
    num: int,
    temperature: float,
    seed: int,
    labels: np.ndarray | None = None,
    condition: Condition = None,
) -> Drawn:
    """Draws images, `BATCH` at a time, and counts those that had to be kept finite.

    Args:
      model: to draw from.
      num: number of images, from 1.
      temperature: standard deviation of the whitened latents; 0 is the mode.
      seed: of the latents; see `seed_of`.
      labels: the class of each image, integers [num]; None draws them too, if the model has classes.
      condition: what each image is drawn given, an array [num, …] or a dictionary of them.

    Raises:
      ConfigError: the images do not fit into memory, or the condition does not fit the model.
    """
    check_given(model, condition, num)
    check_memory(num * model.dimensions * np.dtype(model.data_dtype).itemsize, f"{num} images", "draw fewer")
    labels, condition = map(in_arrays, (labels, condition))
    starts = range(0, num, BATCH)
    images, limited = [], 0
    for k, start in enumerate(with_progress(starts, len(starts), f"Drawing, batches of {BATCH}")):
        of, given = (some_of(own, slice(start, start + BATCH)) for own in (labels, condition))
        count = min(BATCH, num - start)
        found = model.sample_checked(count, temperature, seed_of(seed, k), of, condition=given)
        images.append(np.asarray(found["images"]))
        limited += int(np.sum(found["limited"]))
    return Drawn(np.concatenate(images), limited)


def interpolate(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """Returns whitened latents on the way from one point to another: [N, D] twice → [N, steps, D].

    The way turns from the first direction to the other, and its length changes evenly. A straight line would
    pass nearer to the origin, where images are blurred: latents of D dimensions have lengths of about √D.
    """
    weights = np.linspace(0, 1, steps)[:, None]
    lengths = [np.linalg.norm(eps, axis=1, keepdims=True) for eps in (start, end)]
    units = [eps / np.maximum(length, 1e-12) for eps, length in zip((start, end), lengths, strict=True)]
    angle = np.arccos(np.clip(np.sum(units[0] * units[1], axis=1), -1, 1))[:, None, None]
    turned = np.sin((1 - weights) * angle) * units[0][:, None] + np.sin(weights * angle) * units[1][:, None]
    straight = (1 - weights) * units[0][:, None] + weights * units[1][:, None]
    directions = np.where(angle > 1e-3, turned / np.maximum(np.sin(angle), 1e-12), straight)
    between = directions * ((1 - weights) * lengths[0][:, None] + weights * lengths[1][:, None])
    between[:, 0], between[:, -1] = start, end
    return between


def levels(glow: Glow) -> list[slice]:
    """Returns where the latents of each level are in the D of `encode`, from the finest to the coarsest."""
    sizes = [math.prod(shape) for part in glow.parts for shape in part.latent_shapes]
    sizes.append(math.prod(glow.parts[-1].output_event_shape))
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def without_finest(
    glow: Glow, eps: np.ndarray, count: int, temperature: float = 0.0, seed: int = 0
) -> np.ndarray:
    """Returns whitened latents, [N, D], whose `count` finest levels are replaced.

    What replaces them is drawn from the seed at the temperature; 0 is each one's mode, given the coarser.
    """
    replaced = eps.copy()
    rng = np.random.default_rng(seed)
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

    `conditions` are what the model is given with the images of each set.
    """
    before, after = (
        encode(model, *own).mean(axis=0) for own in zip((away, towards), conditions, strict=True)
    )
    return after - before


def edited(eps: np.ndarray, along: np.ndarray, strengths: Sequence[float]) -> np.ndarray:
    """Moves latents along a direction: [N, D] and [D] → [N, len(strengths), D]."""
    return eps[:, None] + np.asarray(strengths, np.float32)[None, :, None] * along
