"""What good images tell before a detector is used: what it shall look at, their folds, and their groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.use.score.damage import KINDS
from glow_tf.use.score.features import together
from glow_tf.use.score.rule import Rule, of_places, of_wholes

COPIES = 200  # damaged ones, about
THUMB = 16  # pixels of a side, by which images are compared
NEAR = 0.15  # of the usual distance
MOST_COMPARED = 500  # images, each with all
FOLDS = 3  # of the good images, on all but one of which a copy is tuned
MORE_FOLDS = 10  # the same for rules and for features, which take little time
MANY = 300  # good images, which a copy is tuned on once: on half of them, or so many as help
MOST_TUNED = 500

# What was said of images: [N, h, w, F] of each resolution, and [N, 1] if features are looked at.
Found = Sequence[np.ndarray]


class View(NamedTuple):
    """What may be looked at: pixels or not, and which maps of features."""

    pixels: bool
    maps: tuple[int, ...]

    def of(self, found: Found, count: int) -> list[np.ndarray]:
        """Returns what of `found` is looked at; its last `count` maps are of features, which are added up."""
        maps = of_places(found)
        of_pixels = len(maps) - count
        kept = maps[:of_pixels] if self.pixels else []
        if self.maps:
            kept = [*kept, together([maps[of_pixels + k] for k in self.maps]), *of_wholes(found)]
        return kept

    def __str__(self) -> str:
        maps = f"features {' + '.join(str(k + 1) for k in self.maps)}" if self.maps else ""
        return " and ".join(["pixels"] * self.pixels + [maps] * bool(maps))


def copied(held_out: np.ndarray) -> np.ndarray:
    """Returns which of the images that are held out are copied and damaged; few images come several times."""
    few = held_out[:: math.ceil(len(held_out) / COPIES)]
    return np.repeat(few, min(round(COPIES / len(few)), len(KINDS)))


def chosen(good: Found, copies: Found, count: int) -> tuple[View, dict[View, float]]:
    """Chooses what tells damaged copies by their worst places best, unless all of it does about as well.

    Measured are all maps of features with pixels, if there are any; neighbouring maps; pixels; and these with
    the best of the maps. Another one than the first must be ahead by twice the standard error of the
    difference (DeLong et al. 1988, https://doi.org/10.2307/2531595).

    Returns:
      The view, and the area under the ROC curve of it, and of the others, best first.
    """
    above: dict[View, np.ndarray] = {}  # whether a copy is more unusual than a good image, [copies, good]

    def measure(view: View) -> None:
        own = [view.of(found, count) for found in (good, copies)]
        size = own[0][0].shape[1:3]
        rule = Rule.of(own[0])
        usual, scores = (np.max(rule(maps, size)[1], axis=(1, 2)) for maps in own)
        above[view] = (scores[:, np.newaxis] > usual) + 0.5 * (scores[:, np.newaxis] == usual)

    def area(view: View) -> float:
        return float(above[view].mean())

    pixels, runs = len(of_places(good)) > count, itertools.combinations(range(count + 1), 2)
    first = View(pixels, tuple(range(count)))
    measure(first)
    for low, high in runs:
        measure(View(False, tuple(range(low, high))))
    if pixels:
        measure(View(True, max((own for own in above if not own.pixels), key=area).maps))
        measure(View(True, ()))
    best = max(above, key=area)
    ahead = above[best] - above[first]
    error = math.hypot(*(np.std(ahead.mean(axis=k)) / math.sqrt(ahead.shape[1 - k]) for k in (0, 1)))
    view = best if ahead.mean() > 2 * error else first
    order = sorted(above, key=lambda own: (own != view, -area(own)))
    return view, {own: area(own) for own in order}


def akin(images: np.ndarray) -> float:
    """Returns the share of images [N, H, W, C] that have another one nearly like them, but for its light."""
    small = (
        tf.image.resize(tf.cast(images, tf.float32), (THUMB, THUMB), "area").numpy().reshape(len(images), -1)
    )
    small -= small.mean(axis=1, keepdims=True)
    small /= np.linalg.norm(small, axis=1, keepdims=True) + 1e-6
    few = np.arange(0, len(images), math.ceil(len(images) / MOST_COMPARED))
    distances = np.sqrt(np.maximum(2 - 2 * small[few] @ small.T, 0))
    usual = np.median(distances, axis=1)
    distances[np.arange(len(few)), few] = np.inf
    return float(np.mean(distances.min(axis=1) < NEAR * usual))


def held_out(groups: np.ndarray, tunes: bool, contamination: float, seed: int) -> list[np.ndarray]:
    """Returns which images, of groups [N], are held out in each fold, bool [N].

    Where models are tuned on many images it is one fold, of which enough images are left to tell
    `contamination`; otherwise each image is in one of several.
    """
    if tunes and len(groups) >= MANY:
        most = min(len(groups) // 2, MOST_TUNED)
        order = np.random.default_rng(seed % 2**32).permutation(groups.max() + 1)
        taken = np.cumsum(np.bincount(groups)[order]) <= most
        kept = np.isin(groups, order[taken])
        if kept.sum() >= most // 2 and 1 / (1 + (~kept).sum()) <= contamination:
            return [~kept]
    fold_of = folds_of(groups, FOLDS if tunes else MORE_FOLDS, seed)
    return [fold_of == own for own in np.unique(fold_of)]


def folds_of(groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the fold of each image, which is that of its group."""
    return (np.random.default_rng(seed % 2**32).permutation(groups.max() + 1) % count)[groups]
