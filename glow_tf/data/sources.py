"""Data sets that others prepared: scikit-learn's digits, and TFDS. Each gives uint8 arrays [N, H, W, C]."""

from __future__ import annotations

import pathlib
import socket
import urllib.request
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.config import DataConfig
from glow_tf.data.arrays import resize, stack
from glow_tf.errors import ConfigError

BATCH = 1000  # images that TensorFlow decodes before Python takes them over

DIGITS_TEST_EXAMPLES = 360


def digits(image_size: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and test images of scikit-learn's 1,797 handwritten digits.

    They are 8×8 and grey. Their 17 levels are multiplied by 8, so that pixels range from 0 to 128.

    Args:
      image_size: side to which they are resized; 0 keeps 8×8.
    """
    from sklearn.datasets import load_digits

    images = (load_digits().images * 8).astype(np.uint8)[..., np.newaxis]
    if image_size:
        images = resize(images, image_size).numpy()
    order = np.random.default_rng(0).permutation(len(images))  # the set is sorted by writer
    return images[order[DIGITS_TEST_EXAMPLES:]], images[order[:DIGITS_TEST_EXAMPLES]]


def from_tfds(config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and test images of a TFDS data set, prepared in data_dir or downloaded.

    Raises:
      ConfigError: TFDS cannot load the data set, or it has no images, training split or test split.
    """
    builder = _tfds_builder(config)
    splits = builder.info.splits
    held_out = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or held_out is None:
        raise ConfigError(
            "dataset must have a train split and a test or validation split. "
            f"Received: dataset={config.dataset!r} with splits {sorted(splits)}"
        )
    # Validation images come from the end of the training data, so it is read whole when they are wanted.
    wanted = {
        "train": 0 if config.validation_examples else config.train_examples,
        held_out: config.test_examples,
    }
    arrays = []
    for name, count in wanted.items():
        # Too many: all are read, and then the message says how many there are.
        limited = 0 < count <= splits[name].num_examples
        arrays.append(_read_split(builder, f"{name}[:{count}]" if limited else name, config))
    return arrays[0], arrays[1]


def _tfds_builder(config: DataConfig) -> Any:
    """Returns TFDS's builder of a prepared data set that has images."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(config.dataset, data_dir=config.data_dir or None)
        if not pathlib.Path(builder.data_dir).exists():
            _require_network()
            builder.download_and_prepare()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            "dataset must be digits, folder:PATH or an image data set that TFDS can load "
            f"(prepared in data_dir, or downloadable over the network): {type(error).__name__}: {reason}. "
            f"Received: dataset={config.dataset!r}, data_dir={config.data_dir!r}"
        ) from None
    features = list(builder.info.features or ())
    if "image" not in features:
        raise ConfigError(
            "dataset must have a feature named image. "
            f"Received: dataset={config.dataset!r} with features {features}"
        )
    return builder


def _read_split(builder: Any, split: str, config: DataConfig) -> np.ndarray:
    examples = builder.as_dataset(split=split, shuffle_files=False)
    images = examples.map(lambda e: e["image"], num_parallel_calls=tf.data.AUTOTUNE)
    if config.image_size:
        images = images.map(
            lambda image: resize(image, config.image_size), num_parallel_calls=tf.data.AUTOTUNE
        )
    known = images.element_spec.shape.is_fully_defined()
    batches = images.batch(BATCH if known else 1).as_numpy_iterator()
    return stack(batches, len(examples), config.dataset)


def _require_network() -> None:
    """Raises OSError at once where TFDS would retry its downloads for minutes."""
    if not urllib.request.getproxies():
        socket.getaddrinfo("storage.googleapis.com", 443)
