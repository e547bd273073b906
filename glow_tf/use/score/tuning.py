"""Copies of a prior, tuned on few images."""

from __future__ import annotations

import keras
import numpy as np

from glow_tf.bijectors.condition import Condition
from glow_tf.config import TrainConfig
from glow_tf.model.glow import Glow
from glow_tf.training.trainer import PartsTrainer

FEW = 80  # images


def settings_for(count: int, separable: bool) -> TrainConfig:
    """Returns how a prior is tuned on so many images: fewer are seen more often, and at a lower rate."""
    epochs = min(max(round(20 * (160 / count) ** 0.3), 2), 30)
    batch = min(4 if count < FEW else 8, count)
    in_parts = {"part_epochs": epochs, "finetune_epochs": 0} if separable else {"part_epochs": 0, "finetune_epochs": epochs}
    return TrainConfig(
        schedule="simultaneous" if separable else "end_to_end",
        **in_parts,
        learning_rate="5e-3" if count < FEW else "1e-2" if count < 1000 else "2e-2",
        batch_size=batch,
        warmup_steps=min(100, epochs * (count // batch) // 3),
    )


class Tuner:
    """Tunes one copy of a prior again and again, on other images; it is traced once.

    Args:
      prior: to start from.
      count: images in an epoch, those that there are being repeated to so many.
    """

    def __init__(self, prior: Glow, count: int):
        self.prior, self.count = prior, count
        self.glow = prior.recut()
        self.settings = settings_for(count, prior.config.design.separable)
        self.trainer = PartsTrainer(self.glow)
        self.trainer.compile(self.settings)
        self._start = None

    @property
    def epochs(self) -> int:
        return self.settings.part_epochs + self.settings.finetune_epochs

    def tune(self, images, held_out=None, epochs: int | None = None) -> int:
        """Tunes the copy on images [N, H, W, C], from the prior on; returns the epoch that it ends with.

        That is the best one on `held_out`, if there are some, otherwise the last of `epochs`; 0: the prior.
        """
        self.glow.set_weights(self.prior.get_weights())
        state = [v for o in self.trainer.optimizers for v in o.variables]
        if self._start is None:
            self._start = [np.array(v) for v in state]
        for variable, value in zip(state, self._start, strict=True):
            variable.assign(value)
        own = np.resize(images, (self.count, *images.shape[1:]))
        if held_out is None:
            if epochs:
                self.trainer.fit(own, epochs=epochs, verbose=0)
            return epochs
        best = keras.callbacks.EarlyStopping("val_bpd", mode="min", patience=self.epochs // 3, restore_best_weights=True)
        self.trainer.fit(own, validation_data=held_out, callbacks=[best], verbose=0)
        return best.best_epoch + 1
