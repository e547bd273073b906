"""Scores: how unusual images are by their features, compared with those of good images."""

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import logsumexp

from glow_tf.core.errors import ConfigError
from glow_tf.use.score.image_features import Features

MOST_POINTS = 2000  # of the density
FAR = 12.0  # in units of the middle half of the good images
USUAL, UNUSUAL = 0.1, 0.01  # shares of good images; what lies beyond the second is named as a reason
MOST_ALONE = 2.0  # of a feature alone; see _or_a_feature
FALLBACK, LEVELS = "density", "levels"

Rule = Callable[[Features, Features], np.ndarray]


def _density(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Minus the log-density of features by a Gaussian kernel estimate, up to a constant: [N, F] → [N].

    They are measured from the reference's median in units of its middle half. What lies beyond ±`FAR`
    gets the score at ±`FAR` on its ray and a term that grows with the logarithm of the distance: a wilder
    image is more unusual, and a single wild one among the good images hides few others. Good images beyond
    half of `FAR` are left out: a wild one would set the scale for all, and its like would pass.
    """
    low, centre, high = np.quantile(points, [0.25, 0.5, 0.75], axis=0)
    unit = np.maximum(high - low, 1e-6)
    points, queries = ((values - centre) / unit for values in (points, queries))
    points = points[np.abs(points).max(axis=1) < FAR / 2]
    beyond = np.maximum(np.abs(queries).max(axis=1) / FAR, 1)
    with np.errstate(invalid="ignore"):  # an infinite feature makes the score NaN, which counts as unusual
        queries = queries / beyond[:, np.newaxis]
    if len(points) < 2:
        raise ConfigError(
            "score=density needs good images that are alike; try another score. Received: good images of "
            f"which {len(points)} are like the others"
        )
    # Whitened, so that one bandwidth serves all directions; the small term is for features that do not vary.
    covariance = np.cov(points.T) + 1e-6 * np.eye(points.shape[1])
    whiten = np.linalg.inv(np.linalg.cholesky(covariance)).T
    points, queries = points[:MOST_POINTS] @ whiten, queries @ whiten
    bandwidth = len(points) ** (-1 / (points.shape[1] + 4))  # Scott's rule
    distances = (np.sum(np.square((query - points) / bandwidth), axis=1) for query in queries)
    log_densities = np.array([logsumexp(-0.5 * own) for own in distances]) - np.log(len(points))
    return 2 * FAR * np.log(beyond) - log_densities


def _with_levels(found: Features) -> np.ndarray:
    if found.levels is None:
        raise ConfigError(
            "score=levels needs a model of levels, and not an export of it. Received: features without levels"
        )
    return found.whole_table


def _rarity(reference: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns by how many powers of ten a value is rarer than one that `USUAL` of the reference exceeds.

    The share above is taken to fall exponentially, through `USUAL` and `UNUSUAL`, also beyond all references.
    Wild ones are left out, as by `_density`; ConfigError if nothing is left.
    """
    low, centre, high = np.quantile(reference, [0.25, 0.5, 0.75])
    alike = reference[np.abs(reference - centre) < FAR / 2 * np.maximum(high - low, 1e-6)]
    if not len(alike):
        raise ConfigError(
            "a score needs good images whose features are finite and alike. Received: "
            f"{int(np.isfinite(reference).sum())} of {len(reference)} that are finite"
        )
    near, far = np.quantile(alike, [1 - USUAL, 1 - UNUSUAL])
    return (values - near) / np.maximum(far - near, 1e-6) * np.log10(USUAL / UNUSUAL)


def _or_a_feature(rule: Rule) -> Rule:
    """Returns a score that is also high where one feature alone is unusually high or low.

    A score of one number is blind to what leaves this number alone: a black frame has few bits and a small
    file, and the difference of the two is a usual one. There are six such ends, so each counts a tenth of the
    score's own share. Some good images are far out in one feature. So that they do not hide what the score
    itself finds, a feature hardly counts beyond `MOST_ALONE`.
    """

    def widened(reference: Features, found: Features) -> np.ndarray:
        own = _rarity(rule(reference, reference), rule(reference, found))
        pairs = list(zip(reference.table.T, found.table.T, strict=True))
        ends = [_rarity(sign * usual, sign * values) for usual, values in pairs for sign in (1, -1)]
        alone = np.max(ends, axis=0) - 1
        beyond = np.maximum(alone / MOST_ALONE, 1)
        return np.maximum(own, np.minimum(alone, MOST_ALONE) + 1e-3 * np.log(beyond))

    return widened


# Name → how unusual images are, compared with reference images; higher is more unusual.
RULES: dict[str, Rule] = {
    # After Osada 2024, arXiv 2402.10477, who has latent and codec alone.
    FALLBACK: lambda reference, found: _density(reference.table, found.table),
    LEVELS: lambda reference, found: _density(_with_levels(reference), _with_levels(found)),
    "nll": lambda reference, found: found.nll,
    "latent": lambda reference, found: found.latent,
    # After Nalisnick et al. 2019, and Serrà et al. 2020, arXiv 1909.11480.
    "typicality": _or_a_feature(lambda reference, found: np.abs(found.nll - reference.nll.mean())),
    "complexity": _or_a_feature(lambda reference, found: found.nll - found.codec),
}
ONE_WAY = ("nll", "latent")  # take what is too simple for usual, so `auto` never chooses them


def areas_of(
    reference: Features, usual: Features, spoiled: Mapping[str, Features]
) -> dict[str, dict[str, float]]:
    """Returns, for each score and each set of spoiled images, the area under the ROC curve."""
    areas = {}
    for name, rule in RULES.items():
        with contextlib.suppress(ConfigError):  # no density can be made of these images
            good = np.sort(finite(rule(reference, usual)))
            areas[name] = {kind: _area(good, finite(rule(reference, own))) for kind, own in spoiled.items()}
    return areas


def _area(good: np.ndarray, other: np.ndarray) -> float:
    """Returns how often a score of `other` is above one of `good`, which is sorted; ties count a half."""
    above = np.searchsorted(good, other, "left") + np.searchsorted(good, other, "right")
    return float(np.mean(above)) / (2 * len(good))


def finite(scores: np.ndarray) -> np.ndarray:
    """Returns scores [N] in which what the model cannot score is as unusual as can be."""
    return np.where(np.isfinite(scores), scores, np.inf)
