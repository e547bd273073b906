"""Student's t distribution as the map that makes its numbers normal."""

import math

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, WithLogDet
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.normal_scores import logit_of_normal, normal_of_logit, sign_of

LARGEST = 1e15  # of |x|, whose square float32 still has


@keras.saving.register_keras_serializable(package="glow_tf")
class StudentT(Bijector):
    """Maps numbers that have Student's t distribution of 4 degrees of freedom to standard normal ones.

    Forward:   eps = Φ⁻¹(T(x))      log_det = Σ log t(x) − log φ(eps)
    Inverse:   x = T⁻¹(Φ(eps))
    T and t are its distribution function and density. With r = x / √(4 + x²), T(x) = 1/2 + 3/4·r − 1/4·r³,
    whose inverse has a formula, too. The density falls off as |x|⁻⁵.

    Shapes: [B, H, W, C] → the same.
    Numerics: a tail's probability is computed from 1 − |r| = 4 / ((4 + x²)(1 + |r|)), so it keeps its digits.
    References: Shaw 2006, section 2.2, https://doi.org/10.21314/JCF.2006.150; for flows Jaini et al. 2020,
    https://arxiv.org/abs/1907.04481; Alexanderson & Henter 2020, https://arxiv.org/abs/2006.06599
    """

    elementwise = True

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        x = tf.clip_by_value(x, -LARGEST, LARGEST)
        square = 4 + tf.square(x)
        r = x * tf.math.rsqrt(square)
        rest = 4 / (square * (1 + tf.abs(r)))  # 1 − |r|
        log_tail = 2 * tf.math.log(rest) + tf.math.log(3 - rest) - math.log(4)  # of T(−|x|)
        log_body = tf.math.log1p(-tf.exp(log_tail))
        inner = tf.clip_by_value(r, -0.5, 0.5)  # near 0, where a sign would have no derivative
        middle = 0.75 * inner - 0.25 * inner**3
        near = tf.math.log1p(2 * middle) - tf.math.log1p(-2 * middle)
        logit = tf.where(tf.abs(x) < 1, near, tf.sign(x) * (log_body - log_tail))
        log_density = math.log(3 / 8) - 2.5 * (tf.math.log(square) - math.log(4))
        eps, log_slope = normal_of_logit(logit)
        return eps, tf.reduce_sum(log_density - log_tail - log_body + log_slope, axis=[1, 2, 3])

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        logit = logit_of_normal(y)
        sign = sign_of(logit)
        third = 2 / 3 * tf.asin(tf.exp(0.5 * tf.math.log_sigmoid(-sign * logit)))
        rest = 2 * tf.square(tf.sin(third / 2)) + math.sqrt(3) * tf.sin(third)
        x = sign * 2 * (1 - rest) * tf.math.rsqrt(rest * (2 - rest))
        return x, -self.forward_and_log_det(x)[1]
