"""Affine and additive coupling."""

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, per_example, soft_bound
from glow_tf.bijectors.networks import CouplingNetwork

COUPLINGS = ("affine", "additive")
SCALES = ("sigmoid", "exp", "tanh")

# The sigmoid's offset is that of the authors' published code; its floor keeps 1/scale finite.
SIGMOID_OFFSET = 2.0
SIGMOID_FLOOR = 1e-2
EXP_BOUND = 8.0
TANH_BOUND = 2.0


@keras.saving.register_keras_serializable(package="glow_tf")
class Coupling(Bijector):
    """Shifts (and scales) one half of the channels by a network of the other half.

    With x = [a, b] halved along the channels and (t, h) = network(a):
    Forward:   y = [a, exp(s(h)) · b + t]      log_det = Σ s(h)      (additive: s = 0)
    Inverse:   x = [a, exp(−s(h)) · (y_b − t)]

    `scale` says how the network's output h becomes the log-scale s; s(0) = 0, so with its last convolution
    at zero the coupling starts as the identity:
      `sigmoid`  scale ∝ 0.01 + 0.99·sigmoid(h + 2): at most 1.13, at least 0.011
      `exp`      s = 8·tanh(h/8): the paper's exp(h), bounded to e^±8
      `tanh`     s = 2·tanh(h/2): bounded to e^±2

    Shapes: [B, H, W, C] with C even → the same.
    Numerics: s is computed from log_sigmoid, never as the log of a scale, and every choice of it is bounded,
    so that neither direction overflows at extreme network outputs.

    Args:
      width: hidden channels of the network.
      kind: `affine` or `additive`.
      scale: `sigmoid`, `exp` or `tanh`; unused when additive.
      norm: of the network's hidden convolutions, `actnorm` or `bias`.
      seed: of the network.
      network_dtype: dtype policy of the network, such as `mixed_bfloat16`; the layer's own by default.

    Raises:
      ValueError: an unknown kind or scale; on build, an odd number of channels.
    References: Dinh et al. 2017, section 3.2, https://arxiv.org/abs/1605.08803; Kingma & Dhariwal 2018,
    section 3.3, https://arxiv.org/abs/1807.03039
    """

    def __init__(
        self,
        width: int,
        kind: str = "affine",
        scale: str = "tanh",
        norm: str = "actnorm",
        seed: int = 0,
        network_dtype: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if kind not in COUPLINGS:
            raise ValueError(f"kind must be one of {COUPLINGS}. Received: kind={kind!r}")
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {SCALES}. Received: scale={scale!r}")
        self.width = width
        self.kind = kind
        self.scale = scale
        self.norm = norm
        self.seed = seed
        self.network_dtype = network_dtype

    def build(self, input_shape: Shape) -> None:
        """Creates the network."""
        channels = input_shape[-1]
        if channels % 2:
            raise ValueError(
                f"Coupling needs an even number of channels. Received: input_shape={tuple(input_shape)}"
            )
        self.network = CouplingNetwork(
            self.width,
            filters=channels if self.kind == "affine" else channels // 2,
            norm=self.norm,
            seed=self.seed,
            dtype=self.network_dtype or self.dtype_policy,
            name="network",
        )
        self.network.build((*input_shape[:-1], channels // 2))
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        return self._transform(x, self.network.call)

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.require_built()
        return self._undo(y, self.network.call)

    def reseed(self, seed: int) -> None:
        """See base."""
        self.network.reseed(seed)

    def fold(self) -> list[tf.Tensor]:
        """Returns the folded network."""
        return self.network.fold()

    def forward_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """See base."""
        return self._transform(x, lambda a: self.network.run_folded(a, folded))

    def inverse_folded(self, y: tf.Tensor, folded: Sequence[tf.Tensor]) -> tf.Tensor:
        """See base."""
        return self._undo(y, lambda a: self.network.run_folded(a, folded))[0]

    def pull_back(
        self,
        y: tf.Tensor,
        y_gradient: tf.Tensor,
        log_det_gradient: tf.Tensor,
        folded: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """See base: one evaluation of the network serves both the inverse and the gradient."""
        self.require_built()
        a, y_b = tf.split(y, 2, axis=-1)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([a, *folded])
            shift, log_scale = self._shift_and_log_scale(self.network.run_folded(a, folded))
        a_gradient, b_gradient = tf.split(y_gradient, 2, axis=-1)
        scaled, outputs, output_gradients = y_b - shift, [shift], [b_gradient]
        b = scaled
        if log_scale is not None:
            b = scaled * tf.exp(-log_scale)
            outputs.append(log_scale)
            output_gradients.append(b_gradient * scaled + log_det_gradient[:, None, None, None])
            b_gradient = b_gradient * tf.exp(log_scale)
        through_network, *gradients = tape.gradient(
            outputs, [a, *folded], output_gradients, tf.UnconnectedGradients.ZERO
        )
        x_gradient = tf.concat([a_gradient + through_network, b_gradient], axis=-1)
        return tf.concat([a, b], axis=-1), x_gradient, gradients

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """See base: initialises the network's ActNorms."""
        self.ensure_built(x)
        return self._transform(x, self.network.initialize)[0]

    def _transform(self, x: tf.Tensor, network: Callable) -> tuple[tf.Tensor, tf.Tensor]:
        a, b = tf.split(x, 2, axis=-1)
        shift, log_scale = self._shift_and_log_scale(network(a))
        if log_scale is None:
            return tf.concat([a, b + shift], axis=-1), _no_log_det(x)
        y = tf.concat([a, b * tf.exp(log_scale) + shift], axis=-1)
        return y, tf.reduce_sum(log_scale, axis=[1, 2, 3])

    def _undo(self, y: tf.Tensor, network: Callable) -> tuple[tf.Tensor, tf.Tensor]:
        a, b = tf.split(y, 2, axis=-1)
        shift, log_scale = self._shift_and_log_scale(network(a))
        if log_scale is None:
            return tf.concat([a, b - shift], axis=-1), _no_log_det(y)
        x = tf.concat([a, (b - shift) * tf.exp(-log_scale)], axis=-1)
        return x, -tf.reduce_sum(log_scale, axis=[1, 2, 3])

    def _shift_and_log_scale(self, output: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Reads the network's output; both directions go through here, so they cannot drift apart."""
        if self.kind == "additive":
            return output, None
        shift, raw = tf.split(output, 2, axis=-1)
        if self.scale == "sigmoid":
            return shift, _floored_log_sigmoid(raw + SIGMOID_OFFSET) - _LOG_SIGMOID_AT_ZERO
        return shift, soft_bound(raw, EXP_BOUND if self.scale == "exp" else TANH_BOUND)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            **super().get_config(),
            "width": self.width,
            "kind": self.kind,
            "scale": self.scale,
            "norm": self.norm,
            "seed": self.seed,
            "network_dtype": self.network_dtype,
        }


_LOG_SIGMOID_AT_ZERO = math.log(SIGMOID_FLOOR + (1 - SIGMOID_FLOOR) / (1 + math.exp(-SIGMOID_OFFSET)))


def _floored_log_sigmoid(h: tf.Tensor) -> tf.Tensor:
    """log(floor + (1 − floor)·sigmoid(h)), stable at both ends."""
    log_floor = math.log(SIGMOID_FLOOR)
    log_rest = math.log1p(-SIGMOID_FLOOR)
    return log_floor + tf.math.softplus(tf.math.log_sigmoid(h) + (log_rest - log_floor))


def _no_log_det(x: tf.Tensor) -> tf.Tensor:
    return per_example(tf.zeros([], x.dtype), x)
