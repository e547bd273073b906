"""How well a trained model codes images, and where the bits are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from glow_tf.data.batches import evaluation_batches
from glow_tf.data.progress import with_progress
from glow_tf.errors import ConfigError
from glow_tf.glow import Glow
from glow_tf.likelihood import bits_per_dim
from glow_tf.pieces import in_streams
from glow_tf.use.seeds import seed_of

BATCH = 256


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Bits of images under a model. All numbers are in bits per dimension.

    Attributes:
      draws: of each image with each noise draw, [draws, N].
      terms: name → mean over draws, [N]. They add up to the mean of `draws`. `dequantisation` is that of
        `Dequantize`; `block k, flow steps` is minus the log-determinant; `block k, latents` codes the half
        that the block factors out, or, in the last block, all that is left.
      dimensions: D of an image.
    """

    draws: np.ndarray
    terms: dict[str, np.ndarray]
    dimensions: int

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
        nats = self.draws.astype(np.float64) * self.dimensions * np.log(2)
        lowest = nats.min(axis=0)
        return (lowest - np.log(np.mean(np.exp(lowest - nats), axis=0))) / (self.dimensions * np.log(2))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Returns the mean of values [N] and its standard error; the error of one value is NaN."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(error)


def evaluate(glow: Glow, images: np.ndarray, draws: int = 1, seed: int = 0) -> Evaluation:
    """Computes the bits of images.

    With one draw and the seed of a run, the mean is the run's `test_bpd`.

    Args:
      glow: the model, however it is cut.
      images: uint8 [N, H, W, C].
      draws: noise draws per image, from 1.
      seed: of the noise; see `seed_of`.

    Raises:
      ConfigError: images have another type or shape, or there are none.
    """
    if not len(glow.checked(images)) or draws < 1:
        raise ConfigError(
            f"evaluate needs one image and one draw or more. Received: {len(images)} images, {draws=}"
        )
    count = glow.config.num_blocks  # a part for each block
    blocks = glow.recut(parts=f"by_block:{count}" if count > 1 else "1", local_prior="standard")
    names = _names(count)
    function = tf.function(lambda v: in_streams(lambda piece: _terms(blocks, piece), v), autograph=False)
    totals, sums = [], np.zeros((len(names), len(images)))
    steps = -(-len(images) // BATCH)
    passes = (
        batch
        for k in range(draws)
        for batch in evaluation_batches(images, min(BATCH, len(images)), seed_of(seed, k))
    )
    rows = [
        np.stack(function(blocks.dequantized(batch, noise)))
        for batch, noise, _ in with_progress(passes, steps * draws, f"Evaluating, batches of {BATCH}")
    ]
    for k in range(draws):
        found = np.concatenate(rows[k * steps : (k + 1) * steps], axis=1)[:, : len(images)]
        sums += found
        totals.append(found.sum(axis=0))
    means = dict(zip(names, sums / draws, strict=True))
    return Evaluation(np.stack(totals), means, glow.dimensions)


def by_class(
    values: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, tuple[int, float, float]]:
    """Returns class → number of images, mean and standard error of values [N]; empty classes are left out."""
    found = {name: values[labels == k] for k, name in enumerate(class_names)}
    return {name: (len(own), *mean_and_error(own)) for name, own in found.items() if len(own)}


def _names(num_blocks: int) -> list[str]:
    kinds = [f"block {k}, {what}" for k in range(1, num_blocks + 1) for what in ("flow steps", "latents")]
    return ["dequantisation", *kinds]


def _terms(glow: Glow, v: tf.Tensor) -> list[tf.Tensor]:
    """Returns the terms of minus the log-likelihood of v [B, H, W, C], [B] each, bits per dimension."""
    h, log_det = glow.dequantize.forward_and_log_det(v)
    found = [log_det]
    for part in glow.parts:
        output = part.call(h)
        found += [output.log_det, output.latents_log_prob]
        h = output.h
    found[-1] += glow.parts[-1].prior.log_prob(h)
    return [bits_per_dim(-term, glow.image_shape) for term in found]
