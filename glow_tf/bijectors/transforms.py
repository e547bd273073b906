"""What a coupling does to its second half of the channels, apart from the network that controls it."""

import abc
import inspect
import math

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import SHIFT_BOUND, WithLogDet, no_log_det, soft_bound
from glow_tf.config import read_scale

Parameters = tuple[tf.Tensor, ...]

# The sigmoid's offset is that of the authors' published code; its floor keeps 1/scale finite.
SIGMOID_OFFSET = 2.0
SIGMOID_FLOOR = 1e-2


class Transform(abc.ABC):
    """An invertible map of b that acts on each element separately, with parameters from a network.

    A subclass defines `outputs_per_channel`, `parameters`, `forward` and `inverse`. It holds no weights. A
    network output of zeros should give the identity, because the network starts at zero. Scales should be
    bounded, so that neither direction overflows at extreme network outputs. The arguments of its constructor
    are its settings, and it keeps each under its name.

    Attributes:
      outputs_per_channel: how many numbers the network must give it for each channel of b.
    """

    outputs_per_channel: int

    @abc.abstractmethod
    def parameters(self, output: tf.Tensor) -> Parameters:
        """Reads the network's output: [B, H, W, n·C] → parameters, where n is `outputs_per_channel`."""

    @abc.abstractmethod
    def forward(self, b: tf.Tensor, *parameters: tf.Tensor) -> WithLogDet:
        """Returns y [B, H, W, C] and log|det dy/db| [B] in nats, for b [B, H, W, C]."""

    @abc.abstractmethod
    def inverse(self, y: tf.Tensor, *parameters: tf.Tensor) -> WithLogDet:
        """Returns b [B, H, W, C] and log|det db/dy| [B] in nats, for y [B, H, W, C]."""

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    @classmethod
    def from_config(cls, config: dict) -> "Transform":
        """Makes a transform of what `get_config` returned."""
        return cls(**config)


@keras.saving.register_keras_serializable(package="glow_tf")
class Additive(Transform):
    """y = b + t, log_det = 0, where t is the network's output, softly `bounded` to ±10 if it should be."""

    outputs_per_channel = 1

    def __init__(self, bounded: bool = False):
        self.bounded = bounded

    def parameters(self, output: tf.Tensor) -> Parameters:
        return (soft_bound(output, SHIFT_BOUND) if self.bounded else output,)

    def forward(self, b: tf.Tensor, shift: tf.Tensor) -> WithLogDet:
        return b + shift, no_log_det(b)

    def inverse(self, y: tf.Tensor, shift: tf.Tensor) -> WithLogDet:
        return y - shift, no_log_det(y)


@keras.saving.register_keras_serializable(package="glow_tf")
class Affine(Transform):
    """y = exp(s)·b + t, log_det = Σ s, where the network's output is [t, h] and s is a function of h.

    `scale` chooses the function; s(0) = 0:
      `sigmoid`  s = log(0.01 + 0.99·sigmoid(h + 2)) minus its value at h = 0: exp(s) from 0.011 to 1.13
      `exp`      s = 8·tanh(h/8): the paper's exp(h), bounded to e^±8
      `tanh:B`   s = B·tanh(h/B): bounded to e^±B; `tanh` is `tanh:2`

    If the transform is `bounded`, t is softly bounded to ±10.

    Numerics: `sigmoid` computes s from log_sigmoid, never as the log of a scale. Every choice bounds s, so
    that neither direction overflows at extreme network outputs.
    """

    outputs_per_channel = 2

    def __init__(self, scale: str = "tanh:1", bounded: bool = False):
        self.scale = scale
        self.bounded = bounded
        _, self.bound = read_scale(scale)

    def parameters(self, output: tf.Tensor) -> Parameters:
        """Returns the shift t and the log-scale s, [B, H, W, C/2] each, of the output [B, H, W, C]."""
        shift, h = tf.split(output, 2, axis=-1)
        return soft_bound(shift, SHIFT_BOUND) if self.bounded else shift, self.log_scale(h)

    def log_scale(self, h: tf.Tensor) -> tf.Tensor:
        """Returns s of h, both of any shape."""
        return _log_sigmoid_scale(h) if self.bound is None else soft_bound(h, self.bound)

    def forward(self, b: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor) -> WithLogDet:
        return b * tf.exp(log_scale) + shift, tf.reduce_sum(log_scale, axis=[1, 2, 3])

    def inverse(self, y: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor) -> WithLogDet:
        return (y - shift) * tf.exp(-log_scale), -tf.reduce_sum(log_scale, axis=[1, 2, 3])


def _log_sigmoid_scale(h: tf.Tensor) -> tf.Tensor:
    """log(floor + (1 − floor)·sigmoid(h + offset)), stable at both ends, minus its value at h = 0."""
    log_floor = math.log(SIGMOID_FLOOR)
    log_rest = math.log1p(-SIGMOID_FLOOR)
    log_sigmoid = tf.math.log_sigmoid(h + SIGMOID_OFFSET)
    return log_floor + tf.math.softplus(log_sigmoid + (log_rest - log_floor)) - _LOG_SCALE_AT_ZERO


_LOG_SCALE_AT_ZERO = math.log(SIGMOID_FLOOR + (1 - SIGMOID_FLOOR) / (1 + math.exp(-SIGMOID_OFFSET)))
