"""Restores images by their likelihood: noise, missing pixels, half the size.

    glow-tf restore denoise --model=fashion_mnist --dataset=folder:PATH --sigma=25
    glow-tf restore inpaint --model=fashion_mnist --dataset=folder:PATH --mask=mask.png
    glow-tf restore upscale --model=cifar10_small --dataset=folder:PATH --temperature=0.7 --draws=3

Each image gives a PNG with its name, below the folder that --output names without its .png. Images keep
their sizes, which may differ. If they do not, --output shows the first 100: each row has what was given and
what was found; with --simulate, then the truth.

Images are taken to be damaged already. With --simulate they are good ones: they are damaged first, and the
gain is printed in dB, beside that of simple methods. `denoise` finds the likeliest image given a noisy one;
`inpaint` the likeliest pixels where --mask, a picture, is white. `upscale` draws the details that a model of
levels expects, given the image: with --factor=4 of two levels. A Glow draws the finest latents.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.core.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.model.glow import Glow
    from glow_tf.use import UsedImages

ACTIONS = ("denoise", "inpaint", "upscale")
SHOWN = 100  # rows of the picture of all images
STEPS = {"denoise": 150, "inpaint": 60, "upscale": 0}


def define(values: flags.FlagValues) -> None:
    model_flags.define_glow(values, output="restored.png")
    model_flags.define_seed(values)
    model_flags.define_images(values)
    mask = "For inpaint: a picture of their size, white where pixels are unknown; empty: a middle square."
    parsing.define(
        values,
        sigma=(["25"], "Of the noise, in levels of 256."),
        mask=("", mask),
        temperature=(["0"], "Of the latents that upscale draws; 0: the likeliest ones."),
        factor=(2, "How many times as large upscale makes images; above 2, levels are needed."),
        draws=(1, "How many results of upscale, which differ if the temperature is above 0."),
        steps=(0, "Of the climb; 0: 150 to denoise, 60 to inpaint."),
        simulate=(False, "Damage good images first, and say what is gained."),
        white=model_flags.WHITE,
    )


@dataclasses.dataclass(frozen=True)
class _Task:
    """What is done with images of one size."""

    action: str
    sigma: float
    steps: int
    temperature: float
    factor: int
    seeds: list[int]  # of each draw
    mask: np.ndarray | None  # bool [H, W], where a picture says which pixels are unknown

    def takes_any_size(self, glow: Glow) -> bool:
        """Whether images of any size can be enlarged as they are: by levels."""
        return self.action == "upscale" and glow.config.design.images_between_parts

    def unknown(self, images: np.ndarray) -> np.ndarray:
        """Returns where pixels are unknown, bool [H, W]; without a picture, a square in the middle."""
        if self.mask is not None:
            return self.mask
        height, width = images.shape[1:3]
        unknown = np.zeros((height, width), bool)
        unknown[height // 3 : height - height // 3, width // 3 : width - width // 3] = True
        return unknown

    def damaged(self, truth: np.ndarray, seed: int) -> np.ndarray:
        """Returns good images with the damage that is to be undone."""
        from glow_tf.use.restore.upscaling import reduced

        if self.action == "denoise":
            noise = np.random.default_rng(seed).normal(0, self.sigma, truth.shape)
            return np.clip(np.round(truth + noise), 0, 255).astype(np.uint8)
        if self.action == "inpaint":
            return np.where(self.unknown(truth)[..., None], np.uint8(0), truth)
        return np.round(reduced(truth, self.factor)).astype(np.uint8)

    def restored(self, glow: Glow, given: np.ndarray, condition: np.ndarray | None) -> list[np.ndarray]:
        """Returns the images of each draw, at the size of those that were given, or larger by the factor."""
        from glow_tf.use import denoise, inpaint, sized, upscale

        factor = self.factor if self.action == "upscale" else 1
        height, width = (factor * side for side in given.shape[1:3])
        if not self.takes_any_size(glow):
            glow = sized.of_size(glow, height, width)
            larger = [side // factor for side in glow.image_shape[:2]]
            unknown = sized.extended(self.unknown(given)[None], *larger)[0]
            given = sized.extended(given, *larger)
        if self.action == "denoise":
            found = [denoise(glow, given, self.sigma, self.steps, condition)]
        elif self.action == "inpaint":
            found = [inpaint(glow, given, unknown, self.steps, condition)]
        else:
            found = [upscale(glow, given, self.temperature, seed, condition, factor) for seed in self.seeds]
        return [images[:, :height, :width] for images in found]

    def others(self, given: np.ndarray) -> dict[str, np.ndarray]:
        """Returns what simple methods make of the images: name → images as large as the restored ones."""
        from glow_tf.run.pictures import enlarged
        from glow_tf.use.restore.restoring import harmonic
        from glow_tf.use.restore.upscaling import repeated

        if self.action == "denoise":
            return {"as given": given}
        if self.action == "inpaint":
            return {"as given": given, "by a harmonic filling": harmonic(given, self.unknown(given))}
        filters = {"bicubic": "BICUBIC", "Lanczos": "LANCZOS"}
        by_filter = {name: enlarged(given, self.factor, own) for name, own in filters.items()}
        return {"as given, pixels repeated": repeated(given, self.factor), **by_filter}


def main(values: flags.FlagValues, action: str) -> None:
    temperature = model_flags.float_of(values, "temperature", lowest=0)
    sigma = model_flags.float_of(values, "sigma", lowest=0)
    draws, factor = (model_flags.count_of(values, name) for name in ("draws", "factor"))
    steps = model_flags.count_of(values, "steps", lowest=0) or STEPS[action]
    write_rows, folder = model_flags.picture_writer(values), _folder(values)
    from glow_tf.use import psnr
    from glow_tf.use.latents import seed_of
    from glow_tf.use.restore.upscaling import check_factor, repeated

    glow = model_flags.glow_of(values)
    if action == "upscale":
        check_factor(glow, factor)
    mask = _mask(values) if action == "inpaint" and values.mask else None
    seeds = [seed_of(values.seed, draw) for draw in range(draws if action == "upscale" else 1)]
    task = _Task(action, sigma, steps, temperature, factor, seeds, mask)
    groups = model_flags.images_by_size(values, glow)
    _check_sizes(task, glow, groups, values)
    gains: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    names = {name: pathlib.PurePath(name).with_suffix(".png") for used in groups for name in used.names}
    if len(set(names.values())) < len(names):
        names = {name: pathlib.PurePath(f"{name}.png") for name in names}
    for place, used in enumerate(groups):
        truth = used.images
        if values.simulate and action == "upscale":
            height, width = (side // factor * factor for side in truth.shape[1:3])
            truth = truth[:, :height, :width]  # without rows and columns that the factor does not divide
        given = task.damaged(truth, seed_of(values.seed, place)) if values.simulate else truth
        found = task.restored(glow, given, used.condition)
        _write_files(folder, [names[name] for name in used.names], found)
        if values.simulate:
            for name, images in (task.others(given) | {"restored": found[0]}).items():
                gains[name].append(psnr(images, truth))
    count = sum(len(used.images) for used in groups)
    if values.simulate:
        means = [f"{np.concatenate(own).mean():.2f} dB {name}" for name, own in gains.items()]
        print(f"{', '.join(means)}, against a peak of 255: means of {count} images")
    print(f"{folder}{os.sep}: {count} images{f', {draws} times' if len(seeds) > 1 else ''}")
    if len(groups) == 1:
        columns = [repeated(given[:SHOWN], factor) if action == "upscale" else given, *found]
        columns += [truth] if values.simulate else []
        write_rows(np.stack([own[:SHOWN] for own in columns], axis=1))
    else:
        print(f"The images have {len(groups)} sizes, so that {values.output} is not written.")


def _folder(values: flags.FlagValues) -> pathlib.Path:
    """Returns the folder of the images; ConfigError if it cannot be that, or is the folder of the inputs."""
    folder = pathlib.Path(values.output).with_suffix("")
    read = os.path.expanduser(values.dataset.removeprefix("folder:"))
    if folder.exists() and (not folder.is_dir() or (os.path.isdir(read) and os.path.samefile(folder, read))):
        raise ConfigError(
            f"output must leave {folder} for the images, a folder that is new or of an earlier result. "
            f"Received: output={values.output!r}, dataset={values.dataset!r}"
        )
    return folder


def _mask(values: flags.FlagValues) -> np.ndarray:
    """Returns where the picture that --mask names is white, bool [H, W]."""
    from glow_tf.data.pictures import read_picture

    picture = read_picture(pathlib.Path(values.mask), 0)
    if picture.problem:
        raise ConfigError(
            f"mask must be a picture of the images' size. Received: mask={values.mask!r}, {picture.problem}"
        )
    unknown = picture.pixels.mean(axis=-1) > 127
    if not unknown.any():
        raise ConfigError(
            "mask must be white where pixels are unknown. "
            f"Received: mask={values.mask!r}, without a white pixel"
        )
    return unknown


def _check_sizes(task: _Task, glow: Glow, groups: list[UsedImages], values: flags.FlagValues) -> None:
    """Raises ConfigError, naming an image, if one has a size that cannot be restored; says what is done."""
    from glow_tf.use.sized import check_fits

    whole = values.simulate or task.action != "upscale"
    for used in groups:
        (height, width), name = used.images.shape[1:3], used.names[0]
        if task.mask is not None and task.mask.shape != (height, width):
            raise ConfigError(
                f"mask must be a picture of the images' size, {height}×{width} for {name}. "
                f"Received: mask={values.mask!r}, {'×'.join(map(str, task.mask.shape))}"
            )
        if not task.takes_any_size(glow):
            large = (height, width) if whole else (task.factor * height, task.factor * width)
            check_fits(glow, large, name, gradient=True, larger=True)
            if large != tuple(glow.image_shape[:2]):
                own = "×".join(map(str, glow.image_shape[:2]))
                kept = f"Images of {height}×{width} ({len(used.images)}) keep their size"
                print(f"{kept}; the model's is {own}.")


def _write_files(folder: pathlib.Path, names: list[pathlib.PurePath], found: list[np.ndarray]) -> None:
    """Writes a PNG for each image; several draws are in a folder each."""
    from glow_tf.run import pictures

    for draw, images in enumerate(found):
        into = folder / f"draw_{draw + 1}" if len(found) > 1 else folder
        for name, image in zip(names, images, strict=True):
            model_flags.write(into / name, pictures.png(image))
