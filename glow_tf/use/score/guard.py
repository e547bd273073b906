"""A guard for data sets: how unusual an image is, as a p-value."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from glow_tf.bijectors.condition import Condition
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_json
from glow_tf.model.conditions import of_names, some_of
from glow_tf.use.models import TrainedModel
from glow_tf.use.score.image_features import Features, features
from glow_tf.use.score.rules import FALLBACK, LEVELS, ONE_WAY, RULES, UNUSUAL, areas_of, finite
from glow_tf.use.score.spoiled import spoiled_copies

FORMAT = 1  # of calibration.json
FEWEST = 20  # good images
FEWEST_TO_CHOOSE = 200  # good images, to choose a score with
MOST_SPOILED = 500  # images that are spoiled, to choose a score
PROBE_TOLERANCE = 0.01  # relative; other machines round differently
AUTO = "auto"
NAMES = ("nll", "latent", "codec")  # of the features


class Scorer:
    """Says how unusual images are, compared with good ones.

        scorer = Scorer(glow).fit(good_images)
        scorer.p_value(images) < 0.01  # flags about 1 % of images like the good ones

    A raw likelihood cannot be relied on: simple images of another kind may have a higher one than the data
    (Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136). By default `fit` chooses a score with the good
    images alone: it spoils copies of them in several ways (`spoiled_copies`), and takes the score whose
    worst detection is best. It chooses among the scores that look at all features, both ways: `density`,
    `levels`, `typicality`, `complexity`; the last two are of one number, and high also where a feature alone
    is.

    The p-values are conformal: one half of the good images defines what is usual, and the scores of the other
    half are what new scores are compared with. For images drawn like the good ones, P(p ≤ a) ≤ a, whatever
    the model. That holds on average over the choice of the good images: with few of them, one calibration may
    flag more or less. The choice of the score looks at the first half alone. The smallest possible value is
    1 / (1 + half of the good images).

    Args:
      model: a `Glow` or an `ExportedModel`.
      score: one of `RULES`: `density` (of three features: the likelihood, the term of the latents in it, and
        the size of a lossless file), `levels` (of these and the bits of each level), `nll`, `latent`,
        `typicality`, `complexity`; or `auto`.

    Attributes:
      score: as given; after `fit`, the one that was chosen.
      areas: score → kind of spoiled copies → the area under the ROC curve; empty if none was chosen.

    Raises:
      ConfigError: there is no such score.
    """

    def __init__(self, model: TrainedModel, score: str = AUTO):
        if score not in (AUTO, *RULES):
            raise ConfigError(f"score must be {AUTO} or one of {', '.join(RULES)}. Received: {score=}")
        self.model = model
        self.score = self._asked = score
        self.areas: dict[str, dict[str, float]] = {}
        self._reference = self._calibration = None

    def fit(self, images: np.ndarray, seed: int = 0, condition: Condition = None) -> Scorer:
        """Takes good images as the measure.

        Args:
          images: uint8 [N, H, W, C]; not the images that the model was trained on, which it codes better.
          seed: of the cut into two halves, and of the spoiled copies.
          condition: what the model is given with each image, an array [N, …] or a dictionary of them.

        Raises:
          ConfigError: there are too few, or the model cannot score some.
        """
        if len(images) < FEWEST:
            raise ConfigError(f"there must be {FEWEST} good images or more. Received: {len(images)}")
        found = features(self.model, images, condition, levels=self._asked in (AUTO, LEVELS))
        _check_scored(found)
        self.score, self.areas = self._asked, {}
        if self.score == AUTO and len(images) >= FEWEST_TO_CHOOSE:
            first = _halves(len(images), seed)[0]
            half = len(first) // 2
            shown = first[half:][:MOST_SPOILED]
            copies = {
                kind: features(self.model, own, some_of(condition, shown))
                for kind, own in spoiled_copies(images[shown], seed).items()
            }
            areas = areas_of(found[first[:half]], found[shown], copies)
            if both_ways := [name for name in areas if name not in ONE_WAY]:
                self.score, self.areas = max(both_ways, key=lambda name: min(areas[name].values())), areas
        return self.fit_features(found, seed)

    def fit_features(self, found: Features, seed: int = 0) -> Scorer:
        """As `fit`, from features; `auto` is then `density`, and images must not be too different for one."""
        _check_scored(found)
        self.score = FALLBACK if self.score == AUTO else self.score
        first, second = _halves(len(found), seed)
        return self._with(found[first], found[second])

    @property
    def smallest(self) -> float:
        """The smallest p-value that there can be."""
        return 1 / (1 + len(self._fitted()[1]))

    def p_value(self, images: np.ndarray, condition: Condition = None) -> np.ndarray:
        """Returns the share of good images that are at least as unusual: uint8 [N, H, W, C] → [N]."""
        return self.p_value_of(self.features(images, condition))

    def features(self, images: np.ndarray, condition: Condition = None) -> Features:
        """Computes what `p_value_of` takes, of images uint8 [N, H, W, C]; see `image_features.features`."""
        return features(self.model, images, condition, levels=self.score == LEVELS)

    def p_value_of(self, found: Features) -> np.ndarray:
        """Returns p-values from features, [N]; see `p_value`."""
        good = np.sort(self.unusual(self._fitted()[1]))
        at_least = len(good) - np.searchsorted(good, self.unusual(found), side="left")
        return (1 + at_least) / (1 + len(good))

    def reasons(self, found: Features) -> list[str]:
        """Returns for each image what is unusual about it, or an empty text."""
        good = self._fitted()[1]
        texts = {
            ("latent", 1): "its latents lie unusually far from the origin",
            ("latent", -1): "its latents lie unusually near to the origin",
            ("codec", 1): "it is unusually complex",
            ("codec", -1): "it is unusually simple",
            ("nll", 1): "the model needs unusually many bits",
            ("nll", -1): "the model needs unusually few bits",
        }
        scored = np.isfinite(found.table).all(axis=1)
        reasons: list[list[str]] = [[] if ok else ["the model cannot score it"] for ok in scored]
        for (name, sign), text in texts.items():
            limit = np.quantile(sign * getattr(good, name), 1 - UNUSUAL)
            for place in np.flatnonzero(sign * getattr(found, name) > limit):
                reasons[place].append(text)
        return ["; ".join(own) for own in reasons]

    def save(self, path: pathlib.Path) -> None:
        """Writes what `fit` found as JSON: the features of the good images, without the model."""
        halves = [_to_json(half) for half in self._fitted()]
        content = {"format": FORMAT, "score": self.score, "reference": halves[0], "calibration": halves[1]}
        content |= {"dimensions": self.model.dimensions, "probe": _probe(self.model)}
        write_atomically(pathlib.Path(path), (json.dumps(content) + "\n").encode())

    @classmethod
    def load(cls, path: pathlib.Path, model: TrainedModel) -> Scorer:
        """Reads what `save` wrote; ConfigError if it is damaged, or made for a model of other images."""
        try:
            content = read_json(path)
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            if content["score"] not in RULES:
                raise ValueError(f"score {content['score']!r}")
            halves = [_from_json(content[name]) for name in ("reference", "calibration")]
            scorer = cls(model, content["score"])
            dimensions, probe = int(content["dimensions"]), np.array(content["probe"], np.float64)
            if probe.shape != (2,):
                raise ValueError(f"a probe of shape {probe.shape}")
        # ConfigError is a ValueError; an integer may be infinite in JSON.
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"calibration must be a file from `glow-tf score fit`. Received: {str(path)!r}, {error}"
            ) from None
        if dimensions != model.dimensions:
            raise ConfigError(
                f"calibration must be made for images of {model.dimensions} dimensions. "
                f"Received: {str(path)!r} for {dimensions}"
            )
        if not np.allclose(probe, _probe(model), rtol=PROBE_TOLERANCE):
            raise ConfigError(
                "calibration must be made with this model; run `glow-tf score fit` again. "
                f"Received: {str(path)!r}, made with another"
            )
        return scorer._with(*halves)

    def _with(self, reference: Features, calibration: Features) -> Scorer:
        """Takes two halves of good images; ConfigError if no score can be made of them."""
        self._reference, self._calibration = reference, calibration
        self.unusual(calibration[:1])
        return self

    def unusual(self, found: Features) -> np.ndarray:
        """Returns the scores that p-values compare, [N]; higher is more unusual."""
        return finite(RULES[self.score](self._fitted()[0], found))

    def _fitted(self) -> tuple[Features, Features]:
        if self._reference is None or self._calibration is None:
            raise ConfigError("fit must be called first, with good images. Received: a scorer without any")
        return self._reference, self._calibration


def _check_scored(good: Features) -> None:
    if bad := int(np.sum(~np.isfinite(good.table).all(axis=1))):
        raise ConfigError(
            f"the model must be able to score the good images. Received: {bad} of {len(good)} whose bits are "
            "not finite"
        )


def _halves(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns which of the good images define what is usual, and which ones new scores are compared with."""
    order = np.random.default_rng(seed % 2**32).permutation(count)
    return order[: count // 2], order[count // 2 :]


def _probe(model: TrainedModel) -> list[float]:
    """Returns features of one fixed image, by which a calibration knows its model again."""
    image = (np.arange(model.dimensions) % 61).astype(np.uint8).reshape(1, *model.image_shape)
    zeros = {name: np.zeros((1, *shape), np.float32) for name, shape in model.condition_shapes.items()}
    found = features(model, image, of_names(zeros), levels=False)
    return [float(found.nll[0]), float(found.latent[0])]


def _to_json(found: Features) -> dict[str, list[float]]:
    # To the last digit that is kept: an image that is like good ones must tie with them.
    names = NAMES if found.levels is None else (*NAMES, "levels")
    return {name: np.asarray(getattr(found, name), np.float64).tolist() for name in names}


def _from_json(content: dict[str, Sequence[Any]]) -> Features:
    """Returns features; raises ValueError, KeyError or TypeError unless they are what `fit` takes."""
    found = Features(*(np.array(content[name], np.float64) for name in NAMES))
    if "levels" in content:
        levels = np.array(content["levels"], np.float64).reshape(len(found), -1)
        found = dataclasses.replace(found, levels=levels)
    shapes = {found.nll.shape, found.latent.shape, found.codec.shape}
    if shapes != {(len(found),)} or len(found) < FEWEST // 2:
        raise ValueError(f"features of the shapes {sorted(shapes)}, and not of {FEWEST // 2} images or more")
    if not np.isfinite(found.whole_table).all():
        raise ValueError("features that are not finite")
    return found
