"""The density of the top latent, by class."""

import math

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import LOG_DEVIATION_BOUND, Shape, soft_bound
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.gaussian_prior import Density
from glow_tf.bijectors.likelihood import standard_normal_log_prob

CLASSES_AT_ONCE = 16  # a mixture's score needs memory for that many copies of the latent


@keras.saving.register_keras_serializable(package="glow_tf")
class ClassPrior(Density):
    """A Gaussian for each class, with a mean and a deviation per class, place and channel.

    Where the class of an example is not known, its density is the mixture of the classes' densities, with
    equal weights. A mixture has no whitening in closed form. As a bijector without labels, this is the affine
    map that gives the mixture mean 0 and deviation 1 at every place:
    Forward:   eps = (h − mean) / deviation      log_det = −Σ log deviation
    Inverse:   h = eps · deviation + mean
    Its condition is the class of each example, a label. With it, mean and deviation are those of the class,
    and log p(h | label) = log N(eps; 0, I) + log_det.

    Args:
      classes: number of classes.

    Raises:
      ValueError: classes is less than 1; on build, the height, width or number of channels is not known.
    Reference: Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039, whose code has means and deviations
    by class and channel.
    """

    def __init__(self, classes: int, **kwargs):
        super().__init__(**kwargs)
        if classes < 1:
            raise ValueError(f"classes must be a positive number. Received: classes={classes}")
        self.classes = classes

    def build(self, input_shape: Shape) -> None:
        event = tuple(input_shape[1:])
        if None in event:
            raise ValueError(
                f"ClassPrior needs a known height, width and depth. Received: {tuple(input_shape)}"
            )
        shape = (self.classes, *event)
        self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros")
        self.raw_log_deviation = self.add_weight(name="raw_log_deviation", shape=shape, initializer="zeros")
        self.built = True

    def read(self, condition: Condition) -> tuple[Condition, ...]:
        """Returns labels, integers [B], alone: what else the part is given it does not read."""
        if isinstance(condition, np.ndarray | list):
            condition = tf.convert_to_tensor(condition)
        is_label = tf.is_tensor(condition) and condition.dtype.is_integer
        return (condition,) if is_label else ()

    def log_prob(self, h: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns log p(h | label), or log p(h) if the class is not known: [B, H, W, C] → [B], nats.

        The condition is the class of each example, from 0, integers [B].
        """
        if self.read(condition):
            return super().log_prob(h, condition)
        return tf.reduce_logsumexp(self.log_prob_by_label(h), axis=1) - math.log(self.classes)

    def log_prob_by_label(self, h: tf.Tensor) -> tf.Tensor:
        """Returns log p(h | label) of every label, [B, classes], nats, for h [B, H, W, C]."""
        self.ensure_built(h)
        means, log_deviations = self.mean.value, self._log_deviation()
        found: list[tf.Tensor] = []
        for first in range(0, self.classes, CLASSES_AT_ONCE):
            some = slice(first, first + CLASSES_AT_ONCE)
            # One after another: TensorFlow would start all at once, and need memory for all classes.
            with tf.control_dependencies(found[-1:]):
                found.append(_log_prob_by_class(tf.identity(h), means[some], log_deviations[some]))
        return tf.concat(found, axis=1)

    def moments(self, x: tf.Tensor, condition: Condition = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and log-deviation: of the labels, [B, H, W, C], or of the mixture, [H, W, C]."""
        means, log_deviations = self.mean.value, self._log_deviation()
        if condition is not None:
            return _rows(means, condition), _rows(log_deviations, condition)
        mean = tf.reduce_mean(means, axis=0)
        variance = tf.reduce_mean(tf.exp(2 * log_deviations) + tf.square(means - mean), axis=0)
        return mean, 0.5 * tf.math.log(variance)

    def _log_deviation(self) -> tf.Tensor:
        return soft_bound(self.raw_log_deviation.value, LOG_DEVIATION_BOUND[False])


def _log_prob_by_class(h: tf.Tensor, means: tf.Tensor, log_deviations: tf.Tensor) -> tf.Tensor:
    """Returns the log-density of h [B, H, W, C] under Gaussians [classes, H, W, C], [B, classes]."""
    eps = (h[:, tf.newaxis] - means) * tf.exp(-log_deviations)
    log_prob = standard_normal_log_prob(tf.reshape(eps, [-1, *h.shape[1:]]))
    return tf.reshape(log_prob, [-1, means.shape[0]]) - tf.reduce_sum(log_deviations, axis=[1, 2, 3])


def _rows(values: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Returns the entries [B, H, W, C] of labels [B] among values [classes, H, W, C]."""
    # Reshaped, because the gradient is then a tensor: one with an entry per example has another norm.
    table = tf.reshape(values, [values.shape[0], -1])
    return tf.reshape(tf.gather(table, tf.cast(labels, tf.int64)), [-1, *values.shape[1:]])
