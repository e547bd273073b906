"""Models that a run left in its workdir, or that a `.keras` file holds; runs that start from them."""

import contextlib
import dataclasses
import io
import math
import pathlib
import zipfile

import keras

from glow_tf import presets
from glow_tf.config import SAME_FUNCTION, ModelConfig
from glow_tf.core.durable_files import check_can_be_read_again
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.memory import check_memory
from glow_tf.model.glow import Glow
from glow_tf.presets import weights_file
from glow_tf.run.files import checkpoint_files
from glow_tf.run.files.checkpoint_content import DamagedCheckpointError, by_path, read_into, readable
from glow_tf.run.files.workdir import BEST_EPOCH, read_summary
from glow_tf.training.trainer import PartsTrainer

OF_TRAINER = ("optimizer", "layers/")  # so begin a trainer's arrays of optimizers and objectives
SAYS = {"condition_shape": "--condition, "}  # which flag a setting follows


def load(
    path: str | pathlib.Path,
    which: str = "",
    custom_objects: object = None,
    condition_network: keras.layers.Layer | None = None,
) -> Glow:
    """Loads a model; `load_trainer` loads a trainer. SECURITY.md says what is checked of a file first.

    Args:
      path: a `.keras` file that `Glow.save` or `PartsTrainer.save` wrote, the workdir of a run, or a preset:
        its folder, its address, or the name of one that comes with the package; see `Glow.from_preset`.
      which: the `last` or the `best` checkpoint of a workdir; `best` exists where there were validation
        images. Empty: the one that the run's summary and export are of, the best where it exists.
      custom_objects: not used any more: of a trainer's file, the model alone is made, without optimizers.
      condition_network: for a `.keras` file whose model has one of your own. Its settings count, and its
        weights are those of the file.

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
      OSError: the checkpoint is damaged.
      ValueError: path is neither a `.keras` file nor a workdir nor a preset, or its weights are not those of
        its model, or are not finite.
    """
    name, path = path, pathlib.Path(path)
    is_preset = presets.refers_to_preset(name)
    if not (is_preset or path.exists()):
        raise FileNotFoundError(f"There is no such file or folder. Received: path={str(path)!r}")
    if path.suffix == ".keras" and not is_preset:
        return _load_keras_file(path, condition_network)
    if condition_network is not None:
        raise ConfigError(
            "condition_network is for .keras files; the models of presets and runs have the package's own. "
            f"Received: path={str(path)!r}, condition_network={condition_network.name!r}"
        )
    if is_preset:
        return Glow.from_preset(name)
    found, glow = checkpoint_path(path, which), untrained_glow(path)
    while True:
        try:
            with readable(found):
                read_into({"model": by_path(glow.variables)}, found, partly=True)
            return glow
        except DamagedCheckpointError:
            if found == (newer := checkpoint_path(path, which)):
                raise
            found = newer  # the run goes on, and has replaced its checkpoint meanwhile


def _load_keras_file(path: pathlib.Path, condition_network: keras.layers.Layer | None) -> Glow:
    """Loads the model of a file that `Glow.save` or `PartsTrainer.save` wrote; ConfigError if none did.

    Keras makes whatever a file names, and some of its layers read files or run programs. So Keras is not
    given the settings: the model is made from those of a `Glow`, and Keras reads its weights alone, which
    must be numbers. The optimizers, objectives and condition networks that a file names are not made.
    """
    own, what = condition_network is not None, f"{path}: {presets.WEIGHTS}"
    try:
        settings, of_trainer = presets.read_keras_file(path)
        config = presets.model_of_settings(path, settings["config"])
        _check_condition_network(path, settings.pop("condition_network", None), condition_network)
        needed = 2 * weights_file.model_bytes(config)
        check_memory(needed, f"the model of {path}", "load it where there is more")
        arrays = _arrays_of(path, config, what, own)
        glow = Glow.from_config({**settings, "condition_network": condition_network})
    except ConfigError:
        raise
    except Exception as error:  # whatever zipfile, Keras and TensorFlow raise at a stranger's file
        raise ConfigError(
            f"{path} cannot be read as a .keras file of this package. Received: "
            f"{type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    if of_trainer:
        arrays = {name: shape for name, shape in arrays.items() if not name.startswith(OF_TRAINER)}
    holder = PartsTrainer(glow) if of_trainer else glow
    most = math.inf if own else weights_file.MOST_WEIGHT
    weights_file.load_checked(glow, lambda: holder.load_weights(path), arrays, what, most)
    return glow


def _arrays_of(path: pathlib.Path, config: ModelConfig, what: str, own_networks: bool) -> weights_file.Shapes:
    """Returns the shapes of the arrays in a `.keras` file; ConfigError as `check_weights` raises it."""
    with zipfile.ZipFile(path) as archive:
        weights = archive.getinfo(presets.WEIGHTS)
        sizes = (weights.compress_size, weights.file_size)  # as the archive's directory tells them
        if weights.compress_type != zipfile.ZIP_STORED or not sizes[0] == sizes[1] <= path.stat().st_size:
            raise ConfigError(
                f"{path} must hold members that are not compressed, of the sizes that it says. "
                f"Received: {weights}"
            )
        if not own_networks:  # nobody knows their size
            weights_file.check_size(weights.file_size, config, what)
        # All at once: for each place that HDF5 asks for, zipfile would read the member from its start again.
        content = io.BytesIO(archive.read(weights))
    how = {"compressed": False, "own_networks": own_networks}
    return weights_file.check_weights(content, sizes[1], config, what, **how)


def _check_condition_network(path: pathlib.Path, kept: dict | None, given: keras.layers.Layer | None) -> None:
    """Raises ConfigError unless a condition network is given to a model that has one, and to no other."""
    if kept is not None and given is None:
        raise ConfigError(
            f"the model of {path} has a condition network that is not the package's: load(path, "
            "condition_network=…) needs a layer of the same settings. Received: None, and a file that has "
            f"{kept.get('class_name')!r:.60}"
        )
    if kept is None and given is not None:
        raise ConfigError(
            f"the model of {path} has no condition network but the package's own. "
            f"Received: condition_network={given.name!r}"
        )


def untrained_glow(workdir: pathlib.Path) -> Glow:
    """Returns a model with the settings of a workdir's model, and with starting weights."""
    return Glow(presets.read_model_file(workdir / "checkpoints" / "model.json"), name="glow")


def checkpoint_path(workdir: pathlib.Path, which: str = "") -> str:
    """Returns the path of a workdir's `last` or `best` checkpoint, as TensorFlow takes it.

    Empty: the best, if there is one. Runs that ended with an earlier release scored and exported the last.
    FileNotFoundError if there is none; ConfigError if the folder is not a workdir, or `which` another word.
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
        with contextlib.suppress(OSError):  # the summary is damaged
            summary = read_summary(workdir)
            which = "last" if summary and BEST_EPOCH not in summary else "best"
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
    there, here = (own.design.flow_step_counts(own) for own in (start.config, glow.config))
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
