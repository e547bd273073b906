"""What a run shows while it trains."""

import sys
import time
from collections.abc import Mapping

from glow_tf.data.progress import duration
from glow_tf.run.callbacks import RunCallback
from glow_tf.run.epoch import computed
from glow_tf.run.tables import bpd_text


class Progress(RunCallback):
    """Prints one line per epoch; within the epoch a bar on a terminal, and a line a minute in a log.

    The time left is that of the whole schedule; the cost model says how phases compare.
    """

    WIDTH = 20
    IN_LOG = 60.0  # seconds between lines within an epoch
    FIRST_STEPS = 10  # of a phase: most of their time is that of tracing, so they do not tell the time left

    def on_train_begin(self, logs: dict | None = None) -> None:
        self.bar = sys.stdout.isatty()
        self._seconds = self._cost = self._evaluation = 0.0
        self._epochs = 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes the epoch, and says that its first step is traced, which takes longer than other steps."""
        self._epoch = epoch
        self._last_drawn = 0.0 if self.bar else time.perf_counter()
        self._first_estimate = 0
        if self.model.phase not in self.model.training_steps.traced:
            self._first_estimate = self.model.steps_before + self.FIRST_STEPS
            self._show(f"{self._name(epoch)} · tracing the training step")

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        now, steps = time.perf_counter(), self.params["steps"]
        if now - self._last_drawn < (0.2 if self.bar else self.IN_LOG) or not (self.bar or batch + 1 < steps):
            return
        self._last_drawn = now
        done = (batch + 1) / steps
        filled = f"{'━' * round(done * self.WIDTH):─<{self.WIDTH}}" if self.bar else "·"
        cost = self._cost + done * self.run.costs[self._epoch]
        text = f"{self._name(self._epoch)} {filled} {batch + 1}/{steps} {_bpd_of(computed(logs))}"
        if batch + 1 >= self._first_estimate:
            text += f" · {self._time_left(self._seconds + self.result.seconds, cost, done)} left"
        self._show(text)

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
        if result.skipped_steps:
            pieces.append(f"WARNING: {result.skipped_steps} steps were not finite and were skipped")
        if result.non_finite_samples:
            pieces.append(f"WARNING: {result.non_finite_samples} sample pixels are not finite")
        pieces += [f"{result.seconds:.1f} s", f"{result.images_per_second:.0f} images/s"]
        pieces.append(f"{self._time_left(self._seconds, self._cost, 1.0)} left")
        print(("\r\033[K" if self.bar else "") + " · ".join(pieces), flush=True)

    def _show(self, text: str) -> None:
        # In a log, a line that begins with "epoch" is of a whole epoch.
        print(f"\r\033[K{text} " if self.bar else f"… {text}\n", end="", flush=True)

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch + 1}/{self.params['epochs']} · {self.model.phase_of(epoch)}"

    def _time_left(self, seconds: float, cost: float, done: float) -> str:
        """Returns the time left, when `cost` took `seconds` and a fraction `done` of the epoch is over."""
        whole = range(self._epoch, self.params["epochs"])
        ahead = sum(self.run.costs[e] for e in whole) - done * self.run.costs[self._epoch]
        evaluation = self._evaluation / max(self._epochs, 1) * (len(whole) - (done == 1.0))
        return duration(ahead * seconds / max(cost, 1e-9) + evaluation)


def _bpd_of(means: Mapping[str, float]) -> str:
    if "bpd" in means:
        return f"train {means['bpd']:.4f} bpd"
    parts = [int(name.removeprefix("local_bpd_")) for name in means if name.startswith("local_bpd_")]
    # There is none while all steps so far were skipped.
    return f"local_bpd_{max(parts)} {means[f'local_bpd_{max(parts)}']:.4f}" if parts else "no train bpd"
