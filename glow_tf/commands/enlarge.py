"""Enlarges photographs: files, and folders of them.

    glow-tf enlarge photo.jpg FOLDER --output=large
    glow-tf enlarge FOLDER --factor=4 --temperature=0.7 --seed=1 --output=large

Each becomes a PNG of its name in the folder --output; those of a folder keep their places below it. A model
of levels draws the details that it expects, given the photograph: at temperature 0 the likeliest ones, which
come nearest to the truth. At 0.7 textures are sharper, and every seed has others. The mean of each square is
the pixel that it stands for.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.core.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.model.flow import Flow

TAKES_PATHS = True
PIXELS = 2**24  # at most, of the enlarged photographs of one size that are in memory at a time
AGAIN = "What there is in {} is whole; the same command with --overwrite writes everything again."
NAMED = 10  # files that a message names, at most


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="enlarged", model="photographs")
    model_flags.define_seed(values)
    parsing.define(
        values,
        factor=(2, "How many times as large: a power of two."),
        temperature=(["0"], "Of the details that are drawn; 0: the likeliest ones."),
    )


def main(values: flags.FlagValues, paths: Sequence[str]) -> None:
    temperature, factor = model_flags.float_of(values, "temperature", lowest=0), values.factor
    names = _named(paths)
    places = {path: place for place, path in enumerate(names)}  # of which the seeds are
    folder = model_flags.output_folder(values, inputs=paths)
    sizes = _by_size(names)
    from glow_tf.core.durable_files import held
    from glow_tf.run import pictures
    from glow_tf.use import upscale
    from glow_tf.use.images import check_needed
    from glow_tf.use.latents import seed_of
    from glow_tf.use.upscaling import check_factor

    flow = model_flags.model_of(values)
    check_factor(flow, factor)
    for (*size, channels), own in sizes.items():
        check_needed(flow, [factor * side for side in size], own[0], "take a smaller factor")
        if channels > flow.image_shape[-1]:
            raise ConfigError(f"the model is for grey photographs. Received: {own[0]}, which has colours")
    written = {path: f"{name}.png" for path, name in names.items()}
    try:
        with held(folder, written.values()):
            for some in _pieces(sizes, factor):
                seed = seed_of(values.seed, places[some[0]])
                large = upscale(flow, _read(some, flow), temperature, seed, factor=factor)
                for path, image in zip(some, large, strict=True):
                    model_flags.write(folder / written[path], pictures.png(image))
                    print(folder / written[path], flush=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(AGAIN.format(folder)) from None


def _pieces(sizes: dict[tuple[int, ...], list[str]], factor: int) -> Iterator[list[str]]:
    """Yields files of one size, as many as are in memory at a time."""
    for (height, width, _), own in sizes.items():
        count = max(1, PIXELS // (factor**2 * height * width))
        yield from (own[start : start + count] for start in range(0, len(own), count))


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Returns the files that are enlarged, and below which name each is written, without its suffix."""
    from glow_tf.data.image_files import images_below
    from glow_tf.data.pictures import SUFFIX

    found: dict[str, str] = {}
    for path in map(pathlib.Path, paths):
        below = [own for own in images_below(path) if own.suffix != SUFFIX] if path.is_dir() else [path]
        if not below:
            raise ConfigError(f"a folder must have photographs. Received: {str(path)!r}, which has none")
        root = path if path.is_dir() else path.parent
        found |= {str(own): own.relative_to(root).as_posix() for own in below}
    if not found:
        raise ConfigError("enlarge needs photographs, files or folders of them. Received: none")
    return dict(zip(found, model_flags.distinct(found.values()), strict=True))


def _by_size(paths: Sequence[str]) -> dict[tuple[int, ...], list[str]]:
    """Reads all photographs once: shape [H, W, channels] → files; ConfigError that names what is none."""
    from glow_tf.core.progress import with_progress
    from glow_tf.data.pictures import read_picture

    sizes: dict[tuple[int, ...], list[str]] = {}
    wrong = []
    for path in with_progress(paths, len(paths), "Reading photographs"):
        picture = read_picture(pathlib.Path(path), 0)
        sizes.setdefault(picture.pixels.shape, []).append(path)
        wrong += [f"{path}: {picture.problem}"] if picture.problem else []
    if wrong:
        more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise ConfigError(f"every photograph must be readable. Received: {'; '.join(wrong[:NAMED])}{more}")
    return sizes


def _read(paths: Sequence[str], flow: Flow) -> np.ndarray:
    """Returns photographs of one size, uint8 [N, H, W, C]; grey ones fill the channels of the model."""
    from glow_tf.data.pictures import read_picture

    images = np.stack([read_picture(pathlib.Path(path), 0).pixels for path in paths])
    return np.broadcast_to(images, (*images.shape[:3], flow.image_shape[-1]))
