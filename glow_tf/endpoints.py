"""The functions that users of a model call, as graphs with open batch sizes; an export has the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import tensorflow as tf

from glow_tf import likelihood
from glow_tf.bijectors.networks import full_precision
from glow_tf.pieces import in_streams

if TYPE_CHECKING:
    from glow_tf.glow import Glow

# Drawing images clips activations to ±1e4. Those of real images stay within about ±10. Latents far from those
# of any image would otherwise grow from flow step to flow step until they overflow.
ACTIVATION_LIMIT = 1e4

# A function that users call, and the signature that it is compiled for.
Endpoint = tuple[Callable[..., tf.Tensor | dict[str, tf.Tensor]], list[tf.TensorSpec]]


class Endpoints:
    """The functions of a model, uncompiled; `Glow`'s methods of the same names describe them.

    Args:
      glow: the model.
    """

    def __init__(self, glow: Glow):
        self.glow = glow

    def with_signatures(self) -> dict[str, Endpoint]:
        """Returns each function with its signature."""
        glow = self.glow
        images = tf.TensorSpec((None, *glow.image_shape), tf.uint8, name="images")
        eps = tf.TensorSpec((None, glow.dimensions), glow.compute_dtype, name="eps")
        seed = tf.TensorSpec((), tf.int32, name="seed")
        num = tf.TensorSpec((), tf.int32, name="num")
        temperature = tf.TensorSpec((), tf.float32, name="temperature")
        return {
            "sample": (self.sample, [num, temperature, seed]),
            "sample_dequantized": (self.sample_dequantized, [num, temperature, seed]),
            "encode": (self.encode, [images]),
            "decode": (self.decode, [eps]),
            "log_prob": (self.log_prob, [images, seed]),
            "bits_per_dim": (self.bits_per_dim, [images, seed]),
            "serving_default": (self.serving_default, [images]),
        }

    def sample(self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws images: uint8 [num, H, W, C]."""
        return self.glow.dequantize.to_uint8(self.sample_dequantized(num, temperature, seed))

    def sample_dequantized(self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws dequantised values: [num, H, W, C]."""
        dtype = self.glow.compute_dtype
        eps = tf.random.stateless_normal([num, self.glow.dimensions], seed=[seed, 1], dtype=dtype)
        return self._dequantized(tf.cast(temperature, dtype) * eps)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Whitens images at the middle of their bins: uint8 [B, H, W, C] → [B, D]."""
        with full_precision():
            return in_streams(self.glow.forward_and_log_det, self.glow.dequantized(images, noise=0.5))[0]

    def decode(self, eps: tf.Tensor) -> tf.Tensor:
        """Inverts `encode`: [B, D] → uint8 [B, H, W, C]."""
        with full_precision():
            return self.glow.dequantize.to_uint8(self._dequantized(eps))

    def log_prob(self, images: tf.Tensor, seed: tf.Tensor | int) -> tf.Tensor:
        """Scores images at one noise draw: uint8 [B, H, W, C] → [B], nats."""
        return in_streams(self.glow.dequantized_log_prob, self.glow.dequantized(images, seed=seed))

    def bits_per_dim(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Scores images at one noise draw: uint8 [B, H, W, C] → [B], bits per dimension."""
        return likelihood.bits_per_dim(-self.log_prob(images, seed), self.glow.image_shape)

    def serving_default(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Scores images at the middle of their bins: nothing is drawn, so a server can batch requests."""
        log_prob = in_streams(self.glow.dequantized_log_prob, self.glow.dequantized(images, noise=0.5))
        bits_per_dim = likelihood.bits_per_dim(-log_prob, self.glow.image_shape)
        return {"log_prob": log_prob, "bits_per_dim": bits_per_dim}

    def _dequantized(self, eps: tf.Tensor) -> tf.Tensor:
        return in_streams(lambda piece: self.glow.inverse(piece, ACTIVATION_LIMIT), eps)
