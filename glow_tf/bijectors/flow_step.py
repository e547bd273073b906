"""The flow step: ActNorm → invertible 1×1 convolution → coupling."""

import keras
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
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
        # W((x + b)·s) = (W·diag(s))x + W(b·s)
        matrix = self.conv.matrix()
        scale = tf.exp(self.actnorm.log_scale.value)
        bias = tf.linalg.matvec(matrix, self.actnorm.bias.value * scale)
        mixed = tf.nn.bias_add(mix_channels(x, matrix * scale), bias)
        y, log_det = self.coupling.forward_and_log_det(mixed)
        linear = self.actnorm.log_det_per_pixel() + self.conv.log_det_per_pixel()
        return y, log_det + linear * (x.shape[1] * x.shape[2])

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
