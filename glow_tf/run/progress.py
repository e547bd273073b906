"""What a run shows while it trains."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

import keras


class Progress(keras.callbacks.Callback):
    """Prints one line an epoch and, on a terminal, a bar that fills within it.

    The remaining time is that of the whole schedule, by the cost model's ratios between phases.

    Args:
      costs: predicted cost of every epoch.
    """

    WIDTH = 20

    def __init__(self, costs: Sequence[float]):
        super().__init__()
        self.costs = costs
        self.bar = sys.stdout.isatty()

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts counting."""
        self._seconds = self._cost = self._other = 0.0
        self._epochs = 0
        self._last_drawn = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the epoch's clock."""
        self._epoch = epoch
        self._start = time.perf_counter()

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
        left = self._remaining(self._seconds + now - self._start, cost, done)
        text = f"{self._name(self._epoch)} {filled:─<{self.WIDTH}} {batch + 1}/{steps} {_bpd_of(logs)}"
        print(f"\r{text} · {left} left ", end="", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict) -> None:
        """Prints the epoch's line."""
        seconds = logs.get("seconds", time.perf_counter() - self._start)
        self._seconds += seconds
        self._cost += self.costs[epoch]
        self._other += logs.get("eval_seconds", 0.0)
        self._epochs += 1
        test = f" · test {logs['test_bpd']:.4f} ± {logs['test_bpd_se']:.4f} bpd" if "test_bpd" in logs else ""
        if "validation_bpd" in logs:
            test += f" · validation {logs['validation_bpd']:.4f} bpd"
        speed = f" · {seconds:.1f} s · {logs.get('images_per_second', 0):.0f} images/s"
        parts = range(1, len(self.model.optimizers) + 1)
        if waits := [f"{100 * logs[f'wait_{k}']:.0f} %" for k in parts if f"wait_{k}" in logs]:
            speed += f" · parts wait {', '.join(waits)}"
        left = self._remaining(self._seconds, self._cost, 1.0)
        if logs.get("non_finite_samples"):
            test += f" · WARNING: {logs['non_finite_samples']} sample pixels are not finite"
        start = "\r\033[K" if self.bar else ""
        print(f"{start}{self._name(epoch)} · {_bpd_of(logs)}{test}{speed} · {left} left", flush=True)

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch + 1}/{self.params['epochs']} · {self.model.phase_of(epoch)}"

    def _remaining(self, seconds: float, cost: float, done: float) -> str:
        whole = range(self._epoch, self.params["epochs"])
        ahead = sum(self.costs[e] for e in whole) - done * self.costs[self._epoch]
        evaluation = self._other / max(self._epochs, 1) * (len(whole) - (done == 1.0))
        return duration(ahead * seconds / max(cost, 1e-9) + evaluation)


class Stalls(keras.callbacks.Callback):
    """Says so when no step ends for long, which in several processes may be another's fault.

    The time that is long is `PATIENCE` seconds, or three times the longest wait yet (a first step, which
    is traced, or an evaluation); it is said again each time that has passed once more.

    Args:
      who: says whom this process waits for.
    """

    PATIENCE = 30.0

    def __init__(self, who: Callable[[], str]):
        super().__init__()
        self.who = who

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Starts to watch."""
        self._last, self._longest = time.monotonic(), 0.0
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Notes that a step has ended."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def on_train_end(self, logs: dict | None = None) -> None:
        """Ends the watch."""
        self._over.set()

    def _watch(self) -> None:
        said = self._last
        while not self._over.wait(self.PATIENCE / 10):
            now = time.monotonic()
            if now - max(said, self._last) > max(self.PATIENCE, 3 * self._longest):
                said = now
                print(f"No step has ended for {now - self._last:.0f} s: {self.who()}", flush=True)


def _bpd_of(logs: dict | None) -> str:
    logs = logs or {}
    if "bpd" in logs:
        return f"train {logs['bpd']:.4f} bpd"
    parts = [int(name.removeprefix("local_bpd_")) for name in logs if name.startswith("local_bpd_")]
    return f"part {max(parts)} local {logs[f'local_bpd_{max(parts)}']:.4f} bpd" if parts else ""


def duration(seconds: float) -> str:
    """Returns seconds as minutes:seconds, with hours where there are any."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
