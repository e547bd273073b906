"""What does it cost to keep a preset's weights as float16?

    python -m lab.benchmarks.half_precision --model=fashion_mnist --dataset=fashion_mnist --data_dir=PATH

Keeps the model as a preset twice, with float32 and with float16, loads both, and compares the bits of the
same images with the same noise: the mean difference and its 95 % interval over the images.
"""

import pathlib
import sys
import tempfile

from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.use import evaluate, open_model, read_images
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to

COLUMNS = ("model", "images", "float32_bpd", "difference", "low", "high", "float32_kb", "float16_kb")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "", "With weights in float32.", flag_values=values)
    flags.DEFINE_string("dataset", "", "Whose test images are scored.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_integer("examples", 0, "How many; 0 is all.", flag_values=values)
    flags.DEFINE_string("csv", "half_precision.csv", "To add to: one row.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures, prints and writes."""
    glow = open_model(given.model)
    images = read_images(glow.image_shape, given.dataset, given.data_dir, "test", given.examples).images
    bits, sizes = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in ("float32", "float16"):
            kept = pathlib.Path(folder, dtype)
            glow.save_to_preset(kept, weights_dtype=dtype)
            sizes[dtype] = (kept / "model.weights.h5").stat().st_size / 1000
            bits[dtype] = evaluate(glow_tf.Glow.from_preset(kept), images).per_image
    lost = bits["float16"] - bits["float32"]
    mean, error = mean_and_error(lost)
    half = 1.96 * error
    numbers = [f"{x:.5f}" for x in (bits["float32"].mean(), mean, mean - half, mean + half)]
    row = [given.model, len(images), *numbers, *(f"{size:.0f}" for size in sizes.values())]
    with added_to(given.csv, COLUMNS) as add:
        add(row)
    print(dict(zip(COLUMNS, row, strict=True)))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
