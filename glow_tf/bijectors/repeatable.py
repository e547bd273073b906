"""What a bijector must offer so that `Stack` can repeat it."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, WithLogDet, read_by
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.internals import with_values

Folded = Sequence[tf.Tensor]  # what `Repeatable.fold` returned for one copy


class Repeatable(Bijector):
    """A bijector that preserves its input's shape and can run with the weights of any copy of it.

    `Stack` holds the weights of all copies together and runs one bijector with the weights of each copy in
    turn. It first *folds* the weights: `fold` computes everything that does not depend on x, once per call
    and for all copies at the same time. `forward_folded` then takes the folded weights of one copy.

    The extra axis: when `Stack` calls `fold`, every weight has one axis more in front, of size `count` (the
    copies), and so must every folded tensor. A subclass that overrides `fold` therefore indexes axes from the
    end, such as `axis=-1` or `[..., tf.newaxis, :]`.

    All methods have a default. A subclass overrides `fold` and `forward_folded`, both or neither, where this
    saves time, and `reseed` if its weights start at random.

    Attributes:
      condition_channels: channels of the condition that it reads, which `Stack` brings to the resolution of x
        for all copies; 0: none.
    """

    condition_channels = 0

    def fold(self) -> list[tf.Tensor]:
        """Returns the tensors, of any shape, that replace the weights; by default, the weights themselves."""
        return [v.value for v in all_variables(self)]

    def forward_folded(self, x: tf.Tensor, folded: Folded, context: Context = ALONE) -> WithLogDet:
        """Runs `forward_and_log_det` with what `fold` returned for one copy."""
        with with_weights(self, folded):
            return self.forward_and_log_det(x, *read_by(self, context))

    def reseed(self, seed: int) -> None:
        """Gives the random weights their starting values of another seed; the base class has none."""

    def starting_values(self, count: int) -> list[np.ndarray]:
        """Returns the starting values of copies, stacked; copy k, from 0, has the seed of this one plus k.

        The bijector is new: copy 0 has the values that it was built with.
        """
        variables, seed = all_variables(self), self.get_config().get("seed", 0)
        starts = [np.empty((count, *v.shape), v.dtype) for v in variables]
        for k in range(count):
            with tf.init_scope():  # Keras may build layers within a graph
                if k:
                    self.reseed(seed + k)
                for start, variable in zip(starts, variables, strict=True):
                    start[k] = variable.numpy()
        return starts


def all_variables(bijector: Bijector) -> list[keras.Variable]:
    """Returns the trainable variables, followed by the others."""
    return [*bijector.trainable_variables, *bijector.non_trainable_variables]


def with_weights(bijector: Bijector, weights: Sequence[tf.Tensor]) -> keras.StatelessScope:
    """Returns a scope within which `all_variables` of the bijector have these values."""
    return with_values(all_variables(bijector), weights)
