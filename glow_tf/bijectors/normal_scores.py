"""The map from the logit of a distribution function to a standard normal number, and back."""

import math
import statistics

import tensorflow as tf

# A probability of 10⁻³⁵, near float32's end. Beyond it the map goes on as a straight line.
LARGEST_LOGIT = 80.0
LARGEST_SCORE = -statistics.NormalDist().inv_cdf(1 / (1 + math.exp(LARGEST_LOGIT)))
LAST_LOG_SLOPE = LARGEST_SCORE**2 / 2 + math.log(2 * math.pi) / 2 - LARGEST_LOGIT


def normal_of_logit(logit: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns Φ⁻¹(sigmoid(logit)), and the log of the derivative; any shape.

    Numerics: each tail is computed from its own small probability, never from 1 minus it.
    """
    within = tf.clip_by_value(logit, -LARGEST_LOGIT, LARGEST_LOGIT)
    middle = tf.math.ndtri(tf.sigmoid(tf.clip_by_value(within, -1.0, 1.0)))
    tail = tf.math.ndtri(tf.sigmoid(-tf.abs(within)))
    score = tf.where(tf.abs(within) < 1, middle, -tf.sign(within) * tail)
    log_density = -0.5 * (tf.square(score) + math.log(2 * math.pi))
    log_slope = tf.math.log_sigmoid(within) + tf.math.log_sigmoid(-within) - log_density
    is_beyond = tf.abs(logit) > LARGEST_LOGIT
    beyond = tf.where(is_beyond, (logit - within) * math.exp(LAST_LOG_SLOPE), 0.0)
    return score + beyond, tf.where(is_beyond, tf.constant(LAST_LOG_SLOPE, logit.dtype), log_slope)


def logit_of_normal(score: tf.Tensor) -> tf.Tensor:
    """Inverts `normal_of_logit`."""
    within = tf.clip_by_value(score, -LARGEST_SCORE, LARGEST_SCORE)
    sign = sign_of(within)
    tail = 0.5 * tf.math.erfc(sign * within / math.sqrt(2))
    logit = sign * (tf.math.log1p(-tail) - tf.math.log(tail))
    return logit + (score - within) * math.exp(-LAST_LOG_SLOPE)


def sign_of(x: tf.Tensor) -> tf.Tensor:
    """Returns −1 or 1, so that sign · x is |x|; at 0 it is 1, and |x| has a derivative there."""
    return tf.where(x < 0, -tf.ones_like(x), tf.ones_like(x))
