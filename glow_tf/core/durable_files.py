"""Files and folders that are written whole or not at all. Pure Python: no TensorFlow."""

import contextlib
import json
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Set

import filelock

from glow_tf.core.errors import ConfigError

PATTERN_SIGNS = "[\\"
WRITTEN = "written.json"  # the list of `replaced_files`
MOST_BYTES = 2**26  # of it
UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}\.tmp(\.keras)?")  # a name that `replaced_file` gives first


def check_can_be_read_again(name: str, path: pathlib.Path) -> None:
    """Raises ConfigError where TensorFlow would not find weights again: it reads paths as patterns."""
    whole = os.path.abspath(path)
    try:
        whole.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{name} must be a path in UTF-8. Received: {name}={str(path)!a}") from None
    if found := [sign for sign in PATTERN_SIGNS if sign in whole]:
        raise ConfigError(
            f"{name} must be a path without {' and '.join(found)}: TensorFlow would not find the weights "
            f"again. Received: {name}={str(path)!r}"
        )


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader finds the old content or the new, never a part.

    Several processes may write the same file at once: the last one's content stays. OSError if it cannot be
    written; the old file is kept.
    """
    with replaced_file(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def replaced_file(path: pathlib.Path, suffix: str = "") -> Iterator[pathlib.Path]:
    """Gives the path of a file to write, which takes the place of another as in `write_atomically`."""
    # A part of the name: all of it, and more, may be longer than a file system allows.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.tmp{suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):  # such as Ctrl-C
            raise
        raise OSError(f"{path} could not be written: {error.strerror or error}.") from None


def remove_unfinished(paths: Iterable[pathlib.Path]) -> None:
    """Removes those files that `write_atomically` left when it was killed; nobody may be writing now."""
    for path in paths:
        if UNFINISHED.fullmatch(path.name) and path.is_file():
            with contextlib.suppress(OSError):
                path.unlink()


def check_place(folder: pathlib.Path, kind: str, own: Set[str]) -> None:
    """Raises OSError if a folder holds other names than `own`, or is a file, and so may not be replaced."""
    if folder.exists() and not folder.is_dir():
        raise OSError(f"the {kind} {folder} could not be written: there is a file of this name.")
    if folder.exists() and (other := {entry.name for entry in folder.iterdir()} - own):
        raise OSError(
            f"the {kind} {folder} could not be written: the folder must be empty, or hold a {kind} and "
            f"nothing else. Received: {sorted(other)[:5]}"
        )


@contextlib.contextmanager
def held(folder: pathlib.Path, names: Iterable[str] = ()) -> Iterator[None]:
    """Within the context no other process writes a folder; OSError if one does now.

    What a killed process has left beside files with these names is removed.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder.with_name(f".{folder.name[:40]}.lock"))
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise OSError(f"another process is writing to {folder}.") from None
    try:
        for place in {(folder / name).parent for name in names}:
            remove_unfinished(place.glob(".*.tmp"))
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


@contextlib.contextmanager
def replaced_files(folder: pathlib.Path, names: Set[str], overwrite: bool = False) -> Iterator[None]:
    """Within the context files with these names are written into a folder, which keeps a list of them.

    Those that the list of an earlier call names are replaced or, at the end, removed; no others are touched.
    ConfigError if others have one of the names, unless `overwrite`; OSError as in `held`.
    """
    with held(folder, {WRITTEN, *names}):
        own, before = folder / WRITTEN, set()
        with contextlib.suppress(OSError, ValueError, TypeError):
            before = {str(name) for name in json.loads(own.read_bytes()[:MOST_BYTES])}
        before = {name for name in before if ".." not in pathlib.PurePath(name).parts and name[:1] != "/"}
        others = sorted(name for name in names - before if (folder / name).exists())
        if others and not overwrite:
            raise ConfigError(
                "files that were there before are replaced with --overwrite alone. "
                f"Received: {folder} with {', '.join(others[:3])}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(own, json.dumps(sorted(before | names)).encode())
        yield
        for name in before - names:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        write_atomically(own, json.dumps(sorted(names)).encode())


@contextlib.contextmanager
def replaced_folder(folder: pathlib.Path, kind: str, own: Set[str]) -> Iterator[pathlib.Path]:
    """Gives an empty folder to write to, which takes the place of another when the context ends.

    If an error ends it, the old folder is kept, and nothing else. A link stays, and what it leads to is
    replaced. OSError as in `check_place`.
    """
    check_place(folder, kind, own)
    folder = folder.resolve()
    temporary = folder.with_name(f".{folder.name}.tmp")
    with held(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            put_in_place(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def put_in_place(new: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames a folder to the name of another, which is kept until then."""
    old = folder.with_name(f".{folder.name}.old")
    try:
        if folder.exists():
            _remove(old)
            folder.replace(old)
        new.replace(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.replace(folder)
        raise
    _remove(old)


def _remove(folder: pathlib.Path) -> None:
    """Removes a folder, or a link to one, as far as that can be done."""
    if folder.is_symlink():
        with contextlib.suppress(OSError):
            folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)
