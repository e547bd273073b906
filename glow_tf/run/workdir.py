"""The files of a run: settings, history, summary, samples. Every write is whole or not at all.

Pure Python: no TensorFlow.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import filelock

from glow_tf.architectures import design_of
from glow_tf.architectures.schedule import phases_of
from glow_tf.config import FILE, FOLDER, RunConfig
from glow_tf.core import durable_files
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.core.text_files import json_text, read_json
from glow_tf.run import history
from glow_tf.run.flags_file import NAME as FLAGS
from glow_tf.run.flags_file import (
    differing_settings,
    flagfile,
    read_settings,
    read_values,
    sources_of,
)
from glow_tf.run.history import history_columns
from glow_tf.run.settings import TYPED, Decided
from glow_tf.store import checkpoints

EPOCHS = ("part_epochs", "finetune_epochs")  # settings with which a run may go on with other values
MOVABLE = (FOLDER, FILE)  # how data sets begin whose images may be elsewhere now
IMAGES = "train images"  # the checksum that every run keeps
SUMMARY = "summary.json"  # a run that has one is finished
BEST_EPOCH = "best_epoch"  # its key of the epoch that it is of, where there are validation images
# What TensorFlow writes into the folder of a SavedModel.
SAVED_MODEL = frozenset({"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"})
FOLDERS = ("samples", "checkpoints", "logs", "export")  # what a workdir may contain as folders


class Workdir:
    """The folder of one run; one process at a time holds it, by a lock.

    Args:
      config: the run; its `workdir` is made if it does not exist.
      writes: whether this process does; of several processes one does, and the others read.

    Raises:
      ConfigError: the folder cannot be written, is in use, or holds a run that cannot become this one.
      OSError: the folder's checkpoints are damaged.
    """

    def __init__(self, config: RunConfig, writes: bool = True):
        self.path = pathlib.Path(config.workdir)
        self.config, self.writes = config, writes
        durable_files.check_can_be_read_again("workdir", self.path)
        places = (self.path / ".lock", self.path / "samples", self.path, *self.path.parents)
        self._made = [place for place in places if not os.path.lexists(place)]
        # The system releases the lock when the process ends, in whatever way.
        self._lock = filelock.FileLock(self.path / ".lock")
        if not writes:
            self._made = []
            self._check_configuration()
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            self._check_configuration()
            (self.path / "samples").mkdir(exist_ok=True)
            for folder in (self.path, *(self.path / name for name in FOLDERS)):
                if folder.exists():
                    tempfile.TemporaryFile(dir=folder).close()  # can it be written?
        except filelock.Timeout:
            self._made = []
            raise ConfigError(
                f"another process is training in this workdir. Received: workdir={str(self.path)!r}"
            ) from None
        except (OSError, NotImplementedError) as error:
            self.close()
            reason = getattr(error, "strerror", error)
            if reason is None:  # it has a sentence of ours
                raise
            raise ConfigError(
                f"workdir must be a folder that can be written, on a file system with locks: {reason}. "
                f"Received: workdir={config.workdir!r}"
            ) from None
        except ConfigError:
            self.close()
            raise

    def close(self) -> None:
        """Releases the folder, and removes what was made of it if the run never claimed it."""
        for place in self._made:
            with contextlib.suppress(OSError):  # something else is in it now
                place.unlink() if place.name == ".lock" else place.rmdir()
        self._made = []
        self._lock.release()

    def claim(self, decided: Decided) -> None:
        """Writes flags.cfg: from now on the folder belongs to this run. Settings keep their sources."""
        self.config = decided.config
        if not self.writes:
            return
        for folder, pattern in ((".", "*"), ("samples", "*"), ("checkpoints", "**/*")):
            durable_files.remove_unfinished((self.path / folder).glob(pattern))
        path = self.path / FLAGS
        before = path.read_text(errors="surrogateescape") if path.exists() else ""
        known = sources_of(before)
        sources = {n: own if own == TYPED else known.get(n, own) for n, own in decided.sources.items()}
        text = flagfile(self.config, sources)
        write_atomically(path, text.encode(errors="surrogateescape"))
        self._made = []

    def check_space(self, needed: int) -> None:
        """Raises ConfigError unless the disk has room for `needed` bytes, those of checkpoints included."""
        if not self.writes:
            return
        held = sum(path.stat().st_size for path in (self.path / "checkpoints").rglob("*") if path.is_file())
        free = shutil.disk_usage(self.path).free + held
        if free < needed:
            raise ConfigError(
                f"workdir needs about {needed / 2**20:.0f} MiB for checkpoints and export, and "
                f"{free / 2**20:.0f} MiB are free. Received: workdir={str(self.path)!r}"
            )

    def _check_configuration(self) -> None:
        before = read_settings(self.path)
        differing = differing_settings(before, self.config)
        self._is_moved = "dataset" in differing and self._has_moved(before.get("dataset", ""))
        if self._is_moved:
            del differing["dataset"]
        if differing and not (set(differing) <= set(EPOCHS) and self._keeps_epochs()):
            raise ConfigError(
                "this workdir holds a run of another configuration; use the same flags to resume it, or "
                "another workdir, with --init_from to train its model further. Received: "
                f"workdir={str(self.path)!r} with {', '.join(differing.values())}"
            )

    def _keeps_epochs(self) -> bool:
        """Whether the epochs that are finished would be the same with the new numbers of epochs."""
        finished, train = self.finished_epochs, self.config.train
        before = dataclasses.replace(train, **read_values(self.path, EPOCHS))
        old, new = (phases_of(dataclasses.replace(self.config, train=own)) for own in (before, train))
        is_constant = train.rate_schedule == "constant" and not train.finetune_learning_rate
        return is_constant and len(new) >= finished and old[:finished] == new[:finished]

    def _has_moved(self, before: str) -> bool:
        """Whether the images may only lie elsewhere now; then their checksums will be compared."""
        now = self.config.data.dataset
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            if self.finished_epochs and read_json(self.path / "checkpoints" / checkpoints.DATA)[IMAGES]:
                return any(before.startswith(kind) and now.startswith(kind) for kind in MOVABLE)
        return False

    # What is finished

    @property
    def finished_epochs(self) -> int:
        """The epochs that the newest checkpoint has finished; 0 if there is none."""
        return checkpoints.finished(self.path / "checkpoints")

    def check_progress(self) -> int:
        """Returns the finished epochs, and checks that history.csv and checkpoints belong together.

        OSError if history.csv is damaged or lacks epochs of the checkpoint, or has epochs without one.
        """
        folder = self.path / "checkpoints"
        epochs, rows = self.finished_epochs, len(self.read_history())
        if rows < epochs:
            raise OSError(
                f"history.csv must have a row for each of the {epochs} epochs that the checkpoint has "
                f"finished. Received: {rows} rows in {self.path / 'history.csv'}"
            )
        # One row alone is what a run leaves that was stopped before its first checkpoint.
        if not epochs and rows > 1:
            raise OSError(
                f"history.csv has {rows} epochs, and there is no checkpoint to go on from. "
                f"{checkpoints.remedy(folder)} Received: no file {folder / 'ckpt-*.index'}"
            )
        return epochs

    def check_place_of_export(self) -> None:
        """Raises ConfigError if something is in the way of the export that the run will write."""
        if self.config.export:
            try:
                durable_files.check_place(self.path / "export", "SavedModel", SAVED_MODEL)
            except OSError as error:
                raise ConfigError(f"{error} Move it away, or say --export=false.") from None

    def kept(self) -> str:
        """Says which epoch is kept when a run stops before its end."""
        if not (epochs := self.finished_epochs):
            return "No epoch is finished yet; the same command starts again."
        return f"The checkpoint of epoch {epochs} is kept; the same command goes on."

    @property
    def best_epoch(self) -> int | None:
        """The best epoch on validation images, whose model commands use; None if there is none."""
        return checkpoints.best_epoch(self.path / "checkpoints")

    @property
    def untouched(self) -> dict[str, str]:
        """The scores of the model that the run began with, as cells of history.csv; empty if none."""
        return history.score_cells(checkpoints.read_untouched(self.path / "checkpoints"))

    # History

    @property
    def history_columns(self) -> tuple[str, ...]:
        """Columns of every history.csv; metrics of objectives come after them."""
        num_parts = design_of(self.config.model).num_parts
        return history_columns(num_parts, bool(self.config.data.validation_examples))

    def read_history(self, epochs: int | None = None) -> list[dict[str, str]]:
        """Returns the rows of history.csv, or those of the first `epochs` epochs; OSError if damaged."""
        return history.read_rows(self.path / "history.csv")[:epochs]

    def write_history(self, rows: list[Mapping[str, Any]]) -> None:
        """Replaces history.csv."""
        write_atomically(self.path / "history.csv", history.table(rows, self.history_columns).encode())

    # Summary

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Writes summary.json; its presence says that the run was finished."""
        write_atomically(self.path / SUMMARY, json_text(summary).encode())

    def read_summary(self) -> dict[str, Any] | None:
        """Returns summary.json; None while epochs are left or images to compare; OSError if damaged."""
        summary = {} if self._is_moved else read_summary(self.path)
        return summary if is_finished(summary, self.config) else None


def read_summary(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what the summary.json of a workdir says, if there is one; OSError if it is damaged."""
    path = folder / SUMMARY
    if not path.exists():
        return {}
    try:
        summary = read_json(path)
        bpd = math.nan if summary["test_bpd"] is None else float(summary["test_bpd"])  # it was not finite
        return {**summary, "test_bpd": bpd, "epochs": int(summary["epochs"])}
    except (ValueError, TypeError, KeyError, OverflowError):
        raise OSError(
            f"{path} is damaged. Remove it, and the run's command writes it anew from the last checkpoint. "
            f"Received: {path.read_bytes()[:80]!r}"
        ) from None


def is_out_of_patience(patience: int, epochs: int, best_epoch: int | None) -> bool:
    """Returns whether the best epoch is so many epochs ago that a run ends."""
    return bool(patience) and best_epoch is not None and epochs - best_epoch >= patience


def is_finished(summary: Mapping[str, Any], config: RunConfig) -> bool:
    """Returns whether a `read_summary` is that of a run which has made its epochs, or lost patience."""
    epochs = summary.get("epochs", 0)
    waited = is_out_of_patience(config.patience, epochs, summary.get(BEST_EPOCH))
    return waited or epochs == len(phases_of(config))
