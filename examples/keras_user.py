"""Train a Glow as any Keras model: a generator with labels, a schedule, callbacks, averaged weights.

    python examples/keras_user.py FOLDER

FOLDER receives `best.keras`, the weights of the best epoch, and `log.csv`, one row per epoch.
"""

import pathlib
import sys

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast
import keras
import tensorflow as tf
from glow_tf import data

EXAMPLES = 320
BATCH_SIZE = 32


def labelled_batches(images):
    """Yields (images, labels), as many data pipelines do."""
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        yield batch, range(len(batch))


def main(folder: pathlib.Path) -> dict[str, float]:
    """Trains, and returns the test bits/dim of the averaged weights and of the best epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    digits = data.load(glow_tf.DataConfig(dataset="digits"))
    height, width, channels = digits.image_shape
    train = tf.data.Dataset.from_generator(
        lambda: labelled_batches(digits.train[:EXAMPLES]),
        output_signature=(
            tf.TensorSpec((None, height, width, channels), tf.uint8),
            tf.TensorSpec((None,), tf.int64),
        ),
    ).map(lambda images, labels: images)  # a density model has no use for labels

    flow = glow_tf.Flow(
        glow_tf.ModelConfig(digits.image_shape, n_bits=5, num_blocks=2, flow_steps=2, width=16, parts=(1, 3))
    )
    trainer = glow_tf.PartsTrainer(flow)
    # The recipe of the command. A generator has no length.
    trainer.compile(
        glow_tf.TrainConfig(
            schedule="alternating", part_epochs=6, finetune_epochs=4, warmup_steps=20, ema=0.9
        ),
        steps_per_epoch=EXAMPLES // BATCH_SIZE,
    )
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=4),
        keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_loss", save_best_only=True),
        keras.callbacks.CSVLogger(folder / "log.csv"),
    ]
    with glow_tf.training.OneTraining(callbacks, trainer, len(trainer.phases)) as given:
        for epoch, phase in enumerate(trainer.phases):
            trainer.set_phase(phase)
            options = {"initial_epoch": epoch, "epochs": epoch + 1, "callbacks": given, "verbose": 2}
            trainer.fit(train, validation_data=digits.test, **options)
            if trainer.stop_training:
                break
    trainer.averages.swap()  # the averages (ema) in the place of the weights
    averaged = trainer.evaluate(digits.test, verbose=0, return_dict=True)
    best = glow_tf.load_trainer(folder / "best.keras").evaluate(digits.test, verbose=0, return_dict=True)
    print(f"averaged weights {averaged['bpd']:.3f} bits/dim, best epoch {best['bpd']:.3f} bits/dim")
    return {"averaged": averaged["bpd"], "best": best["bpd"]}


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if sys.argv[1:] else "keras_user"))
