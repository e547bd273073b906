"""A transform of one's own in the couplings: a monotone spline (Durkan et al. 2019, section 3.1).

    python examples/own_transform.py

It takes half a minute on one core. Reference: https://arxiv.org/abs/1906.04032
"""

import glow_tf  # before TensorFlow and Keras
import keras
import tensorflow as tf
from glow_tf import data
from glow_tf.bijectors import Transform

REACH = 3.0  # the spline lies within ±3; numbers beyond it stay as they are


@keras.saving.register_keras_serializable(package="examples")
class Spline(Transform):
    """For each number a network gives widths and heights of bins, and slopes between; zeros: the identity."""

    def __init__(self, bins=4):
        self.bins, self.outputs_per_channel = bins, 3 * bins - 1

    def parameters(self, output):
        """Returns the knots' places x and y and their log-slopes, [B, H, W, C, bins + 1] each."""
        count = self.outputs_per_channel
        raw = tf.reshape(output, [*tf.unstack(tf.shape(output)[:3]), output.shape[-1] // count, count])
        raw = 3 * tf.tanh(raw / 3)  # no bin vanishes, and no slope overflows
        widths, heights, log_slopes = tf.split(raw, [self.bins, self.bins, self.bins - 1], axis=-1)
        sums = (tf.cumsum(2 * REACH * tf.nn.softmax(sizes), axis=-1) for sizes in (widths, heights))
        x, y = (tf.pad(own, [[0, 0]] * 4 + [[1, 0]]) - REACH for own in sums)
        return x, y, tf.pad(log_slopes, [[0, 0]] * 4 + [[1, 1]])

    def forward(self, b, *parameters):
        b_within, (left, width, bottom, height, first, last) = the_bin(b, 0, *parameters)
        share, log_slope = in_bin((b_within - left) / width, height / width, first, last)
        return outside(b, bottom + height * share, log_slope)

    def inverse(self, y, *parameters):
        within, (left, width, bottom, height, first, last) = the_bin(y, 1, *parameters)
        share, slope = (within - bottom) / height, height / width
        curved = share * (first + last - 2 * slope)  # place solves a·place² + b·place + c = 0
        a, b, c = slope - first + curved, first - curved, -slope * share
        place = 2 * c / (-b - tf.sqrt(tf.maximum(b * b - 4 * a * c, 0)))  # loses no digits
        return outside(y, left + width * place, -in_bin(place, slope, first, last)[1])


def the_bin(value, axis, x, y, log_slopes):
    """Returns the value brought within the spline; of its bin x, width, y, height, and two slopes."""
    within = tf.clip_by_value(value, -REACH, REACH)
    number = tf.reduce_sum(tf.cast(within[..., None] >= (x, y)[axis][..., 1:-1], tf.int32), axis=-1)
    (x0, x1), (y0, y1), (first, last) = (
        [tf.gather(own, number + k, batch_dims=4) for k in (0, 1)] for own in (x, y, tf.exp(log_slopes))
    )
    return within, (x0, x1 - x0, y0, y1 - y0, first, last)


def in_bin(place, slope, first, last):
    """Returns the height and the log-slope at a place; place and height are shares of the bin's."""
    rest = place * (1 - place)
    below = slope + (first + last - 2 * slope) * rest
    above = last * place**2 + 2 * slope * rest + first * (1 - place) ** 2
    return (slope * place**2 + first * rest) / below, tf.math.log(slope**2 * above / below**2)


def outside(value, result, log_slope):
    """Returns the spline's result and log-determinant; beyond its reach a value stays as it is."""
    inside = tf.abs(value) <= REACH
    return tf.where(inside, result, value), tf.reduce_sum(tf.where(inside, log_slope, 0), axis=[1, 2, 3])


if __name__ == "__main__":
    digits = data.load(glow_tf.DataConfig(dataset="digits"))
    config = glow_tf.ModelConfig(digits.image_shape, n_bits=5, num_blocks=1, flow_steps=4, width=16)
    trainer = glow_tf.PartsTrainer(glow_tf.Flow(config, coupling=Spline(bins=4)))
    trainer.compile(glow_tf.TrainConfig(part_epochs=4))
    trainer.fit(digits.train, batch_size=32, verbose=0)
    print(f"splines: {trainer.evaluate(digits.test, verbose=0, return_dict=True)['bpd']:.3f} bits/dim")
