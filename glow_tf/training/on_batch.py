"""Single steps and evaluations of a batch, as Keras has them."""

from __future__ import annotations

from typing import Any

from glow_tf.errors import ConfigError
from glow_tf.training import inputs
from glow_tf.training.batch import Batch
from glow_tf.training.optimizers import count_steps
from glow_tf.training.options import check_compiled
from glow_tf.training.parts_model import PartsModel


class OnBatch(PartsModel):
    """A model that makes one step, or one evaluation, at a time."""

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: None = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> Any:
        """Makes one step of the current phase, as keras.Model.train_on_batch does.

        Initialises the ActNorms from the batch if need be.

        Args:
          x: images uint8 [B, H, W, C]; or a tuple (images, noise), with noise in [0, 1).
          y: the labels of a model with classes, integers [B], or what a model is given with each image, if
            that does not end the tuple x; see `fit`. For other models it must be None.
          sample_weight: must be None.
          class_weight: must be None.
          return_dict: as in keras.Model.train_on_batch.

        Raises:
          ConfigError: the batch does not fit the model, an argument has no meaning here, rates need the
            number of steps per epoch, which neither `compile` nor a `fit` has found out, replicas make steps
            alone, or batches wait between parts.
          NonFiniteError, DivergedError: as in `fit`.
        """
        check_compiled(self, "train_on_batch")
        if self.options.sync_every > 1 or self.options.part_delay:
            raise ConfigError(
                "train_on_batch needs sync_every=1 and part_delay=0: replicas that make steps alone meet in "
                "fit, which also brings all parts to the same batch. "
                f"Received: sync_every={self.options.sync_every}, part_delay={self.options.part_delay}"
            )
        count_steps(self.optimizers, None)
        unused = {"sample_weight": sample_weight, "class_weight": class_weight}
        batch = inputs.for_one_step(self.glow, x, y, unused, trains=True)
        if not self.glow.initialized:
            self.initialize(batch.images, batch.noise, batch.condition)
        self.averages.start()
        with self._skips.naming_faults():
            logs = super().train_on_batch(_in_one(batch), return_dict=return_dict)
            if fault := self._skips.fault_of(self.phase):
                raise fault
        return logs

    def test_on_batch(
        self, x: Any, y: Any = None, sample_weight: None = None, return_dict: bool = False
    ) -> Any:
        """Computes the bits per dimension of one batch, as keras.Model.test_on_batch does.

        Arguments are as in `train_on_batch`; there are no labels. ConfigError if the batch does not fit the
        model, or an argument has no meaning here.
        """
        check_compiled(self, "test_on_batch")
        batch = inputs.for_one_step(self.glow, x, y, {"sample_weight": sample_weight}, trains=False)
        with self.evaluating():
            return super().test_on_batch(_in_one(batch), return_dict=return_dict)


def _in_one(batch: Batch) -> tuple:
    """Returns the members of a batch that there are, as Keras hands on one argument."""
    return tuple(member for member in batch if member is not None)
