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
from PIL import Image, ImageDraw, ImageFilter

COMPARED, BATCH = 224, 8  # pixels of a side of masks; images
DAMAGES = ("hole", "crack", "break", "fray", "uneven")


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


def damaged(images: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns copies of images with one damage each, in the order of `DAMAGES`, and their masks."""
    rng = np.random.default_rng(seed)
    copies, masks = [], []
    for k, image in enumerate(images[..., 0]):
        other = np.rot90(images[rng.integers(len(images)), ..., 0])
        copy, mask = _with_damage(image.astype(float), DAMAGES[k % len(DAMAGES)], other, rng)
        copies.append(np.clip(copy, 0, 255).round().astype(np.uint8))
        masks.append(_reduced(mask))
    return np.stack(copies)[..., np.newaxis], np.stack(masks)


def _with_damage(
    image: np.ndarray, damage: str, other: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, Image.Image]:
    side = len(image)
    mask = Image.new("L", (side, side))
    x, y = rng.uniform(0.1, 0.9, 2) * side
    draw, blur, radius = ImageDraw.Draw(mask), 0.002, rng.uniform(0.04, 0.12) * side
    if damage == "hole":
        width, height = rng.uniform(0.006, 0.015, 2) * side
        draw.ellipse([x - width, y - height, x + width, y + height], fill=255)
        inside = image * rng.uniform(0.2, 0.5)
    elif damage == "crack":
        angles = rng.uniform(0, np.pi) + np.cumsum(rng.normal(0, 0.3, rng.integers(8, 20)))
        steps = 0.015 * side * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        draw.line(
            [(x + dx, y + dy) for dx, dy in np.cumsum(steps, axis=0)],
            fill=255,
            width=max(1, round(side / 250)),
        )
        inside, blur = image * rng.uniform(0.3, 0.7), 0.001
    else:
        if damage == "break":
            near, far = 0.03 * side, 0.97 * side
            x, y = [(x, far), (x, near), (far, y), (near, y)][rng.integers(4)]
        angles = np.sort(rng.uniform(0, 2 * np.pi, 10))
        rays = radius * rng.uniform(0.5, 1, 10)
        corners = np.stack([x + rays * np.cos(angles), y + rays * np.sin(angles)], axis=1)
        draw.polygon([*map(tuple, corners)], fill=255)
        inside = other / max(other.mean(), 1) * image.mean()
        inside = inside * rng.uniform(0.4, 0.8) if damage == "break" else inside
        if damage == "uneven":
            inside, blur = image * (1 + rng.choice([-1, 1]) * rng.uniform(0.25, 0.5)), 0.02
    share = np.asarray(mask.filter(ImageFilter.GaussianBlur(blur * side))) / 255
    return (1 - share) * image + share * inside, mask


def case_of(
    folder: pathlib.Path, split: str, size: int, seed: int, network: keras.Model
) -> tuple[Case, np.ndarray, np.ndarray, float]:
    """Returns the images of a split, the kinds of the test images, their masks, seconds for features.

    The kind of good ones is `free`.
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
        copies, where = damaged(images[test], seed)
        train[test] = False
        images, masks = np.concatenate([images, copies]), np.concatenate([masks, where])
        kinds = np.concatenate([kinds, np.resize(DAMAGES, len(test))])
        test = np.concatenate([test, np.arange(len(rows), len(images))])
    fit = np.flatnonzero(train)
    start = time.process_time()
    used = np.concatenate([fit, test])
    features = features_of(network, images[used])
    seconds = (time.process_time() - start) / len(used)
    maps = network.compute_output_shape((1, size, size, 3))
    shapes = [(own[1], own[3]) for own in maps]
    good = Images(images[fit], features[: len(fit)])
    case = Case(good, groups[fit], Images(images[test], features[len(fit) :]), shapes, seed)
    return case, kinds[test], masks[test], seconds
