"""Keras's callbacks and several optimizers: what reaches one of them reaches all, or is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from glow_tf.errors import ConfigError
from glow_tf.internals import settable_rate
from glow_tf.training.phased_model import PhaseSwitch


def callbacks_for(given: Any, num_parts: int) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a `fit`: the user's between the trainer's own.

    Args:
      given: the user's callbacks: one, a list, or None.
      num_parts: number of parts, each with its own optimizer.

    Raises:
      ConfigError: a callback would reach one part alone.
    """
    callbacks: Sequence[Any] = keras.tree.flatten(given) if given is not None else []
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.SwapEMAWeights) and num_parts > 1:
            raise ConfigError(
                "SwapEMAWeights swaps the weights of one optimizer, and each part has its own; use_ema=True "
                "in every optimizer, without the callback, ends training with all parts' averages, and "
                "trainer.averages.in_place() has them before that. "
                f"Received: SwapEMAWeights for {num_parts} parts"
            )
    return [PhaseSwitch(), EndWithAverages(), *callbacks, AllOptimizers()]


class EndWithAverages(keras.callbacks.Callback):
    """Replaces the other parts' weights by their averages when Keras has done so with the first part's.

    Keras does it where the optimizer has `use_ema`, before the users' callbacks end. What these do then, such
    as to restore the best weights, holds for all parts.
    """

    def on_train_end(self, logs: dict | None = None) -> None:
        """Replaces them."""
        parts = self.model.glow.parts
        for part, optimizer in zip(parts[1:], self.model.optimizers[1:], strict=True):
            optimizer.finalize_variable_values(part.trainable_variables)


class AllOptimizers(keras.callbacks.Callback):
    """Gives the other parts' optimizers what Keras gives to the one that it knows, the first part's.

    Rates: callbacks (`ReduceLROnPlateau`, `LearningRateScheduler`, users' own) set the rate of the model's
    optimizer. This callback comes last. Before each step it compares the first part's rate with what it was,
    and multiplies the other parts' rates by the same factor.

    Raises:
      ConfigError: the first part's rate was changed, and another part's rate follows a schedule.
    """

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Notes the rates."""
        self._rates = [settable_rate(optimizer) for optimizer in self.model.optimizers]
        self._last = self._first()
        self._ratios = [1.0] * len(self._rates)  # to the first part's rate, when it was last not 0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Follows a change of the rate since the last step."""
        self._follow()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Follows a last change of the rate."""
        self._follow()

    def _first(self) -> float | None:
        return None if self._rates[0] is None else float(self._rates[0].numpy())

    def _follow(self) -> None:
        now = self._first()
        if now == self._last:
            return
        for k, rate in enumerate(self._rates[1:], start=2):
            if rate is None:
                raise ConfigError(
                    "a callback changed the learning rate of part 1; give every optimizer a number as its "
                    f"rate, so that the other parts can follow. Received: a schedule for part {k}"
                )
            if self._last:
                self._ratios[k - 1] = float(rate.numpy()) / self._last
            rate.assign(self._ratios[k - 1] * now)
        self._last = now
