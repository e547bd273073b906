"""A preset's folder: config.json, model.weights.h5 and README.md. Pure Python: no TensorFlow.

Some presets come with the package, and have names.
"""

import dataclasses
import os
import pathlib
import types
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from glow_tf.config import ModelConfig
from glow_tf.core.durable_files import replaced_folder
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.text_files import check_path, json_text, parse_json, read_json
from glow_tf.presets import remote
from glow_tf.presets.card import card_of
from glow_tf.presets.remote import CHECKSUM, CONFIG, WEIGHTS
from glow_tf.presets.weights_file import Shapes, check_size, check_weights
from glow_tf.version import __version__

CARD = "README.md"
OWN = frozenset({CONFIG, WEIGHTS, CARD})
FORMAT = 1  # of config.json
FOLDER = pathlib.Path(__file__).parent  # of those that come with the package
WEIGHTS_DTYPES = ("float32", "float16")
KERAS_MEMBERS = [CONFIG, "metadata.json", WEIGHTS]
MOST_BYTES = 2**22  # of config.json
MOST_NAMES = 2**12  # letters of a name, or layers that are frozen
_GLOW = {"name": str, "dtype": str, "config": dict, "frozen": list, "condition_network": dict}


def is_preset(path: pathlib.Path) -> bool:
    """Whether a path is the folder of a preset."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def names() -> list[str]:
    """Returns the names of the presets that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def find(preset: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a preset: a folder, an address, or a name; ConfigError if there is none.

    What is at an address is fetched, see `remote`. A folder wins over one of its name in the package.
    """
    if remote.is_address(preset):
        return remote.fetched(str(preset))
    check_path("preset", preset)
    folder = pathlib.Path(preset)
    if is_preset(folder):
        return folder
    if str(preset) in names():
        return FOLDER / str(preset)
    raise ConfigError(
        f"preset must be one of {', '.join(names()) or 'none'}, or a folder with {CONFIG} and {WEIGHTS}, or "
        f"hf://OWNER/NAME, or the URL of such a folder. Received: preset={str(preset)!r}"
    )


def refers_to_preset(model: str | os.PathLike) -> bool:
    """Whether a model's name or path is that of a preset, not of a workdir, a SavedModel or a file."""
    if remote.is_address(model):
        return True
    check_path("path", model)
    path = pathlib.Path(model)
    is_another = path.is_file() or (path / "checkpoints").exists() or (path / "saved_model.pb").exists()
    return is_preset(path) or (str(model) in names() and not is_another)


def read_preset(folder: pathlib.Path) -> tuple[ModelConfig, Shapes]:
    """Returns the settings of a preset's model, and the shapes of the arrays in its file of weights.

    ConfigError as in `read_model`, or if the checksum of the weights or `check_weights` refuses them.
    """
    path, content = folder / WEIGHTS, _read(folder)
    model = model_of_settings(folder / CONFIG, content["model"])
    check_size(size := path.stat().st_size, model, str(path))
    expected = content.get(CHECKSUM)  # releases before 0.5 wrote none
    if expected not in (None, found := remote.checksum(path)):
        raise ConfigError(
            f"the weights of the preset {folder} are damaged, or others than those that {CONFIG} was written "
            f"with: {CHECKSUM} must be {expected!r}. Received: {found!r}"
        )
    return model, check_weights(path, size, model, str(path))


def read_model(folder: pathlib.Path) -> ModelConfig:
    """Returns the settings of a preset's model; ConfigError if config.json is damaged or too new."""
    return model_of_settings(folder / CONFIG, _read(folder)["model"])


def read_model_file(path: pathlib.Path) -> ModelConfig:
    """Returns the settings of a model that are alone in a JSON file; ConfigError as in `read_model`."""
    return model_of_settings(path, _json_of(path))


def model_of_settings(path: pathlib.Path, settings: Any) -> ModelConfig:
    """Returns the model whose settings a JSON file has; ConfigError, with its name, if there is none."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must have the settings of a model. Received: {str(settings)[:200]}")
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    if unknown := sorted(set(settings) - known):
        raise ConfigError(
            f"{path} has settings that this release of glow_tf does not know. Received: {unknown}"
        )
    if "image_shape" not in settings:
        raise ConfigError(f"{path} must have an image_shape. Received: {sorted(settings)}")
    try:
        return ModelConfig.of_saved(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_keras_file(path: pathlib.Path) -> tuple[dict[str, Any], bool]:
    """Returns what `Glow.get_config` said when a `.keras` file was written, and whether it is a trainer's.

    ConfigError if it is no such file; OSError if it cannot be read.
    """
    if path.exists() and not path.is_file():  # a pipe would wait for whoever writes to it
        raise ConfigError(f"a .keras file must be a file. Received: {str(path)!r}, which is none")
    try:
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != KERAS_MEMBERS:
                raise ValueError(f"the members {archive.namelist()}"[:200])
            info = archive.getinfo(CONFIG)
            is_large = max(info.file_size, info.compress_size) > MOST_BYTES
            if is_large or info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{CONFIG} is compressed, or has more than {MOST_BYTES} bytes")
            content = parse_json(archive.read(info).decode())
        of_trainer = _settings_of(content, "glow_tf>PartsTrainer") is not None
        settings = _settings_of(content["config"]["glow"] if of_trainer else content, "glow_tf>Glow")
        if settings is None or not {"config"} <= settings.keys() <= _GLOW.keys():
            raise ValueError(str(content)[:200])
        for name, kind in _GLOW.items():
            if not isinstance(settings.get(name, kind()), kind) or len(settings.get(name, "")) > MOST_NAMES:
                raise ValueError(f"{name}={settings[name]!r:.100}")
        if not all(isinstance(place, int) for place in settings.get("frozen", ())):
            raise ValueError(f"frozen={settings['frozen']!r:.100}")
    except OSError:
        raise
    except Exception as error:  # whatever zipfile and JSON's reader raise at a stranger's file
        raise ConfigError(
            f"{path} cannot be read as a .keras file of this package: it must hold a Glow or a PartsTrainer "
            f"in the members {', '.join(KERAS_MEMBERS)}, not compressed. "
            f"Received: {type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    return settings, of_trainer


def _settings_of(content: Any, registered_name: str) -> dict[str, Any] | None:
    """Returns what a Keras object's configuration has as settings, if it is of this class."""
    if not isinstance(content, dict) or content.get("registered_name") != registered_name:
        return None
    return content["config"] if isinstance(content.get("config"), dict) else None


def read_about(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what a preset says about itself: the data, the command, the seed, the score; see `write`."""
    return _read(folder)["about"]


def _json_of(path: pathlib.Path) -> Any:
    try:
        return read_json(path, MOST_BYTES)
    except ValueError as error:
        raise ConfigError(f"{path} must be JSON. Received: {error}") from None


def _read(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / CONFIG
    content = _json_of(path)
    fine = isinstance(content, dict) and all(isinstance(content.get(k), dict) for k in ("model", "about"))
    if not fine or content.get("format") != FORMAT:
        raise ConfigError(
            f"{path} must have the format {FORMAT} of this release, with a model and what there is to say "
            f"about it. Received: {str(content)[:200]}"
        )
    return content


def write(
    folder: pathlib.Path,
    model: ModelConfig,
    save_weights: Callable[[pathlib.Path], None],
    about: Mapping[str, Any],
    weights_dtype: str,
) -> None:
    """Writes a preset. A folder that holds one, and nothing else, is replaced when the new one is complete.

    Args:
      folder: to write.
      model: the settings of the model.
      save_weights: writes the model's weights to the file that it is given.
      about: for the card and for programs: `title`, `data`, `command`, `seed`, `test_bpd`, `test_bpd_se`,
        `test_examples`, `epochs`, `top` (the data's largest level), `image_size` (what an empty --image_size
        means; 0: each image's own), `limits`, `licence`; any may be absent, and a number that is not finite
        is left out.
      weights_dtype: `float32`, or `float16`, which takes half the space and rounds every weight to 11 bits.
    """
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ConfigError(f"weights_dtype must be one of {WEIGHTS_DTYPES}. Received: {weights_dtype=}")
    about = {k: v for k, v in parse_json(json_text(dict(about))).items() if v is not None}  # finite numbers
    with replaced_folder(folder, "preset", OWN) as temporary:
        try:
            save_weights(temporary / WEIGHTS)
        except RuntimeError as error:  # h5py's, of a full disk
            raise OSError(f"{folder} could not be written: {in_one_line(str(error))}") from None
        if weights_dtype == "float16":
            _halve(temporary / WEIGHTS)
        content = {
            "format": FORMAT,
            "class_name": "Glow",
            CHECKSUM: remote.checksum(temporary / WEIGHTS),
            "glow_tf_version": __version__,
            "model": dataclasses.asdict(model),
            "about": about,
        }
        (temporary / CONFIG).write_text(json_text(content), encoding="utf-8")
        # Those of the package load by name, all others by path.
        name = folder.name if folder.parent.resolve() == FOLDER else f"PATH/{folder.name}"
        card = card_of(name, model, about, weights_dtype)
        (temporary / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")


def _halve(path: pathlib.Path) -> None:
    """Rewrites a weights file with float16, compressed; weights that do not fit into it stay as they are."""
    import h5py

    halved = path.with_name(f"{path.name}.half")
    with h5py.File(path, "r") as source, h5py.File(halved, "w") as target:

        def copy(name: str, item: Any) -> None:
            if isinstance(item, h5py.Group):
                copied = target.require_group(name)
            else:
                copied = _copied(target, name, item[()])
            copied.attrs.update(item.attrs)

        source.visititems(copy)
        target.attrs.update(source.attrs)
    halved.replace(path)


def _copied(target: Any, name: str, value: Any) -> Any:
    exact = name.split("/")[0] == "dequantize"  # the mean and the deviation of real data
    if exact or not isinstance(value, np.ndarray) or value.dtype != np.float32:
        return target.create_dataset(name, data=value)
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    value = half if np.isfinite(half).all() else value
    large = {"compression": "gzip", "shuffle": True} if value.nbytes > 4096 else {}
    return target.create_dataset(name, data=value, **large)


# Those that come with the package: name → what each says about itself.
CATALOGUE = types.MappingProxyType({name: read_about(FOLDER / name) for name in names()})
