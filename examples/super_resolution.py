"""Super-resolution: the density of what an image lacks at half its size, and draws from it.

    python examples/super_resolution.py --data_dir=PATH

A flow of one level has two parts, and the first one is p(details | image of half the size). It is trained
alone, on CIFAR-10, and compared with bicubic interpolation: in likelihood, where a Gaussian of the details
around the bicubic ones is fitted, and in squared error. PATH is TFDS's data_dir. Where it does not hold
CIFAR-10, the images are scikit-learn's digits, 8×8.

It takes about two minutes on one core, and prints the bits of the details and the squared errors. The file
`super_resolution.png` has a row for each of eight test images: half-size, bicubic, temperature 0, two draws
at temperature 0.7, and the true one.
"""

import argparse
import math
import os
import pathlib
import time

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import numpy as np
import tensorflow as tf
from glow_tf import data

SEED = 0
SHOWN = 8


def load(data_dir: str) -> tuple[data.ImageData, int, int]:
    """Returns images, their bits per number, and for how many epochs to train on them."""
    if pathlib.Path(data_dir, "cifar10").expanduser().exists():
        config = glow_tf.DataConfig("cifar10", data_dir, train_examples=10_000, test_examples=1_000)
        return data.load(config), 8, 5
    print(f"no CIFAR-10 in {data_dir}: the images are scikit-learn's digits")
    return data.load(glow_tf.DataConfig("digits")), 5, 30


def train(images: np.ndarray, n_bits: int, epochs: int) -> glow_tf.Flow:
    """Returns a model whose part 1 is trained, p(details | half-size image); part 2 never runs."""
    config = glow_tf.ModelConfig(
        images.shape[1:],
        n_bits=n_bits,
        architecture="levels",
        num_blocks=1,
        level_steps=(4, 1),
        width=32,
        seed=SEED,
    )
    flow = glow_tf.Flow(config)
    trainer = glow_tf.PartsTrainer(flow, seed=SEED)
    trainer.compile(glow_tf.TrainConfig(batch_size=16), phases=[glow_tf.one_part(0)] * epochs)
    start = time.monotonic()
    trainer.fit(images, verbose=0)
    print(f"{epochs} epochs of {len(images)} images: {time.monotonic() - start:.0f} s")
    return flow


class Details:
    """The details of images given their halves: by part 1 of a model, and around bicubic interpolation."""

    def __init__(self, flow: glow_tf.Flow):
        self.flow, self.part = flow, flow.parts[0]
        self.haar = self.part.bijectors[0]
        self._log_prob = tf.function(lambda x: self.part(x).log_likelihood_term)
        self._invert = tf.function(lambda half, eps: self.part.inverse(half, [eps]))

    def real(self, images: np.ndarray, noise: float | None = None) -> tf.Tensor:
        """Returns dequantised images in [−½, ½)."""
        v = self.flow.dequantized(images, noise, seed=SEED)
        return self.flow.dequantize.forward_and_log_det(v)[0]

    def half(self, x: tf.Tensor) -> tf.Tensor:
        """Returns images of half the size: the means of squares of 2×2 pixels."""
        return self.part.pass_on(x)

    def bits(self, x: tf.Tensor) -> float:
        """Returns the bits of the details, per dimension of the image."""
        batches = tf.data.Dataset.from_tensor_slices(x).batch(100)
        return self._bits(np.concatenate([self._log_prob(batch) for batch in batches]))

    def bits_of_gaussian(self, x: tf.Tensor, fitted_on: tf.Tensor) -> float:
        """Returns the same under a Gaussian around bicubic interpolation, correlated within each square."""
        errors = self._errors(fitted_on)
        mean, covariance = errors.mean((0, 1, 2)), np.cov(errors.reshape(-1, errors.shape[-1]).T)
        errors = self._errors(x) - mean
        squares = np.einsum("bhwc,cd,bhwd->bhw", errors, np.linalg.inv(covariance), errors)
        log_det = np.linalg.slogdet(2 * math.pi * covariance)[1]
        of_haar = self.haar.forward_and_log_det(x)[1].numpy()
        return self._bits(-0.5 * (squares + log_det).sum((1, 2)) + of_haar)

    def bicubic(self, half: tf.Tensor) -> tf.Tensor:
        """Returns images of twice the size."""
        return tf.image.resize(half, (2 * half.shape[1], 2 * half.shape[2]), "bicubic")

    def draw(self, half: tf.Tensor, temperature: float, seed: int = SEED) -> tf.Tensor:
        """Draws an image of twice the size for each image."""
        eps = tf.random.stateless_normal((len(half), *self.part.latent_shapes[0]), (seed, 1))
        return self._invert(half, temperature * eps)

    def grey_values(self, x: tf.Tensor) -> np.ndarray:
        """Returns images as real numbers between 0 and the highest level."""
        return np.clip(self.flow.dequantize.inverse_and_log_det(x)[0] - 0.5, 0, self.flow.dequantize.bins - 1)

    def _errors(self, x: tf.Tensor) -> np.ndarray:
        error = self.haar.forward_and_log_det(x - self.bicubic(self.half(x)))[0]
        return error[..., x.shape[-1] :].numpy()

    def _bits(self, log_prob: np.ndarray) -> float:
        """Converts log p(details | half) with the log-determinant of Haar, nats [N].

        A uniform half-size image has n_bits for each of its numbers, a quarter of all: they are not counted.
        """
        nats = -log_prob.mean() / math.prod(self.flow.image_shape)
        return nats / math.log(2) + 0.75 * self.flow.config.n_bits


def main(data_dir: str) -> None:
    """Trains, prints what it measures on the test images, and writes the picture."""
    images, n_bits, epochs = load(data_dir)
    details = Details(train(images.train, n_bits, epochs))
    fitted_on, test = details.real(images.train[:2000]), details.real(images.test)
    print(f"bits of the details: {details.bits(test):.3f} bits/dim of the image,", end=" ")
    print(f"{details.bits_of_gaussian(test, fitted_on):.3f} as a Gaussian around bicubic interpolation")

    middle = details.real(images.test, noise=0.5)  # of the bins: nothing is drawn
    half, true = details.half(middle), details.grey_values(middle)
    zero, bicubic = details.draw(half, 0.0), details.bicubic(half)
    same_means = bicubic - details.bicubic(details.half(bicubic) - half)
    for name, x in (("temperature 0", zero), ("bicubic", bicubic), ("bicubic, means put right", same_means)):
        print(f"squared error, {name}: {np.square(details.grey_values(x) - true).mean():.1f} grey values²")

    small = tf.repeat(tf.repeat(half, 2, 1), 2, 2)
    columns = [small, bicubic, zero, details.draw(half, 0.7, 1), details.draw(half, 0.7, 2), middle]
    shown = np.stack([details.grey_values(x)[:SHOWN] for x in columns], 1)  # [images, columns, H, W, C]
    shown = np.pad(shown, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]).swapaxes(1, 2)
    picture = shown.reshape(shown.shape[0] * shown.shape[1], -1, shown.shape[-1])
    picture = np.kron(picture, np.ones((4, 4, 1))) * (255 / true.max())
    pathlib.Path("super_resolution.png").write_bytes(tf.io.encode_png(np.uint8(picture.clip(0, 255))).numpy())
    print("super_resolution.png: half-size, bicubic, temperature 0, two draws at 0.7, true")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Super-resolution by part 1 of a flow of levels.")
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")  # as TFDS has it
    parser.add_argument("--data_dir", default=default, help="TFDS's data_dir, which holds CIFAR-10")
    main(parser.parse_args().data_dir)
