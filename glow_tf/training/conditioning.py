"""How far the flow amplifies: largest log-scales, and how close the round trip comes to being inexact."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.networks import full_precision
from glow_tf.model.endpoints import ActivationLimit
from glow_tf.model.glow import Glow


class Amplification(NamedTuple):
    """The largest |log s| (nats) of one kind of bijector in a model, and where it is; parts count from 1."""

    log_scale: float
    part: int
    bijector: str

    def __str__(self) -> str:
        return f"{self.log_scale:.3g} in part {self.part}, {self.bijector}"


class Conditioning(NamedTuple):
    """What decides how exact a round trip is.

    Its error is the largest of encode and decode in levels, before rounding; an image comes back exactly
    while it is below half a level. That of real data is in deviations of the channel.
    """

    convolution: Amplification  # of the 1×1 convolutions
    coupling: Amplification  # of the couplings, for the images that were looked at
    round_trip_error: float

    @property
    def largest_log_scale(self) -> float:
        """The larger of the two log-scales."""
        return max(self.convolution.log_scale, self.coupling.log_scale)


class Probe:
    """Measures a model on a few images, uint8 [B, H, W, C], again and again; traced once."""

    def __init__(self, glow: Glow, images: tf.Tensor, condition: Condition = None):
        self.glow = glow
        self.condition = glow.checked_condition(condition)
        self.v = glow.dequantized(images, noise=0.5)
        self._steps = _steps(glow)
        # A partial for each probe: of one method TensorFlow counts all traces, and warns of many.
        self._measured = tf.function(functools.partial(self._measure), autograph=False)

    def __call__(self) -> Conditioning:
        """Measures the model as it is now."""
        scales, error = self._measured()
        return Conditioning(*_largest(self._steps, scales.numpy()), float(error))

    def _measure(self) -> tuple[tf.Tensor, tf.Tensor]:
        with full_precision():
            eps, scales = _encode(self.glow, self.v, self.condition)
            missed = self.glow.inverse(eps, ActivationLimit(), condition=self.condition) - self.v
            error = tf.reduce_max(tf.abs(missed) / self.glow.dequantize.unit)
        return scales, error


def largest_log_scales(
    glow: Glow, v: tf.Tensor, condition: Condition = None
) -> tuple[Amplification, Amplification]:
    """Returns the largest |log s| of the 1×1 convolutions, and of the couplings for dequantised images v."""
    return _largest(_steps(glow), _encode(glow, v, condition)[1].numpy())


def _steps(glow: Glow) -> list[tuple[int, str]]:
    """Returns the part and the name of every step."""
    parts = enumerate(glow.parts, start=1)
    return [(k, name) for k, part in parts for bijector in part.bijectors for name in bijector.step_names]


def _encode(glow: Glow, v: tf.Tensor, condition: Condition) -> tuple[tf.Tensor, tf.Tensor]:
    """Encodes dequantised images v [B, H, W, C] step by step, to whitened latents [B, D].

    With them comes the largest |log s| of the convolution and of the coupling of every step, [steps, 2].
    """
    latents, scales, h = [], [], glow.dequantize.forward(v)
    for k, part in enumerate(glow.parts):
        with glow.on_device_of(k):
            given = part.read(condition)
            for bijector in part.bijectors:
                h, factored_out, own = bijector.log_scales_in_part(h, *bijector.read(given))
                latents += factored_out
                scales.append(own)
    latents.append(glow.parts[-1].prior.forward(h, given))
    return tf.concat([tf.reshape(z, [len(v), -1]) for z in latents], axis=1), tf.concat(scales, axis=0)


def _largest(steps: list[tuple[int, str]], scales: np.ndarray) -> tuple[Amplification, ...]:
    # One that is not a number is larger than any.
    worst = np.argmax(np.where(np.isnan(scales), np.inf, scales), axis=0)
    return tuple(Amplification(float(scales[at, kind]), *steps[at]) for kind, at in enumerate(worst))
