"""Whether a data set is where its name says: looked up before anything is read. Pure: no TensorFlow."""

import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from glow_tf.config import DIGITS, DataConfig, file_of, folder_of
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import read_json

FEATURES = "tensorflow_datasets.core.features."  # how the names of TFDS's own classes begin
SOURCES: dict[
    str, Callable[[DataConfig], Any]
] = {}  # data sets of one's own: name → what reads its `DataSet`
CLASS_KEYS = ("type", "pythonClassName", "python_class_name")  # where features.json names a class


def check_named(config: DataConfig) -> None:
    """Raises ConfigError unless the data set exists as far as can be seen.

    A folder and a file must be there. Any other name must be in `SOURCES`, or one that TFDS knows, or
    prepared in data_dir.
    """
    check_path(config)
    own = config.dataset == DIGITS or config.dataset in SOURCES
    if own or folder_of(config.dataset) or file_of(config.dataset):
        return
    import tensorflow_datasets as tfds  # it loads TensorFlow only when it makes a builder

    name = re.split("[:/]", config.dataset)[0]  # without its variant and version
    if name not in tfds.list_builders(with_community_datasets=False):
        tfds_builder(config)


def check_path(config: DataConfig) -> None:
    """Raises ConfigError if the data set is a missing folder or file."""
    file, folder = file_of(config.dataset), folder_of(config.dataset)
    if folder and not os.path.isdir(folder):
        raise ConfigError(f"dataset=folder:PATH needs an existing folder. Received: {config.dataset!r}")
    if file and not os.path.isfile(file):
        received = f"Received: dataset={config.dataset!r}"
        raise ConfigError(f"dataset=file:PATH.npy needs an existing file. {received}")


def tfds_builder(config: DataConfig) -> Any:
    """Returns TFDS's builder of a data set; ConfigError if there is none, or `_check_features` refuses it."""
    import tensorflow_datasets as tfds

    _check_features(config)
    try:
        return tfds.builder(config.dataset, data_dir=config.data_dir or None)
    except Exception as error:
        raise refusal(config, error) from None


def _check_features(config: DataConfig) -> None:
    """Raises ConfigError if a data set's files name classes that are not TFDS's own: TFDS imports them."""
    root = pathlib.Path(config.data_dir, re.split("[:/]", config.dataset)[0])
    for path in root.rglob("features.json") if config.data_dir else ():
        try:
            named = set(_classes(read_json(path)))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} must be JSON. Received: {error}") from None
        if others := sorted(name for name in named if not name.startswith(FEATURES)):
            raise ConfigError(
                f"{path} must name features of TFDS alone, since naming others makes Python import them. "
                f"Received: {others[0]!r:.100}"
            )


def _classes(value: Any) -> Iterator[str]:
    """Yields the names of classes in what a features.json holds."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for own in inner:
        yield from _classes(own)
    if isinstance(value, dict):
        yield from (str(value[key]) for key in CLASS_KEYS if isinstance(value.get(key), str))


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
