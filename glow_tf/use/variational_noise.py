"""Dequantisation noise that lies where a model's density is high, which gives a tighter bound of the bits.

The bits of a byte image x are −log₂ ∫ p(x + u) du, over noise u in the unit cube. The mean of −log p(x + u)
of uniform noise lies above that, by about half of its variance. For noise of any other density q(u | x) the
mean of log q(u | x) − log p(x + u) is a bound as well. Here q is a product of densities, one for each number,
proportional to exp(tilt · u) on [0, 1). The best tilt is near the gradient of log p at the mean of the noise.

Reference: Ho et al. 2019 (Flow++), section 3.1, https://arxiv.org/abs/1902.00275. There a network makes q,
and learns with the flow. Here nothing is learned: the model and its training stay as they are.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

STEPS, STEP, SHORTER = 3, 0.6, 0.3  # towards the gradient; where the bound rises, back and a shorter step
DEVIATIONS = 3.0  # by which noise may be worse than uniform noise
LEAST, MOST = 1e-4, 80.0  # |tilt|, so that float32 can tell noise and density
BELOW_ONE = 1 - 2.0**-24  # the next number in float32


def variational_noise(
    log_prob: Callable[[tf.Tensor], tf.Tensor], levels: tf.Tensor, uniform: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws noise for levels, and returns it with its log-density.

    Args:
      log_prob: log p of dequantised values [B, H, W, C]: [B], nats.
      levels: whole numbers, [B, H, W, C].
      uniform: noise in [0, 1), which is made into the other, [B, H, W, C].

    Returns:
      The noise, [B, H, W, C], with which a level does not reach the next one, and log q(noise | levels),
      [B], nats.
    """
    tilt, kept, slope = (tf.zeros_like(levels) for _ in range(3))
    bounds = []
    least = tf.fill(tf.shape(levels)[:1], tf.constant(np.inf, levels.dtype))
    step = STEP * tf.ones_like(levels[:, :1, :1, :1])
    for _ in range(STEPS):
        mean = mean_of(tilt)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            v = levels + mean
            tape.watch(v)
            found = log_prob(v)
        gradient = tape.gradient(found, v)
        # The mean of log q is log q at the mean; that of log p is nearly so.
        bound = log_density(mean, tilt) - found
        bounds.append(bound)
        better = bound < least
        least = tf.where(better, bound, least)
        better = better[:, None, None, None]
        kept = tf.where(better, tilt, kept)
        slope = tf.where(better, tf.where(tf.math.is_finite(gradient), gradient, 0), slope)
        step = tf.where(better, step, SHORTER * step)
        tilt = kept + step * (slope - kept)
    # What is said at the mean need not hold around it. Noise that is the same for every image tells, but for
    # what is chance: the variance of log p of uniform noise, which is about twice what there is to gain.
    other = tf.random.stateless_uniform(tf.shape(levels[:1]), (0, 0), dtype=levels.dtype)
    noise = tilted(other, tilt)
    gain = log_prob(levels + noise) - log_density(noise, tilt) - log_prob(levels + other)
    expected = bounds[0] - least  # of them the first is that of uniform noise
    holds = gain > tf.minimum(expected - DEVIATIONS * tf.sqrt(2 * expected), 0)
    tilt = tf.where(holds[:, None, None, None], tilt, 0)
    # A sum is rounded, to the next level as well, of which a density may say something else.
    noise = tf.minimum(tilted(uniform, tilt), tf.math.nextafter(levels + 1, levels) - levels)
    return noise, log_density(noise, tilt)


def tilted(uniform: tf.Tensor, tilt: tf.Tensor) -> tf.Tensor:
    """Maps uniform noise to noise of density q ∝ exp(tilt · u) on [0, 1); all [B, H, W, C]."""
    rate, rises = _rate(tilt), tilt > 0
    # Of a density that rises; it falls where u → 1 - u rises.
    share = tf.where(rises, tf.minimum(1 - uniform, BELOW_ONE), uniform)
    u = 1 + tf.math.log1p(share * tf.math.expm1(-rate)) / rate
    return tf.where(rises, u, 1 - u)


def log_density(noise: tf.Tensor, tilt: tf.Tensor) -> tf.Tensor:
    """Returns log q of noise of a tilt, both [B, H, W, C]: [B], nats."""
    rate, below_the_top = _rate(tilt), tf.where(tilt > 0, 1 - noise, noise)
    return tf.reduce_sum(tf.math.log(rate / -tf.math.expm1(-rate)) - rate * below_the_top, axis=[1, 2, 3])


def mean_of(tilt: tf.Tensor) -> tf.Tensor:
    """Returns the mean of noise of a tilt; both of any shape."""
    rate = _rate(tilt)
    near_zero = 0.5 + rate / 12 - rate**3 / 720  # where the difference below would cancel
    mean = tf.where(rate < 0.1, near_zero, 1 / -tf.math.expm1(-rate) - 1 / rate)
    return tf.where(tilt > 0, mean, 1 - mean)


def _rate(tilt: tf.Tensor) -> tf.Tensor:
    return tf.clip_by_value(tf.abs(tilt), LEAST, MOST)
