"""Mixtures of logistic densities: their distribution function, and the coupling and the prior that use it."""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, KeepsArguments, Shape, WithLogDet, soft_bound
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.normal_scores import logit_of_normal, normal_of_logit
from glow_tf.bijectors.transforms import Affine, Parameters, Transform, of_channels

MEAN_BOUND, LOG_SCALE_BOUND = 4.0, 3.0  # of a component
FLOOR = 0.05  # weight of a standard logistic in each mixture: between narrow components no slope vanishes
HALVINGS = 40  # of the interval in which an inverse lies; float32 has 24 bits

Mixture = tuple[tf.Tensor, tf.Tensor, tf.Tensor]  # log-weights, means and log-scales, [components, ...] each


def checked_components(count: int) -> int:
    """Returns a number of components; ValueError unless there is one."""
    if count < 1:
        raise ValueError(f"a mixture needs one component or more. Received: components={count}")
    return count


def mixture_of(logits: tf.Tensor, means: tf.Tensor, log_scales: tf.Tensor) -> Mixture:
    """Returns the mixture of a network's output or of weights, [components, ...] each, with its bounds."""
    zero = tf.zeros_like(means[:1])
    log_weights = tf.concat(
        [zero + math.log(FLOOR), tf.nn.log_softmax(logits, axis=0) + math.log1p(-FLOOR)], axis=0
    )
    means = tf.concat([zero, soft_bound(means, MEAN_BOUND)], axis=0)
    return log_weights, means, tf.concat([zero, soft_bound(log_scales, LOG_SCALE_BOUND)], axis=0)


def logit_of_mixture(x: tf.Tensor, mixture: Mixture) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns logit F(x) of a mixture's distribution function F, and the log of its slope; both like x."""
    log_weights, means, log_scales = mixture
    standard = (x - means) * tf.exp(-log_scales)
    below, above = tf.math.log_sigmoid(standard), tf.math.log_sigmoid(-standard)
    log_cdf = tf.reduce_logsumexp(log_weights + below, axis=0)
    log_rest = tf.reduce_logsumexp(log_weights + above, axis=0)
    log_density = tf.reduce_logsumexp(log_weights + below + above - log_scales, axis=0)
    return log_cdf - log_rest, log_density - log_cdf - log_rest


def inverse_logit_of_mixture(logit: tf.Tensor, mixture: Mixture) -> tf.Tensor:
    """Returns x for logit F(x), by halving an interval; gradients are those of the implicit function."""

    @tf.custom_gradient
    def solve(logit, *mixture):
        _, means, log_scales = mixture
        # Each component alone reaches the logit at one of these places, and the mixture between them.
        places = means + tf.exp(log_scales) * logit
        low, high = tf.reduce_min(places, axis=0), tf.reduce_max(places, axis=0)

        def halve(low, high):
            middle = 0.5 * (low + high)
            is_low = logit_of_mixture(middle, mixture)[0] < logit
            return tf.where(is_low, middle, low), tf.where(is_low, high, middle)

        low, high = tf.while_loop(lambda *_: True, halve, (low, high), maximum_iterations=HALVINGS)
        x = 0.5 * (low + high)

        def gradients(upstream):
            with tf.GradientTape() as tape:
                tape.watch(mixture)
                at_x, log_slope = logit_of_mixture(x, mixture)
            of_logit = upstream * tf.exp(-log_slope)
            return of_logit, *tape.gradient(at_x, mixture, -of_logit)

        return x, gradients

    return solve(logit, *mixture)


@keras.saving.register_keras_serializable(package="glow_tf")
class LogisticMixtureCoupling(Transform):
    """y = exp(s)·logit F(b) + t, where F is the distribution function of a mixture of logistics.

    For each element the network gives t, s and the mixture. A network output of zeros gives the identity: F
    is then that of the standard logistic, whose logit F(b) is b. All components are alike there. The mean of
    each is multiplied by a factor of its own, so that training makes them differ.

    Numerics: everything is computed from log σ. The inverse halves an interval 40 times.

    Args:
      components: number of components of the mixture.
      scale: which function s is of the network's output, as in `Affine`.

    Reference: Ho et al. 2019 (Flow++), section 3.2, https://arxiv.org/abs/1902.00275
    """

    def __init__(self, components: int = 4, scale: str = "tanh:1"):
        self.components = checked_components(components)
        self.scale = scale
        self._affine = Affine(scale)

    @property
    def outputs_per_channel(self) -> int:
        return 2 + 3 * self.components

    def parameters(self, output: tf.Tensor) -> Parameters:
        """Returns t and s, [B, H, W, C], and the mixture, [components + 1, B, H, W, C] each."""
        raw, count = of_channels(output, self.outputs_per_channel), self.components
        ends, logits, means, log_scales = tf.split(raw, [2, count, count, count])
        paces = tf.reshape(tf.cast(tf.linspace(-1.5, 1.5, count), raw.dtype), [-1, 1, 1, 1, 1])
        mixture = mixture_of(logits, paces * means, log_scales)
        return ends[0], self._affine.log_scale(ends[1]), *mixture

    def forward(self, b: tf.Tensor, *parameters: tf.Tensor) -> WithLogDet:
        shift, log_scale, *mixture = parameters
        logit, log_slope = logit_of_mixture(b, mixture)
        return logit * tf.exp(log_scale) + shift, tf.reduce_sum(log_slope + log_scale, axis=[1, 2, 3])

    def inverse(self, y: tf.Tensor, *parameters: tf.Tensor) -> WithLogDet:
        shift, log_scale, *mixture = parameters
        b = inverse_logit_of_mixture((y - shift) * tf.exp(-log_scale), mixture)
        log_slope = logit_of_mixture(b, mixture)[1]
        return b, -tf.reduce_sum(log_slope + log_scale, axis=[1, 2, 3])

    def largest_log_scale(self, *parameters: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(tf.abs(parameters[1])) + tf.reduce_max(tf.abs(parameters[4]))


@keras.saving.register_keras_serializable(package="glow_tf")
class LogisticMixture(KeepsArguments, Bijector):
    """Maps numbers whose density is a mixture of logistics, one for each channel, to standard normal ones.

    Forward:   eps = Φ⁻¹(F(x))      log_det = Σ log f(x) − log φ(eps)
    Inverse:   x = F⁻¹(Φ(eps))
    F and f are the mixture's distribution function and density. Its weights, means and scales are learned. At
    the start the weights are equal, the means are from −1 to 1, and the deviation of the whole is 1.

    Shapes: [B, H, W, C] → the same.

    Args:
      components: number of components of the mixture.
    """

    elementwise = True

    def __init__(self, components: int = 4, **kwargs):
        super().__init__(**kwargs)
        self.components = checked_components(components)

    def build(self, input_shape: Shape) -> None:
        shape, start = (input_shape[-1], self.components), np.linspace(-1.0, 1.0, self.components)
        spread = math.log(math.sqrt(3 * (1 - start.var())) / math.pi)  # of a logistic
        starts = {"logits": 0.0, "means": start, "log_scales": spread}
        self.logits, self.means, self.log_scales = (
            self.add_weight(name=name, shape=shape, initializer=_constant(value))
            for name, value in starts.items()
        )
        self.built = True

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        self.ensure_built(x)
        logit, log_slope = logit_of_mixture(x, self._mixture())
        eps, log_slope_of_score = normal_of_logit(logit)
        return eps, tf.reduce_sum(log_slope + log_slope_of_score, axis=[1, 2, 3])

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        self.require_built()
        x = inverse_logit_of_mixture(logit_of_normal(y), self._mixture())
        return x, -self.forward_and_log_det(x)[1]

    def _mixture(self) -> Mixture:
        weights = (self.logits, self.means, self.log_scales)
        return mixture_of(*(tf.transpose(own.value)[:, None, None, None] for own in weights))


def _constant(value: np.ndarray | float) -> Callable[..., tf.Tensor]:
    return lambda shape, dtype=None: tf.constant(np.broadcast_to(value, shape), dtype)
