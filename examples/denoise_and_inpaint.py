"""Noise removed, and holes filled, by the exact gradient of a Glow's log-density.

    python examples/denoise_and_inpaint.py

Both are the likeliest images given what is known: of noisy images y the maximum over v of
log p(v) − |v − y|² / 2σ², of images with holes that of log p(v) over the unknown pixels. The Glow is the
preset of handwritten digits; the images are its test images. It takes half a minute on one core, downloads
nothing, and prints how near the images come to the truth, in dB, beside a Gaussian blur and a harmonic
filling, in which each unknown pixel is the mean of its neighbours.
"""

from collections.abc import Callable

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import keras
import numpy as np
import tensorflow as tf
from glow_tf import data
from scipy.ndimage import convolve, gaussian_filter

SIGMA = 25  # of the noise, in levels of 256
STEPS = 100
RATE = 0.25  # how far a pixel moves at most in the first step, in levels of the model's


def climbed(height: Callable[[tf.Tensor], tf.Tensor], start: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
    """Returns where Adam gets from a start, [N, H, W, C], along the gradient of heights, [N]."""
    v = tf.Variable(start)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(RATE, STEPS), beta_2=0.99)
    optimizer.build([v])

    @tf.function(autograph=False)
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = -tf.reduce_sum(height(v))
        optimizer.apply([tape.gradient(loss, v) * moves], [v])

    for _ in range(STEPS):
        step()
    return v.read_value()


def denoised(flow: glow_tf.Flow, noisy: np.ndarray) -> np.ndarray:
    """Removes Gaussian noise from images uint8 [N, H, W, C]."""
    y = flow.dequantized(noisy, noise=0.5)
    sigma = SIGMA / flow.dequantize.bin_width

    def height(v: tf.Tensor) -> tf.Tensor:
        misfit = tf.reduce_sum(tf.square((v - y) / sigma), axis=[1, 2, 3]) / 2
        return flow.dequantized_log_prob(v) - misfit

    return flow.dequantize.to_output(climbed(height, y, tf.ones_like(y))).numpy()


def inpainted(flow: glow_tf.Flow, images: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Fills in pixels where `unknown`, bool [H, W], is true; it starts from the harmonic filling."""
    start = flow.dequantized(harmonic(images, unknown), noise=0.5)
    moves = tf.cast(unknown[:, :, np.newaxis], start.dtype)
    filled = flow.dequantize.to_output(climbed(flow.dequantized_log_prob, start, moves)).numpy()
    return np.where(unknown[:, :, np.newaxis], filled, images)


def harmonic(images: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Makes each unknown pixel the mean of its neighbours."""
    cross = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])[np.newaxis, :, :, np.newaxis] / 4
    found = np.where(unknown[:, :, np.newaxis], 0.0, images)
    for _ in range(500):
        found = np.where(unknown[:, :, np.newaxis], convolve(found, cross, mode="nearest"), images)
    return np.round(found).astype(np.uint8)


def psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Returns the mean peak signal-to-noise ratio of images, in dB."""
    error = np.square(images.astype(float) - truth).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / error)))


def main() -> None:
    """Damages test images, restores them, and prints what is gained."""
    flow = glow_tf.load("digits")
    truth = data.load(glow_tf.DataConfig("digits")).test[:100]
    noise = np.random.default_rng(0).normal(0, SIGMA, truth.shape)
    noisy = np.clip(np.round(truth + noise), 0, 255).astype(np.uint8)
    blurs = [gaussian_filter(noisy.astype(float), (0, s, s, 0)) for s in np.arange(0.3, 1.0, 0.1)]
    blurred = max(psnr(own, truth) for own in blurs)
    print(f"noisy {psnr(noisy, truth):.1f} dB, the best blur {blurred:.1f} dB,", end=" ")
    print(f"likeliest {psnr(denoised(flow, noisy), truth):.1f} dB")
    unknown = np.zeros(truth.shape[1:3], bool)
    unknown[2:6, 2:6] = True
    filled = psnr(harmonic(truth, unknown), truth)
    print(f"a square filled: harmonic {filled:.1f} dB,", end=" ")
    print(f"likeliest {psnr(inpainted(flow, truth, unknown), truth):.1f} dB")


if __name__ == "__main__":
    main()
