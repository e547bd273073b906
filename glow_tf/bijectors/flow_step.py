"""The flow step: ActNorm → invertible 1×1 convolution → coupling."""

from collections.abc import Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.bijector import per_example
from glow_tf.bijectors.chain import Chain
from glow_tf.bijectors.coupling import Coupling
from glow_tf.bijectors.invertible_conv import InvertibleConv, mix_channels


@keras.saving.register_keras_serializable(package="glow_tf")
class FlowStep(Chain):
    """One step of Glow, the chain of its three bijectors with the two linear ones run as one.

    ActNorm and the 1×1 convolution are both affine maps of a pixel's channels, so the forward direction
    multiplies their matrices once a call and applies the product to all pixels in one go. Initialisation
    and the inverse run the three bijectors themselves.

    Shapes: [B, H, W, C] with C even → the same.

    Args:
      width: hidden channels of the coupling network.
      coupling, scale, norm, network_dtype: see `Coupling`.
      permutation: see `InvertibleConv`.
      seed: of all random starting values.
    Reference: Kingma & Dhariwal 2018, section 3, https://arxiv.org/abs/1807.03039
    """

    def __init__(
        self,
        width: int,
        coupling: str = "affine",
        scale: str = "tanh",
        permutation: str = "lu",
        norm: str = "actnorm",
        seed: int = 0,
        network_dtype: str | None = None,
        **kwargs,
    ):
        keras.layers.Layer.__init__(self, **kwargs)
        policy = self.dtype_policy
        self.actnorm = ActNorm(dtype=policy, name="actnorm")
        self.conv = InvertibleConv(permutation, seed=seed, dtype=policy, name="conv")
        self.coupling = Coupling(
            width, coupling, scale, norm, seed, network_dtype, dtype=policy, name="coupling"
        )
        self.bijectors = [self.actnorm, self.conv, self.coupling]

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        return self.forward_folded(x, self.fold())

    def fold(self) -> list[tf.Tensor]:
        """Returns the linear maps' common matrix, bias and log-determinant, and the folded network."""
        # W((x + b)·s) = (W·diag(s))x + W(b·s)
        matrix = self.conv.matrix()
        scale = tf.exp(self.actnorm.log_scale.value)
        bias = tf.linalg.matvec(matrix, self.actnorm.bias.value * scale)
        log_det_per_pixel = self.actnorm.log_det_per_pixel() + self.conv.log_det_per_pixel()
        return [matrix * scale[..., tf.newaxis, :], bias, log_det_per_pixel, *self.coupling.fold()]

    def forward_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """See base."""
        mixed, linear = _linear(x, *folded[:3])
        y, log_det = self.coupling.forward_folded(mixed, folded[3:])
        return y, log_det + linear

    def inverse_folded(self, y: tf.Tensor, folded: Sequence[tf.Tensor]) -> tf.Tensor:
        """See base."""
        return _linear_inverse(self.coupling.inverse_folded(y, folded[3:]), *folded[:2])

    def pull_back(
        self,
        y: tf.Tensor,
        y_gradient: tf.Tensor,
        log_det_gradient: tf.Tensor,
        folded: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """See base: the coupling first, whose own way is cheaper."""
        mixed, mixed_gradient, of_network = self.coupling.pull_back(
            y, y_gradient, log_det_gradient, folded[3:]
        )
        sources = [_linear_inverse(mixed, *folded[:2]), *folded[:3]]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = _linear(*sources)
        x_gradient, *of_linear = tape.gradient(outputs, sources, [mixed_gradient, log_det_gradient])
        return sources[0], x_gradient, [*of_linear, *of_network]

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            **keras.layers.Layer.get_config(self),
            "width": self.coupling.width,
            "coupling": self.coupling.kind,
            "scale": self.coupling.scale,
            "permutation": self.conv.kind,
            "norm": self.coupling.norm,
            "seed": self.coupling.seed,
            "network_dtype": self.coupling.network_dtype,
        }

    @classmethod
    def from_config(cls, config: dict) -> "FlowStep":
        """See keras.Layer."""
        return cls(**config)


def _linear(
    x: tf.Tensor, matrix: tf.Tensor, bias: tf.Tensor, log_det_per_pixel: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns Mx + b at every pixel, and its log-determinant [B]."""
    log_det = per_example(log_det_per_pixel * (x.shape[1] * x.shape[2]), x)
    return tf.nn.bias_add(mix_channels(x, matrix), bias), log_det


def _linear_inverse(y: tf.Tensor, matrix: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    inverse = tf.linalg.inv(tf.cast(matrix, tf.float64))  # in float32 the round trip would lose digits
    return mix_channels(y - bias, tf.cast(inverse, y.dtype))
