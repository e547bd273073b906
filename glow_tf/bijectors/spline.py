"""The rational-quadratic spline coupling."""

import itertools
import math

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import WithLogDet, soft_bound
from glow_tf.bijectors.transforms import Parameters, Transform, of_channels

# Of logits of widths and heights, and of log-slopes at the knots: no bin vanishes, no slope overflows.
BOUND = 3.0


@keras.saving.register_keras_serializable(package="glow_tf")
class Spline(Transform):
    """y = g(b) within [−reach, reach], a monotone spline of rational quadratics; outside y = b.

    For each element the network gives the widths and heights of the bins, and the slopes at the knots between
    them. At both ends the slope is 1. A network output of zeros gives the identity.

    Numerics: log-widths, log-heights and log-slopes are bounded, so no bin vanishes and no slope overflows.
    The inverse solves a quadratic equation in the form that loses no digits.

    Args:
      bins: number of bins.
      reach: the spline lies within ±reach. ActNorm gives b a deviation of about 1.

    Reference: Durkan et al. 2019, sections 3.1 and A.1, https://arxiv.org/abs/1906.04032
    """

    def __init__(self, bins: int = 4, reach: float = 3.0):
        if bins < 1 or not 0 < reach < math.inf:
            raise ValueError(
                f"Spline needs bins of 1 or more, and a positive reach. Received: {bins=}, {reach=}"
            )
        self.bins = bins
        self.reach = reach

    @property
    def outputs_per_channel(self) -> int:
        return 3 * self.bins - 1

    def parameters(self, output: tf.Tensor) -> Parameters:
        """Returns the knots' places x and y and their slopes, [bins + 1, B, H, W, C] each."""
        raw = soft_bound(of_channels(output, self.outputs_per_channel), BOUND)
        widths, heights, log_slopes = tf.split(raw, [self.bins, self.bins, self.bins - 1])
        ends = tf.ones_like(raw[:1])
        slopes = tf.concat([ends, tf.exp(log_slopes), ends], axis=0)
        return self._knots(widths), self._knots(heights), slopes

    def _knots(self, logits: tf.Tensor) -> tf.Tensor:
        sizes = tf.unstack(2 * self.reach * tf.nn.softmax(logits, axis=0))
        end = self.reach * tf.ones_like(sizes[0])
        return tf.stack([*itertools.accumulate(sizes[:-1], initial=-end), end])

    def forward(self, b: tf.Tensor, *parameters: tf.Tensor) -> WithLogDet:
        within, (left, width, bottom, height, first, last) = self._bin(b, 0, *parameters)
        place, slope = (within - left) / width, height / width
        y, log_slope = _in_bin(place, slope, first, last)
        return self._outside(b, bottom + height * y, log_slope)

    def inverse(self, y: tf.Tensor, *parameters: tf.Tensor) -> WithLogDet:
        within, (left, width, bottom, height, first, last) = self._bin(y, 1, *parameters)
        above, slope = (within - bottom) / height, height / width
        # y of the bin is a ratio of quadratics of the place x, so x solves a x² + b x + c = 0.
        curved = above * (first + last - 2 * slope)
        a, b, c = slope - first + curved, first - curved, -slope * above
        root = tf.sqrt(tf.maximum(b * b - 4 * a * c, 0.0))
        place = 2 * c / (-b - root)  # the form that loses no digits
        log_slope = _in_bin(place, slope, first, last)[1]
        return self._outside(y, left + width * place, -log_slope)

    def _bin(self, value: tf.Tensor, axis: int, *parameters: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the value brought within the spline; of its bin x, width, y, height, and two slopes."""
        within = tf.clip_by_value(value, -self.reach, self.reach)
        knots = [tf.unstack(own) for own in parameters]
        ends = [(own[0], own[1]) for own in knots]  # of the bin, first and last
        for number in range(1, self.bins):
            is_beyond = within >= knots[axis][number]
            ends = [
                (tf.where(is_beyond, own[number], first), tf.where(is_beyond, own[number + 1], last))
                for own, (first, last) in zip(knots, ends, strict=True)
            ]
        (x, next_x), (y, next_y), (first, last) = ends
        return within, [x, next_x - x, y, next_y - y, first, last]

    def _outside(self, value: tf.Tensor, result: tf.Tensor, log_slope: tf.Tensor) -> WithLogDet:
        inside = tf.abs(value) <= self.reach
        log_det = tf.reduce_sum(tf.where(inside, log_slope, 0.0), axis=[1, 2, 3])
        return tf.where(inside, result, value), log_det

    def largest_log_scale(self, x: tf.Tensor, y: tf.Tensor, slopes: tf.Tensor) -> tf.Tensor:
        of_bins = tf.math.log((y[1:] - y[:-1]) / (x[1:] - x[:-1]))
        of_knots = tf.abs(tf.math.log(slopes))
        return tf.maximum(tf.reduce_max(tf.abs(of_bins)), tf.reduce_max(of_knots))


def _in_bin(
    place: tf.Tensor, slope: tf.Tensor, first: tf.Tensor, last: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the height, from 0 to 1, and the log-slope at a place of a bin, from 0 to 1."""
    rest = place * (1 - place)
    below = slope + (first + last - 2 * slope) * rest
    height = (slope * place * place + first * rest) / below
    above = last * place * place + 2 * slope * rest + first * (1 - place) ** 2
    return height, 2 * tf.math.log(slope) + tf.math.log(above) - 2 * tf.math.log(below)
