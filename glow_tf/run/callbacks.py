"""What a run records: history, samples, TensorBoard, checkpoints."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf import images
from glow_tf.checkpoints import Checkpoints
from glow_tf.workdir import TRAFFIC_COLUMNS, Workdir, write_atomically

SAMPLE_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
SAMPLES_PER_TEMPERATURE = 16


class FillPrefixCaches(keras.callbacks.Callback):
    """Fills the cache of a turn, if it has one, before the turn's first epoch (or the first after a restart).

    Comes before `EpochRecord`, which counts its `seconds` as training.

    Args:
      turns: for every epoch (from 0), the first of its turn.
      batches: makes the batches of all examples, as a given epoch sees them.
    """

    def __init__(self, turns: Sequence[int], batches: Callable[[int], tf.data.Dataset]):
        super().__init__()
        self.turns = turns
        self.batches = batches
        self.seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Fills, where it is time."""
        cache = self.model.prefix_caches.get(self.model.phase)
        turn = self.turns[epoch]
        self.seconds = cache.fill(self.batches(turn), turn) if cache else 0.0


class EpochRecord(keras.callbacks.Callback):
    """Times and evaluates every epoch, and writes its row of history.csv.

    Adds to the epoch's logs, for the callbacks after it: `seconds`, `eval_seconds`, `total_seconds`,
    `images_per_second`, `test_bpd`, `test_bpd_se`, `validation_bpd` where there are such images, what the
    phase's `Traffic` is, and `wait_k`, the share of its time that a part on a device of its own waited.

    `seconds` is training alone: the first step of a phase in a process, which traces and compiles it, is
    counted as long as the mean of the others. (With one step an epoch there are no others, and that epoch
    includes it.)

    Args:
      workdir: where history.csv lives.
      images_per_epoch: images a training epoch goes through.
      test, validation: batches for `evaluate`; validation may be None.
      finished_epochs: epochs of which a checkpoint was restored; later rows are dropped.
      caches: the callback, before this one, that fills caches; or None.
    """

    def __init__(
        self,
        workdir: Workdir,
        images_per_epoch: int,
        test: tf.data.Dataset,
        validation: tf.data.Dataset | None,
        finished_epochs: int = 0,
        caches: FillPrefixCaches | None = None,
    ):
        super().__init__()
        self.caches = caches
        self.workdir = workdir
        self.finished_epochs = finished_epochs
        self.images_per_epoch = images_per_epoch
        self.test = test
        self.validation = validation
        self._traced: set = set()

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Forgets rows that a checkpoint was no longer written for."""
        self.rows = self.workdir.read_history(self.finished_epochs)
        self.total_seconds = sum(float(row["seconds"]) for row in self.rows)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the clock."""
        self._steps = 0
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Notes when the first step was over."""
        self._steps += 1
        if self._steps == 1:
            self._first_step_end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Evaluates, and writes the row."""
        end = time.perf_counter()
        phase = self.model.phase
        seconds = end - self._start
        if phase not in self._traced and self._steps > 1:
            seconds = (end - self._first_step_end) * self._steps / (self._steps - 1)
        self._traced.add(phase)
        if self.caches is not None:
            seconds += self.caches.seconds
        self.total_seconds += seconds
        logs["seconds"], logs["total_seconds"] = seconds, self.total_seconds
        logs["images_per_second"] = self.images_per_epoch / seconds
        for k in range(1, len(self.model.glow.parts) + 1):
            if f"busy_seconds_{k}" in logs:
                busy = logs[f"busy_seconds_{k}"] * self._steps
                logs[f"wait_{k}"] = max(1 - busy / seconds, 0.0)
        for name, dataset in (("test", self.test), ("validation", self.validation)):
            if dataset is not None:
                result = self.model.evaluate(dataset, verbose=0, return_dict=True)
                logs[f"{name}_bpd"], logs[f"{name}_bpd_se"] = result["bpd"], result["bpd_se"]
        logs["eval_seconds"] = time.perf_counter() - end
        traffic = self.model.traffic(phase)
        logs.update(zip(TRAFFIC_COLUMNS, traffic, strict=True))
        self.rows.append(self._row(epoch + 1, logs))
        self.workdir.write_history(self.rows)

    def _row(self, epoch: int, logs: dict) -> dict[str, str]:
        row = {
            "epoch": str(epoch),
            "phase": self.model.phase.kind,
            "active_parts": self.model.phase.active_parts,
            "peak_memory_mb": f"{peak_memory_mb():.0f}",
        }
        named = {"train_bpd": "bpd"}
        for column in self.workdir.history_columns:
            value = logs.get(named.get(column, column))
            if value is not None:
                digits = 0 if column in TRAFFIC_COLUMNS else 3 if "second" in column else 6
                row[column] = f"{value:.{digits}f}"
        return row


class CheckpointEveryEpoch(keras.callbacks.Callback):
    """Saves the state after every epoch. Comes after what must be on disk before it: the history."""

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Saves."""
        self.checkpoints.save(epoch + 1, logs.get("validation_bpd"))


class SampleGrid(keras.callbacks.Callback):
    """Draws samples/epoch_NNNN.png: two rows each at temperatures 0.7, 0.8, 0.9 and 1, the same latents.

    Keeps the epoch's grid in `grid` (None where none was drawn), and adds `non_finite_samples` to its logs.

    Args:
      workdir: where the grids go.
      every: epochs between grids; the last epoch always has one.
      seed: of the latents.
      top: the data's largest value, shown as white.
    """

    def __init__(self, workdir: Workdir, every: int, seed: int, top: int):
        super().__init__()
        self.workdir = workdir
        self.every = every
        self.seed = seed
        self.top = top

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Draws, where it is time."""
        self.grid = None
        if (epoch + 1) % self.every and epoch + 1 < self.params["epochs"]:
            return
        glow = self.model.glow
        draws = [
            glow.sample_dequantized(SAMPLES_PER_TEMPERATURE, temperature, self.seed)
            for temperature in SAMPLE_TEMPERATURES
        ]
        v = tf.concat(draws, axis=0)
        pixels = glow.dequantize.to_uint8(v).numpy()
        logs["non_finite_samples"] = int(np.sum(~np.isfinite(v.numpy())))
        self.grid = images.grid(images.stretched(pixels, self.top))
        write_atomically(self.workdir.samples_path(epoch + 1), images.png(self.grid))


class TensorBoardByPart(keras.callbacks.Callback):
    """Writes logs/ for TensorBoard: bpd, local bpd, rates and gradient norms by part, speed, samples.

    Args:
      workdir: of the run; its flags are shown as text.
      summary: the model's summary, shown as text.
      samples: the callback, before this one, whose grids are shown; or None.
    """

    def __init__(self, workdir: Workdir, summary: str, samples: SampleGrid | None = None):
        super().__init__()
        self.samples = samples
        self.workdir = workdir
        self.summary = summary

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the file and writes the texts."""
        self.writer = tf.summary.create_file_writer(str(self.workdir.path / "logs"))
        flags = (self.workdir.path / "flags.cfg").read_text()
        with self.writer.as_default(step=0):
            tf.summary.text("flags", f"```\n{flags}\n```")
            tf.summary.text("model", f"```\n{self.summary}\n```")

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes the epoch."""
        with self.writer.as_default(step=epoch + 1):
            for name, tag in _TAGS.items():
                if name in logs:
                    tf.summary.scalar(tag, logs[name])
            for k, optimizer in enumerate(self.model.optimizers, start=1):
                tf.summary.scalar(f"learning_rate/part_{k}", optimizer.learning_rate)
                for name in ("local_bpd", "gradient_norm", "wait"):
                    if f"{name}_{k}" in logs:
                        tf.summary.scalar(f"{name}/part_{k}", logs[f"{name}_{k}"])
            if self.samples is not None and self.samples.grid is not None:
                tf.summary.image("samples", self.samples.grid[np.newaxis])
        self.writer.flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file."""
        self.writer.close()


_TAGS = {
    "bpd": "bpd/train",
    "test_bpd": "bpd/test",
    "validation_bpd": "bpd/validation",
    "images_per_second": "speed/images_per_second",
    "seconds": "speed/epoch_seconds",
    "non_finite_samples": "samples/non_finite_pixels",
    "forward_bytes": "traffic/forward_bytes_an_image",
    "backward_bytes": "traffic/backward_bytes_an_image",
    "all_reduce_bytes": "traffic/all_reduce_bytes_a_step",
}


def peak_memory_mb() -> float:
    """Peak memory so far, MB: of the first GPU's allocator, else resident memory of the process."""
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
