"""What keeps a model, read without TensorFlow: presets, and the settings of models kept otherwise.

A preset is a folder with config.json, model.safetensors and README.md. Some come with the package, and have
names; others are fetched from the Hugging Face Hub. Pure Python: no TensorFlow.
"""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from glow_tf.architectures import design_of
from glow_tf.architectures.partition import FLOAT_BYTES
from glow_tf.config import ModelConfig
from glow_tf.core.durable_files import replaced_folder
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.text_files import check_path, json_text, parse_json, read_json
from glow_tf.version import __version__

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
OWN = frozenset({CONFIG, WEIGHTS, CARD})
FORMAT = 1  # of config.json
FOLDER = pathlib.Path(__file__).parents[1] / "presets"  # of those that come with the package
HUB = "hf://"
WEIGHTS_DTYPES = ("float32", "float16")
MOST_BYTES = 2**22  # of a file of settings
ENOUGH = 0.9  # of the weights that the settings ask for; those of biases are not counted there
TASK = "unconditional-image-generation"
LICENCE = "Licence of the data"


def names() -> list[str]:
    """Returns the names of the presets that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def folder_of(model: str | os.PathLike) -> pathlib.Path | None:
    """Returns the folder of a preset, given as folder, address or name; None if a model is kept otherwise.

    What is at an address is fetched. A folder or a file wins over a preset of its name in the package.
    """
    if str(model).startswith(HUB):
        return _fetched(str(model))
    check_path("path", model)
    path = pathlib.Path(model)
    if _is_preset(path):
        return path
    is_another = path.is_file() or (path / "checkpoints").exists() or (path / "saved_model.pb").exists()
    return None if is_another or str(model) not in names() else FOLDER / str(model)


def about(model: str | os.PathLike) -> dict[str, Any]:
    """Returns what a preset says about itself, see `save`; empty for models that are kept otherwise."""
    folder = folder_of(model)
    return {} if folder is None else _content(folder)["about"]


def settings_of(model: str | os.PathLike) -> ModelConfig:
    """Returns the settings of the model in a preset, a workdir or a `.keras` file.

    ConfigError if they are damaged, or if a preset asks for more weights than it has: nobody's file makes a
    larger model than it is itself. OSError if there is no such model.
    """
    if (folder := folder_of(model)) is not None:
        return _settings_of_preset(folder)
    path = pathlib.Path(model)
    if path.suffix != ".keras":
        path = path / "checkpoints" / "model.json"
        return _model(path, _json_of(path))
    try:
        with zipfile.ZipFile(path) as archive:
            content = parse_json(archive.read("config.json").decode())["config"]
        of_flow = content["flow"]["config"] if "flow" in content else content  # of a trainer, or of a model
        return _model(path, of_flow["config"])
    except (zipfile.BadZipFile, LookupError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} must be a .keras file of a model. Received: {error!r}") from None


def write(
    folder: pathlib.Path,
    model: ModelConfig,
    weights: Mapping[str, np.ndarray],
    about: Mapping[str, Any],
    weights_dtype: str,
) -> None:
    """Writes the weights of a model, by name, as a preset; see `save`."""
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ConfigError(f"weights_dtype must be one of {WEIGHTS_DTYPES}. Received: {weights_dtype=}")
    about = {k: v for k, v in parse_json(json_text(dict(about))).items() if v is not None}  # finite numbers
    if weights_dtype == "float16":
        weights = {name: _halved(name, value) for name, value in weights.items()}
    settings = dataclasses.asdict(model)
    content = {"format": FORMAT, "glow_tf_version": __version__, "model": settings, "about": about}
    with replaced_folder(folder, "preset", OWN) as temporary:
        write_arrays(temporary / WEIGHTS, weights)
        (temporary / CONFIG).write_text(json_text(content), encoding="utf-8")
        # Those of the package load by name, all others by path.
        name = folder.name if folder.parent.resolve() == FOLDER else f"PATH/{folder.name}"
        card = card_of(name, model, about, weights_dtype)
        (temporary / CARD).write_text(card, encoding="utf-8", errors="backslashreplace")


def card_of(name: str, model: ModelConfig, about: Mapping[str, Any], weights_dtype: str) -> str:
    """Returns the text of README.md: what `about` says, below the metadata that the Hugging Face Hub reads.

    The preset is loaded by `name`, and keeps its weights as `weights_dtype`.
    """
    height, width, channels = model.image_shape
    of = "of real numbers" if model.is_real else f"with {model.n_bits} bits"
    title = about.get("title", name.rpartition("/")[2])
    design = design_of(model)
    kind, steps = design.describe()
    widths = ", ".join(map(str, sorted(set(design.widths), reverse=True)))
    any_size = str(about.get("image_size")) == "0"
    size = f"any size, with {channels} channels," if any_size else f"{height}×{width}×{channels}"
    shape = f", image_shape=(64, 64, {channels})" if any_size else ""
    given = ", condition=…" if model.condition_shapes else ""  # arrays of what each image is given
    # YAML reads JSON.
    metadata = [f"{key}: {json.dumps(value)}" for key, value in _metadata(title, about).items()]
    lines = [
        *("---", *metadata, "---", ""),
        *(f"# {title}", ""),
        f"{kind} for images of {size} {of}: {steps} flow steps, width {widths}. "
        f"Weights are kept as {weights_dtype}.",
        *("", "```python", "import glow_tf", ""),
        f'flow = glow_tf.load("{name}"{shape})',
        f"images = flow.sample(16, temperature=0.7, seed=0{given})",
        f"print(flow.bits_per_dim(images{given}))",
        *("```", ""),
    ]
    if "test_bpd" in about:
        error = f" ± {about['test_bpd_se']:.3f}" if "test_bpd_se" in about else ""
        lines.append(
            f"- Score: {about['test_bpd']:.4f}{error} bits/dim on {about.get('test_examples', 'the')} test "
            "images (the error is over images; one noise draw each), with the weights as they are here."
        )
    for key in ("data", "command", "seed", "epochs", "limits", "licence"):
        if key in about:
            value = f"`{about[key]}`" if key == "command" else about[key]
            lines.append(f"- {LICENCE if key == 'licence' else key.capitalize()}: {value}")
    return "\n".join(lines) + "\n"


def _metadata(title: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the Hub reads of a card."""
    tags = ["normalizing-flow", "density-estimation", "keras"]
    content: dict[str, Any] = {"library_name": "glow_tf", "pipeline_tag": TASK, "tags": tags}
    if "test_bpd" in about:
        data = about.get("data", "unknown")
        result = {
            "task": {"type": TASK},
            "dataset": {"name": data, "type": data.partition(",")[0]},
            "metrics": [{"name": "test bits/dim", "type": "bits_per_dim", "value": about["test_bpd"]}],
        }
        content["model-index"] = [{"name": title, "results": [result]}]
    return content


def _is_preset(path: pathlib.Path) -> bool:
    return (path / CONFIG).is_file() and (path / WEIGHTS).is_file()


def _fetched(address: str) -> pathlib.Path:
    """Fetches a preset from the Hub, and returns the folder of this machine that it is in now.

    The Hub's library keeps what it fetched; where the Hub is out of reach, what is kept counts.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = address.removeprefix(HUB).partition("@")
    how = {"allow_patterns": [CONFIG, WEIGHTS], "library_name": "glow_tf"}
    try:
        folder = pathlib.Path(snapshot_download(repository, revision=revision or None, **how))
        if not _is_preset(folder):
            raise ValueError(f"it has no {CONFIG} and {WEIGHTS}")
    except Exception as error:  # of the Hub's library, of the network, of the disk
        raise ConfigError(
            f"the preset must be {HUB}OWNER/NAME[@REVISION] with {CONFIG} and {WEIGHTS}, and within reach. "
            f"Received: preset={address!r}: {type(error).__name__}: {in_one_line(str(error))}"
        ) from None
    return folder


def _settings_of_preset(folder: pathlib.Path) -> ModelConfig:
    model = _model(folder / CONFIG, _content(folder)["model"])
    found = sum(map(math.prod, shapes_of(folder / WEIGHTS).values()))
    if found < ENOUGH * (needed := design_of(model).model_bytes // FLOAT_BYTES):
        raise ConfigError(
            f"{folder / WEIGHTS} must hold the weights of the model that {CONFIG} describes, about {needed} "
            f"numbers. Received: {found} numbers"
        )
    return model


def _content(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what the config.json of a preset holds; ConfigError if it is damaged."""
    content = _json_of(path := folder / CONFIG)
    fine = isinstance(content, dict) and all(isinstance(content.get(k), dict) for k in ("model", "about"))
    if not fine or content.get("format") != FORMAT:
        raise ConfigError(
            f"{path} must have the format {FORMAT} of this release, with a model and what there is to say "
            f"about it. Received: {str(content)[:200]}"
        )
    return content


def _json_of(path: pathlib.Path) -> Any:
    try:
        return read_json(path, MOST_BYTES)
    except ValueError as error:
        raise ConfigError(f"{path} must be JSON. Received: {error}") from None


def _model(path: pathlib.Path, settings: Any) -> ModelConfig:
    """Returns the model whose settings a file has; ConfigError, with its name, if there is none."""
    known = {field.name for field in dataclasses.fields(ModelConfig)}
    if not isinstance(settings, dict) or "image_shape" not in settings or (set(settings) - known):
        unknown = sorted(set(settings) - known) if isinstance(settings, dict) else settings
        raise ConfigError(
            f"{path} must have the settings of a model, with an image_shape and none that this release of "
            f"glow_tf does not know. Received: {str(unknown or sorted(settings))[:200]}"
        )
    try:
        model = ModelConfig.of_saved(settings)
        design_of(model)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return model


def _halved(name: str, value: np.ndarray) -> np.ndarray:
    """Returns a weight as float16; as it is outside the parts (the deviation of real data), or too large."""
    if value.dtype != np.float32 or not name.startswith("part_"):
        return value
    with np.errstate(over="ignore"):
        half = value.astype(np.float16)
    return half if np.isfinite(half).all() else value


TYPES = {"F16": "f", "F32": "f", "F64": "f", "I64": "i"}  # that a file may hold, and their kinds in NumPy


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a file of arrays by name; OSError if it cannot be written."""
    from safetensors.numpy import save

    path.write_bytes(save({name: np.asarray(value, order="C") for name, value in arrays.items()}))


def shapes_of(path: pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each array in a file, by its name; ConfigError if it is no such file."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def read_arrays(path: pathlib.Path, expected: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of a file by name.

    ConfigError, before any of them is read, unless they have the names, the shapes and the kinds of numbers
    (`shape` and `dtype`) of what is expected; also if one has numbers that are not finite.
    """
    with _opened(path) as file:
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if differing := sorted(found.keys() ^ expected.keys()):
            missing = [name for name in differing if name not in found]
            raise ConfigError(
                f"{path} must hold an array for each of {len(expected)} names, and no other. Received: "
                f"{'none' if missing else 'one'} for {(missing or differing)[0][:100]!r}"
            )
        for name, own in found.items():
            dtype = expected[name].dtype  # of NumPy, TensorFlow or Keras
            shape, kind = tuple(expected[name].shape), np.dtype(getattr(dtype, "name", dtype)).kind
            if (tuple(own.get_shape()), TYPES.get(own.get_dtype())) != (shape, kind):
                numbers = "real numbers" if kind == "f" else "integers"
                raise ConfigError(
                    f"{path} must hold {numbers} of shape {shape} as {name!r}. "
                    f"Received: {own.get_dtype()} of shape {tuple(own.get_shape())}"
                )
        arrays = {name: file.get_tensor(name) for name in found}
    for name, value in arrays.items():
        check_finite(name, value, str(path))
    return arrays


def check_finite(name: str, values: np.ndarray, what: str) -> None:
    """Raises ConfigError, which calls the file `what`, unless all numbers of an array are finite."""
    if not np.isfinite(values).all():
        bad = np.asarray(values)[~np.isfinite(values)].flat[0]
        raise ConfigError(f"{what} must have numbers that are finite. Received: {name}, with {bad}")


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"{path} must be a file of safetensors, and whole. Received: {in_one_line(str(error))}"
        ) from None
