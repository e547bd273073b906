"""What factors channels out as a latent: `Split`, one half of them."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import (
    LOG_DEVIATION_BOUND,
    Bijector,
    Bound,
    Latents,
    PartOutput,
    Shape,
    WithLogDet,
    no_log_det,
    soft_bound,
)
from glow_tf.bijectors.condition import beside
from glow_tf.bijectors.likelihood import standard_normal_log_prob
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.bijectors.networks import ZeroConvolution
from glow_tf.config import GAUSSIANS


class FactorsOut(Bijector):
    """Keeps the first channels and factors the others out as a latent, scored given the first.

    Let x = [h, z] along the channels. A subclass says how many channels h has (`kept_of`), and defines a
    bijection between z and a *whitened* latent eps that depends on h (`whiten`, `colour`), so that
    log p(z | h) = log N(eps; 0, I) + log_det. In a part, h goes on and eps does not. As a bijector of the
    whole tensor:
    Forward:   y = [h, eps(z; h)]
    Inverse:   x = [h, z(eps; h)]
    """

    def kept_of(self, channels: int) -> int:
        """Returns how many of a tensor's channels go on."""
        raise NotImplementedError

    def whiten(self, h: tf.Tensor, z: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        """Returns eps, of the shape of z, and log|det d eps/dz| [B] in nats."""
        raise NotImplementedError

    def colour(self, h: tf.Tensor, eps: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        """Inverts `whiten`: returns z, of the shape of eps, and log|det dz/d eps| [B] in nats."""
        raise NotImplementedError

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self.initialize_in_part(x, context)
        return self.forward_and_log_det(x, context)[0]

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        h, eps, log_det = self._apart(x, context)
        return tf.concat([h, eps], axis=-1), log_det

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._require_built()
        h, eps = self.cut(y)
        z, log_det = self.colour(h, eps, context)
        return tf.concat([h, z], axis=-1), log_det

    def forward_in_part(self, so_far: PartOutput, context: Context = ALONE) -> PartOutput:
        h, eps, log_det = self._apart(so_far.h, context)
        log_prob = so_far.latents_log_prob + (standard_normal_log_prob(eps) + log_det)
        return so_far._replace(h=h, latents=(*so_far.latents, eps), latents_log_prob=log_prob)

    def inverse_in_part(
        self, h: tf.Tensor, latents: Latents, bound: Bound, context: Context = ALONE
    ) -> tuple[tf.Tensor, Latents]:
        self._require_built()
        z, _ = self.colour(h, latents[-1], context)
        return bound(tf.concat([h, z], axis=-1)), latents[:-1]

    def initialize_in_part(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self._ensure_built(x)
        return self.pass_on(x)

    def pass_on(self, x: tf.Tensor) -> tf.Tensor:
        return self.cut(x)[0]

    def shapes(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        *others, channels = input_shape
        kept = self.kept_of(channels)
        return (*others, kept), ((*others, channels - kept),)

    def _apart(self, x: tf.Tensor, context: Context) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        self._ensure_built(x)
        h, z = self.cut(x)
        return h, *self.whiten(h, z, context)

    def cut(self, x: tf.Tensor) -> list[tf.Tensor]:
        """Returns the channels that go on, and those that are factored out."""
        kept = self.kept_of(x.shape[-1])
        return tf.split(x, [kept, x.shape[-1] - kept], axis=-1)


@keras.saving.register_keras_serializable(package="glow_tf")
class Split(FactorsOut):
    """Factors out half of the channels as a latent that is Gaussian, given the other half.

    p(z | h) has mean μ(h) and deviation σ(h), so eps = (z − μ(h)) / σ(h), and log_det = −Σ log σ(h).

    Shapes: [B, H, W, C] → [B, H, W, C/2] twice; if C is odd, z has one channel more than h.

    Args:
      base: `learned` (a 3×3 convolution of h, which starts at zero, gives μ and log σ) or `standard`
        (μ = 0, σ = 1).
      condition_channels: channels of a condition that the convolution reads beside h; 0: none.
      bounded: whether log-deviations stay within ±3 instead of ±5.

    Raises:
      ValueError: base is unknown; on build, there is a single channel.
    Reference: Dinh et al. 2017, section 3.6, https://arxiv.org/abs/1605.08803
    """

    def __init__(self, base: str = "learned", condition_channels: int = 0, bounded: bool = False, **kwargs):
        super().__init__(**kwargs)
        if base not in GAUSSIANS:
            raise ValueError(f"base must be one of {GAUSSIANS}. Received: base={base!r}")
        self.base = base
        self.bounded = bounded
        self.condition_channels = 0 if base == "standard" else condition_channels

    def kept_of(self, channels: int) -> int:
        return channels // 2

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        if channels < 2:
            raise ValueError(f"Split needs two channels or more. Received: input_shape={tuple(input_shape)}")
        if self.base != "standard":
            kept = self.kept_of(channels)
            self.network = ZeroConvolution(2 * (channels - kept), dtype=self.dtype_policy, name="prior")
            self.network.build((*input_shape[:-1], kept + self.condition_channels))
        self.built = True

    def whiten(self, h: tf.Tensor, z: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        if self.base == "standard":
            return z, no_log_det(z)
        mean, log_deviation = self._mean_and_log_deviation(h, context)
        return (z - mean) * tf.exp(-log_deviation), -tf.reduce_sum(log_deviation, axis=[1, 2, 3])

    def colour(self, h: tf.Tensor, eps: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        if self.base == "standard":
            return eps, no_log_det(h)
        mean, log_deviation = self._mean_and_log_deviation(h, context)
        return eps * tf.exp(log_deviation) + mean, tf.reduce_sum(log_deviation, axis=[1, 2, 3])

    def _mean_and_log_deviation(self, h: tf.Tensor, context: Context) -> tuple[tf.Tensor, tf.Tensor]:
        if self.condition_channels:
            h = beside(h, context.condition, self.condition_channels)
        mean, raw = tf.split(self.network.call(h, context.mode), 2, axis=-1)
        return mean, soft_bound(raw, LOG_DEVIATION_BOUND[self.bounded])
