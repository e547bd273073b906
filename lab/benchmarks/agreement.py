"""Does a classifier see the class in images that a model with classes draws?

    python -m lab.benchmarks.agreement --model=runs/classes --dataset=cifar10 --data_dir=PATH

A small convolutional network is trained on the real training images. Then it classifies images that the model
drew, a number for each class and temperature. Agreement is the share whose label it finds. The classifier's
accuracy on real test images bounds what agreement can be; that of the flow itself, whose likeliest class is
its answer, is beside it.

Chance is one over the number of classes. By class it is how often the classifier answers with the class for
images of a model without classes (--without), which know no label.
"""

import pathlib
import sys

import keras
import numpy as np
from absl import flags

from glow_tf.commands import cli
from glow_tf.use import TrainedModel, draw, label_bits, labels_of, open_model, read_images
from lab.benchmarks import plots
from lab.benchmarks.rows import added_to

BATCH = 64


def classifier(images: np.ndarray, labels: np.ndarray, classes: int, epochs: int, seed: int) -> keras.Model:
    """Trains a small network on images uint8 [N, H, W, C] and their labels [N]."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stages = range(2 if images.shape[1] < 16 else 3)
    network = keras.Sequential(
        [keras.Input(images.shape[1:]), layers.Rescaling(1 / 255), layers.RandomTranslation(0.1, 0.1)]
    )
    for stage in stages:
        for _ in range(2):
            network.add(layers.Conv2D(32 * 2**stage, 3, padding="same", use_bias=False))
            network.add(layers.BatchNormalization(momentum=0.9))
            network.add(layers.ReLU())
        network.add(layers.MaxPooling2D())
    network.add(layers.GlobalAveragePooling2D())
    network.add(layers.Dense(classes))
    steps = epochs * -(-len(images) // BATCH)
    network.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    network.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=2)
    return network


def answers(network: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the label that the network gives to each image, [N]."""
    return network.predict(images, batch_size=256, verbose=0).argmax(axis=1)


def labelled(given: flags.FlagValues, model: TrainedModel, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns real images, uint8 [N, H, W, C], and their labels among the model's classes, [N]."""
    used = read_images(model.image_shape, given.dataset, given.data_dir, split, given[split].value)
    return used.images, labels_of(model, used.class_names)[used.labels]


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("model", "", "One that was trained with --conditional.", flag_values=values)
    flags.DEFINE_string("without", "", "One like it, trained without --conditional.", flag_values=values)
    flags.DEFINE_string("dataset", "", "That it was trained on.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_integer("train", 20000, "Training images for the classifier; 0 is all.", flag_values=values)
    flags.DEFINE_integer("test", 2000, "Test images; 0 is all.", flag_values=values)
    flags.DEFINE_integer("epochs", 12, "Of the classifier.", flag_values=values)
    flags.DEFINE_integer("num", 100, "Images drawn of each class.", flag_values=values)
    flags.DEFINE_list("temperatures", ["0.7", "0.85", "1"], "Comma-separated.", flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the classifier and the samples.", flag_values=values)
    flags.DEFINE_string(
        "csv", "agreement.csv", "To write; a figure of the same name too.", flag_values=values
    )


def main(given: flags.FlagValues) -> None:
    """Trains the classifier, draws, and writes the shares by class."""
    model, without = open_model(given.model), open_model(given.without)
    test, test_labels = labelled(given, model, "test")
    flow = label_bits(model, test, given.seed).argmin(axis=1) == test_labels
    images, labels = labelled(given, model, "train")
    network = classifier(images, labels, len(model.classes), given.epochs, given.seed)
    right = {"classifier, test images": (answers(network, test) == test_labels, test_labels)}
    right["flow, test images"] = (flow, test_labels)
    shares: dict[str, np.ndarray] = {}
    wanted = np.repeat(np.arange(len(model.classes)), given.num)
    for temperature in map(float, given.temperatures):
        drawn = draw(model, len(wanted), temperature, given.seed, wanted)
        right[f"classifier, drawn at {temperature:g}"] = (answers(network, drawn) == wanted, wanted)
        anyhow = draw(without, len(wanted), temperature, given.seed)
        counts = np.bincount(answers(network, anyhow), minlength=len(model.classes))
        shares[f"classifier's answers, drawn without classes at {temperature:g}"] = counts / len(wanted)
    by_class: dict[str, list[float]] = {}
    with added_to(given.csv, ("what", "class", "images", "share")) as add:
        for what, (hits, of) in right.items():
            print(f"{what:<45} {hits.mean():.3f}")
            add([what, "all", len(hits), f"{hits.mean():.4f}"])
            by_class[what] = [float(hits[of == k].mean()) for k in range(len(model.classes))]
            counts = np.bincount(of, minlength=len(model.classes))
            for row in zip(model.classes, counts, by_class[what], strict=True):
                add([what, *row[:2], f"{row[2]:.4f}"])
        for what, found in shares.items():
            by_class[what] = list(found)
            for name, share in zip(model.classes, found, strict=True):
                add([what, name, len(wanted), f"{share:.4f}"])
    ends = ("test images", f"at {given.temperatures[0]}")
    shown = {w: own for w, own in by_class.items() if w.startswith("classifier") and w.endswith(ends)}
    plots.by_class(model.classes, shown, pathlib.Path(given.csv))


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
