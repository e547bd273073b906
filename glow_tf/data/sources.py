"""Where images come from: digits, TFDS, a folder. Each gives uint8 arrays [N, H, W, C]."""

from __future__ import annotations

import pathlib
import socket
import urllib.request
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from glow_tf.config import ConfigError, DataConfig

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FOLDER_TEST_SHARE = 10  # without a test/ folder, every tenth image is a test image
BATCH = 1000  # images decoded between two turns of Python
AVAILABLE_SHARE = 0.6  # of the free memory that decoded images may take


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits, 8×8 grey; their 17 levels times 8, so 0 … 128."""
    from sklearn.datasets import load_digits

    images = (load_digits().images * 8).astype(np.uint8)[..., np.newaxis]
    order = np.random.default_rng(0).permutation(len(images))  # the set is sorted by writer
    return images[order[360:]], images[order[:360]]


def from_tfds(config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Training and test images of a TFDS set, prepared in data_dir or downloaded; see docs/data.md.

    Raises:
      ConfigError: TFDS cannot load it, or it has no images, training or test split.
    """
    import tensorflow_datasets as tfds

    def wanted(split: str, count: int) -> str:
        return f"{split}[:{count}]" if count else split

    kwargs = {"data_dir": config.data_dir or None}
    try:
        builder = tfds.builder(config.dataset, **kwargs)
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
    splits = builder.info.splits
    held_out = next((s for s in ("test", "validation") if s in splits), None)
    if "train" not in splits or held_out is None:
        raise ConfigError(
            "dataset must have a train split and a test or validation split. "
            f"Received: dataset={config.dataset!r} with splits {sorted(splits)}"
        )

    def read(split: str) -> np.ndarray:
        examples = builder.as_dataset(split=split, shuffle_files=False)
        images = examples.map(lambda e: e["image"], num_parallel_calls=tf.data.AUTOTUNE)
        if config.image_size:
            images = images.map(
                lambda image: _resize(image, config.image_size), num_parallel_calls=tf.data.AUTOTUNE
            )
        known = images.element_spec.shape.is_fully_defined()
        batches = images.batch(BATCH if known else 1).as_numpy_iterator()
        return _stack(batches, len(examples), config.dataset)

    # Validation images come from the end of the training data, so it is read whole when they are wanted.
    training = 0 if config.validation_examples else _at_most(config.train_examples, splits["train"])
    return read(wanted("train", training)), read(
        wanted(held_out, _at_most(config.test_examples, splits[held_out]))
    )


def _require_network() -> None:
    """Raises OSError at once where TFDS would retry its downloads for minutes."""
    if not urllib.request.getproxies():
        socket.getaddrinfo("storage.googleapis.com", 443)


def _at_most(count: int, split) -> int:
    return 0 if count > split.num_examples else count  # too many: read all, then say how many there are


def from_folder(config: DataConfig) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Training and test images of a folder, and notes on what was left out or held out.

    Raises:
      ConfigError: there is no folder, no image, or images of several sizes.
    """
    root = pathlib.Path(config.dataset.removeprefix("folder:")).expanduser()
    if not root.is_dir():
        raise ConfigError(f"dataset=folder:PATH needs an existing folder. Received: {config.dataset!r}")
    test_files = _image_files(root / "test")
    train_root = root / "train" if (root / "train").is_dir() else root
    train_files = [path for path in _image_files(train_root) if path not in set(test_files)]
    if not train_files:
        raise ConfigError(
            f"dataset=folder:PATH needs images ({', '.join(IMAGE_SUFFIXES)}) in the folder or in its "
            f"train/. Received: {config.dataset!r}, in which there are none"
        )
    notes: list[str] = []
    groups = [_read_files(files, config, notes) for files in (train_files, test_files)]
    for files, group in zip((train_files, test_files), groups, strict=True):
        if files and not group:
            raise ConfigError(f"no image could be read. {' '.join(notes)} Received: {config.dataset!r}")
    readable = [image for group in groups for image in group]
    # Grey only if all are; otherwise grey is repeated over three channels.
    channels = max(image.shape[-1] for image in readable)
    groups = [[np.repeat(i, channels, axis=-1) if i.shape[-1] < channels else i for i in g] for g in groups]
    images = _stack((i[np.newaxis] for group in groups for i in group), len(readable), config.dataset)
    train, test = images[: len(groups[0])], images[len(groups[0]) :]
    if len(test) == 0:
        mask = np.arange(len(train)) % FOLDER_TEST_SHARE == FOLDER_TEST_SHARE - 1
        if not mask.any():
            raise ConfigError(
                f"dataset=folder:PATH without a test/ folder needs at least {FOLDER_TEST_SHARE} images, "
                f"of which every tenth is held out. Received: {len(train)} images"
            )
        notes.append(f"No test/ folder: every tenth image, {mask.sum()} in all, is held out for testing.")
        train, test = train[~mask], train[mask]
    return train, test, tuple(notes)


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _read_files(files: list[pathlib.Path], config: DataConfig, notes: list[str]) -> list[np.ndarray]:
    from PIL import Image

    images = []
    for path in files:
        try:
            with Image.open(path) as image:
                image.load()
                grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
                # Transparent pixels would otherwise show whatever colour lies hidden under them.
                if "A" in image.getbands() or "transparency" in image.info:
                    rgba = image.convert("RGBA")
                    image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
                pixels = np.asarray(_to_8_bits(image, grey))
        except (OSError, SyntaxError, ValueError) as error:
            notes.append(f"Left out {path}: {error}.")
            continue
        pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
        images.append(_resize(pixels, config.image_size).numpy() if config.image_size else pixels)
        if len(images) == 1:
            _check_memory(len(files) * images[0].nbytes, config.dataset)
    return images


def _to_8_bits(image, grey: bool):
    if image.mode.startswith("I"):  # 16 bits a pixel, which PIL's convert would cut off at 255
        return (np.asarray(image, np.float64) / 257).round().clip(0, 255).astype(np.uint8)
    return image.convert("L" if grey else "RGB")


def _resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Cuts the largest centred square and resizes it, with antialiasing; one image or a batch."""
    height, width = tf.unstack(tf.shape(image)[-3:-1])
    side = tf.minimum(height, width)
    square = tf.image.crop_to_bounding_box(image, (height - side) // 2, (width - side) // 2, side, side)
    resized = tf.image.resize(square, [size, size], antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def resized(images: np.ndarray, size: int) -> np.ndarray:
    """Resizes images to size × size; size 0 leaves them alone."""
    return _resize(images, size).numpy() if size else images


def _stack(batches: Iterable[np.ndarray], count: int, dataset: str) -> np.ndarray:
    """Fills one array, sized beforehand, from batches [n, H, W, C] of images that must all have one shape."""
    array = np.zeros((0, 0, 0, 0), np.uint8)
    done = 0
    for batch in batches:
        if done == 0:
            _check_memory(count * batch[0].nbytes, dataset)
            array = np.empty((count, *batch.shape[1:]), np.uint8)
        if batch.shape[1:] != array.shape[1:]:
            raise ConfigError(
                "all images must have one size; --image_size=N crops and resizes them to N×N. "
                f"Received: {dataset!r} with images of {array.shape[1:]} and {batch.shape[1:]}"
            )
        array[done : done + len(batch)] = batch
        done += len(batch)
    return array


def check_memory(needed: int, what: str, remedy: str) -> None:
    """Raises ConfigError unless so many bytes leave room in the free memory (where that is known)."""
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    if needed > AVAILABLE_SHARE * free:
        raise ConfigError(
            f"{what} must fit in {AVAILABLE_SHARE:.0%} of the free memory ({free / 2**30:.1f} GiB); "
            f"{remedy}. Received: {needed / 2**30:.1f} GiB"
        )


def _check_memory(needed: int, dataset: str) -> None:
    remedy = "take fewer (--train_examples) or smaller ones (--image_size)"
    check_memory(needed, f"decoded images of {dataset!r}", remedy)
