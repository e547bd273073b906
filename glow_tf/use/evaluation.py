"""How well a trained model codes images, and where the bits are."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.architectures.partition import PartLayout
from glow_tf.bijectors.bijector import PartOutput, read_by
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.likelihood import bits_per_dim, nats
from glow_tf.bijectors.mode import PLAIN, Mode, in_streams, mode_of_process
from glow_tf.config.choices import NOISES
from glow_tf.core.errors import ConfigError
from glow_tf.core.progress import with_progress
from glow_tf.data.batches import evaluation_batches
from glow_tf.model.conditions import check_given, in_arrays
from glow_tf.model.flow import Flow
from glow_tf.model.parts import Part
from glow_tf.use.latents import batch_of, seed_of

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
    flow: Flow,
    images: np.ndarray,
    draws: int = 1,
    seed: int = 0,
    condition: Condition = None,
    noise: str = "uniform",
) -> Evaluation:
    """Computes the bits of images.

    With one draw of uniform noise and the seed of a run, the mean is the run's `test_bpd`. An exported model
    draws other noise from the same seed. Variational noise mostly gives a tighter bound, in nine times the
    time (see `variational_noise`). Its log-density is part of the term `dequantisation`.

    Args:
      flow: the model, however it is cut, or an exported one.
      images: uint8 [N, H, W, C].
      draws: noise draws per image, from 1; real data have no noise, and need one.
      seed: of the noise; see `seed_of`.
      condition: what the model is given with each image, an array [N, …] or a dictionary of them.
      noise: `uniform` or `variational`; real data know `uniform` alone.

    Raises:
      ConfigError: images have another type or shape, or there are none; condition or noise do not fit.
    """
    check_evaluation(flow, draws, noise, len(images))
    check_given(flow, condition, len(images))
    flow.checked(images)
    of_parts = enumerate(zip(flow.parts, flow.design.layouts, strict=True), start=1)
    pieces = [(block, k) for k, own in of_parts for block in dict.fromkeys(_blocks(*own))]  # both from 1
    of_draws = _terms_of_draws(flow, images, draws, seed, condition, noise)
    means = of_draws.mean(axis=0, dtype=np.float64)
    first = "centring and scaling" if flow.config.is_real else "dequantisation"
    terms, parts = {first: means[0]}, {"part 1": means[0]}
    for (block, part), steps, latents in zip(pieces, means[1::2], means[2::2], strict=True):
        own = {f"block {block}, flow steps": steps, f"block {block}, latents": latents}
        terms |= {name: terms.get(name, 0.0) + term for name, term in own.items()}
        name = f"part {part}"
        parts[name] = parts.get(name, 0.0) + steps + latents
    return Evaluation(of_draws.sum(axis=1), terms, parts if len(parts) > 1 else {}, flow.dimensions)


def check_evaluation(flow: Flow, draws: int, noise: str, count: int = 1) -> None:
    """Raises ConfigError unless a model can be evaluated so, on so many images."""
    if flow.data_dtype == "float32" and (draws > 1 or noise != "uniform"):
        raise ConfigError(f"draws are of noise, and real data have none. Received: {draws=}, {noise=}")
    if noise not in NOISES:
        raise ConfigError(f"noise must be {' or '.join(NOISES)}. Received: {noise=}")
    if draws < 1 or not count:
        raise ConfigError(
            f"evaluate needs one image and one draw or more. Received: {count} images, {draws=}"
        )


def _terms_of_draws(
    flow: Flow, images: np.ndarray, draws: int, seed: int, condition: Condition, noise: str
) -> np.ndarray:
    """Returns the terms of every image with each draw, [draws, terms, N]."""
    uniform = noise == "uniform"
    own, mode = terms if uniform else _terms_with_variational_noise, mode_of_process()

    def of_batch(mode: Mode, *batch: Any) -> list[tf.Tensor]:
        return own(flow, *batch, mode=mode)

    # A partial for each call: of one function TensorFlow counts all traces, and warns of many.
    function = tf.function(functools.partial(in_streams, of_batch, mode), autograph=False)
    size = min(batch_of(flow.image_shape, BATCH if uniform else VARIATIONAL_BATCH), len(images))
    given = {} if condition is None else {"condition": in_arrays(condition)}
    passes = (
        batch
        for k in range(draws)
        for batch in evaluation_batches(images, size, seed_of(seed, k), others=given)
    )
    steps = -(-len(images) // size) * draws
    rows = []
    for batch in with_progress(passes, steps, f"Evaluating, batches of {size}"):
        v = flow.dequantized(batch["images"], batch["noise"] if uniform else 0.0)
        beside = () if uniform else (batch["noise"],)
        rows.append(np.stack(function(v, flow.checked_condition(batch.get("condition")), *beside)))
    # The last batch of each draw is filled up.
    return np.stack(np.split(np.concatenate(rows, axis=1), draws, axis=1))[..., : len(images)]


def _terms_with_variational_noise(
    flow: Flow, grey_values: tf.Tensor, condition: Condition, uniform: tf.Tensor, mode: Mode
) -> list[tf.Tensor]:
    """Returns what `terms` does, of grey values [B, H, W, C] and noise that uniform noise is made into."""

    def log_prob(v: tf.Tensor) -> tf.Tensor:
        return -nats(tf.add_n(terms(flow, v, condition, mode)), flow.image_shape)

    noise, log_q = variational_noise(log_prob, grey_values, tf.cast(uniform, grey_values.dtype))
    dequantisation, *others = terms(flow, grey_values + noise, condition, mode)
    return [dequantisation + bits_per_dim(log_q, flow.image_shape), *others]


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


def terms(flow: Flow, v: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN) -> list[tf.Tensor]:
    """Returns the terms of minus the log-likelihood of v [B, H, W, C], [B] each, bits per dimension."""
    h, log_det = flow.dequantize.forward_and_log_det(v)
    found = [log_det]
    for part, layout in zip(flow.parts, flow.design.layouts, strict=True):
        context = part.read(condition, mode)
        bijectors = zip(_blocks(part, layout), part.bijectors, strict=True)
        for _, own in itertools.groupby(bijectors, lambda pair: pair[0]):
            output = PartOutput.start(h)
            for _, bijector in own:
                output = bijector.forward_in_part(output, *read_by(bijector, context))
            found += [output.log_det, output.latents_log_prob]
            h = output.h
    found[-1] += flow.parts[-1].base.log_prob(h, context)
    return [bits_per_dim(-term, flow.image_shape) for term in found]


STEPS, STEP, SHORTER = 3, 0.6, 0.3  # towards the gradient; where the bound rises, back and a shorter step
DEVIATIONS = 3.0  # by which noise may be worse than uniform noise
LEAST, MOST = 1e-4, 80.0  # |tilt|, so that float32 can tell noise and density
BELOW_ONE = 1 - 2.0**-24  # the next number in float32


def variational_noise(
    log_prob: Callable[[tf.Tensor], tf.Tensor], grey_values: tf.Tensor, uniform: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws noise that lies where the density of a model is high, and returns it with its log-density.

    The bits of a byte image x are −log₂ ∫ p(x + u) du, over noise u in the unit cube. The mean of
    −log p(x + u) of uniform noise lies above that, by about half of its variance. For noise of any other
    density q(u | x) the mean of log q(u | x) − log p(x + u) is a bound as well, mostly a tighter one. Here q
    is a product of densities, one for each number, proportional to exp(tilt · u) on [0, 1). The best tilt is
    near the gradient of log p at the mean of the noise. Nothing is learned.

    Args:
      log_prob: log p of dequantised values [B, H, W, C]: [B], nats.
      grey_values: whole numbers, [B, H, W, C].
      uniform: noise in [0, 1), which is made into the other, [B, H, W, C].

    Returns:
      The noise, [B, H, W, C], with which a grey value does not reach the next one, and log q of the noise
      given them, [B], nats.

    Reference: Ho et al. 2019 (Flow++), section 3.1, https://arxiv.org/abs/1902.00275; there a network makes q
    """
    tilt, expected = _searched_tilt(log_prob, grey_values)
    # What is said at the mean need not hold around it. Noise that is the same for every image tells, but for
    # what is chance: the variance of log p of uniform noise, which is about twice what there is to gain.
    other = tf.random.stateless_uniform(tf.shape(grey_values[:1]), (0, 0), dtype=grey_values.dtype)
    noise = tilted(other, tilt)
    gain = log_prob(grey_values + noise) - log_density(noise, tilt) - log_prob(grey_values + other)
    holds = gain > tf.minimum(expected - DEVIATIONS * tf.sqrt(2 * expected), 0)
    tilt = tf.where(holds[:, None, None, None], tilt, 0)
    # A sum is rounded, to the next grey value as well, of which a density may say something else.
    noise = tf.minimum(tilted(uniform, tilt), tf.math.nextafter(grey_values + 1, grey_values) - grey_values)
    return noise, log_density(noise, tilt)


def _searched_tilt(
    log_prob: Callable[[tf.Tensor], tf.Tensor], grey_values: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a good tilt, [B, H, W, C], and how much better its bound is than that of uniform noise, [B]."""
    tilt, kept, slope = (tf.zeros_like(grey_values) for _ in range(3))
    bounds = []
    least = tf.fill(tf.shape(grey_values)[:1], tf.constant(np.inf, grey_values.dtype))
    step = STEP * tf.ones_like(grey_values[:, :1, :1, :1])
    for _ in range(STEPS):
        mean = mean_of(tilt)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            v = grey_values + mean
            tape.watch(v)
            found = log_prob(v)
        gradient = tape.gradient(found, v)
        # The mean of log q is log q at the mean; that of log p is nearly so.
        bound = log_density(mean, tilt) - found
        bounds.append(bound)
        better = bound < least
        least = tf.where(better, bound, least)
        better = better[:, None, None, None]
        kept = tf.where(better, tilt, kept)
        slope = tf.where(better, tf.where(tf.math.is_finite(gradient), gradient, 0), slope)
        step = tf.where(better, step, SHORTER * step)
        tilt = kept + step * (slope - kept)
    return tilt, bounds[0] - least  # of them the first is that of uniform noise


def tilted(uniform: tf.Tensor, tilt: tf.Tensor) -> tf.Tensor:
    """Maps uniform noise to noise of density q ∝ exp(tilt · u) on [0, 1); all [B, H, W, C]."""
    rate, rises = _rate(tilt), tilt > 0
    # Of a density that rises; it falls where u → 1 - u rises.
    share = tf.where(rises, tf.minimum(1 - uniform, BELOW_ONE), uniform)
    u = 1 + tf.math.log1p(share * tf.math.expm1(-rate)) / rate
    return tf.where(rises, u, 1 - u)


def log_density(noise: tf.Tensor, tilt: tf.Tensor) -> tf.Tensor:
    """Returns log q of noise of a tilt, both [B, H, W, C]: [B], nats."""
    rate, below_the_top = _rate(tilt), tf.where(tilt > 0, 1 - noise, noise)
    return tf.reduce_sum(tf.math.log(rate / -tf.math.expm1(-rate)) - rate * below_the_top, axis=[1, 2, 3])


def mean_of(tilt: tf.Tensor) -> tf.Tensor:
    """Returns the mean of noise of a tilt; both of any shape."""
    rate = _rate(tilt)
    near_zero = 0.5 + rate / 12 - rate**3 / 720  # where the difference below would cancel
    mean = tf.where(rate < 0.1, near_zero, 1 / -tf.math.expm1(-rate) - 1 / rate)
    return tf.where(tilt > 0, mean, 1 - mean)


def _rate(tilt: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.abs(tilt), LEAST, MOST)
