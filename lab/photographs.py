"""Makes a data set of small squares of photographs, for the studies that are run on photographs.

    apt-get download budgie-backgrounds mate-backgrounds ukui-wallpapers   # Debian's; any pictures will do
    for package in *.deb; do dpkg -x "$package" pictures; done
    python -m lab.photographs --pictures=pictures --output=runs/photographs

Every JPEG below --pictures is brought to a longer side of 640 pixels. Every fourth of them, by file name,
gives test squares, the others training squares: no picture gives both. `--fold` says with which of the
first four this begins, so four folds test every picture once.
"""

from __future__ import annotations

import pathlib
import sys

import numpy as np
from absl import flags
from PIL import Image

from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError

LONGER_SIDE = 640
TEST_EVERY = 4


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("pictures", "", "Folder of the pictures, searched deeply.", flag_values=values)
    flags.DEFINE_string("output", "runs/photographs", "Folder for train/ and test/.", flag_values=values)
    flags.DEFINE_integer("side", 32, "Of the squares.", 1, LONGER_SIDE, flag_values=values)
    flags.DEFINE_integer("train", 3200, "Training squares.", 1, flag_values=values)
    flags.DEFINE_integer("test", 1024, "Test squares.", 1, flag_values=values)
    flags.DEFINE_integer(
        "fold", TEST_EVERY - 1, "The first test picture.", 0, TEST_EVERY - 1, flag_values=values
    )
    flags.DEFINE_integer("seed", 0, "Of the places of the squares.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Writes the squares, and says of how many pictures they are."""
    paths = [path for path in pathlib.Path(values.pictures).rglob("*.jp*g") if path.is_file()]
    paths.sort(key=lambda path: (path.name, path))  # the folders of packages may lie anywhere
    found = [image for path in paths if (image := _brought(path, values.side)) is not None]
    if len(found) < TEST_EVERY:
        raise ConfigError(
            f"pictures must be a folder with at least {TEST_EVERY} JPEGs whose sides are {values.side} or "
            f"more. Received: pictures={values.pictures!r} with {len(found)}"
        )
    rng = np.random.default_rng(values.seed)
    test = found[values.fold :: TEST_EVERY]
    train = [image for place, image in enumerate(found) if place % TEST_EVERY != values.fold]
    for name, images, count in (("train", train, values.train), ("test", test, values.test)):
        folder = pathlib.Path(values.output) / name
        folder.mkdir(parents=True, exist_ok=True)
        for place in range(count):
            square = _square(images[place % len(images)], values.side, rng)
            Image.fromarray(square).save(folder / f"{place:06d}.png")
        print(f"{folder}: {count} squares of {len(images)} pictures")


def _brought(path: pathlib.Path, side: int) -> np.ndarray | None:
    """Returns a picture, uint8 [H, W, 3], at the size that all have; None if a side is too short."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        image.thumbnail((LONGER_SIDE, LONGER_SIDE), Image.Resampling.LANCZOS)
        return np.asarray(image) if min(image.size) >= side else None


def _square(image: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
    return image[top : top + side, left : left + side]


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
