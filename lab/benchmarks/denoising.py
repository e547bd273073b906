"""Denoising by the gradient of log p beside scikit-image's non-local means, on the same images.

    python -m lab.benchmarks.denoising --model=fashion_mnist --dataset=fashion_mnist --data_dir=PATH

Gaussian noise is added to test images and rounded to bytes. Both methods are told its standard deviation.
Non-local means has the settings that scikit-image recommends for a known sigma, for small images. Needs
`pip install scikit-image`.
"""

import sys

import numpy as np
from absl import flags

from glow_tf.commands import cli
from glow_tf.use import denoise, open_model, psnr, read_images
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to

COLUMNS = ("model", "sigma", "method", "images", "psnr_db", "standard_error_db")


def non_local_means(image: np.ndarray, sigma: float) -> np.ndarray:
    """Returns an image uint8 [H, W, C] without noise of a standard deviation in levels."""
    from skimage.restoration import denoise_nl_means  # only this benchmark needs scikit-image

    settings = {"patch_size": 5, "patch_distance": 6, "h": 0.8 * sigma / 255, "sigma": sigma / 255}
    clean = denoise_nl_means(image / 255, fast_mode=False, channel_axis=-1, **settings)
    return np.clip(np.round(255 * clean), 0, 255).astype(np.uint8).reshape(image.shape)


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "", "As in `glow-tf restore --help`.", flag_values=values)
    flags.DEFINE_string("dataset", "", "Of the model's kind; its test images are used.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_integer("examples", 64, "Test images.", flag_values=values)
    flags.DEFINE_list("sigmas", ["10", "25", "50"], "Of the noise, in levels of 256.", flag_values=values)
    flags.DEFINE_string("csv", "denoising.csv", "To add to.", flag_values=values)


def main(given: flags.FlagValues) -> None:
    """Measures both methods at several levels of noise, prints the table and writes it as CSV."""
    glow = open_model(given.model)
    truth = read_images(glow.image_shape, given.dataset, given.data_dir, count=given.examples).images
    with added_to(given.csv, COLUMNS) as add:
        for sigma in map(float, given.sigmas):
            noise = np.random.default_rng(0).normal(0, sigma, truth.shape)
            noisy = np.clip(np.round(truth + noise), 0, 255).astype(np.uint8)
            found = {
                "as given": noisy,
                "non-local means": np.stack([non_local_means(image, sigma) for image in noisy]),
                "gradient of log p": denoise(glow, noisy, sigma),
            }
            for method, images in found.items():
                values = psnr(images, truth)
                mean, error = mean_and_error(values)
                add([given.model, sigma, method, len(truth), f"{mean:.3f}", f"{error:.3f}"])
                print(f"sigma {sigma:g}, {method:<18} {mean:.2f} ± {error:.2f} dB", flush=True)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
