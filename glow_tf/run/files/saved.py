"""Models that a run left in its workdir, or that a `.keras` file holds; runs that start from them."""

import dataclasses
import pathlib

import keras

from glow_tf import presets
from glow_tf.config import SAME_FUNCTION, ModelConfig
from glow_tf.core.durable_files import check_can_be_read_again
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.model.glow import Glow
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checkpoints import DamagedCheckpointError, by_path, read
from glow_tf.training.trainer import PartsTrainer

SAYS = {"condition_shape": "--condition, "}  # which flag a setting follows


def load(path: str | pathlib.Path, which: str = "") -> Glow:
    """Loads a model; `load_trainer` loads a trainer. From strangers take presets only: see SECURITY.md.

    Args:
      path: a `.keras` file that `Glow.save` or `PartsTrainer.save` wrote, the workdir of a run, or a preset:
        its folder, its address, or the name of one that comes with the package; see `Glow.from_preset`.
      which: the `last` or the `best` checkpoint of a workdir; `best` exists where there were validation
        images. Empty: the one that the run's summary and export are of, the best where it exists.

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
      OSError: the checkpoint is damaged.
      ValueError: path is neither a `.keras` file nor a workdir nor a preset, or its weights are not those of
        its model, or are not finite.
    """
    name, path = path, pathlib.Path(path)
    is_preset = presets.refers_to_preset(name)
    if not (is_preset or path.exists()):
        raise FileNotFoundError(
            f"There is no such file or folder, and no such preset ({', '.join(presets.names())}). "
            f"Received: path={str(path)!r}"
        )
    if is_preset:
        return Glow.from_preset(name)
    if path.suffix == ".keras":
        found = load_keras_file(path)
        return found.glow if isinstance(found, PartsTrainer) else found
    found, glow = checkpoint_path(path, which), untrained_glow(path)
    while True:
        try:
            read({"model": by_path(glow.variables)}, found, partly=True)
            return glow
        except DamagedCheckpointError:
            if found == (newer := checkpoint_path(path, which)):
                raise
            found = newer  # the run goes on, and has replaced its checkpoint meanwhile


def load_keras_file(path: pathlib.Path) -> Glow | PartsTrainer:
    """Loads what `Glow.save` or `PartsTrainer.save` wrote, in Keras's safe mode; ConfigError if none did."""
    try:
        found = keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # whatever Keras raises; it names a class that is not registered
        raise ConfigError(
            f"{path} cannot be read as a .keras file of this package, with classes of your own registered "
            f"with Keras. Received: {type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    if not isinstance(found, Glow | PartsTrainer):
        raise ConfigError(f"{path} must hold a Glow or a PartsTrainer. Received: {type(found).__name__}")
    return found


def untrained_glow(workdir: pathlib.Path) -> Glow:
    """Returns a model with the settings of a workdir's model, and with starting weights."""
    return Glow(presets.read_model_file(workdir / "checkpoints" / "model.json"), name="glow")


def checkpoint_path(workdir: pathlib.Path, which: str = "") -> str:
    """Returns the path of a workdir's `last` or `best` checkpoint, as TensorFlow takes it.

    Empty: the best, if there is one. FileNotFoundError if there is none; ConfigError if the folder is not a
    workdir, or `which` another word.
    """
    if (workdir / "saved_model.pb").exists():
        raise ConfigError(
            "load needs a .keras file or a run's workdir; a SavedModel loads with tf.saved_model.load, "
            f"without this package. Received: path={str(workdir)!r}"
        )
    if which not in ("last", "best", ""):
        raise ConfigError(f"which must be last or best. Received: which={which!r}")
    check_can_be_read_again("path", workdir)
    folder = workdir / "checkpoints"
    if not which and checkpoint_files.best_epoch(folder) is not None:
        which = "best"
    folder = folder / checkpoint_files.BEST if which == "best" else folder
    epochs = checkpoint_files.complete(folder)
    if not epochs:
        needs = "; a run with --validation_examples keeps it after a sound epoch" if which == "best" else ""
        raise FileNotFoundError(
            f"There is no {which or 'last'} checkpoint{needs}. Received: path={str(workdir)!r}"
        )
    return str(folder / f"ckpt-{epochs[-1]}")


def settings_of_size(model: ModelConfig) -> tuple[str, ...]:
    """Returns the settings of a model that follow the size of its images, where its parts have no size."""
    return ("num_blocks", *model.design.settings) if model.design.any_size else ()


def resized(glow: Glow, image_shape: tuple[int, int, int]) -> Glow:
    """Returns a model for images of another size; the same one if its parts have one size."""
    is_other = glow.config.image_shape[:2] != image_shape[:2] and glow.config.image_shape[2] == image_shape[2]
    return glow.resized(image_shape) if is_other and glow.config.design.any_size else glow


def load_start(path: str, model: ModelConfig) -> Glow:
    """Loads the model that a run starts from (`init_from`): of a workdir, a `.keras` file or a preset.

    ConfigError if there is none, or it has other settings than the run's own model. Image shape and
    condition, which come from the data, are compared later, by `start_from`.
    """
    try:
        start = load(path)
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"init_from must be the workdir of a run, a .keras file or a preset. {error}; init_from={path!r}"
        ) from None
    of_data = ("image_shape", "condition_shape", *settings_of_size(start.config))
    from_data = {name: getattr(start.config, name) for name in of_data}
    _check_same_flow(path, start.config, dataclasses.replace(model, **from_data))
    return start


def start_from(path: str, start: Glow, glow: Glow) -> str:
    """Sets a model's weights to those of another model, and says what was done.

    All weights are set if both models are cut in the same places. Otherwise the weights of the flow steps and
    the top prior are set, and the local priors, which only training uses, start anew.
    """
    start = resized(start, glow.config.image_shape)
    _check_same_flow(path, start.config, glow.config)
    there, here = (own.cuts for own in (start.config, glow.config))
    if there == here and (start.config.local_prior == glow.config.local_prior or len(here) == 1):
        glow.set_weights(start.get_weights())
        return f"init_from: the weights are those of {path}"
    theirs, own = (" + ".join(map(str, counts)) for counts in (there, here))
    if there != here and start.has_condition_networks:
        raise ConfigError(
            "init_from: a model whose parts have networks of what they are given keeps its parts. "
            f"Received: {path!r} with parts of {theirs} flow steps (this run: {own})"
        )
    glow.set_flow_weights(start.get_flow_weights())
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
