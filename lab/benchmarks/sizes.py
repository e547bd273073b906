"""Bits of images of many sizes under one model, beside PNG, WebP and JPEG XL.

    python -m lab.benchmarks.sizes --model=photographs --pictures=PATH --csv=sizes.csv

The pictures are those that `prior_pictures.csv` holds out for test, shrunk and cut to each size. PNG and WebP
(lossless, the slowest methods) are Pillow's, JPEG XL is `cjxl -d 0` of Debian's libjxl-tools at its efforts 7
(its own), 9, and 10 with `-E 3 -I 100`, its utmost. From each file the bytes are taken off that an image of
one colour needs at this size and effort: its header. Sizes whose row is in the CSV are not repeated.
"""

from __future__ import annotations

import io
import itertools
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import flags
from PIL import Image, ImageOps

from glow_tf.commands import cli
from glow_tf.store import load
from glow_tf.use.evaluation import mean_and_error
from glow_tf.use.images import fitted
from lab.benchmarks.rows import added_to, measured
from lab.prior_pictures import held_out, opened

SIZES = ((24, 24), (32, 48), (64, 64), (96, 128), (256, 256), (667, 1000))
KEY = ("model", "kind", "height", "width")
JPEG_XL = {
    "jpeg_xl_7": ("-e", "7"),
    "jpeg_xl_9": ("-e", "9"),
    "jpeg_xl_10": ("-e", "10", "-E", "3", "-I", "100"),
}
FILES = ("png", "webp", *JPEG_XL)
COLUMNS = (*KEY, "pictures", "model_bpd", *(f"{name}_bpd" for name in FILES))
COLUMNS += ("ahead_of_best_jpeg_xl_bpd", "standard_error", "seconds_per_image")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "photographs", "As in `glow-tf evaluate --help`.", flag_values=values)
    flags.DEFINE_string("pictures", "", "As of lab/prior_pictures.py.", flag_values=values)
    flags.DEFINE_integer("examples", 12, "Pictures of each kind.", flag_values=values)
    flags.DEFINE_string("csv", "sizes.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    flow = load(given.model)
    kinds = _pictures(pathlib.Path(given.pictures), given.examples)
    with added_to(given.csv, COLUMNS) as add:
        for (height, width), (kind, pictures) in itertools.product(SIZES, kinds.items()):
            if (given.model, kind, str(height), str(width)) in measured(given.csv, KEY):
                continue
            model = fitted(flow, (height, width))
            images = [ImageOps.fit(own, (width, height), Image.Resampling.LANCZOS) for own in pictures]
            arrays = [np.asarray(own)[np.newaxis] for own in images]
            model.bits_per_dim(arrays[0])  # traced
            start = time.monotonic()
            bits = np.array([float(model.bits_per_dim(own, 0)[0]) for own in arrays])
            seconds = (time.monotonic() - start) / len(images)
            headers = np.array(_bytes(Image.new("RGB", (width, height))))
            files = 8 / arrays[0].size * np.array([_bytes(own) - headers for own in images])
            best = files[:, -len(JPEG_XL) :].mean(axis=0).argmin() - len(JPEG_XL)
            ahead, error = mean_and_error(files[:, best] - bits)
            numbers = [bits.mean(), *files.mean(axis=0), ahead, error]
            row = [given.model, kind, height, width, len(images), *(f"{own:.4f}" for own in numbers)]
            add([*row, f"{seconds:.3f}"])
            print(*row[1:], f"{seconds:.2f} s", flush=True)


def _pictures(folder: pathlib.Path, count: int) -> dict[str, list[Image.Image]]:
    """Returns pictures of each kind that are at least as large as the largest size."""
    width, height = SIZES[-1][::-1]
    kinds = {}
    for kind, pictures in held_out(folder).items():
        opened_ones = itertools.starmap(opened, pictures)
        large = (own for own in opened_ones if own.width >= width and own.height >= height)
        kinds[kind] = [*itertools.islice(large, count)]
    return kinds


def _bytes(image: Image.Image) -> list[int]:
    """Returns the sizes of an image's `FILES`."""
    sizes = []
    for kind, how in (("PNG", {"optimize": True}), ("WEBP", {"lossless": True, "quality": 100, "method": 6})):
        file = io.BytesIO()
        image.save(file, kind, **how)
        sizes.append(file.tell())
    with tempfile.TemporaryDirectory() as folder:
        image.save(f"{folder}/image.ppm")
        for effort in JPEG_XL.values():
            paths = f"{folder}/image.ppm", f"{folder}/image.jxl"
            subprocess.run(["cjxl", "-d", "0", *effort, "--quiet", *paths], check=True)
            sizes.append(pathlib.Path(paths[1]).stat().st_size)
    return sizes


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
