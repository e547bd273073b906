"""The flow step: ActNorm → invertible 1×1 convolution → coupling."""

import dataclasses

import keras
import tensorflow as tf

from glow_tf.architectures.own_layers import made, seeded
from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.bijector import (
    Bijector,
    Folded,
    Repeatable,
    Shape,
    WithLogDet,
    WithMap,
    all_variables,
    evenly,
    log_det_by_place,
    per_example,
    pixels_of,
)
from glow_tf.bijectors.coupling import Coupling
from glow_tf.bijectors.invertible_conv import InvertibleConv, mix_channels
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.bijectors.rate_factor import scales_with
from glow_tf.bijectors.stack import Chain
from glow_tf.config import CouplingConfig
from glow_tf.core.errors import ConfigError


@keras.saving.register_keras_serializable(package="glow_tf")
class FlowStep(Repeatable):
    """One step of Glow: ActNorm, then a 1×1 convolution, then a coupling.

    Forward:   y = coupling(W((x + bias)·scale))      log_det = the sum of the three
    Inverse:   the three inverses in reverse order

    ActNorm and the convolution are both affine maps of the channels of a pixel. The forward direction
    therefore multiplies their matrices once per call and applies the product to all pixels. `initialize` and
    the inverse run the three bijectors one after another. The coupling alone reads a condition.

    Shapes: [B, H, W, C] → the same.

    Args:
      coupling: the transform and the network of the coupling.
      permutation: what mixes the channels: `lu`, `plain`, `shuffle` or `reverse`; see `InvertibleConv`.
      seed: of all random starting values.

    Raises:
      TypeError: coupling is not a `CouplingConfig`.
      ValueError: permutation is unknown.
    Reference: Kingma & Dhariwal 2018, section 3, https://arxiv.org/abs/1807.03039
    """

    def __init__(self, coupling: CouplingConfig | dict, permutation: str = "lu", seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        policy = self.dtype_policy
        self.seed = seed
        self.actnorm = ActNorm(dtype=policy, name="actnorm")
        self.conv = InvertibleConv(permutation, seed=seed, dtype=policy, name="conv")
        self.coupling = Coupling(coupling, seed=seed, dtype=policy, name="coupling")
        self.bijectors = [self.actnorm, self.conv, self.coupling]

    def build(self, input_shape: Shape) -> None:
        for bijector in self.bijectors:
            bijector.build(input_shape)
        for weight in (*self.actnorm.trainable_variables, *self.conv.trainable_variables):
            scales_with(weight, flow_steps=True)
        self.built = True

    @property
    def condition_channels(self) -> int:
        return self.coupling.condition_channels

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self._ensure_built(x)
        return self.coupling.initialize(self.conv.initialize(self.actnorm.initialize(x)), context)

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._ensure_built(x)
        return self.forward_folded(x, self.fold(), context)

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._require_built()
        mixed, coupling_log_det = self.coupling.inverse_and_log_det(y, context)
        normed, conv_log_det = self.conv.inverse_and_log_det(mixed)
        x, actnorm_log_det = self.actnorm.inverse_and_log_det(normed)
        return x, coupling_log_det + conv_log_det + actnorm_log_det

    def fold(self) -> list[tf.Tensor]:
        """Returns the linear maps' matrix [C, C], bias [C], log-det per pixel [], and `Coupling.fold`'s."""
        # W((x + b)·s) = (W·diag(s))x + W(b·s)
        matrix = self.conv.matrix()
        scale = tf.exp(self.actnorm.log_scale.value)
        bias = tf.linalg.matvec(matrix, self.actnorm.bias.value * scale)
        log_det_per_pixel = self.actnorm.log_det_per_pixel() + self.conv.log_det_per_pixel()
        return [matrix * scale[..., tf.newaxis, :], bias, log_det_per_pixel, *self.coupling.fold()]

    def forward_folded(self, x: tf.Tensor, folded: Folded, context: Context = ALONE) -> WithLogDet:
        mixed, linear = _linear(x, *folded[:3])
        y, log_det = self.coupling.forward_folded(mixed, folded[3:], context)
        return y, log_det + linear

    def reseed(self, seed: int) -> None:
        for bijector in self.bijectors:
            bijector.reseed(seed)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "coupling": dataclasses.asdict(self.coupling.config),
            "permutation": self.conv.kind,
            "seed": self.seed,
        }


@log_det_by_place.register
def _(step: FlowStep, x: tf.Tensor, context: Context = ALONE) -> WithMap:
    mixed, log_det = _linear(x, *step.fold()[:3])
    y, of_coupling = log_det_by_place(step.coupling, mixed, context)
    return y, of_coupling + evenly(log_det, y)


def _linear(x: tf.Tensor, matrix: tf.Tensor, bias: tf.Tensor, log_det_per_pixel: tf.Tensor) -> WithLogDet:
    """Returns Mx + b at every pixel, and its log-determinant [B]."""
    log_det = per_example(log_det_per_pixel * pixels_of(x), x)
    return tf.nn.bias_add(mix_channels(x, matrix), bias), log_det


@keras.saving.register_keras_serializable(package="glow_tf")
class OwnFlowStep(Chain, Repeatable):
    """A flow step with a bijector of one's own in the place of ActNorm and the 1×1 convolution.

    Args:
      own: the text of the setting `bijectors`, a `Bijector` that keeps the shape; see `own_layers.py`.
      coupling: the settings of the coupling that follows.
      seed: of all random starting values.
    """

    def __init__(self, own: str, coupling: CouplingConfig | dict, seed: int = 0, **kwargs):
        policy = keras.layers.Layer(dtype=kwargs.get("dtype")).dtype_policy
        bijector = made("bijectors", own, seed, policy)
        if not isinstance(bijector, Bijector):
            raise ConfigError(f"bijectors must be a Bijector. Received: {bijector!r:.200}")
        super().__init__([bijector, Coupling(coupling, seed=seed, dtype=policy, name="coupling")], **kwargs)
        self.own, self.coupling, self.seed = own, self.bijectors[1].config, seed
        self.condition_channels = self.coupling.condition_channels

    def build(self, input_shape: Shape) -> None:
        self._event_shape = tuple(input_shape)
        with seeded(self.seed):
            super().build(input_shape)
        shape, _ = self.shapes(input_shape)
        if shape != tuple(input_shape):
            raise ConfigError(
                f"bijectors must keep the shape {tuple(input_shape)}. Received: "
                f"{type(self.bijectors[0]).__name__}, whose result has {shape}"
            )
        for k, variable in enumerate(all_variables(self)):
            variable.name_in_stack = f"own_{k}"  # Keras numbers layers as they are made

    def reseed(self, seed: int) -> None:
        other = OwnFlowStep(self.own, self.coupling, seed, dtype=self.dtype_policy, name=self.name)
        other.build(self._event_shape)
        self.set_weights(other.get_weights())

    def get_config(self) -> dict:
        base, coupling = keras.layers.Layer.get_config(self), dataclasses.asdict(self.coupling)
        return {**base, "own": self.own, "coupling": coupling, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict) -> "OwnFlowStep":
        return cls(**config)


def flow_step(bijectors: str, coupling: CouplingConfig, permutation: str, **kwargs) -> Repeatable:
    """Makes the flow step that the settings say: the package's, or one with a bijector of one's own."""
    if bijectors:
        return OwnFlowStep(bijectors, coupling, **kwargs)
    return FlowStep(coupling, permutation, **kwargs)
