"""The presets that come with the package, and how one is found by name or by folder."""

import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from glow_tf.errors import ConfigError
from glow_tf.presets.files import CONFIG, WEIGHTS, is_preset, read_about

FOLDER = pathlib.Path(__file__).parent


def names() -> list[str]:
    """Returns the names of the presets that come with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CONFIG}"))


def find(preset: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a preset: a folder, or one that the package has by name; ConfigError if none.

    A folder of that name wins.
    """
    folder = pathlib.Path(preset)
    if is_preset(folder):
        return folder
    if str(preset) in names():
        return FOLDER / str(preset)
    raise ConfigError(
        f"preset must be one of {', '.join(names()) or 'none'}, or a folder with {CONFIG} and {WEIGHTS}. "
        f"Received: preset={str(preset)!r}"
    )


def refers_to_preset(model: str | os.PathLike) -> bool:
    """Whether a model's name or path is that of a preset, not of a workdir, a SavedModel or a file."""
    path = pathlib.Path(model)
    holds_another = path.is_file() or any(
        (path / kind).exists() for kind in ("checkpoints", "saved_model.pb")
    )
    return is_preset(path) or (str(model) in names() and not holds_another)


class Catalogue(Mapping[str, dict[str, Any]]):
    """The presets that come with the package: name → what each says about itself; see `files.write`."""

    def __getitem__(self, name: str) -> dict[str, Any]:
        """Returns what a preset says about itself; KeyError if there is none of this name."""
        if name not in names():
            raise KeyError(name)
        return read_about(FOLDER / name)

    def __iter__(self) -> Iterator[str]:
        """Yields the names."""
        return iter(names())

    def __len__(self) -> int:
        """Returns how many there are."""
        return len(names())
