"""One number, and a map, of what a prior and its tuned copy say of an image's places."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from sklearn.covariance import ledoit_wolf

from glow_tf.use.score.places import Maps

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

    1. A Gaussian of the means over all places, of all resolutions together, tells the kind of an image. With
       features alone its worst place does: deep features see much of an image, and their means less.
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
        """Fits the Gaussians to what `compared` returned of good images, [N, h, w, F] each."""
        arrays = _gaussian("image", _means(good)) if _tell_kinds(good) else {}
        for k, own in enumerate(good):
            rows = np.reshape(own, [-1, own.shape[-1]])
            arrays |= _gaussian(f"places {k}", rows[:: -(-len(rows) // MOST_ROWS)])
        return cls({**arrays, "scale": np.array([[0, 1], [0, 1]], np.float32)})

    def scaled(self, kind: np.ndarray, worst: np.ndarray) -> Rule:
        """Returns the rule with the scale of good images that other rules have judged, [N] each."""
        middle, usual = np.quantile([kind, worst], [0.5, USUAL], axis=1)
        scale = np.stack([middle, np.maximum(usual - middle, 1e-6)], axis=1)
        return Rule({**self.arrays, "scale": scale.astype(np.float32)})

    def __call__(self, found: Sequence[tf.Tensor], size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns how unusual the kind of images is, [B], and each of their places, [B, H, W]."""
        maps = self._maps(found, size)
        places = tf.math.log(tf.add_n(maps) / len(maps))
        if "image mean" not in self.arrays:
            return self.in_units(tf.reduce_max(places, axis=[1, 2]), places)
        return self.in_units(tf.math.log(self._distance("image", _means(found))), places)

    def levels(self, found: Sequence[tf.Tensor], size: tuple[int, int]) -> dict[str, tf.Tensor]:
        """Returns the maps of single resolutions, [B, H, W] each, by how many places they have."""
        names = ["x".join(map(str, own.shape[1:3])) for own in _tell_kinds(found)] + ["features"]
        maps = [self.in_units(0.0, tf.math.log(own))[1] for own in self._maps(found, size)]
        return dict(zip(names, maps, strict=False))

    def _maps(self, found: Sequence[tf.Tensor], size: tuple[int, int]) -> list[tf.Tensor]:
        """Returns the squared distances of the places of each resolution, [B, H, W] each."""
        distances = [self._distance(f"places {k}", own)[..., tf.newaxis] for k, own in enumerate(found)]
        return [tf.image.resize(own, size)[..., 0] for own in distances]

    def in_units(self, *values: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Brings logarithms of distances, of the kind and of places, to the scale."""
        pairs = zip(values, self.arrays["scale"], strict=True)
        return tuple((own - middle) / unit for own, (middle, unit) in pairs)

    def _distance(self, name: str, x: tf.Tensor) -> tf.Tensor:
        """Returns the mean squared distance from a Gaussian, in its units: [..., F] → [...]."""
        white = tf.linalg.matmul(x - self.arrays[f"{name} mean"], self.arrays[f"{name} whitening"])
        if x.shape[-1] > 1:
            return tf.reduce_mean(tf.square(white), axis=-1)
        return tf.square(tf.sqrt(1 + tf.square(white[..., 0])) - white[..., 0]) / 4  # about w² if w ≪ 0


def _tell_kinds(found: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the maps whose means tell kinds: those of `compared`."""
    return [own for own in found if own.shape[-1] == COMPARED]


def _means(found: Sequence[tf.Tensor]) -> tf.Tensor:
    return tf.concat([tf.reduce_mean(own, axis=[1, 2]) for own in _tell_kinds(found)], axis=-1)


def _gaussian(name: str, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Fits a Gaussian to rows [N, F]; its correlations are shrunk if rows are few (Ledoit and Wolf 2004)."""
    rows = np.asarray(rows, np.float64)
    mean, unit = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    covariance, _ = ledoit_wolf((rows - mean) / unit, assume_centered=True)
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(unit)))
    whitening = np.linalg.inv(root).T / unit[:, np.newaxis]
    return {f"{name} mean": mean.astype(np.float32), f"{name} whitening": whitening.astype(np.float32)}
