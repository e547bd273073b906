"""The callbacks of `fit`: the user's, and what happens between steps; callbacks of several `fit`s."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras

from glow_tf.core.errors import ConfigError
from glow_tf.training.metrics import StepMeans


def callbacks_for(given: Any, means: StepMeans) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a `fit` that is given such: the trainer's own first.

    Those that are to find out whether less is better of what the trainer reports are told so. ConfigError if
    one would reach a single part.
    """
    callbacks: Sequence[Any] = keras.tree.flatten(given) if given is not None else []
    less_is_better = {*means.names} - {*means.of_objectives}
    for callback in (inner for own in callbacks for inner in getattr(own, "callbacks", [own])):
        name = str(getattr(callback, "monitor", None)).removeprefix("val_")
        if getattr(callback, "mode", None) == "auto" and name in less_is_better:
            callback.mode = "min"
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise ConfigError(
                "SwapEMAWeights swaps the weights of one optimizer, and each part has its own; with "
                "use_ema=True in every optimizer, without the callback, trainer.averages.in_place() has the "
                "averages. Received: SwapEMAWeights"
            )
    return [BetweenSteps(), *callbacks]


class BetweenSteps(keras.callbacks.Callback):
    """Stops a `fit` whose steps diverge, before other callbacks see what they report."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.training_steps.skips.begin_epoch(self.params["steps"])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the steps, before Keras validates.

        What no step has computed yet is left out of the logs, like what the phase does not compute.
        """
        for name in self.model.logs.means.names:
            if math.isnan(logs.get(name, 0.0)):  # at which `TerminateOnNaN` would end training
                del logs[name]
        self.model.training_steps.skips.check(self.model.phase)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.model.training_steps.end_epoch(self.model.phase, logs)


class OneTraining(keras.callbacks.CallbackList):
    """Callbacks to which a loop over `fit` is one training, which begins and ends with the context.

        with OneTraining([EarlyStopping("val_loss")], trainer, len(trainer.phases)) as callbacks:
            for epoch, phase in enumerate(trainer.phases):
                trainer.set_phase(phase)
                trainer.fit(images, ..., initial_epoch=epoch, epochs=epoch + 1, callbacks=callbacks)
                if trainer.stop_training:
                    break

    Args:
      callbacks: of Keras.
      trainer: the model that they are told.
      epochs: of the whole training.
      steps: of each epoch, if it is known.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        trainer: keras.Model,
        epochs: int,
        steps: int | None = None,
    ):
        super().__init__(list(callbacks))
        super().set_model(trainer)
        super().set_params({"epochs": epochs, "steps": steps, "verbose": 0})

    def __enter__(self) -> OneTraining:
        super().on_train_begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            super().on_train_end()

    def _of_one_fit(self, *_: object, **__: object) -> None:
        """Does nothing: what a single `fit` begins, ends or knows is not the training's."""

    on_train_begin = on_train_end = set_params = set_model = _of_one_fit
