"""Whether a data set is where its name says: looked up before anything is read. Pure: no TensorFlow."""

import difflib
import os
import pathlib
import re
from collections.abc import Iterable

from glow_tf.config import DIGITS, FILE, FOLDER, DataConfig, file_of, folder_of
from glow_tf.core.errors import ConfigError


def check_named(config: DataConfig) -> None:
    """Raises ConfigError, with names that are like it, unless the data set exists as far as can be seen.

    A folder and a file must be there. Any other name must be one that TFDS knows, or prepared in data_dir.
    """
    check_path(config)
    if config.dataset == DIGITS or folder_of(config.dataset) or file_of(config.dataset):
        return
    if near := _meant_kind(config):  # TFDS alone takes seconds to load
        raise _refusal(config, "there is no such kind of data set", near)
    import tensorflow_datasets as tfds  # it loads TensorFlow only when it makes a builder

    if _stem(config) not in tfds.list_builders(with_community_datasets=False):
        try:
            tfds.builder(config.dataset, data_dir=config.data_dir or None)
        except Exception as error:
            raise refusal(config, error) from None


def check_path(config: DataConfig) -> None:
    """Raises ConfigError, with names that are like it, if the data set is a missing folder or file."""
    file, folder = file_of(config.dataset), folder_of(config.dataset)
    if folder and not os.path.isdir(folder):
        meant = _did_you_mean(_beside(folder, FOLDER))
        raise ConfigError(
            f"dataset=folder:PATH needs an existing folder.{meant} Received: {config.dataset!r}"
        )
    if file and not os.path.isfile(file):
        meant, received = _did_you_mean(_beside(file, FILE)), f"Received: dataset={config.dataset!r}"
        raise ConfigError(f"dataset=file:PATH.npy needs an existing file.{meant} {received}")


def refusal(config: DataConfig, error: Exception) -> ConfigError:
    """Returns the error for a data set that TFDS cannot load, with what may have been meant."""
    import tensorflow_datasets as tfds

    said = str(error).strip() or "it gives no reason"
    reason = f"{type(error).__name__}: {said.splitlines()[0].rstrip('.')}"
    if type(error).__name__ == "DatasetNotFoundError":  # whose message lists all names
        reason = "TFDS knows none of this name"
    names = tfds.list_builders(with_community_datasets=False)
    if os.path.isdir(config.dataset):
        return _refusal(config, reason, [f"{FOLDER}{config.dataset}"])
    return _refusal(config, reason, [] if _stem(config) in names else _like(config.dataset, [DIGITS, *names]))


def _refusal(config: DataConfig, reason: str, near: Iterable[str]) -> ConfigError:
    return ConfigError(
        "dataset must be digits, folder:PATH, file:PATH.npy or an image data set that TFDS can load "
        f"(prepared in data_dir, or downloadable over the network): {reason}.{_did_you_mean(near)} "
        f"Received: dataset={config.dataset!r}, data_dir={config.data_dir!r}"
    )


def _did_you_mean(near: Iterable[str]) -> str:
    """Returns a question to add to a message; empty if nothing is near."""
    listed = " or ".join(near)
    return f" Did you mean {listed}?" if listed else ""


def _stem(config: DataConfig) -> str:
    """Returns the name of a data set in TFDS, without its variant and version."""
    return re.split("[:/]", config.dataset)[0]


def _meant_kind(config: DataConfig) -> list[str]:
    """Returns the data set with `folder:` or `file:` in place of a word that is nearly that."""
    kind, colon, path = config.dataset.partition(":")
    is_path = colon and not re.fullmatch(r"[\d.*]*", path)  # a version of a TFDS data set is none
    return [f"{own}:{path}" for own in _like(kind, [FOLDER[:-1], FILE[:-1]])] if is_path else []


def _like(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name.lower().replace("-", "_"), names)


def _beside(path: pathlib.Path, kind: str) -> list[str]:
    """Returns what lies beside a path, of a kind of data set, under a name like it."""
    names = os.listdir(path.parent) if os.access(path.parent, os.R_OK) and path.parent.is_dir() else []
    if kind == FOLDER:
        names = [name for name in names if (path.parent / name).is_dir()]
    near = difflib.get_close_matches(path.name, names)
    return [f"{kind}{path.parent / name}" for name in near if kind == FOLDER or name.endswith(".npy")]
