"""How much better does `glow-tf enlarge` make images than repeated pixels and bicubic interpolation?

    python -m lab.benchmarks.upscaling --model=cifar10_small --dataset=cifar10 --data_dir=PATH
    python -m lab.benchmarks.upscaling --model=photographs --pictures=PATH --examples=16

Test images are halved and doubled again. `upscale` gives each 2×2 square the mean that it must have, so
bicubic images with these means have a row, too. Differences are within an image. With `--pictures` images
are of 1280×960: the middles of photographs that `prior_pictures.csv` holds out for test.
"""

import itertools
import pathlib
import sys

import numpy as np
from absl import flags
from PIL import Image, ImageOps

from glow_tf.commands import cli
from glow_tf.run.pictures import enlarged
from glow_tf.store import load
from glow_tf.use import read_images, upscale
from glow_tf.use.evaluation import mean_and_error
from glow_tf.use.upscaling import reduced, repeated, with_means
from lab.benchmarks.rows import added_to
from lab.prior_pictures import held_out, opened

SIZE = 1280, 960
COLUMNS = ("model", "method", "images", "psnr_db", "upscale_ahead_by_db", "standard_error_db")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "", "As in `glow-tf enlarge --help`.", flag_values=values)
    flags.DEFINE_string("dataset", "", "Of the model's kind; its test images are used.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_string(
        "pictures", "", "As of lab/prior_pictures.py; instead of a dataset.", flag_values=values
    )
    flags.DEFINE_integer("examples", 256, "Test images.", flag_values=values)
    flags.DEFINE_string("csv", "upscaling.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    flow = load(given.model)
    if given.pictures:
        truth = _photographs(pathlib.Path(given.pictures), given.examples)
    else:
        truth = read_images(flow.image_shape, given.dataset, given.data_dir, count=given.examples).images
    small = np.round(reduced(truth)).astype(np.uint8)
    bicubic = enlarged(small, 2)
    found = {
        "repeated pixels": repeated(small),
        "bicubic": bicubic,
        "Lanczos": np.stack([_lanczos(image) for image in small]),
        "bicubic, means corrected": with_means(bicubic, small),
        "upscale": upscale(flow, small),
    }
    values = {method: psnr(images, truth) for method, images in found.items()}
    with added_to(given.csv, COLUMNS) as add:
        for method, own in values.items():
            ahead, error = mean_and_error(values["upscale"] - own)
            numbers = [f"{own.mean():.3f}", f"{ahead:.3f}", f"{error:.3f}"]
            add([given.model, method, len(truth), *numbers])
            print(f"{method:<25} {numbers[0]} dB; upscale is ahead by {numbers[1]} ± {numbers[2]}")


def psnr(images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Returns the peak signal-to-noise ratio of images, in dB: uint8 [N, H, W, C] twice → [N]."""
    error = np.square(images.astype(np.float64) - truth).mean(axis=(1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-12))


def _photographs(folder: pathlib.Path, count: int) -> np.ndarray:
    pictures = itertools.starmap(opened, held_out(folder)["photograph"])
    large = [own for own in pictures if own.width >= SIZE[0] and own.height >= SIZE[1]]
    return np.stack([ImageOps.fit(own, SIZE, Image.Resampling.LANCZOS) for own in large[:count]])


def _lanczos(image: np.ndarray) -> np.ndarray:
    height, width, channels = image.shape
    large = Image.fromarray(image[..., 0] if channels == 1 else image).resize(
        (2 * width, 2 * height), Image.Resampling.LANCZOS
    )
    return np.reshape(large, (2 * height, 2 * width, channels))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
