"""Whether a data set is where its name says: looked up before anything is read. Pure: no TensorFlow."""

import os
import re

from glow_tf.config import DIGITS, DataConfig, file_of, folder_of
from glow_tf.core.errors import ConfigError


def check_named(config: DataConfig) -> None:
    """Raises ConfigError unless the data set exists as far as can be seen.

    A folder and a file must be there. Any other name must be one that TFDS knows, or prepared in data_dir.
    """
    check_path(config)
    if config.dataset == DIGITS or folder_of(config.dataset) or file_of(config.dataset):
        return
    import tensorflow_datasets as tfds  # it loads TensorFlow only when it makes a builder

    name = re.split("[:/]", config.dataset)[0]  # without its variant and version
    if name not in tfds.list_builders(with_community_datasets=False):
        try:
            tfds.builder(config.dataset, data_dir=config.data_dir or None)
        except Exception as error:
            raise refusal(config, error) from None


def check_path(config: DataConfig) -> None:
    """Raises ConfigError if the data set is a missing folder or file."""
    file, folder = file_of(config.dataset), folder_of(config.dataset)
    if folder and not os.path.isdir(folder):
        raise ConfigError(f"dataset=folder:PATH needs an existing folder. Received: {config.dataset!r}")
    if file and not os.path.isfile(file):
        received = f"Received: dataset={config.dataset!r}"
        raise ConfigError(f"dataset=file:PATH.npy needs an existing file. {received}")


def refusal(config: DataConfig, error: Exception) -> ConfigError:
    """Returns the error for a data set that TFDS cannot load."""
    said = str(error).strip() or "it gives no reason"
    reason = f"{type(error).__name__}: {said.splitlines()[0].rstrip('.')}"
    if type(error).__name__ == "DatasetNotFoundError":  # whose message lists all names
        reason = "TFDS knows none of this name"
    return ConfigError(
        "dataset must be digits, folder:PATH, file:PATH.npy or an image data set that TFDS can load "
        f"(prepared in data_dir, or downloadable over the network): {reason}. "
        f"Received: dataset={config.dataset!r}, data_dir={config.data_dir!r}"
    )
