"""Bits of images that are unlike all that a model was trained on, with and without a floor.

    python -m lab.benchmarks.unlike --models=photographs,photographs_grey,cifar10,cifar10_small

Flat images, ramps, stripes, chessboards, single pixels, blocks and noise, 32×32, in several strengths; see
`Evaluation.with_floor`.
"""

import sys
from collections.abc import Iterator

import numpy as np
from absl import flags

from glow_tf.commands import cli
from glow_tf.use import evaluate, open_model
from glow_tf.use.sized import fitted
from lab.benchmarks.rows import added_to

SIDE = 32
LEVELS = (16, 64, 255)  # how much light and dark differ
COLUMNS = ("model", "images", "above_8_bpd", "above_16_bpd", "worst", "worst_bpd", "mean_bpd")
COLUMNS += ("mean_with_floor_bpd", "worst_with_floor_bpd")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_list("models", ["photographs"], "As in `glow-tf evaluate --help`.", flag_values=values)
    flags.DEFINE_string("csv", "unlike.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    with added_to(given.csv, COLUMNS) as add:
        for name in given.models:
            model = fitted(open_model(name), (SIDE, SIDE))
            images = dict(_images(model.image_shape[-1]))
            found = evaluate(model, np.stack([*images.values()]))
            bits, floored = found.per_image, found.with_floor(8)
            counts = [len(bits), int((bits > 8).sum()), int((bits > 16).sum())]
            numbers = (f"{own:.2f}" for own in (bits.max(), bits.mean(), floored.mean(), floored.max()))
            row = [name, *counts, [*images][bits.argmax()], *numbers]
            add(row)
            print(*row, flush=True)


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


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
