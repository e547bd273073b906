"""What a run starts from, such as a prior; and what its images decide, which say whether it does.

A run that shall start from a prior starts anew if something speaks against it, and says what.
"""

import dataclasses

import numpy as np

from glow_tf import data, store
from glow_tf.architectures import design_of
from glow_tf.config import SAME_FUNCTION, ModelConfig, RunConfig
from glow_tf.core.errors import ConfigError
from glow_tf.model.flow import Flow
from glow_tf.run import settings, tables
from glow_tf.training import tuned

LOOKED_AT = 32  # held-out images on which the untouched prior is compared with a trivial density
VALUES_LOOKED_AT = 2**20  # in all of them; large images are fewer
FEW = "WARNING: only {} images are held out to choose the best epoch: there are few."
SAYS = {"condition_shape": "--condition, "}  # which flag a setting follows
COUNTED = 256  # training images of which the trivial density counts the differences of pixels


def decide(
    asked: settings.Asked, images: data.ImageData
) -> tuple[settings.Decided, data.ImageData, Flow | None]:
    """Decides all settings of a run, and prints those that its images decide.

    Returns them, the images, cut as they say, and the prior that the run starts from, if it does.
    """
    examples = len(images.train) + len(images.validation)
    known = settings.Images(images.image_shape, examples, images.values_used, images.condition_shape)
    decided, flow, said = settings.resolve(asked, known), None, []
    cut = _with_validation(decided.config, images)
    if name := decided.prior:
        flow = _resized(store.load(name), images.image_shape)
        bits, trivial = _scores(flow, cut, decided.config.seed)
        needs = (
            f"untouched it needs {bits:.2f} bits/dim for these images, and a trivial density {trivial:.2f}"
        )
        if bits <= trivial:
            said = [f"This run starts from the prior {name}: {needs}."]
            said += [FEW.format(len(cut.validation))] if examples < tuned.FEW else []
        else:
            decided, flow = settings.resolve(asked, known._replace(unlike=needs)), None
            cut = _with_validation(decided.config, images)
    if decided.why_anew:
        prior = asked.priors[images.image_shape[-1]].name
        said = [f"This run starts anew, and not from the prior {prior}: {decided.why_anew}."]
    if table := tables.decided_table(decided):
        shape = "×".join(map(str, images.image_shape))
        said += [f"Decided for {examples} images of {shape}; what is typed wins:", table]
    if said:
        print(*said, sep="\n", flush=True)
    return decided, cut, flow


def _with_validation(config: RunConfig, images: data.ImageData) -> data.ImageData:
    """Returns the images as `data.load` would cut them now."""
    count = config.data.validation_examples
    if count == len(images.validation):
        return images
    # Of `train_examples` alone, or of images that are cut already, some are not there; too many are refused.
    if config.data.train_examples or len(images.validation) or count >= len(images.train):
        return data.load(config.data)
    return images.with_validation(count)


def _scores(flow: Flow, images: data.ImageData, seed: int) -> tuple[float, float]:
    """Returns bits/dim of a few held-out images: of a model, and of a trivial density.

    That one knows the difference of each pixel from its left neighbour, by their frequency, or nothing.
    """
    held_out = images.validation if len(images.validation) else images.train
    held_out = np.asarray(held_out[: max(min(LOOKED_AT, VALUES_LOOKED_AT // held_out[0].size), 1)])
    counts = np.bincount(_differences(np.asarray(images.train[:COUNTED])), minlength=256) + 1
    trivial = float(np.mean(np.log2(counts.sum() / counts)[_differences(held_out)]))
    bits = float(np.mean(flow.bits_per_dim(held_out, seed)))
    return bits, min(trivial, float(flow.config.n_bits))


def _differences(images: np.ndarray) -> np.ndarray:
    """Returns each value of uint8 [N, H, W, C] minus its left neighbour, modulo 256: [N·H·W·C]."""
    return np.diff(images, axis=2, prepend=np.uint8(0)).ravel()


def settings_of_size(model: ModelConfig) -> tuple[str, ...]:
    """Returns the settings of a model that follow the size of its images, where its parts have no size."""
    design = design_of(model)
    return ("num_blocks", *design.settings) if design.any_size else ()


def _resized(flow: Flow, image_shape: tuple[int, int, int]) -> Flow:
    """Returns a model for images of another size; the same one if its parts have one size."""
    return flow.resized(image_shape) if flow.design.takes_also(image_shape) else flow


def load_start(path: str, model: ModelConfig) -> Flow:
    """Loads the model that a run starts from (`init_from`): of a workdir, a `.keras` file or a preset.

    ConfigError if there is none, or it has other settings than the run's own model. Image shape and
    condition, which come from the data, are compared later, by `start_from`.
    """
    try:
        start = store.load(path)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"init_from must be the workdir of a run, a .keras file or a preset. {error}; init_from={path!r}"
        ) from None
    of_data = ("image_shape", "condition_shape", *settings_of_size(start.config))
    from_data = {name: getattr(start.config, name) for name in of_data}
    _check_same_flow(path, start.config, dataclasses.replace(model, **from_data))
    return start


def start_from(path: str, start: Flow, flow: Flow) -> str:
    """Sets a model's weights to those of another model, and says what was done.

    All weights are set if both models are cut in the same places. Otherwise the weights of the flow steps and
    the top base are set, and the local bases, which only training uses, start anew.
    """
    start = _resized(start, flow.config.image_shape)
    _check_same_flow(path, start.config, flow.config)
    there, here = start.design.cuts, flow.design.cuts
    if there == here and (start.config.local_prior == flow.config.local_prior or len(here) == 1):
        flow.set_weights(start.get_weights())
        return f"init_from: the weights are those of {path}"
    theirs, own = (" + ".join(map(str, counts)) for counts in (there, here))
    if there != here and start.has_condition_networks:
        raise ConfigError(
            "init_from: a model whose parts have networks of what they are given keeps its parts. "
            f"Received: {path!r} with parts of {theirs} flow steps (this run: {own})"
        )
    flow.set_flow_weights(start.get_flow_weights())
    return (
        f"init_from: the weights of the flow steps are those of {path}, which is cut into parts of "
        f"{theirs} flow steps (this run: {own}); local priors start anew"
    )


def _check_same_flow(path: str, start: ModelConfig, model: ModelConfig) -> None:
    if start.image_shape != model.image_shape:
        theirs, own = ("×".join(map(str, shape)) for shape in (start.image_shape, model.image_shape))
        raise ConfigError(
            "a run that starts from a model must have images of its shape (height × width × channels), "
            f"{theirs}. Received: init_from={path!r}, and images of {own}"
        )
    theirs, own = dataclasses.asdict(start), dataclasses.asdict(model)
    differing = [
        f"{SAYS.get(name, '')}{name}={value} (this run: {own[name]})"
        for name, value in theirs.items()
        if name not in SAME_FUNCTION and value != own[name]
    ]
    if differing:
        raise ConfigError(
            f"init_from must be a model that differs from this run's in {', '.join(SAME_FUNCTION)} at most. "
            f"Received: init_from={path!r} with {', '.join(differing)}"
        )
