"""Makes folders of pictures: two that differ from the usual data sets, and one of clothes.

    python -m lab.benchmarks.pictures --output=runs/pictures --idx=PATH

The first two come from what scikit-learn embeds.

- `photographs`: pieces of 32×32 pixels of two photographs, as JPEG; the test pieces are from the right
  quarter of each photograph, which no training piece touches.
- `sparse`: PNGs of 32×32 pixels, black but for one handwritten digit of 8×8 at a place drawn by the seed, in
  red. Green is constant over all images, blue is zero.
- `clothes`, where --idx is given: grey PNGs of the first 6,000 training and 1,000 test images of
  Fashion-MNIST. PATH has its files as they are published, train-images-idx3-ubyte.gz and
  t10k-images-idx3-ubyte.gz.
"""

import gzip
import pathlib
import sys

import numpy as np
from absl import flags
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from glow_tf.commands import cli

SIDE = 32
STRIDES = {"train": 14, "test": 9}  # pixels between two pieces
GREEN = 64
CLOTHES = {"train": ("train", 6000), "test": ("t10k", 1000)}  # split → name of the file, images


def photographs() -> dict[str, list[np.ndarray]]:
    """Returns the pieces, uint8 [32, 32, 3], by split."""
    found: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    for photograph in load_sample_images().images:
        border = 3 * photograph.shape[1] // 4
        for split, part in (("train", photograph[:, :border]), ("test", photograph[:, border:])):
            height, width, _ = part.shape
            found[split] += [
                part[top : top + SIDE, left : left + SIDE]
                for top in range(0, height - SIDE + 1, STRIDES[split])
                for left in range(0, width - SIDE + 1, STRIDES[split])
            ]
    return found


def sparse(seed: int) -> dict[str, list[np.ndarray]]:
    """Returns the images, uint8 [32, 32, 3], by split."""
    digits = load_digits().images
    random = np.random.default_rng(seed)
    images = np.zeros((len(digits), SIDE, SIDE, 3), np.uint8)
    images[..., 1] = GREEN
    for image, digit in zip(images, digits, strict=True):
        top, left = random.integers(0, SIDE - digit.shape[0] + 1, 2)
        image[top : top + digit.shape[0], left : left + digit.shape[1], 0] = np.minimum(16 * digit, 255)
    train = 4 * len(images) // 5
    return {"train": list(images[:train]), "test": list(images[train:])}


def clothes(folder: pathlib.Path) -> dict[str, list[np.ndarray]]:
    """Returns the first images, uint8 [28, 28], by split."""
    names = {split: (folder / f"{name}-images-idx3-ubyte.gz", n) for split, (name, n) in CLOTHES.items()}
    return {split: list(idx_images(path, count)) for split, (path, count) in names.items()}


def idx_images(path: pathlib.Path, count: int) -> np.ndarray:
    """Returns the first images, uint8 [count, H, W], of a file in MNIST's format, compressed or not."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        _, _, height, width = np.frombuffer(file.read(16), ">i4")
        pixels = np.frombuffer(file.read(count * height * width), np.uint8)
    return pixels.reshape(-1, height, width)


def define(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("output", "runs/pictures", "The folder that they are written to.", flag_values=values)
    flags.DEFINE_string("idx", "", "Folder of Fashion-MNIST's own files; empty: none.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Decides where the digits are.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Writes the folders."""
    folder = pathlib.Path(values.output)
    made = [("photographs", photographs(), "jpg"), ("sparse", sparse(values.seed), "png")]
    if values.idx:
        made.append(("clothes", clothes(pathlib.Path(values.idx)), "png"))
    for name, splits, ending in made:
        for split, images in splits.items():
            (folder / name / split).mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                options = {"quality": 95} if ending == "jpg" else {}
                Image.fromarray(image).save(folder / name / split / f"{number:05d}.{ending}", **options)
            print(f"{folder / name / split}: {len(images)} images")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
