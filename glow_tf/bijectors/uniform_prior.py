"""The density of an image's pixels where nothing is known of them."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, WithLogDet, no_log_det
from glow_tf.bijectors.condition import Condition


@keras.saving.register_keras_serializable(package="glow_tf")
class UniformPrior(Bijector):
    """The uniform density of images of numbers in [−½, ½), which is 1; as a bijector, the identity.

    It is the local prior of a level, whose output is the image of half the size. That image is all that the
    next level learns, and nothing of it is the level's own.
    """

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        return x, no_log_det(x)

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        return y, no_log_det(y)

    def log_prob(self, h: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns 0 for every example of h [B, H, W, C]: [B], nats."""
        return no_log_det(h)
