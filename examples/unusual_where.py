"""Unusual images, and where in them: the density of a frozen network's feature maps.

    python examples/unusual_where.py --data_dir=PATH

A small Keras network learns the classes of CIFAR-10 and is frozen. At each of two scales a Glow learns the
density of its feature maps; the two share nothing. Then squares of other images are pasted into test images.
Where a Glow's latents are large, the log-density is low: that is the heat map. PATH is TFDS's data_dir. Where
it does not hold CIFAR-10, the images are scikit-learn's digits.

It takes about a minute on one core, and prints areas under the ROC curve: images with a square or without,
and the square against the rest; by the Glows and by Gaussians of the channels. `unusual_where.png` has a row
for each of eight test images: alone, with a square, both heat maps.
"""

import argparse
import os
import pathlib

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import keras
import numpy as np
import tensorflow as tf
from glow_tf import data
from sklearn.metrics import roc_auc_score

SEED = 0
SHOWN = 8


def load(data_dir: str) -> tuple[data.ImageData, tuple[int, int], int, int]:
    """Returns images, the scales' channels (no map is larger than an image), epochs of both trainings."""
    if pathlib.Path(data_dir, "cifar10").expanduser().exists():
        config = glow_tf.DataConfig("cifar10", data_dir, train_examples=10_000, test_examples=1_000)
        return data.load(config), (8, 16), 6, 4
    print(f"no CIFAR-10 in {data_dir}: the images are scikit-learn's digits")
    return data.load(glow_tf.DataConfig("digits")), (1, 4), 20, 10


def with_noise(images: np.ndarray, step: int) -> np.ndarray:
    """Returns images with noise as wide as a step of their levels; maps of bytes would have no density."""
    return images + step * np.random.default_rng(SEED).random(images.shape, np.float32)


def trained_network(images: np.ndarray, labels: np.ndarray, channels: tuple, epochs: int) -> keras.Model:
    """Returns the frozen network: images [N, H, W, C] → its feature maps at each scale, before their ReLU."""
    keras.utils.set_random_seed(SEED)
    inputs = h = keras.Input(images.shape[1:])
    h = keras.layers.Rescaling(1 / 128, -1)(h)
    maps = []
    for count, strides in zip(channels, (2 if images.shape[1] > 8 else 1, 2), strict=True):
        maps.append(keras.layers.Conv2D(count, 3, strides, "same")(h))
        h = keras.layers.ReLU()(maps[-1])
    h = keras.layers.Flatten()(keras.layers.Conv2D(64, 3, activation="relu")(h))
    classifier = keras.Model(inputs, keras.layers.Dense(10, "softmax")(h))
    classifier.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = classifier.fit(images, labels, batch_size=64, epochs=epochs, verbose=0).history
    print(f"the network: {history['accuracy'][-1]:.0%} of its training images are classified correctly")
    network = keras.Model(inputs, maps)
    network.trainable = False
    return network


def trained_glow(maps: np.ndarray, epochs: int) -> glow_tf.Flow:
    """Returns a Glow of feature maps, real [N, H, W, C]."""
    config = glow_tf.ModelConfig(maps.shape[1:], data="real", num_blocks=1, flow_steps=4, width=32, seed=SEED)
    flow = glow_tf.Flow(config)
    trainer = glow_tf.PartsTrainer(flow, seed=SEED)
    trainer.compile(glow_tf.TrainConfig(part_epochs=epochs, finetune_epochs=0, batch_size=16))
    trainer.fit(maps, verbose=0)
    return flow


def heat_of_glow(flow: glow_tf.Flow, maps: np.ndarray) -> np.ndarray:
    """Returns the mean square of the latents at each of their places: [N, H/2, W/2]."""
    height, width, channels = maps.shape[1:]
    eps = flow.encode(maps).numpy().reshape(-1, height // 2, width // 2, 4 * channels)
    return np.square(eps).mean(-1)


def heat_of_gaussian(fitted_on: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns the same for maps whitened by a Gaussian of their channels: [N, H, W]."""
    flat = fitted_on.reshape(-1, fitted_on.shape[-1])
    errors = maps - flat.mean(0)
    precision = np.linalg.inv(np.atleast_2d(np.cov(flat.T)))
    return np.einsum("bhwc,cd,bhwd->bhw", errors, precision, errors) / len(precision)


def joined(heats: list[np.ndarray], size: int) -> np.ndarray:
    """Returns the mean of heat maps of several scales, at the size of the images: [N, size, size]."""
    return np.mean([np.asarray(tf.image.resize(h[..., None], (size, size)))[..., 0] for h in heats], 0)


def with_squares(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pastes a square of the next image into each, of a quarter of its side; returns where, too."""
    generator, side = np.random.default_rng(SEED), images.shape[1] // 4
    pasted, where = images.copy(), np.zeros(images.shape[:3], bool)
    for k, other in enumerate(np.roll(images, 1, axis=0)):
        (y, x), (v, u) = generator.integers(0, images.shape[1] - side + 1, (2, 2))
        pasted[k, y : y + side, x : x + side] = other[v : v + side, u : u + side]
        where[k, y : y + side, x : x + side] = True
    return pasted, where


def picture(columns: list[np.ndarray]) -> bytes:
    """Returns a PNG of images [N, H, W, 3] side by side, a row for each."""
    tiles = np.pad(np.stack(columns, 1).clip(0, 255), [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)])
    rows = tiles.swapaxes(1, 2).reshape(len(tiles) * tiles.shape[2], -1, 3)
    return tf.io.encode_png(np.uint8(np.kron(rows, np.ones((4, 4, 1))))).numpy()


def main(data_dir: str) -> None:
    """Trains, prints what it measures on the test images, and writes the picture."""
    images, channels, epochs, glow_epochs = load(data_dir)
    step = np.diff(np.unique(images.train)).min()
    train = with_noise(images.train, step)
    network = trained_network(train, images.labels["train"], channels, epochs)
    of_train = network.predict(train, verbose=0)
    glows = [trained_glow(maps, glow_epochs) for maps in of_train]
    pasted, where = with_squares(images.test)
    size, both = where.shape[1], np.concatenate([images.test, pasted])
    maps = network.predict(with_noise(both, step), verbose=0)
    heats = {
        "Glows": joined([heat_of_glow(g, m) for g, m in zip(glows, maps, strict=True)], size),
        "Gaussians": joined([heat_of_gaussian(f, m) for f, m in zip(of_train, maps, strict=True)], size),
    }
    has_square = np.arange(len(both)) >= len(pasted)
    for name, heat in heats.items():
        image = roc_auc_score(has_square, heat.max((1, 2)))
        pairs = zip(where, heat[has_square], strict=True)
        place = np.mean([roc_auc_score(w.ravel(), h.ravel()) for w, h in pairs])
        print(f"{name}: AUROC {image:.3f} for images with a square, {place:.3f} for where it is")
    nlls = [-flow.log_prob(m).numpy() for flow, m in zip(glows, maps, strict=True)]
    first, second = (roc_auc_score(has_square, nll) for nll in nlls)
    print(f"log-densities of whole maps: AUROC {first:.3f} at the first scale, {second:.3f} at the second")

    shown = [np.broadcast_to(x[:SHOWN], (SHOWN, size, size, 3)) for x in (images.test, pasted)]
    for heat in heats.values():
        usual = np.quantile(heat[~has_square], 0.999)
        shown.append(np.repeat(heat[has_square][:SHOWN, ..., None] * (255 / usual), 3, axis=-1))
    pathlib.Path("unusual_where.png").write_bytes(picture(shown))
    print("unusual_where.png: image, with a square, heat of the Glows, of the Gaussians")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Unusual places of images, by Glows of feature maps.")
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")  # as TFDS has it
    parser.add_argument("--data_dir", default=default, help="TFDS's data_dir, which holds CIFAR-10")
    main(parser.parse_args().data_dir)
