"""What each place of an image says of it under a flow, and one number and a map of what two flows say."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.covariance import ledoit_wolf

from glow_tf.bijectors import Bijector, FlowSplit, LastLine, Split
from glow_tf.bijectors.bijector import Latents, PartOutput, evenly, log_det_by_place, read_by, with_slopes
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import ALONE, PLAIN, Context, Mode
from glow_tf.model.flow import Flow

Maps = dict[tuple[int, int], tf.Tensor]


def place_maps(flow: Flow, images: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN) -> Maps:
    """Returns what each resolution of a flow says of its places: (h, w) → [B, h, w, 2].

    The first number is the mean log-density per latent number of the place, in nats: log N(eps; 0, I) and the
    log-determinants that belong to the place, without those of dequantisation. The second is the mean square
    of its latents, which is 1 on average where the model is right. Bytes are taken at the middle of the bins.
    """
    h, condition = flow.enter(images, 0.5).h, flow.checked_condition(condition)
    log_dets: Maps = {}
    latents: dict[tuple[int, int], list[tf.Tensor]] = {}

    def add(log_det: tf.Tensor, eps: Sequence[tf.Tensor]) -> None:
        size = tuple(log_det.shape[1:3])
        log_dets[size] = log_dets.get(size, 0.0) + log_det
        for own in eps:
            latents.setdefault(tuple(own.shape[1:3]), []).append(own)

    context = ALONE
    for part in flow.parts:
        context = part.read(condition, mode)
        for bijector in part.bijectors:
            h, eps, log_det = places_in_part(bijector, h, context)
            if not isinstance(bijector, LastLine):  # its density is fixed
                add(log_det, eps)
    eps, log_det = log_det_by_place(flow.parts[-1].base, h, context)
    add(log_det, (eps,))
    return {size: _summary(log_dets.get(size, 0.0), tf.concat(own, axis=-1)) for size, own in latents.items()}


@functools.singledispatch
def places_in_part(
    bijector: Bijector, x: tf.Tensor, context: Context = ALONE
) -> tuple[tf.Tensor, Latents, tf.Tensor]:
    """Runs x [B, H, W, C] forward; returns what goes on, the latents, and log|det| by place, [B, H', W'].

    The latents are those that are factored out, and the log-determinant is that of the map to both.
    """
    if bijector.shapes(x.shape)[1]:
        output = bijector.forward_in_part(PartOutput.start(x), *read_by(bijector, context))
        return output.h, output.latents, evenly(output.log_det_of_all, output.h)
    h, log_det = log_det_by_place(bijector, x, context)
    return h, (), log_det


@places_in_part.register
def _(split: Split, x: tf.Tensor, context: Context = ALONE) -> tuple[tf.Tensor, Latents, tf.Tensor]:
    h, z = split.cut(x)
    eps, log_det = with_slopes(lambda z: split.whiten(h, z, context)[0], z)
    return h, (eps,), log_det


@places_in_part.register
def _(split: FlowSplit, x: tf.Tensor, context: Context = ALONE) -> tuple[tf.Tensor, Latents, tf.Tensor]:
    h, z = split.cut(x)
    eps, log_det = split.whiten_by_place(h, z, context)
    return h, (eps,), log_det


def _summary(log_det: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_mean(tf.square(eps), axis=-1)
    log_prob = log_det / eps.shape[-1] - 0.5 * (squares + math.log(2 * math.pi))
    return tf.stack([log_prob, squares], axis=-1)


MOST_ROWS = 100_000  # places that a Gaussian is fitted to
USUAL = 0.9  # share of good images
COMPARED = 3  # numbers at a place that `compared` returns; features have one


def compared(prior: Maps, tuned: Maps) -> list[tf.Tensor]:
    """Returns for each resolution what is looked at, [B, h, w, 3].

    - The rise log p_tuned − log p_prior: it leaves out what all natural images share.
    - log p_tuned itself, which tells where the prior knows the good images already.
    - The mean square of the tuned copy's latents, whose usual value is about 1.
    """
    return [
        tf.stack([own[..., 0] - prior[size][..., 0], own[..., 0], own[..., 1]], axis=-1)
        for size, own in tuned.items()
    ]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How unusual an image is, and each place of it, by what `compared` returns of good images.

    1. A Gaussian of the means over all places, of all resolutions together, tells the kind of an image; what
       features say of it is one number more.
    2. At each resolution a Gaussian of single places tells damages. The squared distances from them, enlarged
       to the image's size and averaged over resolutions, are the map. Its largest value counts.
    3. The logarithms of both are brought to one scale: 0 is the median of good images that the Gaussians have
       not seen, and nine of ten are below 1. The score is the larger one: an image is unusual if its kind or
       one of its places is.

    A distance has no sign, so what is too likely is unusual as well, but for the density of features: there,
    what is likelier than usual is as usual as can be.

    Args:
      arrays: name → the numbers of the Gaussians and of the scale.
    """

    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, good: Sequence[np.ndarray]) -> Rule:
        """Fits the Gaussians to what was said of good images, [N, h, w, F] each, or [N, 1]."""
        arrays = gaussian("image", _of_images(good))
        for k, own in enumerate(of_places(good)):
            rows = np.reshape(own, [-1, own.shape[-1]])
            arrays |= gaussian(f"places {k}", rows[:: -(-len(rows) // MOST_ROWS)])
        return cls({**arrays, "scale": np.array([[0, 1], [0, 1]], np.float32)})

    def scaled(self, kind: np.ndarray, worst: np.ndarray) -> Rule:
        """Returns the rule with the scale of good images that other rules have judged, [N] each."""
        middle, usual = np.quantile([kind, worst], [0.5, USUAL], axis=1)
        scale = np.stack([middle, np.maximum(usual - middle, 1e-6)], axis=1)
        return Rule({**self.arrays, "scale": scale.astype(np.float32)})

    def __call__(self, found: Sequence[tf.Tensor], size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns how unusual the kind of images is, [B], and each of their places, [B, H, W]."""
        distances = [self._distance(f"places {k}", own) for k, own in enumerate(of_places(found))]
        maps = [tf.image.resize(own[..., tf.newaxis], size)[..., 0] for own in distances]
        places = tf.math.log(tf.add_n(maps) / len(maps))
        return self.in_units(tf.math.log(self._distance("image", _of_images(found))), places)

    def in_units(self, *values: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Brings logarithms of distances, of the kind and of places, to the scale."""
        pairs = zip(values, self.arrays["scale"], strict=True)
        return tuple((own - middle) / unit for own, (middle, unit) in pairs)

    def _distance(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Returns the mean squared distance from a Gaussian, in its units: [..., F] → [...]."""
        if x.shape[-1] > 1:
            return mean_square(self.arrays, name, x)
        white = (x[..., 0] - self.arrays[f"{name} mean"][0]) * self.arrays[f"{name} whitening"][0, 0]
        return tf.square(tf.sqrt(1 + tf.square(white)) - white) / 4  # about w² if w ≪ 0


def of_places(found: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the maps, without what is said of an image as a whole."""
    return [own for own in found if len(own.shape) == 4]


def of_wholes(found: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns what is said of an image as a whole, [N, 1]: by features, if they are looked at."""
    return [own for own in found if len(own.shape) == 2]


def _of_pixels(found: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [own for own in of_places(found) if own.shape[-1] == COMPARED]


def _of_images(found: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns what tells kinds of images, [N, F]: means of `compared`, and the log-density of features."""
    means = [tf.reduce_mean(own, axis=[1, 2]) for own in _of_pixels(found)]
    return tf.concat([*means, *of_wholes(found)], axis=-1)


def mean_square(arrays: Mapping[str, Any], name: str, x: tf.Tensor) -> tf.Tensor:
    """Returns the mean squared distance, [..., F] → [...], from what `gaussian` of this name found."""
    white = tf.linalg.matmul(x - arrays[f"{name} mean"], arrays[f"{name} whitening"])
    return tf.reduce_mean(tf.square(white), axis=-1)


def gaussian(name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Fits a Gaussian to rows [N, F]; its correlations are shrunk if rows are few (Ledoit and Wolf 2004)."""
    rows = np.asarray(rows, np.float64)
    mean, unit = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    covariance, _ = ledoit_wolf((rows - mean) / unit, assume_centered=True)
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(unit)))
    whitening = np.linalg.inv(root).T / unit[:, np.newaxis]
    return {f"{name} mean": mean.astype(np.float32), f"{name} whitening": whitening.astype(np.float32)}
