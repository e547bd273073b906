"""Attributes → image: digits of a class and of an amount of ink that are asked for.

    python examples/attributes.py

A Glow of scikit-learn's handwritten digits is given a vector with each image: its class, one of ten numbers
that is 1, and its ink, the mean of its pixels. A second Glow of the same size is given nothing. A classifier
that was trained on the real digits then looks at what the first one draws.

It takes two minutes on one core and downloads nothing. It prints bits/dim with and without the vector, how
often the classifier sees the class that was asked for, and how closely the ink follows. The file
`attributes.png` has a row for each class, and more ink from column to column.
"""

import pathlib
import time

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import numpy as np
import tensorflow as tf
from glow_tf import data
from sklearn.svm import SVC

SEED = 0
EPOCHS = 30
DRAWN = 1000
COLUMNS = 8
TEMPERATURE = 0.8


class Attributes:
    """The vectors of digits: a class, and the ink in deviations from the mean of the training images."""

    def __init__(self, images: np.ndarray):
        ink = self._mean(images)
        self.mean, self.deviation = ink.mean(), ink.std()

    def ink(self, images: np.ndarray) -> np.ndarray:
        """Returns the ink of images uint8 [N, H, W, 1]: [N]."""
        return (self._mean(images) - self.mean) / self.deviation

    def vectors(self, labels: np.ndarray, ink: np.ndarray) -> np.ndarray:
        """Returns what the Glow is given: float32 [N, 11]."""
        return np.float32(np.concatenate([np.eye(10)[labels], ink[:, None]], 1))

    def _mean(self, images: np.ndarray) -> np.ndarray:
        return images.mean((1, 2, 3))


def train(images: np.ndarray, vectors: np.ndarray | None = None) -> glow_tf.Glow:
    """Returns a Glow of images that is given vectors, or nothing."""
    config = glow_tf.ModelConfig(
        images.shape[1:],
        n_bits=5,
        num_blocks=2,
        flow_steps=4,
        width=32,
        squeeze="pixels",  # borders are empty; with haar a few test digits cost 30 bits/dim
        condition_shape=() if vectors is None else vectors.shape[1:],
        seed=SEED,
    )
    glow = glow_tf.Glow(config)
    trainer = glow_tf.PartsTrainer(glow, seed=SEED)
    trainer.compile(glow_tf.TrainConfig(part_epochs=EPOCHS, finetune_epochs=0, batch_size=16))
    start = time.monotonic()
    trainer.fit(images, vectors, verbose=0)
    print(f"{EPOCHS} epochs, {'alone' if vectors is None else 'given vectors'}: ", end="")
    print(f"{time.monotonic() - start:.0f} s")
    return glow


def picture(images: np.ndarray) -> bytes:
    """Returns a PNG of images uint8 [rows, columns, H, W, 1]."""
    tiles = np.pad(images * (255 / images.max()), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)]).swapaxes(1, 2)
    rows = tiles.reshape(tiles.shape[0] * tiles.shape[1], -1, 1)
    return tf.io.encode_png(np.uint8(np.kron(rows, np.ones((6, 6, 1))))).numpy()


def main() -> None:
    """Trains both, prints what it measures, and writes the picture."""
    digits = data.load(glow_tf.DataConfig("digits"))
    labels = digits.labels
    attributes = Attributes(digits.train)
    given = {
        name: attributes.vectors(labels[name], attributes.ink(images))
        for name, images in (("train", digits.train), ("test", digits.test))
    }
    alone = train(digits.train)
    glow = train(digits.train, given["train"])
    bits = glow.bits_per_dim(digits.test, condition=given["test"])
    print(f"test digits: {np.mean(bits):.3f} bits/dim given class and ink,", end=" ")
    print(f"{np.mean(alone.bits_per_dim(digits.test)):.3f} without")

    # Ask for every class with the ink of any digit, of which there may be no such digit.
    generator = np.random.default_rng(SEED)
    asked = np.arange(DRAWN) % 10
    ink = generator.choice(attributes.ink(digits.train), DRAWN)
    vectors = attributes.vectors(asked, ink)
    drawn = glow.sample(temperature=TEMPERATURE, seed=SEED, condition=vectors).numpy()
    classifier = SVC().fit(digits.train.reshape(len(digits.train), -1), labels["train"])
    of_test = classifier.score(digits.test.reshape(len(digits.test), -1), labels["test"])
    of_drawn = classifier.score(drawn.reshape(DRAWN, -1), asked)
    print(f"the classifier agrees with {of_drawn:.1%} of the drawn digits, {of_test:.1%} of the test digits")
    found = attributes.ink(drawn)
    print(f"asked and drawn ink: correlation {np.corrcoef(ink, found)[0, 1]:.3f},", end=" ")
    print(f"root mean squared difference {np.sqrt(np.square(ink - found).mean()):.2f} deviations")

    columns = np.linspace(-2, 2, COLUMNS)
    grid = attributes.vectors(np.repeat(np.arange(10), COLUMNS), np.tile(columns, 10))
    shown = glow.sample(temperature=TEMPERATURE, seed=SEED + 1, condition=grid).numpy()
    pathlib.Path("attributes.png").write_bytes(picture(shown.reshape(10, COLUMNS, *shown.shape[1:])))
    print("attributes.png: rows are classes; the ink is −2 to 2 deviations from the mean")


if __name__ == "__main__":
    main()
