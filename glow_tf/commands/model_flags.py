"""The flags that the commands for trained models share: which model, which images, where the result goes."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from absl import flags

from glow_tf.commands import parsing
from glow_tf.config import DataConfig, file_of, folder_of
from glow_tf.core.errors import ConfigError, printable

if TYPE_CHECKING:
    from glow_tf.model.flow import Flow
    from glow_tf.use import UsedImages


MOST = 1_000_000  # images, steps or draws that a flag may ask for
NO_PICTURES = "There is no PNG: pictures are of bytes, of one channel or three."
LARGEST = 1e30  # number that a flag may give; beyond, 32 bits overflow

CONDITIONS = "input or label of a folder, label of digits, or a feature of a TFDS data set"

READ = ("dataset", "condition", "model", "calibration")  # flags of what commands read
# Flags, as `parsing.define` takes them.
CONDITION = (  # of a command without images
    "",
    "What a model that needs it is given: a .npy file, [N, …], an image, or a folder of images; a .npz file "
    "for a model that knows what it is given by name.",
)
WHITE = (
    0,
    "The grey value that pictures show as white, for data that do not use all 256; 0: what the preset says, "
    "otherwise 255.",
)


def define_model(values: flags.FlagValues, output: str, model: str = "") -> None:
    """Defines --model, and what `define_output` does, for a command that uses `model_of`."""
    kept = "A preset by name, folder or address, the workdir of a run, or a .keras file."
    parsing.define(values, model=(model, kept))
    define_output(values, output)


def define_output(values: flags.FlagValues, output: str) -> None:
    """Defines --output and --overwrite, for `output_path` or `output_folder`."""
    parsing.define(
        values,
        output=(output, "Where the result is written: a new file, or a folder that is new or empty."),
        overwrite=(False, "Replace what is there; of a folder, only files of the same names."),
    )


def define_seed(values: flags.FlagValues) -> None:
    bounds = {"lower_bound": 0, "upper_bound": 2**31 - 1}
    flags.DEFINE_integer("seed", 0, "From which everything random follows.", flag_values=values, **bounds)


def define_images(values: flags.FlagValues) -> None:
    """Defines which images are used."""
    parsing.define(
        values,
        dataset=("", "digits, a TFDS image data set by name, folder:PATH or file:PATH.npy."),
        data_dir=("", "TFDS's data_dir."),
        split=("", "train, test or all; empty: the test images, or all of a folder without test/."),
        examples=(0, "How many images, the first ones; 0 means all."),
    )
    about = "What a model that needs it is given with each image, as in training: "
    parsing.define(values, condition=("", f"{about}{CONDITIONS}"))


def model_of(values: flags.FlagValues) -> Flow:
    """Loads the model that --model names."""
    from glow_tf.store import load

    if not values.model:
        raise ConfigError("model must name a preset, a workdir or a .keras file. Received: model=''")
    return load(values.model)


def images_of(values: flags.FlagValues, model: Flow, any_size: bool = False) -> list[UsedImages]:
    """Reads the images that the flags name, and what is given with them; prints how they were read.

    They have the model's shape, or those of `any_size` their own, each size by itself; see `read_by_size`.
    """
    from glow_tf.use.images import fitted_condition, read_by_size

    check_condition(values, model, CONDITIONS)
    if values.examples < 0:
        raise ConfigError(f"examples must be 0 or a positive integer. Received: examples={values.examples}")
    how = {"test_examples": values.examples, "dtype": model.data_dtype, "condition": values.condition}
    config = DataConfig(values.dataset, values.data_dir, **how)
    shape = (0, 0, model.image_shape[-1]) if any_size else model.image_shape
    groups = read_by_size(shape, config, values.split, any_size)
    for note in dict.fromkeys(note for found in groups for note in found.notes):
        print(printable(note))
    top, highest = _top(values), max(int(found.images.max(initial=0)) for found in groups)
    if model.data_dtype == "uint8" and highest > top:
        print(
            f"WARNING: the model's data have grey values up to {top}, and these images up to {highest}. So "
            "its numbers for them say little."
        )
    given = [fitted_condition(model, found.condition, "a data set") for found in groups]
    return [dataclasses.replace(own, condition=of_own) for own, of_own in zip(groups, given, strict=True)]


def check_condition(values: flags.FlagValues, model: Flow, how: str) -> None:
    """Raises ConfigError, which says how to give it, unless --condition is there if the model needs it."""
    shapes = model.condition_shapes
    if shapes and not values.condition:
        needs = [f"{name!r} of shape {s}" if name else f"of shape {s}" for name, s in shapes.items()]
        raise ConfigError(
            f"the model needs a condition with each image, {' and '.join(needs)}: --condition={how}. "
            "Received: condition=''"
        )
    if values.condition and not shapes:
        raise ConfigError(
            "the model is given nothing with an image, so condition must be empty. "
            f"Received: condition={values.condition!r}"
        )


def floats_of(values: flags.FlagValues, name: str, lowest: float = -float("inf")) -> list[float]:
    """Returns the numbers of a comma-separated flag; ConfigError unless all are finite and from `lowest`."""
    try:
        found = [float(text) for text in values[name].value]
    except ValueError:
        found = []
    if not found or not all(lowest <= number and abs(number) <= LARGEST for number in found):
        bound = f" from {lowest:g}" if np.isfinite(lowest) else ""
        raise ConfigError(
            f"{name} must be one or more numbers{bound}, comma-separated. "
            f"Received: {name}={','.join(values[name].value)}"
        )
    return found


def float_of(values: flags.FlagValues, name: str, lowest: float = -float("inf")) -> float:
    """Returns the number of a flag; ConfigError unless it is one, finite and from `lowest`."""
    found = floats_of(values, name, lowest)
    if len(found) != 1:
        raise ConfigError(f"{name} must be one number. Received: {name}={','.join(values[name].value)}")
    return found[0]


def count_of(values: flags.FlagValues, name: str, lowest: int = 1) -> int:
    """Returns the whole number of a flag; ConfigError unless it is from `lowest` to `MOST`."""
    if not lowest <= values[name].value <= MOST:
        raise ConfigError(
            f"{name} must be {lowest} or more, and {MOST} at most. Received: {name}={values[name].value}"
        )
    return values[name].value


def output_path(values: flags.FlagValues, *suffixes: str) -> pathlib.Path:
    """Returns the file that --output names, with the first suffix; those with the others are written, too.

    ConfigError if it has another suffix, or one of the files is there without --overwrite, cannot be made, or
    is among what the command reads.
    """
    path = pathlib.Path(values.output)
    if path.suffix.lower() != suffixes[0]:
        raise ConfigError(f"output must be a {suffixes[0]} file. Received: output={values.output!r}")
    _check_writable("output", path.parent, path)
    for own in (path.with_suffix(suffix) for suffix in suffixes):
        if not own.name or own.is_dir():
            raise ConfigError(f"output must be a file, not a folder. Received: output={str(own)!r}")
        _check_apart(values, own, [])
        if own.exists() and not values.overwrite:
            raise ConfigError(
                f"output must be new; with --overwrite it is replaced. Received: output={str(own)!r}"
            )
    return path


def output_folder(
    values: flags.FlagValues, name: str = "output", own: str = "", inputs: Iterable[str] = ()
) -> pathlib.Path:
    """Returns the folder that a flag names: new, empty, or one with the file `own` of an earlier call.

    ConfigError if it holds something else without --overwrite, is a file, cannot be written, or is where the
    command reads: what its flags name, and `inputs`.
    """
    path = pathlib.Path(values[name].value)
    if not path.name or os.path.isfile(path):  # unlike Path.is_file, at any name
        raise ConfigError(f"{name} must be a folder with a name. Received: {name}={values[name].value!r}")
    _check_writable(name, path, path)
    _check_apart(values, path, inputs, name)
    is_own = bool(own) and (path / own).is_file()
    if path.exists() and any(path.iterdir()) and not (values.overwrite or is_own):
        raise ConfigError(
            f"{name} must be new or empty; with --overwrite files of the same names are replaced. "
            f"Received: {name}={str(path)!r}, in which there are files"
        )
    return path


def _check_apart(
    values: flags.FlagValues, output: pathlib.Path, inputs: Iterable[str], name: str = "output"
) -> None:
    """Raises ConfigError if an output is what the command reads, or lies among images that it reads."""
    given = {other: str(values[other].value) for other in READ if other in values and other != name}
    dataset = given.pop("dataset", "")
    folders = [str(folder_of(dataset) or file_of(dataset) or ""), given.get("condition", ""), *inputs]
    output = pathlib.Path(os.path.realpath(output))
    for read in filter(None, (*folders, *given.values())):
        place = pathlib.Path(os.path.realpath(os.path.expanduser(read)))
        inside = read in folders and place.is_dir() and output.is_relative_to(place)
        if inside or output in (place, place.is_file() and place.parent):
            raise ConfigError(
                f"{name} must not be what is read, nor lie in a folder of it. "
                f"Received: {name}={values[name].value!r}, {read!r}"
            )


def _check_writable(name: str, folder: pathlib.Path, received: pathlib.Path) -> None:
    """Raises ConfigError unless a folder, or the nearest one above it that there is, can be written."""
    try:
        received.exists()  # raises if the name is too long
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # no right to look there, or a name that is too long
        raise ConfigError(
            f"{name} must be in a folder that can be written: {error.strerror}. "
            f"Received: {name}={str(received)!r}"
        ) from None
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise ConfigError(
            f"{name} must be in a folder that can be written; {nearest} is not one. "
            f"Received: {name}={str(received)!r}"
        )


def white_of(values: flags.FlagValues) -> int:
    """Returns the grey value that is shown as white; ConfigError if --white is not a grey value."""
    white = values.white or _top(values)
    if not 1 <= white <= 255:
        raise ConfigError(f"white must be 0 or a grey value from 1 to 255. Received: {white=}")
    return white


def _top(values: flags.FlagValues) -> int:
    """Returns the highest grey value of the model's data, if that is known; ConfigError if a preset lies."""
    from glow_tf.store import about

    top = about(values.model).get("top", 255)
    if not isinstance(top, int) or not 1 <= top <= 255:
        raise ConfigError(
            f"a preset's top must be a grey value from 1 to 255. Received: {values.model!r} with {top=}"
        )
    return top


def picture_writer(values: flags.FlagValues) -> Callable[[np.ndarray], None]:
    """Returns what writes rows of images [rows, columns, H, W, C]: as a PNG at --output, and as .npy.

    Real data, 16 bits, and other channels than one or three make no picture, and are written as .npy alone.
    Call it before any time is spent: ConfigError if --output or --white cannot be.
    """
    path, white = output_path(values, ".png", ".npy"), white_of(values)

    def write_rows(rows: np.ndarray) -> None:
        from glow_tf.run import pictures

        # First: a picture of very many may not fit into memory.
        write(path.with_suffix(".npy"), pictures.npy(rows))
        if rows.dtype != np.uint8 or rows.shape[-1] not in (1, 3):
            print(f"{path.with_suffix('.npy')}: {rows.shape[0]} rows of {rows.shape[1]}. {NO_PICTURES}")
            return
        shown = pictures.stretched(rows.reshape(-1, *rows.shape[2:]), white)
        write(path, pictures.png(pictures.grid(shown, columns=rows.shape[1])))
        print(f"{path} and {path.with_suffix('.npy').name}: {rows.shape[0]} rows of {rows.shape[1]} images")

    return write_rows


def write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, and makes its folder; OSError if that fails, and an old file is kept."""
    from glow_tf.core.durable_files import write_atomically

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"the folder {path.parent} cannot be made: {error.strerror}.") from None
    write_atomically(path, content)


def distinct(names: Iterable[str]) -> list[str]:
    """Returns names without suffix; those that would be the same keep theirs, and then get a number."""
    names = list(names)
    stems = [str(pathlib.PurePath(name).with_suffix("")) for name in names]
    counts = collections.Counter(stem.casefold() for stem in stems)  # some systems do not tell A from a
    found: dict[str, str] = {}
    for stem, name in zip(stems, names, strict=True):
        own = wanted = stem if counts[stem.casefold()] == 1 else name
        number = 1
        while own.casefold() in found:
            number += 1
            own = f"{wanted}_{number}"
        found[own.casefold()] = own
    return list(found.values())
