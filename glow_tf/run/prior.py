"""Runs that start from a prior: a preset of natural images that fits the run's own.

A run with `init_from=prior` takes the preset of `suited.PRESETS` for its images, unless something speaks
against it; then it says what, and starts anew.
"""

import dataclasses

import numpy as np

from glow_tf import data, presets
from glow_tf.config import PRIOR, SAME_FUNCTION, ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.model.glow import Glow
from glow_tf.run import suited
from glow_tf.run.files import saved

LOOKED_AT = 32  # held-out images on which the untouched prior is compared with a trivial density
VALUES_LOOKED_AT = 2**20  # in all of them; large images are fewer
FEW = "WARNING: only {} images are held out to choose the best epoch: there are few."
COUNTED = 256  # training images of which the trivial density counts the differences of pixels


def settings_for(image_shape: tuple[int, int, int]) -> ModelConfig | None:
    """Returns the settings of the prior for images of a shape; None if no such preset is installed.

    ConfigError if images are too small for it.
    """
    if (name := suited.PRESETS.get(image_shape[-1])) not in presets.names():
        return None
    model = presets.read_model(presets.find(name))
    return model if model.image_shape == image_shape else model.design.resized(model, image_shape)[0]


def with_start(
    config: RunConfig, images: data.ImageData, start: Glow | None
) -> tuple[RunConfig, data.ImageData, Glow | None]:
    """Returns a run with what it starts from decided, its images, and the model that it starts from.

    A prior holds training images out, and sets what `config.follows` names. Any other start, which is given,
    is resized to the images, if it can be.
    """
    if config.init_from == PRIOR:
        return _with_prior(config, images)
    fitted = None if start is None else saved.resized(start, images.image_shape)
    if fitted is not start:
        old, new, own = (vars(model) for model in (start.config, fitted.config, config.model))
        follow = {n: new[n] for n in saved.settings_of_size(fitted.config) if own[n] == old[n]}
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **follow))
    return config, images, fitted


def _with_prior(config: RunConfig, images: data.ImageData) -> tuple[RunConfig, data.ImageData, Glow | None]:
    name, glow, bits, trivial = suited.PRESETS.get(images.image_shape[-1]), None, np.nan, np.nan
    tuned = suited.tuned(config, len(images.train) + len(images.validation))
    chosen, cut = config, images
    try:
        if (own := settings_for(images.image_shape)) is None:
            return dataclasses.replace(config, init_from="", follows=()), images, None
        if not (why := _contradiction(config, images, own)):
            glow = saved.resized(Glow.from_preset(name), images.image_shape)
            model = {n: getattr(own, n) for n in config.follows if n not in tuned}
            chosen = RunConfig.from_settings(config.to_settings() | model | tuned | {"init_from": name})
            cut = with_validation(chosen, images)
            bits, trivial = _scores(glow, cut, config.seed)
    except ConfigError as error:  # images are too small, or a setting that is typed does not fit
        why = str(error)
    if not (why or bits <= trivial):
        why = f"untouched it needs {bits:.2f} bits/dim for these images, and a trivial density {trivial:.2f}"
    if why:
        print(f"This run starts anew, and not from the prior {name}: {why}.", flush=True)
        return dataclasses.replace(config, init_from="", follows=()), images, None
    flags = " ".join(f"--{n}={value}" for n, value in tuned.items() if n in config.follows)
    print(
        f"From the prior {name}, which untouched needs {bits:.2f} bits/dim, a trivial density {trivial:.2f}: "
        f"{flags}, which suits {len(images.train)} images of {'×'.join(map(str, images.image_shape))}. "
        "Type others, or --from_scratch.",
        *([FEW.format(len(cut.validation))] if len(images.train) < suited.FEW else []),
        sep="\n",
        flush=True,
    )
    return chosen, cut, glow


def _contradiction(config: RunConfig, images: data.ImageData, prior: ModelConfig) -> str:
    """Says what of a run speaks against a prior of these settings; empty if nothing does."""
    if config.data.condition:
        return "it does not know what is given with images"
    if config.model.data_dtype != prior.data_dtype:
        return f"it is of {prior.data_dtype}, and the data are {config.model.data_dtype}"
    differing = []
    for name, value in dataclasses.asdict(prior).items():
        is_typed = name in config.to_settings() and name not in (*config.follows, *SAME_FUNCTION)
        if is_typed and value != (own := getattr(config.model, name)):
            differing.append(f"{name}={value} (this run: {own})")
    if differing:
        return f"it has {', '.join(differing)}"
    if (bits := suited.bits_of(images.levels)) != prior.n_bits:
        return f"it is of {prior.n_bits} bits, and {bits} suffice for these images"
    return ""


def with_validation(config: RunConfig, images: data.ImageData) -> data.ImageData:
    """Returns the images as `data.load` would cut them now."""
    if config.data.validation_examples == len(images.validation):
        return images
    if config.data.train_examples:  # those after them are not there
        return data.load(config.data)
    return images.with_validation(config.data.validation_examples)


def _scores(glow: Glow, images: data.ImageData, seed: int) -> tuple[float, float]:
    """Returns bits/dim of a few held-out images: of a model, and of a trivial density.

    That one knows the difference of each pixel from its left neighbour, by their frequency, or nothing.
    """
    held_out = images.validation if len(images.validation) else images.train
    held_out = np.asarray(held_out[: max(min(LOOKED_AT, VALUES_LOOKED_AT // held_out[0].size), 1)])
    counts = np.bincount(_differences(np.asarray(images.train[:COUNTED])), minlength=256) + 1
    trivial = float(np.mean(np.log2(counts.sum() / counts)[_differences(held_out)]))
    bits = float(np.mean(glow.bits_per_dim(held_out, seed)))
    return bits, min(trivial, float(glow.config.n_bits))


def _differences(images: np.ndarray) -> np.ndarray:
    """Returns each value of uint8 [N, H, W, C] minus its left neighbour, modulo 256: [N·H·W·C]."""
    return np.diff(images, axis=2, prepend=np.uint8(0)).ravel()
