"""Let KerasTuner choose a learning rate and how many flow steps each level has, by the validation loss.

    pip install keras-tuner
    python examples/keras_tuner_search.py FOLDER

FOLDER receives what KerasTuner keeps of its trials; the same command goes on where it was stopped.
"""

import pathlib
import sys

import glow_tf  # before TensorFlow and Keras: it sets what makes them fast
import keras_tuner
from glow_tf import data

EPOCHS = 4


def main(folder: pathlib.Path) -> dict[str, float]:
    """Searches, and returns the test bits/dim of the best trial's model."""
    digits = data.load(glow_tf.DataConfig(dataset="digits", validation_examples=237))

    def make(hp: keras_tuner.HyperParameters) -> glow_tf.PartsTrainer:
        fine, coarse = hp.Int("fine_steps", 2, 6, step=2), hp.Int("coarse_steps", 2, 6, step=2)
        config = glow_tf.ModelConfig(
            digits.image_shape,
            n_bits=5,
            num_blocks=1,
            width=16,
            architecture="levels",
            level_steps=f"{fine},{coarse}",
            condition_features=8,
        )
        trainer = glow_tf.PartsTrainer(glow_tf.Flow(config))
        trainer.compile(
            glow_tf.TrainConfig(
                schedule="simultaneous",
                part_epochs=EPOCHS,
                batch_size=32,
                learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log"),
                warmup_steps=20,
            )
        )
        return trainer

    tuner = keras_tuner.RandomSearch(
        make,
        objective=keras_tuner.Objective("val_loss", "min"),
        max_trials=3,
        seed=0,
        directory=folder,
        project_name="levels",
    )
    tuner.search(digits.train, validation_data=digits.validation, epochs=EPOCHS, batch_size=32, verbose=0)
    best = tuner.get_best_models()[0]
    bits = best.evaluate(digits.test, verbose=0, return_dict=True)["bpd"]
    chosen = tuner.get_best_hyperparameters()[0].values
    print(", ".join(f"{name} {value:.3g}" for name, value in sorted(chosen.items())))
    print(f"the best of {len(tuner.oracle.trials)} trials: {bits:.3f} bits/dim")
    return {"bpd": bits}


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if sys.argv[1:] else "keras_tuner_search"))
