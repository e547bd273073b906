"""Models from `.keras` files, which anybody may have written.

Keras makes whatever a file names, and some of its layers read files or run programs. So Keras is not given
the settings: the model is made from those of a `Glow`, and Keras reads its weights alone, which must be
numbers. The optimizers and objectives that a trainer's file names are not made.
"""

import pathlib
import zipfile

from glow_tf import presets
from glow_tf.errors import ConfigError, in_one_line
from glow_tf.glow import Glow
from glow_tf.memory import check_memory
from glow_tf.training.trainer import PartsTrainer
from glow_tf.weights_file import check_weights, model_bytes

WEIGHTS = "model.weights.h5"


def load_keras_file(path: pathlib.Path) -> Glow:
    """Loads the model of a file that `Glow.save` or `PartsTrainer.save` wrote; ConfigError if none did."""
    try:
        settings, of_trainer = presets.read_keras_file(path)
        config = presets.model_of_settings(path, settings["config"])
        check_memory(2 * model_bytes(config), f"the model of {path}", "load it where there is more")
        with zipfile.ZipFile(path) as archive:
            weights = archive.getinfo(WEIGHTS)
            if weights.compress_type != zipfile.ZIP_STORED:
                raise ConfigError(f"{path} must hold members that are not compressed. Received: {weights}")
            with archive.open(weights) as file:
                what = f"{path}: {WEIGHTS}"
                check_weights(file, weights.compress_size, config, what, compressed=False)
        glow = Glow.from_config(settings)
        (PartsTrainer(glow) if of_trainer else glow).load_weights(path)
    except ConfigError:
        raise
    except Exception as error:  # whatever zipfile, Keras and TensorFlow raise at a stranger's file
        raise ConfigError(
            f"{path} cannot be read as a .keras file of this package. Received: "
            f"{type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    return glow
