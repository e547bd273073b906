"""Magnetic tiles with defects: the images of a split, damaged copies of good ones, and features of all."""

import csv
import pathlib
import time
from typing import NamedTuple

import glow_tf  # noqa: F401 - before TensorFlow and Keras

# isort: split
import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from glow_tf.use.score.damage import KINDS, damaged

COMPARED, BATCH = 224, 8  # pixels of a side of masks; images


class Images(NamedTuple):
    """Images uint8 [N, S, S, 1], and their features: maps of all strides at the size of the finest."""

    pixels: np.ndarray
    features: np.ndarray  # float16 [N, h, w, F of all]


class Case(NamedTuple):
    """What a method gets: good images and their groups, images to test, the sides and the counts of maps."""

    good: Images
    groups: np.ndarray
    test: Images
    shapes: list[tuple[int, int]]  # (h, F) of each stride
    seed: int


def read(folder: pathlib.Path, size: int) -> tuple[list[dict[str, str]], np.ndarray, np.ndarray]:
    """Returns the lines of split.csv, the images [N, size, size, 1] and the masks bool [N, 224, 224]."""
    with (folder / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    images, masks = [], np.zeros((len(rows), COMPARED, COMPARED), bool)
    for row, mask in zip(rows, masks, strict=True):
        image = Image.open(folder / row["image"]).convert("L")
        images.append(np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)))
        if row["kind"] != "free":
            mask[:] = _reduced(Image.open((folder / row["image"]).with_suffix(".png")).convert("L"))
    return rows, np.stack(images)[..., np.newaxis], masks


def _reduced(mask: Image.Image) -> np.ndarray:
    return np.asarray(mask.resize((COMPARED, COMPARED), Image.Resampling.BOX)) > 63  # a quarter of a pixel


def features_of(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the maps of all strides, coarser ones repeated to the size of the first, float16."""
    function = tf.function(network, autograph=False)
    found = []
    for start in range(0, len(images), BATCH):
        batch = np.repeat(images[start : start + BATCH], 3 // images.shape[-1], axis=-1)
        maps = function(batch.astype(np.float32))
        first = maps[0].shape[1]
        maps = [own.numpy().repeat(first // own.shape[1], 1).repeat(first // own.shape[1], 2) for own in maps]
        found.append(np.concatenate(maps, axis=-1).astype(np.float16))
    return np.concatenate(found)


def maps_again(shapes: list[tuple[int, int]]) -> keras.Model:
    """Returns a model that takes `features_of` apart again."""
    first = shapes[0][0]
    inputs = keras.Input((first, first, sum(count for _, count in shapes)))
    maps, start = [], 0
    for side, count in shapes:
        own = inputs[..., start : start + count]
        maps.append(keras.layers.AveragePooling2D(first // side)(own) if side < first else own)
        start += count
    return keras.Model(inputs, maps)


def case_of(
    folder: pathlib.Path, split: str, size: int, seed: int, network: keras.Model | None
) -> tuple[Case, np.ndarray, np.ndarray, float]:
    """Returns the images of a split, the kinds of the test images, their masks, seconds for features.

    The kind of good ones is `free`. Without a network there are no features.
    """
    rows, images, masks = read(folder, size)
    train = np.array([row["role"] == "train" for row in rows])
    groups = np.array([int(row["tile_group"]) for row in rows])
    kinds = np.array([row["kind"] for row in rows])
    rng = np.random.default_rng(seed)
    if split == "random":
        groups, count = np.arange(len(rows)), train.sum()
        train = np.zeros_like(train)
        train[rng.permutation(np.flatnonzero(kinds == "free"))[:count]] = True
    test = np.flatnonzero(~train)
    if split == "validation":
        own = np.unique(groups[train])
        test = np.flatnonzero(train & np.isin(groups, rng.permutation(own)[: len(own) // 4]))
        copies, where = damaged(images[test], seed + 1)  # not those that a detector chooses by
        where = np.stack([_reduced(Image.fromarray(own)) for own in where.astype(np.uint8) * 255])
        train[test] = False
        images, masks = np.concatenate([images, copies]), np.concatenate([masks, where])
        kinds = np.concatenate([kinds, np.resize(KINDS, len(test))])
        test = np.concatenate([test, np.arange(len(rows), len(images))])
    fit = np.flatnonzero(train)
    start = time.process_time()
    used = np.concatenate([fit, test])
    features, shapes = np.empty(len(used)), []
    if network is not None:
        features = features_of(network, images[used])
        maps = network.compute_output_shape((1, size, size, 3))
        shapes = [(own[1], own[3]) for own in maps]
    seconds = (time.process_time() - start) / len(used)
    good = Images(images[fit], features[: len(fit)])
    case = Case(good, groups[fit], Images(images[test], features[len(fit) :]), shapes, seed)
    return case, kinds[test], masks[test], seconds
