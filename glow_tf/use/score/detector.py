"""Finds images that are unlike good ones, and what is unusual in them."""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator

from glow_tf.bijectors.condition import Condition
from glow_tf.config import PRIOR
from glow_tf.core.errors import ConfigError
from glow_tf.model.conditions import in_arrays
from glow_tf.model.flow import Flow
from glow_tf.use.score import kept
from glow_tf.use.score.choice import FOLDS, MORE_FOLDS, akin, folds_of, held_out
from glow_tf.use.score.models import Models
from glow_tf.use.score.others import others
from glow_tf.use.score.rule import Rule

FEWEST = 20  # good images
MANY_AKIN = 1 / 3  # of the images; of photographs of one tile each 0.6 and more, of other sets 0.02
AKIN = (
    "{:.0%} of the good images have another that is nearly the same. Where several show one object, say so "
    "by groups; otherwise far more new images are flagged than is promised"
)
MOST_TOLD = 0.95  # of images of another kind: where fewer are flagged, `fit` says so
PASSES = (
    "only {:.0%} of {} would be flagged at a rate of {:.2g}: images of another kind may pass. More are "
    "flagged with more good images, at a larger rate, and by features=lite0"
)
DECIMALS = 4  # of a score: the last digits of what a model computes depend on the batch that an image is in


class NoveltyDetector(BaseEstimator):
    """Says how unusual images are, compared with good ones, and where.

        detector = glow_tf.NoveltyDetector().fit(good_images)
        detector.predict(images)  # 1: unusual
        detector.heat(images)  # where, [N, H, W]

    A raw likelihood cannot be relied on: simple images of another kind may have a higher one (Nalisnick et
    al. 2019, https://arxiv.org/abs/1810.09136). Here a copy of a prior is tuned on the good images. How much
    likelier it makes an image than the prior does leaves out what all natural images share (Ren et al. 2019,
    https://arxiv.org/abs/1906.02845; Schirrmeister et al. 2020, https://arxiv.org/abs/2006.10848). `Rule`
    says how this becomes one score, and a map.

    Of 300 good images and more, a copy is tuned on half, or on 500, to the epoch that suits the others best.
    It scores these others, and new images: so p-values are conformal but for the choice of the epoch. About
    the share a of images like the good ones has p ≤ a, on average over the choice of the good images. Fewer
    good images are cut into three folds: those of each are scored by a copy that was tuned on the others, new
    images by one that was tuned on all. These look less unusual than they should, so fewer are flagged than
    is promised. With features alone there are ten folds, and new images are scored by what was fitted to nine
    of them, as each good one was.

    Where pixels see nothing, `features` of a frozen network may: `Features` says how likely each place of its
    maps is, and an image as a whole. Which of the maps are looked at, and whether pixels are beside them, is
    chosen by what tells copies of held-out good images, into which damage is drawn, from these images best.

    Names are those of PyOD and scikit-learn; `predict` returns 0 and 1, as in PyOD.

    Args:
      prior: a `Flow`, or a preset, a workdir or a `.keras` file, which has not seen such images. Best are
        levels that were trained on photographs, which take images of any size: `"prior"` is `photographs`,
        of images of one channel `photographs_grey`. None: `features` alone.
      contamination: the share of images like the good ones that `predict` may flag.
      seed: of the folds and of tuning.
      epochs: of tuning, at most; by default as many as suit the number of images. 0: nothing is tuned.
      features: `"lite0"`, a small network of ImageNet's whose weights pip fetches once; or a Keras model from
        images to a feature map [N, h, w, F], or to several, such as one of `keras.applications` with its
        preprocessing. It stays as it is.

    Attributes:
      decision_scores_: of the good images that were held out, [N]: of 300 and more, those that the copy was
        not tuned on.
      others_: images of other kinds, handwritten digits and photographs → which share of them is flagged.
        Empty of images that are not bytes, or have a condition, and after `load`.
      areas_: what is looked at → how well it tells damaged copies from good images, the area under the ROC
        curve; then what is not looked at, best first. Empty where there was nothing to choose.
      models_: the models; `image_shape`, `data_dtype` and `condition_shapes` say what they take.
      prior_, tuned_: two of them; None without a prior.
    """

    def __init__(
        self,
        prior: Any = PRIOR,
        contamination: float = 0.05,
        seed: int = 0,
        epochs: int | None = None,
        features: keras.Model | str | None = None,
    ):
        self.prior = prior
        self.contamination = contamination
        self.seed = seed
        self.epochs = epochs
        self.features = features

    def fit(
        self,
        X: np.ndarray,  # noqa: N803
        y: object = None,
        condition: Condition = None,
        groups: np.ndarray | None = None,
    ) -> NoveltyDetector:
        """Takes good images as the measure, and returns the detector.

        Args:
          X: good images, [N, H, W, C], uint8 or, without a prior, also float32; 20 or more.
          y: not used; scikit-learn's pipelines give it.
          condition: what the prior is given with each image, an array [N, …] or a dictionary of them.
          groups: which images belong together, such as photographs of one object: any labels [N], of three
            groups or more. No group is cut by the folds; otherwise new objects look too unusual.

        It warns where tuning gained next to nothing, since the prior has seen such images, where images seem
        to belong together, and no groups are given, and where images of another kind pass as good ones.

        Raises:
          ConfigError: there are too few, the prior or the network cannot take or score them, or
            `contamination` is below what so many images can tell.
        """
        images = _good_images(X)
        self._check_contamination(len(images))
        if groups is None and (share := akin(images)) >= MANY_AKIN:
            warnings.warn(AKIN.format(share), stacklevel=2)
        groups = _groups(groups, len(images))
        self.models_ = Models(self.prior, self.features, images)
        self.models_.check(images, condition)
        folds = held_out(groups, self.models_.prior is not None, self.contamination, self.seed)
        good = self.models_.fit(images, in_arrays(condition), folds, self.seed, self.epochs)
        if bad := sum(~np.isfinite(own).reshape(len(own), -1).all(axis=1) for own in good).astype(bool).sum():
            raise ConfigError(
                f"the models must be able to score the good images. Received: {bad} of {len(good[0])} whose "
                "log-density is not finite"
            )
        self._calibrate(good, groups[np.any(folds, axis=0)], images.shape[1:3])
        if self.models_.warning:
            warnings.warn(f"{self.models_.warning}.", stacklevel=2)
        known = condition is None and self.models_.takes_pictures
        kinds = others(self.models_.image_shape, self.seed) if known else {}
        self.others_ = {name: float(self.predict(own).mean()) for name, own in kinds.items()}
        for name, share in self.others_.items():
            if share < MOST_TOLD:
                warnings.warn(f"{PASSES.format(share, name, self.contamination)}.", stacklevel=2)
        return self

    @property
    def areas_(self) -> dict[str, float]:
        """How well what is looked at tells damaged copies from good images; then what is not, best first."""
        return {str(view): area for view, area in self._fitted().models_.areas.items()}

    @property
    def prior_(self) -> Flow | None:
        """The prior, at the size of the images."""
        return self._fitted().models_.prior

    @property
    def tuned_(self) -> Flow | None:
        """Its copy, tuned on the good images."""
        return self._fitted().models_.tuned

    def _calibrate(self, good: Sequence[np.ndarray], groups: np.ndarray, size: Sequence[int]) -> None:
        """Judges each good image by a rule of others, and keeps the rule of all with the scale of these.

        Of features alone a rule keeps both orders, whatever it was fitted to: then that of all judges.
        """
        alone, of_all = all(own.shape[-1] == 1 for own in good), Rule.of(good)
        fold_of = folds_of(groups, MORE_FOLDS, self.seed)
        kind, worst = np.empty(len(fold_of)), np.empty(len(fold_of))
        for out in (fold_of == fold for fold in np.unique(fold_of)):
            rule = of_all if alone else Rule.of([own[~out] for own in good])
            kind[out], places = rule([own[out] for own in good], size)
            worst[out] = tf.reduce_max(places, axis=[1, 2])
        self._rule = of_all.scaled(kind, worst)
        self.decision_scores_ = _rounded(np.maximum(*self._rule.in_units(kind, worst)))

    def _check_contamination(self, count: int) -> None:
        smallest = 1 / (1 + count)
        if not smallest <= self.contamination < 1:
            raise ConfigError(
                f"contamination must be {smallest:.2g} or more, and below 1, with {count} good images. "
                f"Received: contamination={self.contamination}"
            )

    @property
    def threshold_(self) -> float:
        """The score above which an image is unusual, by `contamination`."""
        good = np.sort(self._fitted().decision_scores_)[::-1]
        self._check_contamination(len(good))
        return float(good[int(self.contamination * (len(good) + 1) + 1e-9) - 1])

    @property
    def labels_(self) -> np.ndarray:
        """Which of the good images are unusual, 0 or 1 [N]."""
        return (self._fitted().decision_scores_ > self.threshold_).astype(int)

    @property
    def smallest(self) -> float:
        """The smallest p-value that there can be."""
        return 1 / (1 + len(self._fitted().decision_scores_))

    def decision_function(self, X: np.ndarray, condition: Condition = None) -> np.ndarray:  # noqa: N803
        """Returns how unusual images are, [N]: as kinds or at their worst places, whichever is more.

        In the unit of each of the two, 0 is the median of good images, and nine of ten are below 1.
        """
        return self.score_and_heat(X, condition)[0]

    def predict(self, X: np.ndarray, condition: Condition = None) -> np.ndarray:  # noqa: N803
        """Returns 1 for unusual images and 0 for others, [N]."""
        return (self.decision_function(X, condition) > self.threshold_).astype(int)

    def predict_proba(self, X: np.ndarray, condition: Condition = None) -> np.ndarray:  # noqa: N803
        """Returns for each image the shares of good images that are at least as unusual, and less, [N, 2]."""
        p_values = self.p_value(X, condition)
        return np.stack([p_values, 1 - p_values], axis=1)

    def heat(self, X: np.ndarray, condition: Condition = None) -> np.ndarray:  # noqa: N803
        """Returns how unusual each place is, [N, H, W]; nine of ten good images have no place above 1."""
        return self.score_and_heat(X, condition)[1]

    def p_value(self, X: np.ndarray, condition: Condition = None) -> np.ndarray:  # noqa: N803
        """Returns the share of good images that are at least as unusual, [N]."""
        return self.p_value_of(self.decision_function(X, condition))

    def p_value_of(self, scores: np.ndarray) -> np.ndarray:
        """Returns p-values of what `decision_function` returned, [N]."""
        return _p_values(self._fitted().decision_scores_, scores)

    def score_and_heat(self, X: np.ndarray, condition: Condition = None) -> tuple[np.ndarray, np.ndarray]:  # noqa: N803
        """Returns what `decision_function` and `heat` do; what a model cannot score is infinitely unusual."""
        found = self._fitted().models_(np.asarray(X), condition)
        kind, places = map(_finite, self._rule(found, self.models_.image_shape[:2]))
        return _rounded(np.maximum(kind, places.max(axis=(1, 2)))), places

    def _fitted(self) -> NoveltyDetector:
        if not hasattr(self, "decision_scores_"):
            raise ConfigError("fit must be called first, with good images. Received: a detector without any")
        return self

    def save(self, path: str | os.PathLike) -> None:
        """Writes the detector to a folder: JSON, numbers, and both models as presets; see `load`.

        The network of `features` is named, and not kept; `load` knows `"lite0"`.
        """
        kept.save(self._fitted(), pathlib.Path(path))

    @classmethod
    def load(cls, path: str | os.PathLike, features: keras.Model | str | None = None) -> NoveltyDetector:
        """Reads what `save` wrote, with the same `features`; ConfigError if it is damaged, or of others."""
        return kept.load(cls, pathlib.Path(path), features)

    def export(self, path: str | os.PathLike, format: str = "savedmodel") -> None:
        """Writes a program that needs no glow_tf: a folder of a SavedModel, or a file of ONNX.

        serving_default(images [B, H, W, C]) → {score [B], p_value [B], map [B, H, W]}, float32: what
        `decision_function`, `p_value` and `heat` return. What the prior is given comes last. ONNX takes one
        image at a time, B = 1.

        Args:
          path: the folder, or the file.
          format: "savedmodel", or "onnx" (in a clone, `pip install '.[onnx]'` first).

        Raises:
          ConfigError: the format has no such operation as the models need, or tf2onnx is not installed.
          OSError: it cannot be written, or the folder holds something else.
        """
        kept.export(self._fitted(), pathlib.Path(path), format)


def _finite(x: tf.Tensor) -> np.ndarray:
    """Returns an array; numbers that are not finite are as unusual as can be."""
    return np.where(np.isfinite(x), x, np.inf)


def _good_images(X: np.ndarray) -> np.ndarray:  # noqa: N803
    """Returns good images, [N, H, W, C]; ConfigError if they are too few, or of several sizes."""
    try:
        images = np.asarray(X)
    except ValueError:  # images of several sizes
        images = np.empty((len(X), 0))
    if images.ndim != 4 or len(images) < FEWEST:
        raise ConfigError(
            f"X must be {FEWEST} good images or more of one size, [N, H, W, C]. Received: {images.shape}"
        )
    return images


def _groups(groups: np.ndarray | None, count: int) -> np.ndarray:
    """Returns the number of the group of each image, from 0; each is its own if there are none."""
    if groups is None:
        return np.arange(count)
    groups = np.asarray(groups)
    names, numbers = np.unique(groups, return_inverse=True)
    if groups.shape != (count,) or len(names) < FOLDS:
        raise ConfigError(
            f"groups must be a label for each of {count} images, {FOLDS} different ones or more. Received: "
            f"{groups.shape} with {len(names)}"
        )
    return numbers


def _rounded(scores: np.ndarray) -> np.ndarray:
    return np.round(np.asarray(scores, np.float64), DECIMALS)


def _p_values(good: np.ndarray, scores: np.ndarray) -> np.ndarray:
    at_least = len(good) - np.searchsorted(np.sort(good), scores, side="left")
    return (1 + at_least) / (1 + len(good))
