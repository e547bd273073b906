"""Keras's callbacks and several optimizers: what reaches one of them reaches all, or is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import keras

from glow_tf.architectures.schedule import Phase, phase_of_epoch
from glow_tf.core.errors import ConfigError
from glow_tf.internals import rate_of
from glow_tf.training.metrics import StepMeans


def callbacks_for(
    arguments: Mapping[str, Any],
    optimizers: Sequence[keras.optimizers.Optimizer],
    phases: Sequence[Phase],
    means: StepMeans,
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a `fit` with such arguments: the user's between the trainer's own.

    Those that are to find out whether less is better of what the trainer reports are told so.

    ConfigError if a callback would reach one part alone, or watches what the first epoch does not compute, or
    as many epochs in a row as its patience lasts. Keras would take the first NaN for the best value, and
    every later one for no improvement.
    """
    given, first = arguments.get("callbacks"), arguments.get("initial_epoch", 0)
    callbacks: Sequence[Any] = keras.tree.flatten(given) if given is not None else []
    last = min(arguments["epochs"], max(first, len(phases)) + 1)  # all that follow are like that one
    of_epochs = {epoch: phase_of_epoch(phases, epoch, len(optimizers)) for epoch in range(first, last)}
    missing = means.missing(of_epochs, validates=arguments.get("validation_data") is not None)
    num_parts = len(optimizers)
    for callback in callbacks:
        name = getattr(callback, "monitor", None)
        if getattr(callback, "mode", None) == "auto" and str(name).removeprefix("val_") in means.names:
            callback.mode = "min"
        if (epoch := _without(callback, name, missing)) is not None:
            raise ConfigError(
                "a callback must watch what every epoch computes, such as val_loss with validation_data (a "
                "run has none for callbacks; with --validation_examples it keeps its best epoch). Received: "
                f"{type(callback).__name__}(monitor={name!r}), which epoch {epoch + 1} does not compute"
            )
        if isinstance(callback, keras.callbacks.SwapEMAWeights) and num_parts > 1:
            raise ConfigError(
                "SwapEMAWeights swaps the weights of one optimizer, and each part has its own; use_ema=True "
                "in every optimizer, without the callback, ends training with all parts' averages, and "
                "trainer.averages.in_place() has them before that. "
                f"Received: SwapEMAWeights for {num_parts} parts"
            )
    return [PhaseSwitch(), *callbacks, AllOptimizers(optimizers)]


def _without(callback: Any, name: str | None, missing: Mapping[int, Set[str]]) -> int | None:
    """Returns an epoch (from 0) whose NaN a callback would take for a value of what it watches, or None."""
    if not getattr(callback, "save_best_only", True):
        return None
    watched = [epoch for epoch in missing if epoch >= getattr(callback, "start_from_epoch", 0)]
    if watched and name in missing[watched[0]]:
        return watched[0]
    for lacks, epochs in itertools.groupby(watched, lambda epoch: name in missing[epoch]):
        stretch = list(epochs)
        if lacks and len(stretch) >= getattr(callback, "patience", math.inf):
            return stretch[0]
    return None


class PhaseSwitch(keras.callbacks.Callback):
    """Puts the trainer into the phase of each epoch."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.set_phase(self.model.phase_of(epoch))
        self.model.reset_metrics()
        self.model.training_steps.skips.begin_epoch(self.params["steps"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Gives every epoch the same logs, NaN where its phase computes nothing; stops if it diverged."""
        self.model.training_steps.end_epoch(self.model.phase, logs)
        for name in self.model.logs.means.names:
            logs.setdefault(name, math.nan)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Tells the model that a step has ended, before Keras validates.

        What no step has computed yet is left out of the logs, like what the phase does not compute.
        """
        for name in self.model.logs.means.names:
            if math.isnan(logs.get(name, 0.0)):  # at which `TerminateOnNaN` would end training
                del logs[name]
        self.model.training_steps.skips.check(self.model.phase)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Replaces the other parts' weights by their averages when Keras has done so with the first part's.

        Keras does it where the optimizer has `use_ema`, before the users' callbacks end. What these do then,
        such as to restore the best weights, holds for all parts.
        """
        for k, optimizer in enumerate(self.model.optimizers[1:], start=1):
            optimizer.finalize_variable_values(self.model.forward_pass.variables_of(k))


class AllOptimizers(keras.callbacks.Callback):
    """Gives the other parts' optimizers what Keras gives to the one that it knows, the first part's.

    Rates: callbacks (`ReduceLROnPlateau`, `LearningRateScheduler`, users' own) set the rate of the model's
    optimizer. This callback comes last. Before each step it compares the first part's rate with what it was,
    and multiplies the other parts' rates by the same factor. Where another callback has set other rates, too,
    as `BackupAndRestore` does, all stay as they are. ConfigError if the first part's rate was changed, and
    another part's follows a schedule.
    """

    def __init__(self, optimizers: Sequence[keras.optimizers.Optimizer]):
        super().__init__()
        self._rates = [rate_of(optimizer) for optimizer in optimizers]
        self._last = self._now()
        self._ratios = [1.0] * len(self._rates)  # to the first part's rate, when it was last not 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        if _number(self._rates[0]) != self._last[0]:
            self._follow()

    def _now(self) -> list[float | None]:
        return [_number(rate) for rate in self._rates]

    def _follow(self, *_: object, **__: object) -> None:
        now, last = self._now(), self._last
        if now[0] != last[0] and now[1:] == last[1:]:
            if None in now:
                part = now.index(None) + 1
                raise ConfigError(
                    "a callback changed the learning rate of part 1; give every optimizer a number as its "
                    f"rate, so that the other parts can follow. Received: a schedule for part {part}"
                )
            for k, rate in enumerate(self._rates[1:], start=2):
                if last[0]:
                    self._ratios[k - 1] = last[k - 1] / last[0]
                rate.assign(self._ratios[k - 1] * now[0])
        self._last = self._now()

    on_train_begin = on_epoch_begin = on_epoch_end = on_train_end = _follow


def _number(rate: keras.Variable | keras.optimizers.schedules.LearningRateSchedule) -> float | None:
    return float(rate.numpy()) if isinstance(rate, keras.Variable) else None
