"""Densities of latents without their learned mean and deviation, and the priors that use them."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, KeepsArguments, Shape, WithLogDet
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.gaussian_prior import GaussianPrior
from glow_tf.bijectors.likelihood import standard_normal_log_prob
from glow_tf.bijectors.logistic_mixture import LogisticMixture
from glow_tf.bijectors.registered import made, seeded
from glow_tf.bijectors.student_t import StudentT
from glow_tf.config import GAUSSIANS, names_own_layer
from glow_tf.core.errors import ConfigError

SHAPES: dict[str, type[Bijector]] = {"student_t": StudentT, "logistic_mixture": LogisticMixture}


@keras.saving.register_keras_serializable(package="glow_tf")
class Residual(KeepsArguments, Bijector):
    """A density that is not Gaussian, as a bijector: it maps numbers of this density to standard normal ones.

    A layer of one's own is such a bijector, or has `log_prob(x)`, [B, H, W, C] → [B] in nats. The latter can
    only score: forward returns x, with log_prob(x) − log N(x; 0, I) as log_det. So likelihoods are exact, but
    there is no inverse.

    Args:
      kind: `student_t`, `logistic_mixture`, or the name of a layer of one's own; see `registered.py`.
    """

    def __init__(self, kind: str, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind
        if not names_own_layer(kind):
            self.density = SHAPES[kind](dtype=self.dtype_policy, name="density")
            return
        with seeded(0):
            self.density = made("prior", kind, dtype=self.dtype_policy)
        if not isinstance(self.density, keras.layers.Layer) or (
            self.only_scores and not hasattr(self.density, "log_prob")
        ):
            raise ConfigError(
                "a prior must be a Bijector, or a Keras layer with log_prob(x). "
                f"Received: {type(self.density).__name__}"
            )

    @property
    def only_scores(self) -> bool:
        """Whether it has no inverse. Then images can be neither encoded nor drawn."""
        return not isinstance(self.density, Bijector)

    @property
    def elementwise(self) -> bool:
        return getattr(self.density, "elementwise", False)

    def build(self, input_shape: Shape) -> None:
        with seeded(0):
            self.density.build(input_shape)
        self.built = True

    def initialize(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        self.ensure_built(x)
        return x if self.only_scores else self.density.initialize(x)

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        self.ensure_built(x)
        if self.only_scores:
            return x, self.density.log_prob(x) - standard_normal_log_prob(x)
        return self.density.forward_and_log_det(x)

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        self.require_built()
        check_inverts(self)
        return self.density.inverse_and_log_det(y)


@keras.saving.register_keras_serializable(package="glow_tf")
class ShapedPrior(GaussianPrior):
    """A prior with a learned mean and deviation, as those of `GaussianPrior`, and the shape of a `Residual`.

    Args:
      shape: the `kind` of the `Residual`.
      condition_channels: channels of the condition that mean and deviation read; 0: none.
      bounded: as that of `GaussianPrior`.
    """

    def __init__(self, shape: str, condition_channels: int = 0, bounded: bool = False, **kwargs):
        super().__init__("learned", condition_channels, bounded, **kwargs)
        self.shape = shape
        self.residual = Residual(shape, dtype=self.dtype_policy, name="residual")

    def build(self, input_shape: Shape) -> None:
        super().build(input_shape)
        self.residual.build(input_shape)

    def initialize(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        return self.residual.initialize(super().forward_and_log_det(x, condition)[0])

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        standard, log_det = super().forward_and_log_det(x, condition)
        eps, of_residual = self.residual.forward_and_log_det(standard)
        return eps, log_det + of_residual

    @property
    def elementwise(self) -> bool:
        return self.residual.elementwise

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        standard, of_residual = self.residual.inverse_and_log_det(y)
        x, log_det = super().inverse_and_log_det(standard, condition)
        return x, log_det + of_residual


def check_inverts(residual: Residual) -> None:
    """Raises ConfigError if a prior can only score."""
    if residual.only_scores:
        raise ConfigError(
            "encode, decode and sample need a prior that is a Bijector, with forward_and_log_det and "
            f"inverse_and_log_det; this one can only score. Received: {residual.kind!r}"
        )


def gaussian_or_shaped(kind: str, condition_channels: int, **kwargs) -> GaussianPrior:
    """Makes the prior that a setting names."""
    make = GaussianPrior if kind in GAUSSIANS else ShapedPrior
    return make(kind, condition_channels, **kwargs)
