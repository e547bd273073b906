"""How well a trained model codes images, and where the bits are."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.architectures.partition import PartLayout
from glow_tf.bijectors.bijector import PartOutput, read_by
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.likelihood import bits_per_dim, nats
from glow_tf.bijectors.mode import PLAIN, Mode
from glow_tf.bijectors.pieces import in_streams, mode_of_process
from glow_tf.config.choices import NOISES
from glow_tf.core.errors import ConfigError
from glow_tf.core.progress import with_progress
from glow_tf.data.batches import evaluation_batches
from glow_tf.model.conditions import check_given, in_arrays
from glow_tf.model.glow import Glow
from glow_tf.model.parts import Part
from glow_tf.use.latents import batch_of, seed_of
from glow_tf.use.variational_noise import variational_noise

BATCH = 256  # of sides up to 32; see `batch_of`
VARIATIONAL_BATCH = 32  # of which all activations are kept for the gradient


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Bits of images under a model. All numbers are in bits per dimension.

    Attributes:
      draws: of each image with each noise draw, [draws, N].
      terms: name → mean over draws, [N]. They add up to the mean of `draws`. `dequantisation` is that of
        `Dequantize`, `centring and scaling` that of `Standardize`; `block k, flow steps` is minus the
        log-determinant; `block k, latents` codes the half that the block factors out, or, in the last block,
        all that is left. Empty for an exported model, which does not tell.
      parts: `part k` → the sum of the terms of its flow steps and latents, [N]; part 1 has the
        dequantisation. Empty where the flow is not cut.
      dimensions: D of an image; where images have several sizes, of each, [N].
    """

    draws: np.ndarray
    terms: dict[str, np.ndarray]
    parts: dict[str, np.ndarray]
    dimensions: int | np.ndarray

    @property
    def per_image(self) -> np.ndarray:
        """Mean over draws, [N]: in expectation an upper bound of the bits of each image."""
        return self.draws.mean(axis=0)

    @property
    def tighter(self) -> np.ndarray:
        """The importance-weighted bound of each image, [N]: −log of the mean likelihood over draws.

        It falls towards the exact bits of the discrete image as the number of draws grows (Burda et al. 2016,
        https://arxiv.org/abs/1509.00519).
        """
        nll = nats(self.draws.astype(np.float64), [self.dimensions])
        return bits_per_dim(np.log(len(nll)) - np.logaddexp.reduce(-nll, axis=0), [self.dimensions])


def joined(found: Sequence[Evaluation]) -> Evaluation:
    """Returns evaluations of images of several sizes as one. A term that a size does not have is 0 there."""
    if len(found) == 1:
        return found[0]
    counts = [each.draws.shape[1] for each in found]

    def all_of(kind: str) -> dict[str, np.ndarray]:
        of_each = [getattr(each, kind) for each in found]
        names = dict.fromkeys(name for own in of_each for name in own)
        return {
            name: np.concatenate([own.get(name, np.zeros(n)) for own, n in zip(of_each, counts, strict=True)])
            for name in names
        }

    draws = np.concatenate([each.draws for each in found], axis=1)
    dimensions = np.repeat([each.dimensions for each in found], counts)
    return Evaluation(draws, all_of("terms"), all_of("parts"), dimensions)


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean of values [N] and its standard error; the error of one value is NaN."""
    with np.errstate(invalid="ignore", over="ignore"):  # a value may be infinite
        error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        return float(np.mean(values)), float(error)


def evaluate(
    glow: Glow,
    images: np.ndarray,
    draws: int = 1,
    seed: int = 0,
    condition: Condition = None,
    noise: str = "uniform",
) -> Evaluation:
    """Computes the bits of images.

    With one draw of uniform noise and the seed of a run, the mean is the run's `test_bpd`. An exported model
    draws other noise from the same seed. Variational noise mostly gives a tighter bound, in nine times the
    time (see `variational_noise.py`). Its log-density is part of the term `dequantisation`.

    Args:
      glow: the model, however it is cut, or an exported one.
      images: uint8 [N, H, W, C].
      draws: noise draws per image, from 1; real data have no noise, and need one.
      seed: of the noise; see `seed_of`.
      condition: what the model is given with each image, an array [N, …] or a dictionary of them.
      noise: `uniform` or `variational`; real data know `uniform` alone.

    Raises:
      ConfigError: images have another type or shape, or there are none; condition or noise do not fit.
    """
    check_evaluation(glow, draws, noise, len(images))
    check_given(glow, condition, len(images))
    glow.checked(images)
    of_parts = enumerate(zip(glow.parts, glow.design.layouts, strict=True), start=1)
    pieces = [(block, k) for k, own in of_parts for block in dict.fromkeys(_blocks(*own))]  # both from 1
    of_draws = _terms_of_draws(glow, images, draws, seed, condition, noise)
    means = of_draws.mean(axis=0, dtype=np.float64)
    first = "centring and scaling" if glow.config.is_real else "dequantisation"
    terms, parts = {first: means[0]}, {"part 1": means[0]}
    for (block, part), flow, latents in zip(pieces, means[1::2], means[2::2], strict=True):
        own = {f"block {block}, flow steps": flow, f"block {block}, latents": latents}
        terms |= {name: terms.get(name, 0.0) + term for name, term in own.items()}
        name = f"part {part}"
        parts[name] = parts.get(name, 0.0) + flow + latents
    return Evaluation(of_draws.sum(axis=1), terms, parts if len(parts) > 1 else {}, glow.dimensions)


def check_evaluation(glow: Glow, draws: int, noise: str, count: int = 1) -> None:
    """Raises ConfigError unless a model can be evaluated so, on so many images."""
    if glow.data_dtype == "float32" and (draws > 1 or noise != "uniform"):
        raise ConfigError(f"draws are of noise, and real data have none. Received: {draws=}, {noise=}")
    if noise not in NOISES:
        raise ConfigError(f"noise must be {' or '.join(NOISES)}. Received: {noise=}")
    if draws < 1 or not count:
        raise ConfigError(
            f"evaluate needs one image and one draw or more. Received: {count} images, {draws=}"
        )


def _terms_of_draws(
    glow: Glow, images: np.ndarray, draws: int, seed: int, condition: Condition, noise: str
) -> np.ndarray:
    """Returns the terms of every image with each draw, [draws, terms, N]."""
    uniform = noise == "uniform"
    own, mode = terms if uniform else _terms_with_variational_noise, mode_of_process()

    def of_batch(mode: Mode, *batch: Any) -> list[tf.Tensor]:
        return own(glow, *batch, mode=mode)

    # A partial for each call: of one function TensorFlow counts all traces, and warns of many.
    function = tf.function(functools.partial(in_streams, of_batch, mode), autograph=False)
    size = min(batch_of(glow.image_shape, BATCH if uniform else VARIATIONAL_BATCH), len(images))
    given = {} if condition is None else {"condition": in_arrays(condition)}
    passes = (
        batch
        for k in range(draws)
        for batch in evaluation_batches(images, size, seed_of(seed, k), others=given)
    )
    steps = -(-len(images) // size) * draws
    rows = []
    for batch in with_progress(passes, steps, f"Evaluating, batches of {size}"):
        v = glow.dequantized(batch["images"], batch["noise"] if uniform else 0.0)
        beside = () if uniform else (batch["noise"],)
        rows.append(np.stack(function(v, glow.checked_condition(batch.get("condition")), *beside)))
    # The last batch of each draw is filled up.
    return np.stack(np.split(np.concatenate(rows, axis=1), draws, axis=1))[..., : len(images)]


def _terms_with_variational_noise(
    glow: Glow, levels: tf.Tensor, condition: Condition, uniform: tf.Tensor, mode: Mode
) -> list[tf.Tensor]:
    """Returns what `terms` does, of levels [B, H, W, C] and noise that uniform noise is made into."""

    def log_prob(v: tf.Tensor) -> tf.Tensor:
        return -nats(tf.add_n(terms(glow, v, condition, mode)), glow.image_shape)

    noise, log_q = variational_noise(log_prob, levels, tf.cast(uniform, levels.dtype))
    dequantisation, *others = terms(glow, levels + noise, condition, mode)
    return [dequantisation + bits_per_dim(log_q, glow.image_shape), *others]


def by_class(
    values: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, tuple[int, float, float]]:
    """Returns class → number of images, mean and standard error of values [N]; empty classes are left out."""
    found = {name: values[labels == k] for k, name in enumerate(class_names)}
    return {name: (len(own), *mean_and_error(own)) for name, own in found.items() if len(own)}


def _blocks(part: Part, layout: PartLayout) -> list[int]:
    """Returns the block of each bijector of a part, from 1."""
    blocks = [block for (block, _), _ in itertools.groupby(layout.elements, lambda e: (e.block, e.kind))]
    return blocks if len(blocks) == len(part.bijectors) else blocks[:1] * len(part.bijectors)  # of a level


def terms(glow: Glow, v: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN) -> list[tf.Tensor]:
    """Returns the terms of minus the log-likelihood of v [B, H, W, C], [B] each, bits per dimension."""
    h, log_det = glow.dequantize.forward_and_log_det(v)
    found = [log_det]
    for part, layout in zip(glow.parts, glow.design.layouts, strict=True):
        context = part.read(condition, mode)
        bijectors = zip(_blocks(part, layout), part.bijectors, strict=True)
        for _, own in itertools.groupby(bijectors, lambda pair: pair[0]):
            output = PartOutput.start(h)
            for _, bijector in own:
                output = bijector.forward_in_part(output, *read_by(bijector, context))
            found += [output.log_det, output.latents_log_prob]
            h = output.h
    found[-1] += glow.parts[-1].prior.log_prob(h, context)
    return [bits_per_dim(-term, glow.image_shape) for term in found]
