"""A folder of image files as a data set."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

import numpy as np

from glow_tf.config import DataConfig
from glow_tf.data.arrays import check_memory_for, resize, stack
from glow_tf.errors import ConfigError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
TEST_EVERY = 10  # without a test/ folder, every tenth image is a test image


def from_folder(config: DataConfig) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Returns training and test images of a folder, and notes on files left out and images held out.

    Raises:
      ConfigError: the folder does not exist, has no readable image, or has images of several sizes.
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
    train, test = _as_arrays(groups, config.dataset)
    if len(test) == 0:
        train, test = _hold_out(train)
        notes.append(f"No test/ folder: every tenth image, {len(test)} in all, is held out for testing.")
    return train, test, tuple(notes)


def _image_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def _read_files(files: list[pathlib.Path], config: DataConfig, notes: list[str]) -> list[np.ndarray]:
    """Returns the images of files; a file that cannot be read is named in the notes."""
    from PIL import Image

    images: list[np.ndarray] = []
    for path in files:
        try:
            with Image.open(path) as image:
                image.load()
                pixels = _pixels(image)
        except (OSError, SyntaxError, ValueError) as error:
            notes.append(f"Left out {path}: {error}.")
            continue
        images.append(resize(pixels, config.image_size).numpy() if config.image_size else pixels)
        if len(images) == 1:
            check_memory_for(len(files) * images[0].nbytes, config.dataset)
    return images


def _pixels(image: Image.Image) -> np.ndarray:
    """Returns a picture as uint8 [H, W, 1] if it is grey, else [H, W, 3]."""
    from PIL import Image

    grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    # Transparent pixels would otherwise show whatever colour lies hidden under them.
    if "A" in image.getbands() or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    if image.mode.startswith("I"):  # 16 bits per pixel, which PIL's convert would cut off at 255
        pixels = (np.asarray(image, np.float64) / 257).round().clip(0, 255).astype(np.uint8)
    else:
        pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels


def _as_arrays(groups: list[list[np.ndarray]], dataset: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns training and test images as arrays; grey ones get three channels unless all are grey."""
    readable = [image for group in groups for image in group]
    channels = max(image.shape[-1] for image in readable)
    same = (np.repeat(i, channels, axis=-1) if i.shape[-1] < channels else i for i in readable)
    images = stack((i[np.newaxis] for i in same), len(readable), dataset)
    return images[: len(groups[0])], images[len(groups[0]) :]


def _hold_out(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts every tenth image out as a test image."""
    mask = np.arange(len(images)) % TEST_EVERY == TEST_EVERY - 1
    if not mask.any():
        raise ConfigError(
            f"dataset=folder:PATH without a test/ folder needs at least {TEST_EVERY} images, "
            f"of which every tenth is held out. Received: {len(images)} images"
        )
    return images[~mask], images[mask]
