"""Bits of images that are unlike all that a model was trained on, with and without a floor.

    python -m lab.benchmarks.unlike --models=photographs,photographs_grey,cifar10,cifar10_small

Flat images, ramps, stripes, chessboards, single pixels, blocks and noise, 32×32, in several strengths; see
`with_floor`. With `--random=1000` so many drawn ones instead: waves, stripes, chessboards, dots,
noise and blocks of random sizes, directions and colours, one over another.
"""

import sys
from collections.abc import Iterator

import numpy as np
from absl import flags

from glow_tf.commands import cli
from glow_tf.store import load
from glow_tf.use import evaluate
from glow_tf.use.images import fitted
from lab.benchmarks.rows import added_to

SIDE = 32
FLOOR = 2.0**-20
LEVELS = (16, 64, 255)  # how much light and dark differ
COLUMNS = ("model", "images", "above_8_bpd", "above_16_bpd", "worst", "worst_bpd", "mean_bpd")
COLUMNS += ("mean_with_floor_bpd", "worst_with_floor_bpd")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("models", ["photographs"], "As in `glow-tf evaluate --help`.", flag_values=values)
    flags.DEFINE_integer("random", 0, "So many random images instead of the fixed ones.", flag_values=values)
    flags.DEFINE_string("csv", "unlike.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    with added_to(given.csv, COLUMNS) as add:
        for name in given.models:
            model = fitted(load(name), (SIDE, SIDE))
            channels, rng = model.image_shape[-1], np.random.default_rng(1)
            images = {f"random {k}": _random(channels, rng) for k in range(given.random)}
            images = images or dict(_images(channels))
            found = evaluate(model, np.stack([*images.values()]))
            bits, floored = found.per_image, with_floor(found.per_image, model.dimensions)
            counts = [len(bits), int((bits > 8).sum()), int((bits > 16).sum())]
            numbers = (f"{own:.2f}" for own in (bits.max(), bits.mean(), floored.mean(), floored.max()))
            row = [name, *counts, [*images][bits.argmax()], *numbers]
            add(row)
            print(*row, flush=True)


def with_floor(bits: np.ndarray, dimensions: int) -> np.ndarray:
    """Returns the bits per dimension of a mixture: the model, and with the weight `FLOOR` a uniform density.

    No image needs more than 8 bits per dimension, and 20 bits in all.
    """
    model = np.log2(1 - FLOOR) - bits.astype(np.float64) * dimensions
    return -np.logaddexp2(model, np.log2(FLOOR) - 8 * dimensions) / dimensions


def _images(channels: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the name of each image, and the image, uint8 [32, 32, channels]."""
    rng, (y, x) = np.random.default_rng(0), np.indices((SIDE, SIDE))
    patterns = {
        "ramp across": x / SIDE,
        "ramp down": y / SIDE,
        "one pixel": (x == 16) & (y == 16),
        "one line": y == 16,
        "disc": (x - 16) ** 2 + (y - 16) ** 2 < 64,
        "noise": rng.random((SIDE, SIDE)),
        "dots": rng.random((SIDE, SIDE)) < 0.05,
        "black-and-white noise": rng.random((SIDE, SIDE)) < 0.5,
        **{f"stripes of {k}": x // k % 2 for k in (1, 2, 4)},
        **{f"chessboard of {k}": (x // k + y // k) % 2 for k in (1, 2, 4)},
    }
    for level in (0, 64, 128, 192, 255):
        yield f"flat {level}", np.full((SIDE, SIDE, channels), level, np.uint8)
    for strength in LEVELS:
        for name, pattern in patterns.items():
            image = (255 - strength) / 2 + strength * np.asarray(pattern, float)
            yield f"{name}, {strength}", np.repeat(np.uint8(image)[..., np.newaxis], channels, axis=-1)
        colours = rng.random((SIDE, SIDE, channels))
        yield f"coloured noise, {strength}", np.uint8((255 - strength) / 2 + strength * colours)
    for name, strength in (("black on white", -255), ("white on black", 255)):
        image = np.where(patterns["disc"], 128 + strength / 2, 128 - strength / 2).clip(0, 255)
        yield name, np.repeat(np.uint8(image)[..., np.newaxis], channels, axis=-1)
    image = rng.integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    image[::2] = 0
    yield "lines of noise", image
    yield "salt", np.where(rng.random(image.shape) < 0.1, 255, 128).astype(np.uint8)


def _random(channels: int, rng: np.random.Generator) -> np.ndarray:
    """Returns one image of a random pattern, or of one over another, uint8 [32, 32, channels]."""
    image = np.zeros((SIDE, SIDE, channels)) + rng.uniform(0, 255, channels)
    y, x = np.indices((SIDE, SIDE))
    for _ in range(rng.integers(1, 3)):
        angle, period = rng.uniform(0, np.pi), rng.integers(1, 9)
        along = x * np.cos(angle) + y * np.sin(angle)
        shape = (SIDE, SIDE, rng.choice([1, channels]))
        patterns = [
            0.5 + 0.5 * np.sin(np.pi * along / period)[..., np.newaxis],
            (along // period % 2)[..., np.newaxis],
            ((x // period + y // period) % 2)[..., np.newaxis],
            rng.random(shape) < rng.uniform(0, 0.5),
            rng.random(shape),
            ((x // period + y // period * 7919) * 40503 % 97 / 97)[..., np.newaxis],
        ]
        pattern = patterns[rng.integers(len(patterns))]
        image += pattern * (rng.uniform(0, 255, channels) - image)
    return np.uint8(image.clip(0, 255))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
