"""Where the configs that come with the package are, and how a flag finds one by path or by name."""

import contextlib
import os
import pathlib

import glow_tf
from glow_tf.core.errors import ConfigError


def folder() -> pathlib.Path:
    """Returns the folder of the configs, in the package; in a clone it is a link to the one beside it."""
    return pathlib.Path(glow_tf.__file__).parent / "configs"


def find(
    flag: str, value: str, included_by: pathlib.Path | None = None, named: pathlib.Path | None = None
) -> pathlib.Path:
    """Returns the file that a flag names; ConfigError if there is none.

    The value is a path relative to the current folder, or the name of a config that comes with the package,
    such as `quickstart`. A path that starts with `configs/` is found in the package, too. A file of the
    package that includes another looks in the package first. `named` is the folder of the files with names.
    """
    root = named or folder()
    inside = value.removeprefix("configs/")
    packaged = [root / inside, root / f"{inside}.cfg"]
    here = pathlib.Path(os.path.expanduser(value))  # that of pathlib fails for users who do not exist
    from_package = included_by is not None and root.resolve() in included_by.resolve().parents
    for path in [*packaged, here] if from_package else [here, *packaged]:
        with contextlib.suppress(OSError):  # a name that is too long
            if value and path.is_file():
                return path
    names = ", ".join(sorted(path.stem for path in root.glob("*.cfg")))
    raise ConfigError(
        f"{flag} must be a file, or the name of a config that comes with glow_tf: {names}. "
        f"Received: {flag}={value!r:.200}"
    )
