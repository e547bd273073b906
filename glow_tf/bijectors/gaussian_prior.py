"""The density under which a part's output is scored."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, no_log_det, per_example, soft_bound
from glow_tf.config import PRIORS
from glow_tf.likelihood import standard_normal_log_prob

# Learned log-deviations stay within ±5, so that whitening and its inverse stay finite.
LOG_DEVIATION_BOUND = 5.0


@keras.saving.register_keras_serializable(package="glow_tf")
class GaussianPrior(Bijector):
    """A Gaussian density of a tensor, written as the bijector that whitens the tensor.

    Forward:   eps = (h − mean_c) / deviation_c      log_det = −H·W·Σ_c log deviation_c
    Inverse:   h = eps · deviation_c + mean_c
    so that log p(h) = log N(eps; 0, I) + log_det (`log_prob`).

    Args:
      kind: `standard` (mean 0 and deviation 1, as in the paper) or `learned` (one mean and one log-deviation
        per channel; all start at 0).

    Raises:
      ValueError: kind is unknown.
    """

    def __init__(self, kind: str = "standard", **kwargs):
        super().__init__(**kwargs)
        if kind not in PRIORS:
            raise ValueError(f"kind must be one of {PRIORS}. Received: kind={kind!r}")
        self.kind = kind

    def build(self, input_shape: Shape) -> None:
        """Creates one mean and one raw log-deviation per channel."""
        if self.kind == "learned":
            shape = (input_shape[-1],)
            self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros")
            self.raw_log_deviation = self.add_weight(
                name="raw_log_deviation", shape=shape, initializer="zeros"
            )
        self.built = True

    def log_prob(self, h: tf.Tensor) -> tf.Tensor:
        """Returns log p(h) in nats, [B], for h [B, H, W, C]."""
        eps, log_det = self.forward_and_log_det(h)
        return standard_normal_log_prob(eps) + log_det

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        if self.kind == "standard":
            return x, no_log_det(x)
        log_deviation = self._log_deviation()
        return (x - self.mean.value) * tf.exp(-log_deviation), -self._log_det(x, log_deviation)

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.require_built()
        if self.kind == "standard":
            return y, no_log_det(y)
        log_deviation = self._log_deviation()
        return y * tf.exp(log_deviation) + self.mean.value, self._log_det(y, log_deviation)

    def _log_deviation(self) -> tf.Tensor:
        return soft_bound(self.raw_log_deviation.value, LOG_DEVIATION_BOUND)

    def _log_det(self, x: tf.Tensor, log_deviation: tf.Tensor) -> tf.Tensor:
        return per_example(tf.reduce_sum(log_deviation) * (x.shape[1] * x.shape[2]), x)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {**super().get_config(), "kind": self.kind}
