"""The files of a run: settings, history, summary, samples. Every write is whole or not at all.

Pure Python: no TensorFlow.
"""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import filelock

from glow_tf.config import RunConfig, all_settings
from glow_tf.errors import ConfigError

HISTORY_COLUMNS = (
    "epoch",
    "phase",
    "active_parts",
    "seconds",
    "total_seconds",
    "eval_seconds",
    "images_per_second",
    "peak_memory_mb",
    "train_bpd",
)
# Bytes per image that cross the cuts; bytes per step that data parallelism would all-reduce.
TRAFFIC_COLUMNS = ("forward_bytes", "backward_bytes", "all_reduce_bytes")


def history_columns(num_parts: int, validation: bool) -> tuple[str, ...]:
    """Returns the columns of history.csv for a number of parts, with or without validation images."""
    evaluated = ["test_bpd", "test_bpd_se", *(["validation_bpd", "validation_bpd_se"] if validation else [])]
    return (*HISTORY_COLUMNS, *(f"local_bpd_{k + 1}" for k in range(num_parts)), *evaluated, *TRAFFIC_COLUMNS)


class Workdir:
    """The folder of one run; one process at a time holds it, by a lock.

    Args:
      config: the run; its `workdir` is made if it does not exist.

    Raises:
      ConfigError: the folder cannot be written, is in use, or holds another configuration.
    """

    def __init__(self, config: RunConfig):
        self.path = pathlib.Path(config.workdir)
        self.config = config
        # The system releases the lock when the process ends, in whatever way.
        self._lock = filelock.FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            refuse_other_configuration(self.path, config)
            (self.path / "samples").mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()  # can it be written?
        except filelock.Timeout:
            raise ConfigError(
                f"another process is training in this workdir. Received: workdir={str(self.path)!r}"
            ) from None
        except OSError as error:
            self.close()
            raise ConfigError(
                f"workdir must be a folder that can be written: {error.strerror}. "
                f"Received: workdir={config.workdir!r}"
            ) from None
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Releases the folder."""
        self._lock.release()

    def claim(self) -> None:
        """Writes flags.cfg: from now on the folder belongs to this configuration."""
        write_atomically(self.path / "flags.cfg", flagfile(self.config).encode())

    def check_space(self, needed: int) -> None:
        """Raises ConfigError unless the disk has `needed` bytes free."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise ConfigError(
                f"workdir needs about {needed / 2**20:.0f} MiB for checkpoints and export, and "
                f"{free / 2**20:.0f} MiB are free. Received: workdir={str(self.path)!r}"
            )

    # History

    @property
    def history_columns(self) -> tuple[str, ...]:
        """Columns of history.csv."""
        num_parts = self.config.model.num_parts
        return history_columns(num_parts, bool(self.config.data.validation_examples))

    def read_history(self, epochs: int | None = None) -> list[dict[str, str]]:
        """Returns the rows of history.csv, or those of the first `epochs` epochs."""
        path = self.path / "history.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        return rows if epochs is None else [row for row in rows if int(row["epoch"]) <= epochs]

    def write_history(self, rows: list[Mapping[str, Any]]) -> None:
        """Replaces history.csv."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.history_columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path / "history.csv", text.getvalue().encode())

    # Summary and paths

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json; its presence says that the run is finished."""
        write_atomically(self.path / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())

    def read_summary(self) -> dict[str, Any] | None:
        """Returns summary.json, or None while the run is not finished."""
        path = self.path / "summary.json"
        return json.loads(path.read_text()) if path.exists() else None

    def samples_path(self, epoch: int) -> pathlib.Path:
        """Returns where an epoch's (from 1) sample grid goes."""
        return self.path / "samples" / f"epoch_{epoch:04d}.png"


def refuse_other_configuration(folder: pathlib.Path, config: RunConfig) -> None:
    """Raises ConfigError if a folder holds a run that is not this one; see `RunConfig.MAY_DIFFER`."""
    path = folder / "flags.cfg"
    if not path.exists():
        return
    # A setting that did not exist when the run began had what is now its default.
    defaults = {setting.name: _text(setting.default) for setting in all_settings()}
    before = defaults | read_flagfile(path.read_text())
    now = read_flagfile(flagfile(config))
    differing = [
        f"--{name}={now.get(name)} (was {before.get(name)})"
        for name in now
        if name not in RunConfig.MAY_DIFFER and now[name] != before.get(name)
    ]
    if differing:
        raise ConfigError(
            "this workdir holds a run of another configuration; use another workdir, or the same "
            f"flags to resume that run. Received: workdir={str(folder)!r} with {', '.join(differing)}"
        )


def flagfile(config: RunConfig) -> str:
    """Returns a flagfile that repeats the run."""
    return "".join(f"--{name}={_text(value)}\n" for name, value in config.to_settings().items())


def read_flagfile(text: str) -> dict[str, str]:
    """Returns setting → value as `flagfile` wrote them."""
    lines = [line for line in text.splitlines() if line.startswith("--")]
    return dict(line[2:].split("=", 1) for line in lines if "=" in line)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader, or an interruption, finds the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
