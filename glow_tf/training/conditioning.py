"""How far the flow amplifies: largest log-scales, and how close the round trip comes to being inexact."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.bijectors import Split, Stack
from glow_tf.bijectors.networks import full_precision
from glow_tf.endpoints import ActivationLimit
from glow_tf.glow import Glow


class Amplification(NamedTuple):
    """The largest |log s| of one kind of bijector in a model, and where it is.

    Attributes:
      log_scale: largest |log s|, nats.
      part: number of the part, from 1.
      bijector: its name.
    """

    log_scale: float
    part: int
    bijector: str

    def __str__(self) -> str:
        return f"{self.log_scale:.3g} in part {self.part}, {self.bijector}"


class Conditioning(NamedTuple):
    """What decides how exact a round trip is.

    Attributes:
      convolution: of the 1×1 convolutions.
      coupling: of the couplings, for the images that were looked at.
      round_trip_error: largest error of encode and decode in levels, before rounding; an image comes back
        exactly while it is below half a level.
    """

    convolution: Amplification
    coupling: Amplification
    round_trip_error: float

    @property
    def largest_log_scale(self) -> float:
        """The larger of the two log-scales."""
        return max(self.convolution.log_scale, self.coupling.log_scale)


class Probe:
    """Measures a model on a few images, again and again; traced once.

    Args:
      glow: the model.
      images: uint8 [B, H, W, C].
    """

    def __init__(self, glow: Glow, images: tf.Tensor):
        self.glow = glow
        self.v = glow.dequantized(images, noise=0.5)
        self._stacks = list(_stacks(glow))
        # A partial for each probe: of one method TensorFlow counts all traces, and warns of many.
        self._measured = tf.function(functools.partial(self._measure), autograph=False)

    def __call__(self) -> Conditioning:
        """Measures the model as it is now."""
        scales, error = self._measured()
        return Conditioning(*_largest(self._stacks, scales.numpy()), float(error))

    def _measure(self) -> tuple[tf.Tensor, tf.Tensor]:
        with full_precision():
            eps, scales = _encode(self.glow, self.v)
            error = tf.reduce_max(tf.abs(self.glow.inverse(eps, ActivationLimit()) - self.v))
        return scales, error


def largest_log_scales(glow: Glow, v: tf.Tensor) -> tuple[Amplification, Amplification]:
    """Returns the largest |log s| of the 1×1 convolutions and of the couplings.

    Args:
      glow: the model.
      v: dequantised images [B, H, W, C]; the couplings' scales depend on them.
    """
    return _largest(list(_stacks(glow)), _encode(glow, v)[1].numpy())


def _stacks(glow: Glow) -> Iterator[tuple[int, Stack]]:
    for k, part in enumerate(glow.parts, start=1):
        yield from ((k, bijector) for bijector in part.bijectors if isinstance(bijector, Stack))


def _encode(glow: Glow, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Encodes dequantised images v [B, H, W, C] flow step by flow step.

    Returns:
      The whitened latents [B, D], and the largest |log s| of the convolution and of the coupling of every
      flow step, [steps, 2].
    """
    latents, scales, h = [], [], glow.dequantize.forward(v)
    for k, part in enumerate(glow.parts):
        with glow.on_device_of(k):
            for bijector in part.bijectors:
                if isinstance(bijector, Stack):
                    h, own = bijector.forward_and_log_scales(h)
                    scales.append(own)
                elif isinstance(bijector, Split):
                    h, eps, _ = bijector.factor_out(h)
                    latents.append(eps)
                else:
                    h = bijector.forward(h)
    latents.append(glow.parts[-1].prior.forward(h))
    return tf.concat([tf.reshape(z, [len(v), -1]) for z in latents], axis=1), tf.concat(scales, axis=0)


def _largest(stacks: list[tuple[int, Stack]], scales: np.ndarray) -> tuple[Amplification, ...]:
    names = [(k, stack.name_of(i)) for k, stack in stacks for i in range(stack.count)]
    # One that is not a number is larger than any.
    worst = np.argmax(np.where(np.isnan(scales), np.inf, scales), axis=0)
    return tuple(Amplification(float(scales[at, kind]), *names[at]) for kind, at in enumerate(worst))
