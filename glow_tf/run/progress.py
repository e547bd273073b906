"""What a run shows while it trains."""

from collections.abc import Mapping

from glow_tf.core.progress import duration, with_progress
from glow_tf.run.callbacks import RunCallback
from glow_tf.run.epoch import computed
from glow_tf.run.tables import bpd_text


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
