"""Files and folders that outlast a power cut. Pure Python: no TensorFlow."""

from __future__ import annotations

import contextlib
import errno
import os
import pathlib

from glow_tf.errors import ConfigError

PATTERN_SIGNS = "[" if os.name == "nt" else "[\\"


def flush(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, would outlast a power cut."""
    try:
        # Windows flushes only what may be written, and opens no folder.
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise  # some file systems, such as those that virtual machines share, flush no folder
    finally:
        os.close(handle)


def flush_all(folder: pathlib.Path) -> None:
    """Waits until a folder, with everything in it, would outlast a power cut; not yet its own name."""
    for parent, _, names in os.walk(folder):
        for name in names:
            flush(pathlib.Path(parent, name))
        flush(pathlib.Path(parent))


def check_can_be_read_again(name: str, path: pathlib.Path) -> None:
    """Raises ConfigError where TensorFlow would write weights and not find them: it reads paths as patterns.

    Args:
      name: of the setting.
      path: of a folder with weights.
    """
    if found := [sign for sign in PATTERN_SIGNS if sign in os.path.abspath(path)]:
        raise ConfigError(
            f"{name} must be a path without {' and '.join(found)}: TensorFlow would not find the weights "
            f"again. Received: {name}={str(path)!r}"
        )


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder, unless it exists, and those above it, so that their names would outlast a power cut."""
    if not path.exists():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        flush(path.parent)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader finds the old content or the new, never a part, after a power cut too.

    Raises:
      OSError: it cannot be written, for example because the disk is full; the old file is kept.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {error.strerror or error}.") from None
