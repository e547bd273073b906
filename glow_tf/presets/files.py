"""A preset's folder: config.json, model.safetensors and README.md. Pure Python: no TensorFlow.

Some presets come with the package, and have names; others are fetched from the Hugging Face Hub.
"""

import dataclasses
import math
import os
import pathlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np

from glow_tf.architectures.partition import FLOAT_BYTES, model_bytes
from glow_tf.config import ModelConfig
from glow_tf.core import tensor_files
from glow_tf.core.durable_files import replaced_folder
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.text_files import check_path, json_text, parse_json, read_json
from glow_tf.presets.card import card_of
from glow_tf.version import __version__

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OWN = frozenset({CONFIG, WEIGHTS, CARD})
FORMAT = 1  # of config.json
FOLDER = pathlib.Path(__file__).parent  # of those that come with the package
HUB = "hf://"
WEIGHTS_DTYPES = ("float32", "float16")
MOST_BYTES = 2**22  # of config.json
ENOUGH = 0.9  # of the weights that the settings ask for; those of biases are not counted there


def is_preset(path: pathlib.Path) -> bool:
    """Whether a path is the folder of a preset."""
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def names() -> list[str]:
    """Returns the names of the presets that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def find(preset: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a preset: a folder, an address, or a name; ConfigError if there is none.

    What is at an address is fetched. A folder wins over one of its name in the package.
    """
    if str(preset).startswith(HUB):
        return _fetched(str(preset))
    check_path("preset", preset)
    folder = pathlib.Path(preset)
    if is_preset(folder):
        return folder
    if str(preset) in names():
        return FOLDER / str(preset)
    raise ConfigError(
        f"preset must be one of {', '.join(names()) or 'none'}, or a folder with {CONFIG} and {WEIGHTS}, or "
        f"{HUB}OWNER/NAME. Received: preset={str(preset)!r}"
    )


def _fetched(address: str) -> pathlib.Path:
    """Fetches a preset from the Hub, and returns the folder of this machine that it is in now.

    The Hub's library keeps what it fetched; where the Hub is out of reach, what is kept counts.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = address.removeprefix(HUB).partition("@")
    how = {"allow_patterns": [CONFIG, WEIGHTS], "library_name": "glow_tf"}
    try:
        folder = pathlib.Path(snapshot_download(repository, revision=revision or None, **how))
        if not is_preset(folder):
            raise ValueError(f"it has no {CONFIG} and {WEIGHTS}")
    except Exception as error:  # of the Hub's library, of the network, of the disk
        raise ConfigError(
            f"the preset must be {HUB}OWNER/NAME[@REVISION] with {CONFIG} and {WEIGHTS}, and within reach. "
            f"Received: preset={address!r}: {type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    return folder


def refers_to_preset(model: str | os.PathLike) -> bool:
    """Whether a model's name or path is that of a preset, not of a workdir, a SavedModel or a file."""
    if str(model).startswith(HUB):
        return True
    check_path("path", model)
    path = pathlib.Path(model)
    is_another = path.is_file() or (path / "checkpoints").exists() or (path / "saved_model.pb").exists()
    return is_preset(path) or (str(model) in names() and not is_another)


def read_model(folder: pathlib.Path) -> ModelConfig:
    """Returns the settings of a preset's model.

    ConfigError if config.json is damaged, or asks for more weights than the preset has: nobody's file makes a
    larger model than it is itself.
    """
    model = model_of_settings(folder / CONFIG, _read(folder)["model"])
    found = sum(map(math.prod, tensor_files.shapes_of(folder / WEIGHTS).values()))
    if found < ENOUGH * (needed := model_bytes(model) // FLOAT_BYTES):
        raise ConfigError(
            f"{folder / WEIGHTS} must hold the weights of the model that {CONFIG} describes, about {needed} "
            f"numbers. Received: {found} numbers"
        )
    return model


def read_model_file(path: pathlib.Path) -> ModelConfig:
    """Returns the settings of a model that are alone in a JSON file; ConfigError if it is damaged."""
    return model_of_settings(path, _json_of(path))


def model_of_settings(path: pathlib.Path, settings: Any) -> ModelConfig:
    """Returns the model whose settings a file has; ConfigError, with its name, if there is none."""
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    if not isinstance(settings, dict) or "image_shape" not in settings or (set(settings) - known):
        unknown = sorted(set(settings) - known) if isinstance(settings, dict) else settings
        raise ConfigError(
            f"{path} must have the settings of a model, with an image_shape and none that this release of "
            f"glow_tf does not know. Received: {str(unknown or sorted(settings))[:200]}"
        )
    try:
        return ModelConfig.of_saved(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def about(model: str | os.PathLike) -> Mapping[str, Any]:
    """Returns what a preset says about itself; empty for models that are kept otherwise."""
    return read_about(find(model)) if refers_to_preset(model) else {}


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
    weights: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    weights_dtype: str,
) -> None:
    """Writes a preset. A folder that holds one, and nothing else, is replaced when the new one is complete.

    Args:
      folder: to write.
      model: the settings of the model.
      weights: the model's weights by name.
      about: for the card and for programs: `title`, `data`, `command`, `seed`, `test_bpd`, `test_bpd_se`,
        `test_examples`, `epochs`, `top` (the data's largest level), `image_size` (what an empty --image_size
        means; 0: each image's own), `limits`, `licence`; any may be absent, and a number that is not finite
        is left out.
      weights_dtype: `float32`, or `float16`, which takes half the space and rounds every weight of a part to
        11 bits, unless it is too large for that.
    """
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ConfigError(f"weights_dtype must be one of {WEIGHTS_DTYPES}. Received: {weights_dtype=}")
    about = {k: v for k, v in parse_json(json_text(dict(about))).items() if v is not None}  # finite numbers
    if weights_dtype == "float16":
        weights = {name: _halved(name, value) for name, value in weights.items()}
    content = {
        "format": FORMAT,
        "glow_tf_version": __version__,
        "model": dataclasses.asdict(model),
        "about": about,
    }
    with replaced_folder(folder, "preset", OWN) as temporary:
        tensor_files.write(temporary / WEIGHTS, weights)
        (temporary / CONFIG).write_text(json_text(content), encoding="utf-8")
        # Those of the package load by name, all others by path.
        name = folder.name if folder.parent.resolve() == FOLDER else f"PATH/{folder.name}"
        card = card_of(name, model, about, weights_dtype)
        (temporary / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")


def _halved(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a weight as float16; as it is outside the parts (the deviation of real data), or too large."""
    if value.dtype != np.float32 or not name.startswith("part_"):
        return value
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    return half if np.isfinite(half).all() else value


# Those that come with the package: name → what each says about itself.
CATALOGUE = types.MappingProxyType({name: read_about(FOLDER / name) for name in names()})
