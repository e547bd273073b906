"""What happens around the epochs of a run: caches, history, samples, logs, checkpoints, a line each."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import DivergedError, reason_of
from glow_tf.core.progress import duration, with_progress
from glow_tf.devices.workers import holds_anywhere
from glow_tf.model.flow import Flow
from glow_tf.run import flags_file, pictures
from glow_tf.run.context import Run
from glow_tf.run.epoch import EpochResult, HeldOut, computed, loses_patience
from glow_tf.run.history import bits_of_levels
from glow_tf.run.tables import bpd_text

SAMPLE_TEMPERATURES = (0.7, 0.8, 0.9, 1.0)
SAMPLES_PER_TEMPERATURE = 16
MOST_GRIDS = 10  # in a run that does not say how many; and one after the last epoch
DESCRIPTIONS = {  # of TensorBoard's charts, by the first word of their names
    "bits_of_level": "Bits per dimension that this level adds to those of a uniform density, which are 8 for "
    "8-bit images; 8 plus all levels is bpd/train. Negative: the level saves bits. Lower is better."
}


class RunCallback(keras.callbacks.Callback):
    """A callback of a run. It reads and fills in the `EpochResult` that all callbacks of the run share."""

    def __init__(self, run: Run, result: EpochResult):
        super().__init__()
        self.run = run
        self.result = result


class FillPrefixCaches(RunCallback):
    """Fills the phase's prefix cache, if it has one, at the start of a turn or after a restart in one."""

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        phase = self.model.phase
        cache = self.model.prefix_caches.get(phase)
        self.result.epoch, self.result.phase = epoch + 1, phase
        filled = cache.fill(self.run.prefix_batches, self.run.cache_noise_epochs[epoch]) if cache else 0.0
        self.result.cache_seconds = filled


class EpochRecord(RunCallback):
    """Times and evaluates every epoch, and writes its row of history.csv (one of several processes does).

    `seconds` is training alone. The first step of a phase in a process traces and compiles; it counts as long
    as the mean of those after it in the epoch. (With one step per epoch there are none, and that epoch
    includes tracing.)
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Drops the rows of epochs that have no checkpoint."""
        self._traced: set = set()
        self.rows = self.run.workdir.read_history(int(self.run.checkpoints.epochs))
        self.result.total_seconds = sum(float(row["seconds"]) for row in self.rows)
        self._held_out = HeldOut(self.run, self.model)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if batch == 0:
            self._first_step_end = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        result, end, workdir = self.result, time.perf_counter(), self.run.workdir
        result.means = computed(logs)
        result.seconds = self._training_seconds(end)
        self._traced.add(result.phase)
        result.total_seconds += result.seconds
        images = self.run.steps_per_epoch * self.run.config.train.batch_size
        result.images_per_second = images / result.seconds
        for name, score in self._held_out.scores().items():
            setattr(result, name, score)
        result.eval_seconds = time.perf_counter() - end
        result.peak_memory_mb = peak_memory_mb()
        row, names = result.history_row(), (*workdir.history_columns, *self.model.logs.means.of_objectives)
        self.rows.append({name: row[name] for name in names if name in row})
        if self.run.is_chief:
            workdir.write_history(self.rows)

    def _training_seconds(self, end: float) -> float:
        seconds, steps = end - self._start, self.params["steps"]
        if self.result.phase not in self._traced and steps > 1:
            seconds = (end - self._first_step_end) * steps / (steps - 1)
        return seconds + self.result.cache_seconds


class SampleGrid(RunCallback):
    """Draws samples/epoch_NNNN.png: two rows each at temperatures 0.7, 0.8, 0.9 and 1, the same latents.

    Of data that make no pictures it writes samples/epoch_NNNN.npy, [temperatures, 16, H, W, C].
    """

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Draws, every `sample_every` epochs and after the last one."""
        config, result = self.run.config, self.result
        result.grid = result.non_finite_samples = None
        epochs = self.params["epochs"]
        every = -(-epochs // MOST_GRIDS) if config.sample_every < 0 else config.sample_every
        if (epoch + 1) % every and epoch + 1 < epochs:
            return
        with self.model.averages.in_place():
            result.grid, result.non_finite_samples = draw_samples(self.run, self.model.flow, epoch + 1)


def draw_samples(run: Run, flow: Flow, epoch: int) -> tuple[np.ndarray | None, int]:
    """Writes the samples of a model, that of an epoch; returns their grid and how many pixels are not finite.

    The grid is None of data that make no pictures.
    """
    given = run.first_conditions(SAMPLES_PER_TEMPERATURE)
    draws = [
        flow.sample_dequantized(SAMPLES_PER_TEMPERATURE, temperature, run.config.seed, given)
        for temperature in SAMPLE_TEMPERATURES
    ]
    v, path = tf.stack(draws), run.workdir.path / "samples" / f"epoch_{epoch:04d}.png"
    drawn = flow.dequantize.to_output(v).numpy()
    non_finite = int(np.sum(~np.isfinite(v.numpy())))
    if not flow.config.is_pictures:
        write_atomically(path.with_suffix(".npy"), pictures.npy(drawn))
        return None, non_finite
    pixels = drawn.reshape(-1, *drawn.shape[2:])
    grid = pictures.grid(pictures.stretched(pixels, run.images.top))
    write_atomically(path, pictures.png(grid))
    return grid, non_finite


class TensorBoardByPart(RunCallback):
    """Writes logs/: bpd, speed, samples; by part local bpd, rates, gradient norms, objectives' metrics."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        flags = (self.run.workdir.path / flags_file.NAME).read_bytes().decode(errors="backslashreplace")
        with self._writable():
            self.writer = tf.summary.create_file_writer(str(self.run.workdir.path / "logs"))
            with self.writer.as_default(step=0):
                tf.summary.text("flags", f"```\n{flags}\n```")
                tf.summary.text("model", f"```\n{self.run.description}\n```")

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        with self._writable(), self.writer.as_default(step=epoch + 1):
            for tag, value in self._scalars():
                tf.summary.scalar(tag, value, description=DESCRIPTIONS.get(tag.partition("/")[0]))
            for k, optimizer in enumerate(self.model.optimizers, start=1):
                tf.summary.scalar(f"learning_rate/part_{k}", optimizer.learning_rate)
            if self.result.grid is not None:
                tf.summary.image("samples", self.result.grid[np.newaxis])
            self.writer.flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        with self._writable():
            self.writer.close()

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            logs = self.run.workdir.path / "logs"
            raise OSError(f"{logs} could not be written: {reason_of(error)}.") from None

    def _scalars(self) -> Iterator[tuple[str, float]]:
        result = self.result
        if "bpd" in result.means:
            yield "bpd/train", result.means["bpd"]
        yield "bpd/test", result.test[0]
        if result.validation is not None:
            yield "bpd/validation", result.validation[0]
        yield "speed/images_per_second", result.images_per_second
        yield "speed/epoch_seconds", result.seconds
        yield "training/skipped_steps", result.skipped_steps
        if result.non_finite_samples is not None:
            yield "samples/non_finite_pixels", result.non_finite_samples
        for name, value in result.means.items():
            kind, _, part = name.rpartition("_")
            if part.isdigit():
                yield f"{kind}/part_{part}", value
        for k, bits in bits_of_levels(result.means, self.run.config.model).items():
            yield f"bits_of_level/part_{k}", bits


class Progress(RunCallback):
    """Prints one line per epoch; within the epoch a terminal shows a bar.

    The time left is that of the whole schedule; the cost model says how phases compare.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._seconds = self._cost = self._evaluation = 0.0
        self._epochs = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._epoch = epoch
        self._bar = with_progress(None, self.params["steps"], self._name(epoch))

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._bar.update(batch + 1 - self._bar.n):  # it was drawn
            self._bar.set_postfix_str(_bpd_of(computed(logs)), refresh=False)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        result = self.result
        self._seconds += result.seconds
        self._cost += self.run.costs[epoch]
        self._evaluation += result.eval_seconds
        self._epochs += 1
        pieces = [self._name(epoch), _bpd_of(result.means)]
        pieces.append(f"test {bpd_text(*result.test)} bpd")
        if result.validation is not None:
            start = self.run.workdir.untouched
            untouched = f" (untouched {float(start['validation_bpd']):.4f})" if start else ""
            pieces.append(f"validation {result.validation[0]:.4f} bpd{untouched}")
        own = (name for name in self.model.logs.means.of_objectives if name in result.means)
        pieces += [f"{name} {result.means[name]:.4f}" for name in own]
        if result.skipped_steps:
            pieces.append(f"WARNING: {result.skipped_steps} steps were not finite and were skipped")
        if result.non_finite_samples:
            pieces.append(f"WARNING: {result.non_finite_samples} sample pixels are not finite")
        pieces += [f"{result.seconds:.1f} s", f"{result.images_per_second:.0f} images/s"]
        pieces.append(f"{self._time_left()} left")
        self._bar.close()
        print(" · ".join(pieces), flush=True)

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch + 1}/{self.params['epochs']} · {self.run.phases[epoch]}"

    def _time_left(self) -> str:
        """Returns the time that the epochs ahead will take."""
        ahead = range(self._epoch + 1, self.params["epochs"])
        training = sum(self.run.costs[epoch] for epoch in ahead) * self._seconds / max(self._cost, 1e-9)
        return duration(training + len(ahead) * self._evaluation / self._epochs)


def _bpd_of(means: Mapping[str, float]) -> str:
    if "bpd" in means:
        return f"train {means['bpd']:.4f} bpd"
    parts = [int(name.removeprefix("local_bpd_")) for name in means if name.startswith("local_bpd_")]
    # There is none while all steps so far were skipped.
    return f"local_bpd_{max(parts)} {means[f'local_bpd_{max(parts)}']:.4f}" if parts else "no train bpd"


class WholeEpochs(keras.callbacks.Callback):
    """Lets a callback that stops training amid an epoch stop it at the epoch's end; it comes last.

    Keras would end the epoch there, and its row and its checkpoint would be those of a whole one.
    """

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._stops = False

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._stops |= self.model.stop_training
        self.model.stop_training = False

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self.model.stop_training |= self._stops


class SaveCheckpoints(RunCallback):
    """Saves the state after every epoch, once everything else of the epoch is on disk.

    It does not save one that diverged: of test bits beyond all bounds, or with numbers that are not finite.
    """

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Saves; raises DivergedError if the epoch diverged."""
        phase, validation = self.model.phase, self.result.validation
        if holds_anywhere(self.run.strategy, not self.run.checkpoints.all_finite()):
            raise DivergedError(
                f"Training stopped: after the last step in phase '{phase}' a weight or a moment of an "
                "optimizer is not finite."
            )
        self.model.training_steps.check_bits(phase, {"test": self.result.test[0]})
        self.run.checkpoints.save(epoch + 1, None if validation is None else validation[0])
        self.model.stop_training |= loses_patience(self.run, epoch + 1)


def peak_memory_mb() -> float:
    """Returns the peak memory so far in MB, of the first GPU or the process; NaN where it is unknown."""
    if tf.config.list_physical_devices("GPU"):  # the logical ones may be of other processes
        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
