"""The TensorBoard logs of a run."""

import contextlib
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from glow_tf.errors import reason_of
from glow_tf.run import flags_file
from glow_tf.run.callbacks import RunCallback


class TensorBoardByPart(RunCallback):
    """Writes logs/: bpd, local bpd, rates and gradient norms by part, speed, traffic, samples."""

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the file and writes the texts."""
        flags = (self.run.workdir.path / flags_file.NAME).read_bytes().decode(errors="backslashreplace")
        with self._writable():
            self.writer = tf.summary.create_file_writer(str(self.run.workdir.path / "logs"))
            with self.writer.as_default(step=0):
                tf.summary.text("flags", f"```\n{flags}\n```")
                tf.summary.text("model", f"```\n{self.run.description}\n```")

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Writes the epoch."""
        with self._writable(), self.writer.as_default(step=epoch + 1):
            for tag, value in self._scalars():
                tf.summary.scalar(tag, value)
            for k, optimizer in enumerate(self.model.optimizers, start=1):
                tf.summary.scalar(f"learning_rate/part_{k}", optimizer.learning_rate)
            if self.result.grid is not None:
                tf.summary.image("samples", self.result.grid[np.newaxis])
            self.writer.flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file."""
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
        yield "training/recoveries", result.recoveries
        if result.conditioning is not None:
            yield "conditioning/convolution_log_scale", result.conditioning.convolution.log_scale
            yield "conditioning/coupling_log_scale", result.conditioning.coupling.log_scale
            yield "conditioning/round_trip_error", result.conditioning.round_trip_error
        if result.non_finite_samples is not None:
            yield "samples/non_finite_pixels", result.non_finite_samples
        yield "traffic/forward_bytes_per_image", result.traffic.forward
        yield "traffic/backward_bytes_per_image", result.traffic.backward
        yield "traffic/all_reduce_bytes_per_step", result.traffic.all_reduce
        for name, value in result.means.items():
            kind, _, part = name.rpartition("_")
            if kind in ("local_bpd", "gradient_norm"):
                yield f"{kind}/part_{part}", value
        for k, wait in result.waits.items():
            yield f"wait/part_{k}", wait
