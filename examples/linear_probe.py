"""What frozen parts know of classes that nobody told them: a linear classifier of each part's output.

    python examples/linear_probe.py --data_dir=PATH

The same Glow is trained with its parts apart, and end to end, and then frozen. A part is a Keras layer: one
functional model gives the outputs of all parts. A logistic regression of each output learns the classes. PATH
is TFDS's data_dir. Where it does not hold CIFAR-10, the images are scikit-learn's digits.

It takes one minute on one core for digits, and a few for CIFAR-10. It prints the accuracy on test images: of
the pixels, and of each part's output, of a Glow that is not trained, of parts trained apart, and end to end.
"""

import argparse
import os
import pathlib

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast

# isort: split
import keras
import numpy as np
from glow_tf import data
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

SCHEDULES = (None, "simultaneous", "end_to_end")  # not trained; parts apart, all at once; end to end


def load(data_dir: str) -> tuple[data.ImageData, dict, int]:
    """Returns the images, the settings of a Glow that suits them, and the epochs of its training."""
    if pathlib.Path(data_dir, "cifar10").expanduser().exists():
        config = glow_tf.DataConfig("cifar10", data_dir, train_examples=8_000, test_examples=2_000)
        return data.load(config), {"n_bits": 8, "num_blocks": 3, "parts": "across_block:3"}, 4
    print(f"no CIFAR-10 in {data_dir}: the images are scikit-learn's digits")
    settings = {"n_bits": 5, "num_blocks": 2, "parts": "across_block:3"}
    return data.load(glow_tf.DataConfig("digits")), settings, 30


def trained(images: data.ImageData, settings: dict, schedule: str | None, epochs: int) -> glow_tf.Flow:
    """Returns a Glow that is trained, or only initialised, and prints its bits/dim of the test images."""
    flow = glow_tf.Flow(glow_tf.ModelConfig(images.image_shape, flow_steps=4, width=32, **settings))
    trainer = glow_tf.PartsTrainer(flow, seed=settings["seed"])
    config = glow_tf.TrainConfig(schedule or "end_to_end", part_epochs=epochs, finetune_epochs=0)
    trainer.compile(config)
    if schedule:
        trainer.fit(images.train, batch_size=32, verbose=0)
    else:
        flow.initialize(images.train[:256])
    bits = trainer.evaluate(images.test, verbose=0, return_dict=True)["bpd"]
    print(f"{schedule or 'not trained'}: {bits:.3f} bits/dim of the test images", flush=True)
    return flow


def outputs_of_parts(flow: glow_tf.Flow) -> keras.Model:
    """Returns a model: dequantised images [B, H, W, C] → the output of each part as a vector."""
    values = keras.Input(flow.image_shape)
    h, _ = flow.dequantize(values)
    outputs = []
    for part in flow.parts:
        h = part(h).h
        outputs.append(keras.layers.Flatten()(h))
    return keras.Model(values, outputs)


def accuracy(images: data.ImageData, train: np.ndarray, test: np.ndarray) -> float:
    """Returns how many of the test images a logistic regression of such vectors classifies correctly."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    classifier.fit(train, images.labels["train"])
    return classifier.score(test, images.labels["test"])


def main(data_dir: str, seed: int) -> None:
    """Trains, and prints the table."""
    images, settings, epochs = load(data_dir)
    rows: dict[str, list[float]] = {}
    for schedule in SCHEDULES:
        flow = trained(images, {**settings, "seed": seed}, schedule, epochs)
        outputs = outputs_of_parts(flow)
        # At the middle of the bins: the classifier sees no noise.
        train, test = (
            outputs.predict(flow.dequantized(x, 0.5), verbose=0) for x in (images.train, images.test)
        )
        for k, (own, of_test) in enumerate(zip(train, test, strict=True), start=1):
            rows.setdefault(f"part {k}, {own.shape[1]} numbers", []).append(accuracy(images, own, of_test))
    pixels = accuracy(images, *(x.reshape(len(x), -1) for x in (images.train, images.test)))
    print(f"accuracy of a linear classifier on {len(images.test)} test images; of the pixels {pixels:.1%}")
    print(f"{'':22}" + "".join(f"{schedule or 'not trained':>14}" for schedule in SCHEDULES))
    for name, found in rows.items():
        print(f"{name:22}" + "".join(f"{share:14.1%}" for share in found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Linear classifiers of the outputs of a Glow's parts.")
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")  # as TFDS has it
    parser.add_argument("--data_dir", default=default, help="TFDS's data_dir, which holds CIFAR-10")
    parser.add_argument("--seed", type=int, default=0, help="of the models and of their training")
    values = parser.parse_args()
    main(values.data_dir, values.seed)
