"""The densities under which what a part makes is scored."""

import math

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import (
    LOG_DEVIATION_BOUND,
    Bijector,
    Shape,
    WithLogDet,
    WithMap,
    log_det_by_place,
    no_log_det,
    per_example,
    pixels_of,
    soft_bound,
    with_slopes,
)
from glow_tf.bijectors.condition import brought_to
from glow_tf.bijectors.likelihood import standard_normal_log_prob
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.bijectors.networks import ZeroConvolution
from glow_tf.config import GAUSSIANS


@keras.saving.register_keras_serializable(package="glow_tf")
class GaussianBase(Bijector):
    """A Gaussian density of a tensor, written as the bijector that whitens the tensor.

    Forward:   eps = (h − mean_c) / deviation_c      log_det = −H·W·Σ_c log deviation_c
    Inverse:   h = eps · deviation_c + mean_c
    so that log p(h) = log N(eps; 0, I) + log_det (`log_prob`).

    A learned one may be given a condition. A 3×3 convolution of it, which starts at zero, then adds to mean
    and log-deviation, at every pixel.

    Args:
      kind: `standard` (mean 0 and deviation 1, as in the paper) or `learned` (one mean and one log-deviation
        per channel; all start at 0).
      condition_channels: channels of the condition that a learned base reads; 0: none.
      bounded: whether log-deviations stay within ±3 instead of ±5.

    Raises:
      ValueError: kind is unknown.
    """

    def __init__(self, kind: str = "standard", condition_channels: int = 0, bounded: bool = False, **kwargs):
        super().__init__(**kwargs)
        if kind not in GAUSSIANS:
            raise ValueError(f"kind must be one of {GAUSSIANS}. Received: kind={kind!r}")
        self.kind = kind
        self.bounded = bounded
        self.condition_channels = condition_channels if kind == "learned" else 0

    def build(self, input_shape: Shape) -> None:
        if self.kind == "learned":
            zeros = {"shape": (input_shape[-1],), "initializer": "zeros"}
            self.mean = self.add_weight(name="mean", **zeros)
            self.raw_log_deviation = self.add_weight(name="raw_log_deviation", **zeros)
        if self.condition_channels:
            self.network = ZeroConvolution(2 * input_shape[-1], dtype=self.dtype_policy, name="network")
            self.network.build((*input_shape[:-1], self.condition_channels))
        self.built = True

    def log_prob(self, h: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Returns log p(h), given a condition if there is one, in nats, [B], for h [B, H, W, C]."""
        eps, log_det = self.forward_and_log_det(h, context)
        return standard_normal_log_prob(eps) + log_det

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._ensure_built(x)
        if self.kind == "standard":
            return x, no_log_det(x)
        mean, log_deviation = self.moments(x, context)
        return (x - mean) * tf.exp(-log_deviation), -_log_det(x, log_deviation)

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._require_built()
        if self.kind == "standard":
            return y, no_log_det(y)
        mean, log_deviation = self.moments(y, context)
        return y * tf.exp(log_deviation) + mean, _log_det(y, log_deviation)

    def moments(self, x: tf.Tensor, context: Context = ALONE) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and log-deviation: [C], [B, 1, 1, C] or [B, H, W, C], to whiten x."""
        mean, raw = self.mean.value, self.raw_log_deviation.value
        if self.condition_channels:
            given = brought_to(context.condition, x, self.condition_channels)
            of_mean, of_deviation = tf.split(self.network.call(given, context.mode), 2, axis=-1)
            mean, raw = mean + of_mean, raw + of_deviation
        return mean, soft_bound(raw, LOG_DEVIATION_BOUND[self.bounded])


@log_det_by_place.register
def _(base: GaussianBase, x: tf.Tensor, context: Context = ALONE) -> WithMap:
    return with_slopes(lambda x: base.forward_and_log_det(x, context)[0], x)


def _log_det(x: tf.Tensor, log_deviation: tf.Tensor) -> tf.Tensor:
    of_all, shape = log_deviation.shape.rank < 4, log_deviation.shape
    repeats = pixels_of(x) // math.prod(shape[-3:-1])  # of one for all pixels
    total = repeats * tf.reduce_sum(log_deviation, axis=None if of_all else [1, 2, 3])
    return per_example(total, x) if of_all else total


@keras.saving.register_keras_serializable(package="glow_tf")
class UniformBase(Bijector):
    """The uniform density of images of numbers in [−½, ½), which is 1; as a bijector, the identity.

    It is the local base of a level, whose output is the image of half the size. That image is all that the
    next level learns, and nothing of it is the level's own.
    """

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        return x, no_log_det(x)

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        return y, no_log_det(y)

    def log_prob(self, h: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Returns 0 for every example of h [B, H, W, C]: [B], nats."""
        return no_log_det(h)
