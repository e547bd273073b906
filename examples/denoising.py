"""Denoising: not one clean image, but the density of all that a noisy one may have been.

    python examples/denoising.py --data_dir=PATH

A Glow of CIFAR-10 is given each image with Gaussian noise of a known deviation. It is the posterior
p(clean | noisy), and its draws differ where the noise hides what was there. A second Glow of the same size is
given nothing. PATH is TFDS's data_dir. Where it does not hold CIFAR-10, the images are scikit-learn's digits.

It takes about two minutes on one core, and prints bits/dim and squared errors of test images. The file
`denoising.png` has a row for each of eight test images: noisy, mean of the draws, two draws, deviation of the
draws, clean.
"""

import argparse
import os
import pathlib
import time

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import numpy as np
import tensorflow as tf
from glow_tf import data
from scipy.ndimage import gaussian_filter

SEED = 0
BATCH = 16
DRAWS = 8
SHOWN = 8
DEVIATION = 0.1  # of the noise, as a share of all levels


def load(data_dir: str) -> tuple[data.ImageData, int, int]:
    """Returns images, their bits per number, and for how many epochs to train on them."""
    if pathlib.Path(data_dir, "cifar10").expanduser().exists():
        config = glow_tf.DataConfig("cifar10", data_dir, train_examples=8_000, test_examples=200)
        return data.load(config), 8, 4
    print(f"no CIFAR-10 in {data_dir}: the images are scikit-learn's digits")
    return data.load(glow_tf.DataConfig("digits", test_examples=200)), 5, 15


def levels_of(images: tf.Tensor, n_bits: int) -> tf.Tensor:
    """Returns the levels of bytes, as real numbers."""
    return tf.cast(images // 2 ** (8 - n_bits), tf.float32)


def with_noise(images: tf.Tensor, n_bits: int, seed: tf.Tensor | int) -> tf.Tensor:
    """Returns the levels of images, uint8 [B, H, W, C], with noise."""
    noise = tf.random.stateless_normal(tf.shape(images), [SEED, seed])
    return levels_of(images, n_bits) + DEVIATION * 2**n_bits * noise


def condition_of(noisy: tf.Tensor, n_bits: int) -> tf.Tensor:
    """Returns what the Glow is given: [B, H, W, C] → [B, H/2, W/2, 4C].

    The flow has the four pixels of a square as channels. So must the condition, or else the Glow would read
    averages of squares.
    """
    return tf.nn.space_to_depth(noisy / 2**n_bits - 0.5, 2)


def train(images: np.ndarray, n_bits: int, epochs: int, given: bool) -> glow_tf.Flow:
    """Returns a Glow of images that is given their noisy copies, or nothing."""
    height, width, channels = images.shape[1:]
    config = glow_tf.ModelConfig(
        (height, width, channels),
        n_bits=n_bits,
        num_blocks=2,
        flow_steps=3,
        width=32,
        condition_shape=(height // 2, width // 2, 4 * channels) if given else (),
        seed=SEED,
    )
    steps = len(images) // BATCH
    batches = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=SEED)
    batches = batches.batch(BATCH, drop_remainder=True).repeat(epochs).enumerate()  # each with other noise
    if given:
        batches = batches.map(
            lambda k, x: {"images": x, "condition": condition_of(with_noise(x, n_bits, k), n_bits)}
        )
    else:
        batches = batches.map(lambda k, x: x)
    flow = glow_tf.Flow(config)
    trainer = glow_tf.PartsTrainer(flow, seed=SEED)
    settings = glow_tf.TrainConfig(part_epochs=epochs, finetune_epochs=0, batch_size=BATCH)
    trainer.compile(settings, steps_per_epoch=steps)
    start = time.monotonic()
    trainer.fit(batches, steps_per_epoch=steps, verbose=0)
    seconds = time.monotonic() - start
    what = "given noisy ones" if given else "alone"
    print(f"{epochs} epochs of {len(images)} images, {what}: {seconds:.0f} s")
    return flow


def blurred(noisy: np.ndarray, deviation: float) -> np.ndarray:
    """Returns images [N, H, W, C] after a Gaussian blur."""
    return gaussian_filter(noisy, (0, deviation, deviation, 0))


def best_blur(clean: np.ndarray, noisy: np.ndarray) -> float:
    """Returns the deviation of the blur that brings noisy images nearest to the clean ones, in pixels."""
    return min(np.arange(0.3, 1.5, 0.1), key=lambda d: np.square(blurred(noisy, d) - clean).mean())


def picture(columns: list[np.ndarray], top: float) -> bytes:
    """Returns a PNG of images [N, H, W, C] side by side, a row for each of the first; white is top."""
    tiles = np.stack([column[:SHOWN] for column in columns], 1) * (255 / top)
    tiles = np.pad(tiles.clip(0, 255), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]).swapaxes(1, 2)
    rows = tiles.reshape(tiles.shape[0] * tiles.shape[1], -1, tiles.shape[-1])
    return tf.io.encode_png(np.uint8(np.kron(rows, np.ones((4, 4, 1))))).numpy()


def main(data_dir: str) -> None:
    """Trains both, prints what it measures on the test images, and writes the picture."""
    images, n_bits, epochs = load(data_dir)
    test, few = images.test, images.train[:1000]
    clean, noisy = levels_of(test, n_bits).numpy(), with_noise(test, n_bits, -1).numpy()
    given = condition_of(noisy, n_bits)
    alone = np.mean(train(images.train, n_bits, epochs, given=False).bits_per_dim(test, seed=0))
    flow = train(images.train, n_bits, epochs, given=True)
    bits = np.mean(flow.bits_per_dim(test, seed=0, condition=given))
    print(f"clean images: {bits:.3f} bits/dim given noisy ones, {alone:.3f} without")

    def draw(temperature: float, seed: int = 0) -> np.ndarray:
        drawn = flow.sample_dequantized(len(test), temperature, seed, condition=given)
        return np.clip(drawn - 0.5, 0, 2**n_bits - 1)  # the middle of a bin is its level

    draws = np.stack([draw(1.0, seed) for seed in range(DRAWS)])
    mean, deviation = draws.mean(0), draws.std(0, ddof=1)
    blur = best_blur(levels_of(few, n_bits).numpy(), with_noise(few, n_bits, -2).numpy())
    for name, found in (
        ("noisy", noisy),
        (f"blurred by {blur:.1f} pixels", blurred(noisy, blur)),
        ("temperature 0", draw(0.0)),
        (f"mean of {DRAWS} draws", mean),
    ):
        print(f"squared error, {name}: {np.square(found - clean).mean():.1f} levels²")
    expected = np.square(deviation).mean() * (1 + 1 / DRAWS)  # if clean images are draws too
    print(f"what the draws' deviation says of their mean's: {expected:.1f} levels²")

    columns = [noisy, mean, *draws[:2], 4 * deviation, clean]
    pathlib.Path("denoising.png").write_bytes(picture(columns, clean.max()))
    print("denoising.png: noisy, mean of the draws, two draws, 4 × their deviation, clean")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Denoising by a Glow that is given noisy images.")
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")  # as TFDS has it
    parser.add_argument("--data_dir", default=default, help="TFDS's data_dir, which holds CIFAR-10")
    main(parser.parse_args().data_dir)
