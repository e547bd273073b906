"""Split: factors out half of the channels as a latent."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Bound, Latents, PartOutput, Shape, no_log_det, soft_bound
from glow_tf.bijectors.gaussian_prior import LOG_DEVIATION_BOUND
from glow_tf.bijectors.networks import ZeroConvolution
from glow_tf.config import PRIORS
from glow_tf.likelihood import standard_normal_log_prob


@keras.saving.register_keras_serializable(package="glow_tf")
class Split(Bijector):
    """Keeps one half of the channels and factors out the other half as a latent, scored given the first.

    Let x = [h, z], halved along the channels, and let p(z | h) be a Gaussian with mean μ(h) and deviation
    σ(h). `factor_out(x)` returns h, the *whitened* latent eps = (z − μ(h)) / σ(h), and log p(z | h).
    `merge(h, eps)` is its inverse. In a part, h goes on and eps does not. As a bijector of the whole tensor:
    Forward:   y = [h, eps]      log_det = −Σ log σ(h), so log p(z | h) = log N(eps; 0, I) + log_det
    Inverse:   x = [h, eps · σ(h) + μ(h)]

    Shapes: [B, H, W, C] with C even → [B, H, W, C/2] twice.

    Args:
      prior: `learned` (a 3×3 convolution of h, which starts at zero, gives μ and log σ) or `standard`
        (μ = 0, σ = 1).

    Raises:
      ValueError: prior is unknown; on build, the number of channels is odd.
    Reference: Dinh et al. 2017, section 3.6, https://arxiv.org/abs/1605.08803
    """

    def __init__(self, prior: str = "learned", **kwargs):
        super().__init__(**kwargs)
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}. Received: prior={prior!r}")
        self.prior = prior

    def build(self, input_shape: Shape) -> None:
        """Creates the convolution of a learned prior."""
        channels = input_shape[-1]
        if channels % 2:
            raise ValueError(
                f"Split needs an even number of channels. Received: input_shape={tuple(input_shape)}"
            )
        if self.prior == "learned":
            self.network = ZeroConvolution(channels, dtype=self.dtype_policy, name="prior")
            self.network.build((*input_shape[:-1], channels // 2))
        self.built = True

    def factor_out(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns h [B, H, W, C/2], eps [B, H, W, C/2] and log p(z | h) [B] in nats."""
        h, eps, log_det = self._whiten(x)
        return h, eps, standard_normal_log_prob(eps) + log_det

    def merge(self, h: tf.Tensor, eps: tf.Tensor) -> tf.Tensor:
        """Inverts `factor_out`: h and eps, both [B, H, W, C/2] → x [B, H, W, C].

        Raises:
          ValueError: the layer is not built.
        """
        self.require_built()
        return self._colour(h, eps)[0]

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        h, eps, log_det = self._whiten(x)
        return tf.concat([h, eps], axis=-1), log_det

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.require_built()
        return self._colour(*tf.split(y, 2, axis=-1))

    def forward_in_part(self, so_far: PartOutput) -> PartOutput:
        """See base: adds its latent, and log p(z | h) to those of the latents."""
        h, eps, log_prob = self.factor_out(so_far.h)
        latents, latents_log_prob = (*so_far.latents, eps), so_far.latents_log_prob + log_prob
        return so_far._replace(h=h, latents=latents, latents_log_prob=latents_log_prob)

    def inverse_in_part(self, h: tf.Tensor, latents: Latents, bound: Bound) -> tuple[tf.Tensor, Latents]:
        """See base."""
        return bound(self.merge(h, latents[-1])), latents[:-1]

    def initialize_in_part(self, x: tf.Tensor) -> tf.Tensor:
        """See base."""
        return self.factor_out(x)[0]

    def shapes_in_part(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        """See base."""
        half = (*input_shape[:-1], input_shape[-1] // 2)
        return half, (half,)

    def _whiten(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        self.ensure_built(x)
        h, z = tf.split(x, 2, axis=-1)
        if self.prior == "standard":
            return h, z, no_log_det(x)
        mean, log_deviation = self._mean_and_log_deviation(h)
        return h, (z - mean) * tf.exp(-log_deviation), -tf.reduce_sum(log_deviation, axis=[1, 2, 3])

    def _colour(self, h: tf.Tensor, eps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if self.prior == "standard":
            return tf.concat([h, eps], axis=-1), no_log_det(h)
        mean, log_deviation = self._mean_and_log_deviation(h)
        x = tf.concat([h, eps * tf.exp(log_deviation) + mean], axis=-1)
        return x, tf.reduce_sum(log_deviation, axis=[1, 2, 3])

    def _mean_and_log_deviation(self, h: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        mean, raw = tf.split(self.network.call(h), 2, axis=-1)
        return mean, soft_bound(raw, LOG_DEVIATION_BOUND)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {**super().get_config(), "prior": self.prior}
