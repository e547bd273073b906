"""What a run shows while it trains."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence

import keras

from glow_tf.data.progress import duration
from glow_tf.devices.stall import Stall
from glow_tf.run.callbacks import RunCallback
from glow_tf.run.epoch import EpochResult, computed


class Progress(RunCallback):
    """Prints one line per epoch and, on a terminal, a bar that fills within the epoch.

    The time left is that of the whole schedule; the cost model says how phases compare.

    Args:
      costs: predicted cost of every epoch.
      result: see `RunCallback`.
    """

    WIDTH = 20

    def __init__(self, costs: Sequence[float], result: EpochResult):
        super().__init__(result)
        self.costs = costs
        self.bar = sys.stdout.isatty()

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts counting."""
        self._seconds = self._cost = self._evaluation = 0.0
        self._epochs = 0
        self._last_drawn = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Notes the epoch."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Fills the bar."""
        now = time.perf_counter()
        if not self.bar or now - self._last_drawn < 0.2:
            return
        self._last_drawn = now
        steps = self.params["steps"]
        done = (batch + 1) / steps
        filled = "━" * round(done * self.WIDTH)
        cost = self._cost + done * self.costs[self._epoch]
        left = self._time_left(self._seconds + self.result.seconds, cost, done)
        text = (
            f"{self._name(self._epoch)} {filled:─<{self.WIDTH}} {batch + 1}/{steps} {_bpd_of(computed(logs))}"
        )
        print(f"\r{text} · {left} left ", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Prints the epoch's line."""
        result = self.result
        self._seconds += result.seconds
        self._cost += self.costs[epoch]
        self._evaluation += result.eval_seconds
        self._epochs += 1
        pieces = [self._name(epoch), _bpd_of(result.means)]
        pieces.append(f"test {result.test[0]:.4f} ± {result.test[1]:.4f} bpd")
        if result.validation is not None:
            pieces.append(f"validation {result.validation[0]:.4f} bpd")
        if result.skipped_steps:
            pieces.append(f"WARNING: {result.skipped_steps} steps were not finite and were skipped")
        pieces += [f"WARNING: {trouble}" for trouble in result.troubles]
        if result.non_finite_samples:
            pieces.append(f"WARNING: {result.non_finite_samples} sample pixels are not finite")
        pieces += [f"{result.seconds:.1f} s", f"{result.images_per_second:.0f} images/s"]
        if result.waits:
            waits = ", ".join(f"{100 * wait:.0f} %" for wait in result.waits.values())
            pieces.append(f"parts wait {waits}")
        pieces.append(f"{self._time_left(self._seconds, self._cost, 1.0)} left")
        print(("\r\033[K" if self.bar else "") + " · ".join(pieces), flush=True)

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch + 1}/{self.params['epochs']} · {self.model.phase_of(epoch)}"

    def _time_left(self, seconds: float, cost: float, done: float) -> str:
        """Returns the time left, when `cost` took `seconds` and a fraction `done` of the epoch is over."""
        whole = range(self._epoch, self.params["epochs"])
        ahead = sum(self.costs[e] for e in whole) - done * self.costs[self._epoch]
        evaluation = self._evaluation / max(self._epochs, 1) * (len(whole) - (done == 1.0))
        return duration(ahead * seconds / max(cost, 1e-9) + evaluation)


class StallWatch(keras.callbacks.Callback):
    """Tells a watch that training steps end.

    Args:
      stall: the watch.
    """

    def __init__(self, stall: Stall):
        super().__init__()
        self.stall = stall

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Notes that a step has ended."""
        self.stall.happened()


def _bpd_of(means: Mapping[str, float]) -> str:
    if "bpd" in means:
        return f"train {means['bpd']:.4f} bpd"
    parts = [int(name.removeprefix("local_bpd_")) for name in means if name.startswith("local_bpd_")]
    return f"local_bpd_{max(parts)} {means[f'local_bpd_{max(parts)}']:.4f}" if parts else ""
