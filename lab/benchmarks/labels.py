"""The class in all couplings against the class in the top prior: bits given labels, and what is drawn.

    python -m lab.experiment --study=labels_couplings --data_dir=PATH
    python -m lab.benchmarks.labels --runs=runs/studies/labels_couplings --dataset=cifar10 --data_dir=PATH

Of every run of such a study: the bits per dimension of test images given their labels, how often the flow's
likeliest class is the right one, and how often a classifier, trained on the real images, sees the class in
images that the flow drew. Every run of a seed has the same test images, noise and classifier.
"""

import pathlib
import sys

import keras
import numpy as np
from absl import flags

import glow_tf
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.commands import cli
from glow_tf.use import read_images
from glow_tf.use.latents import draw, in_batches
from lab.benchmarks.agreement import answers, classifier
from lab.benchmarks.rows import added_to

COLUMNS = ("variant", "seed", "bits_given_label", "flow_right", "drawn_at", "classifier_agrees", "of_real")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    flags.DEFINE_string("runs", "", "Folder of the study, with VARIANT/seed_N below.", flag_values=values)
    flags.DEFINE_string("dataset", "cifar10", "That the runs were trained on.", flag_values=values)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", flag_values=values)
    flags.DEFINE_integer("train", 20000, "Training images for the classifier; 0 is all.", flag_values=values)
    flags.DEFINE_integer("test", 1024, "Test images; 0 is all.", flag_values=values)
    flags.DEFINE_integer("epochs", 8, "Of the classifier.", flag_values=values)
    flags.DEFINE_integer("num", 50, "Images drawn of each class.", flag_values=values)
    flags.DEFINE_list("temperatures", ["0.7", "1"], "Comma-separated.", flag_values=values)
    flags.DEFINE_string("csv", "labels_couplings.csv", "To add to.", flag_values=values)


def bits_by_label(glow: glow_tf.Glow, images: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Returns bits per dimension of images [N, H, W, C] given each label, at one noise draw: [N, classes].

    The label is known to the top prior (`glow.classes`), or given as zeros and a one.
    """
    if glow.classes:
        empty = np.empty((0, classes))
        log_probs = in_batches(lambda own, **_: glow.label_log_probs(own, seed), images, "Scoring", empty)
        return np.asarray(bits_per_dim(-log_probs, glow.image_shape))
    columns = []
    for label in range(classes):
        given = np.tile(np.eye(classes, dtype=np.float32)[label], (len(images), 1))
        columns.append(
            in_batches(
                lambda own, condition: glow.bits_per_dim(own, seed, condition),
                images,
                f"Scoring, label {label}",
                np.empty(0),
                given,
            )
        )
    return np.stack(columns, axis=1)


def main(given: flags.FlagValues) -> None:
    """Trains the classifier, measures every run, and writes the CSV."""
    runs = sorted(pathlib.Path(given.runs).glob("*/seed_*"))
    shape = glow_tf.load(runs[0]).image_shape
    test, train = (
        read_images(shape, given.dataset, given.data_dir, split, given[split].value)
        for split in ("test", "train")
    )
    classes = len(test.class_names)
    network = classifier(train.images, train.labels, classes, given.epochs, seed=0)
    of_real = float((answers(network, test.images) == test.labels).mean())
    print(f"the classifier is right of {of_real:.3f} of the real test images")
    wanted = np.repeat(np.arange(classes), given.num)
    one_hot = np.eye(classes, dtype=np.float32)[wanted]
    with added_to(given.csv, COLUMNS) as add:
        for run in runs:
            glow, seed = glow_tf.load(run), int(run.name.removeprefix("seed_"))
            bits = bits_by_label(glow, test.images, classes, seed)
            given_label = bits[np.arange(len(bits)), test.labels].mean()
            right = float((bits.argmin(axis=1) == test.labels).mean())
            how = {"labels": wanted} if glow.classes else {"condition": one_hot}
            for temperature in map(float, given.temperatures):
                drawn = draw(glow, len(wanted), temperature, seed, **how)
                agrees = float((answers(network, drawn) == wanted).mean())
                row = (run.parent.name, seed, f"{given_label:.4f}", f"{right:.4f}", temperature)
                add([*row, f"{agrees:.4f}", f"{of_real:.4f}"])
                print(*row, f"{agrees:.4f}")
            keras.backend.clear_session()


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
