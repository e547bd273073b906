"""Log-determinants place by place: of tiles, which overlap, and for scores of places."""

import functools
from collections.abc import Callable

import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, read_by
from glow_tf.bijectors.mode import ALONE, Context

WithMap = tuple[tf.Tensor, tf.Tensor]  # a result [B, H, W, C], and its log-determinant by place, [B, H, W]


@functools.singledispatch
def log_det_by_place(bijector: Bijector, x: tf.Tensor, context: Context = ALONE) -> WithMap:
    """Returns f(x) [B, H', W', C'], and its log-determinant by place, [B, H', W'] in nats.

    The sum over places is the log-determinant. By default all places have the same share. Classes that know
    better are registered beside them.
    """
    y, log_det = bijector.forward_and_log_det(x, *read_by(bijector, context))
    return y, evenly(log_det, y)


def evenly(log_det: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Gives each place of y [B, H, W, C] the same share of a log-determinant: [B] → [B, H, W]."""
    share = log_det / (y.shape[1] * y.shape[2])
    return share[:, tf.newaxis, tf.newaxis] + tf.zeros_like(y[..., 0])


def with_slopes(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> WithMap:
    """Runs an elementwise map on x [B, H, W, C], and returns its log-determinant by place, [B, H, W]."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return y, tf.reduce_sum(tf.math.log(tf.abs(tape.gradient(y, x))), axis=-1)
