"""Squeeze: space to depth."""

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, WithLogDet, no_log_det
from glow_tf.bijectors.condition import Condition


@keras.saving.register_keras_serializable(package="glow_tf")
class Squeeze(Bijector):
    """Turns each 2×2 square of pixels into one pixel with four times the channels.

    Forward:   [B, H, W, C] → [B, H/2, W/2, 4C], a permutation of the numbers, so log_det = 0.
    Inverse:   [B, H/2, W/2, 4C] → [B, H, W, C].

    Raises:
      ValueError: on build, H or W is odd.
    Reference: Dinh et al. 2017, section 3.6, https://arxiv.org/abs/1605.08803
    """

    def build(self, input_shape: Shape) -> None:
        _, height, width, _ = input_shape
        if height % 2 or width % 2:
            raise ValueError(
                f"Squeeze needs an even height and width. Received: input_shape={tuple(input_shape)}"
            )
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        self.ensure_built(x)
        return tf.nn.space_to_depth(x, 2), no_log_det(x)

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        return tf.nn.depth_to_space(y, 2), no_log_det(y)

    def output_shape_of(self, input_shape: Shape) -> Shape:
        batch, height, width, channels = input_shape
        return batch, height // 2, width // 2, 4 * channels
