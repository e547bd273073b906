"""A copy of a prior, tuned on few images, again and again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from glow_tf.bijectors.condition import Condition
from glow_tf.config import RunConfig, TrainConfig
from glow_tf.core.progress import with_progress
from glow_tf.model.conditions import some_of
from glow_tf.model.glow import Glow
from glow_tf.run import suited
from glow_tf.training.trainer import PartsTrainer


class Tuner:
    """Tunes one copy of a prior on sets of images; its steps are traced once for all of them.

    Args:
      prior: to start from. It stays as it is.
      count: images in an epoch; what `tune` is given is repeated to so many.
      seed: of the order of the images and of the noise.
      epochs: at most; by default as many as suit so many images. 0: the copy stays the prior.
    """

    def __init__(self, prior: Glow, count: int, seed: int = 0, epochs: int | None = None):
        self.prior, self.count = prior, count
        self.glow = prior.recut()
        run = RunConfig(workdir="none", follows=suited.TUNED)  # of so many images, which starts from it
        settings = suited.tuned(run, count) | {"ema": 0.0}  # EarlyStopping restores weights, not averages
        self.epochs = settings["part_epochs"] if epochs is None else epochs
        self.patience = settings["patience"]
        if epochs is not None:
            settings |= {"part_epochs": max(epochs, 1), "warmup_steps": min(epochs * count // 12, 100)}
        names = TrainConfig.__dataclass_fields__
        config = TrainConfig(**{name: value for name, value in settings.items() if name in names})
        self.trainer = PartsTrainer(self.glow, seed=seed)
        self.trainer.compile(config)
        self._start: list[np.ndarray] = []

    def tune(
        self, images: np.ndarray, condition: Condition = None, held_out: Any = None, epochs: int | None = None
    ) -> int:
        """Tunes the copy on images [N, H, W, C], from the prior on; returns the epoch that it ends with.

        That is the best by `held_out`, images or (images, conditions); without them it is `epochs`.
        """
        if not self.epochs:
            return 0
        self.glow.set_weights(self.prior.get_weights())
        state = [variable for optimizer in self.trainer.optimizers for variable in optimizer.variables]
        self._start = self._start or [np.array(variable) for variable in state]
        for variable, value in zip(state, self._start, strict=True):
            variable.assign(value)
        which = np.resize(np.arange(len(images)), self.count)
        steps = (epochs or self.epochs) * max(self.count // self.trainer.options.batch_size, 1)
        bar = with_progress(None, steps, f"Tuning on {len(images)} images, steps")
        ticks = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda *_, **__: bar.update(), on_train_end=lambda *_, **__: bar.close()
        )
        arguments: dict[str, Any] = {"y": some_of(condition, which), "verbose": 0}
        if held_out is None:
            self.trainer.fit(images[which], epochs=epochs, callbacks=[ticks], **arguments)
            return epochs or self.epochs
        best = keras.callbacks.EarlyStopping(
            "val_bpd", mode="min", patience=self.patience, restore_best_weights=True
        )
        self.trainer.fit(images[which], validation_data=held_out, callbacks=[ticks, best], **arguments)
        return best.best_epoch + 1
