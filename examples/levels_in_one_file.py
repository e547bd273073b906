"""Levels on one page: the likelihood of an image is a product, and each factor is learned alone.

    python examples/levels_in_one_file.py

Haar takes an image x₀ [B, H, W, C] apart into one of half the size, x₁ [B, H/2, W/2, C], and the details that
x₁ lacks, d₁ [B, H/2, W/2, 3C]; then it does so with x₁, and so on:

    p(x₀) = p(d₁ | x₁) · … · p(d_L | x_L) · p(x_L)

Each factor is a part: a flow with weights and an optimizer of its own. What it reads is a fixed function of
the image. So parts learn in any order, on any machine, and the sum of their objectives is the exact
log-likelihood of the whole. Here two parts learn handwritten digits, in a minute on one core. This is plain
Keras 3; a test shows that likelihoods and gradients are those of the package, glow_tf.

A flow is a bijection f from z to a Gaussian latent: log p(z | given) = log N(f(z); 0, I) + log|det df/dz|.
Below, a bijector is a Keras layer: `bijector(x, given) -> y, log_det` and `bijector.inverse(y, given) -> x`,
with x, y [B, H, W, C], log_det [B] or [] in nats, and `given` [B, H, W, F] or None.
"""

import math

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

N_BITS = 5  # the digits have 17 grey values
SCALES = 1 / 4, 2.0  # of Haar's mean and differences: the mean of pixels is a pixel
ORTHONORMAL = 1 / 2, 1 / 2


# 1. Images: whole numbers ↔ real numbers ↔ half of the size and details
def dequantise(images, rng):
    """Adds noise: v = value + uniform [0, 1), and y = v / 2^n − ½ in [−½, ½)."""
    v = images + rng.uniform(size=images.shape)
    return (v / 2**N_BITS - 0.5).astype(keras.config.floatx())


def haar(x, scales=SCALES):
    """Takes x [B, H, W, C] apart: means [B, H/2, W/2, C], details [B, H/2, W/2, 3C], and log_det [].

    Of each square of pixels [[p, q], [r, s]] these are the sum and three differences, each with its scale:
    an orthogonal map that doubles lengths, and then the scales.
    """
    p, q, r, s = x[:, ::2, ::2], x[:, ::2, 1::2], x[:, 1::2, ::2], x[:, 1::2, 1::2]
    details = ops.concatenate([p - q + r - s, p + q - r - s, p - q - r + s], axis=-1)
    log_scales = math.log(2 * scales[0]) + 3 * math.log(2 * scales[1])
    return scales[0] * (p + q + r + s), scales[1] * details, math.prod(x.shape[1:]) / 4 * log_scales


def haar_inverse(means, details, scales=SCALES):
    """Puts means [B, h, w, C] and details [B, h, w, 3C] together: [B, 2h, 2w, C]."""
    m = means / (4 * scales[0])
    a, b, c = ops.split(details / (4 * scales[1]), 3, axis=-1)
    top = ops.stack([m + a + b + c, m - a + b - c], axis=3)
    bottom = ops.stack([m + a - b - c, m - a - b + c], axis=3)
    _, h, w, channels = means.shape
    return ops.reshape(ops.stack([top, bottom], axis=2), (-1, 2 * h, 2 * w, channels))


# 2. Bijectors: what a flow step is made of, and the Gaussian at the end of a flow
class ActNorm(keras.layers.Layer):
    """y = (x + bias) · exp(log_scale) for each channel; log_det = H·W·Σ log_scale.

    The first batch, which must run eagerly, gets mean 0 and deviation 1. In the last convolution of a network
    it is the identity at first, and has exp(3·log_scale), which learns faster.
    """

    def __init__(self, last=False):
        super().__init__()
        self.factor, self.is_set = (3, True) if last else (1, False)

    def build(self, x_shape):
        self.bias = self.add_weight(name="bias", shape=x_shape[-1:], initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=x_shape[-1:], initializer="zeros")

    def call(self, x, given=None):
        if not self.is_set:
            self.bias.assign(-ops.mean(x, axis=(0, 1, 2)))
            self.log_scale.assign(-ops.log(ops.std(x, axis=(0, 1, 2)) + 1e-6))
            self.is_set = True
        log_det = x.shape[1] * x.shape[2] * ops.sum(self.log_scale)
        return (x + self.bias) * ops.exp(self.factor * self.log_scale), log_det

    def inverse(self, y, given=None):
        return y * ops.exp(-self.log_scale) - self.bias


class Mix(keras.layers.Layer):
    """y = W x at every pixel, the invertible 1×1 convolution; log_det = H·W·log|det W|."""

    def build(self, x_shape):
        self.matrix = self.add_weight(name="matrix", shape=(x_shape[-1],) * 2, initializer="orthogonal")

    def call(self, x, given=None):
        log_det = x.shape[1] * x.shape[2] * ops.slogdet(self.matrix)[1]
        return ops.matmul(x, ops.transpose(self.matrix)), log_det

    def inverse(self, y, given=None):
        return ops.matmul(y, ops.transpose(ops.inv(self.matrix)))


class Convolution(keras.layers.Layer):
    """y = ActNorm(K * x + R * given): [B, H, W, C] → [B, H, W, filters]; no bijector. R reads one pixel.

    K is random at first; that of a network's last one is 0, so that what the network controls does nothing.
    """

    def __init__(self, filters, size, last=False):
        super().__init__()
        settings = {"padding": "same", "use_bias": False}
        settings["kernel_initializer"] = "zeros" if last else "he_normal"
        self.convolve = keras.layers.Conv2D(filters, size, **settings)
        self.read = keras.layers.Conv2D(filters, 1, **settings)
        self.norm = ActNorm(last)

    def build(self, x_shape, given_shape=None):
        """Leaves it to the first call."""

    def call(self, x, given=None):
        y = self.convolve(x)
        return self.norm(y if given is None else y + self.read(given))[0]


class Coupling(keras.layers.Layer):
    """y = [a, exp(s) · b + t], where x = [a, b] and (t, s) = network(a, given); log_det = Σ s.

    The inverse needs no inverse of the network, which may be any. t is within ±10, and s within ±1.
    """

    def __init__(self, width):
        super().__init__()
        self.hidden = [Convolution(width, 3), Convolution(width, 1)]

    def build(self, x_shape, given_shape=None):
        self.kept = x_shape[-1] // 2  # channels of a
        self.last = Convolution(2 * (x_shape[-1] - self.kept), 3, last=True)

    def parts_of(self, x, given):
        """Returns a, b, t and s."""
        a, b = x[..., : self.kept], x[..., self.kept :]
        h = ops.relu(self.hidden[1](ops.relu(self.hidden[0](a, given))))
        shift, log_scale = ops.split(self.last(h), 2, axis=-1)
        return a, b, 10 * ops.tanh(shift / 10), ops.tanh(log_scale)

    def call(self, x, given=None):
        a, b, shift, log_scale = self.parts_of(x, given)
        y = ops.concatenate([a, b * ops.exp(log_scale) + shift], axis=-1)
        return y, ops.sum(log_scale, axis=(1, 2, 3))

    def inverse(self, y, given=None):
        a, b, shift, log_scale = self.parts_of(y, given)
        return ops.concatenate([a, (b - shift) * ops.exp(-log_scale)], axis=-1)


class Gaussian(keras.layers.Layer):
    """eps = (z − mean) · exp(−s); log_det = −Σ s. A convolution of `given` adds to mean and s, within ±3."""

    def build(self, x_shape, given_shape=None):
        self.mean = self.add_weight(name="mean", shape=x_shape[-1:], initializer="zeros")
        self.log_deviation = self.add_weight(name="log_deviation", shape=x_shape[-1:], initializer="zeros")
        self.network = Convolution(2 * x_shape[-1], 3, last=True) if given_shape else None

    def moments(self, like, given):
        """Returns mean and s, of the shape of a tensor."""
        read = 0.0 if given is None else self.network(given)
        both = ops.concatenate([self.mean, self.log_deviation]) + read + ops.zeros_like(like[..., :1])
        mean, log_deviation = ops.split(both, 2, axis=-1)
        return mean, 3 * ops.tanh(log_deviation / 3)

    def call(self, x, given=None):
        mean, log_deviation = self.moments(x, given)
        return (x - mean) * ops.exp(-log_deviation), -ops.sum(log_deviation, axis=(1, 2, 3))

    def inverse(self, y, given=None):
        mean, log_deviation = self.moments(y, given)
        return y * ops.exp(log_deviation) + mean


# 3. Parts: Keras models whose result is a factor's log-density [B], in nats, and whose loss is minus that
class Part(keras.Model):
    """A flow: steps of ActNorm, Mix and Coupling, and a Gaussian of what they make."""

    def __init__(self, steps, width):
        super().__init__()
        self.bijectors = [each for _ in range(steps) for each in (ActNorm(), Mix(), Coupling(width))]
        self.bijectors.append(Gaussian())

    def build(self, x_shape):
        """Leaves it to the first batch: Keras would build the layers with a symbol, which has no mean."""

    def log_prob(self, z, given=None):
        """Returns log N(f(z); 0, I) + log|det df/dz|."""
        total = 0.0
        for bijector in self.bijectors:
            z, log_det = bijector(z, given)
            total += log_det
        return total - 0.5 * ops.sum(z**2 + math.log(2 * math.pi), axis=(1, 2, 3))

    def draw(self, shape, seed, given=None):
        """Draws z [B, H, W, C]: f⁻¹ of Gaussian numbers."""
        z = keras.random.normal(shape, seed=seed)
        for bijector in reversed(self.bijectors):
            z = bijector.inverse(z, given)
        return z

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return -ops.mean(y_pred)


class Level(Part):
    """p(d_l | x_l), as a function of x_{l−1}: what an image has that the one of half its size lacks."""

    def __init__(self, steps, width, features=32, depth=4):
        super().__init__(steps, width)
        self.network = [Convolution(features, 3) for _ in range(depth)]

    def features(self, smaller):
        """Returns what the flow is given of the smaller image: [B, h, w, C] → [B, h, w, F]."""
        h = self.network[0](smaller)
        for convolution in self.network[1:]:
            h = convolution(ops.silu(h))
        return 3 * ops.tanh(h / 3)  # within ±3, and h itself where it is small

    def call(self, x):
        smaller, details, log_det = haar(x)
        return self.log_prob(details, self.features(smaller)) + log_det

    def enlarge(self, smaller, seed):
        """Draws an image of twice the size: x_l → x_{l−1}."""
        *places, channels = smaller.shape
        return haar_inverse(smaller, self.draw((*places, 3 * channels), seed, self.features(smaller)))


class Coarsest(Part):
    """p(x_L), given nothing. The flow sees 2×2 pixels as one of four times the channels."""

    def call(self, x):
        return self.log_prob(ops.concatenate(haar(x, ORTHONORMAL)[:2], axis=-1))

    def sample(self, shape, seed):
        """Draws images [B, H, W, C]."""
        count, height, width, channels = shape
        z = self.draw((count, height // 2, width // 2, 4 * channels), seed)
        return haar_inverse(z[..., :channels], z[..., channels:], ORTHONORMAL)


# 4. The whole: parts = [finest level, …, coarsest level, Coarsest]
def log_likelihood(parts, y):
    """Returns log p(v) of images y [B, H, W, C], in nats; log|det dy/dv| = −H·W·C·n·log 2."""
    total = -math.prod(y.shape[1:]) * N_BITS * math.log(2)
    for part in parts:
        total += part(y)
        y = haar(y)[0]
    return total


def bits_per_dim(parts, y):
    """Returns the mean of −log₂ p(v) per dimension: over the noise, an upper bound of an image's."""
    return -float(ops.mean(log_likelihood(parts, y))) / (math.prod(y.shape[1:]) * math.log(2))


def sample(parts, shape, seed=0):
    """Draws images [B, H, W, C] from coarse to fine, and rounds the noise off."""
    *levels, coarsest = parts
    count, height, width, channels = shape
    y = coarsest.sample((count, height >> len(levels), width >> len(levels), channels), seed)
    for level in reversed(levels):
        y = level.enlarge(y, seed := seed + 1)
    return np.clip(np.floor((np.asarray(y) + 0.5) * 2**N_BITS), 0, 2**N_BITS - 1)


# 5. Training: each part by its own `fit`, as if there were no other
def main(epochs=15):
    """Trains two parts on scikit-learn's digits, prints test bits per dimension, and draws 64 digits."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.permutation(load_digits().images[..., np.newaxis])  # [1797, 8, 8, 1]
    test, train = images[:360], images[360:]
    parts = [Level(steps=6, width=32), Coarsest(steps=4, width=32)]
    log_likelihood(parts, dequantise(train, rng))  # the first batch
    for part in parts:
        rate = keras.optimizers.schedules.CosineDecay(5e-3, epochs * math.ceil(len(train) / 32))
        part.compile(keras.optimizers.Adam(rate, clipnorm=10.0), jit_compile=False)
    for epoch in range(1, epochs + 1):
        y = dequantise(train, rng)  # other noise each time
        for part in parts:
            part.fit(y, batch_size=32, verbose=0)
            y = haar(y)[0]
        print(f"epoch {epoch}: {bits_per_dim(parts, dequantise(test, rng)):.3f} bits/dim of test images")
    grid = sample(parts, (64, 8, 8, 1)).reshape(8, 8, 8, 8).transpose(0, 2, 1, 3).reshape(64, 64, 1)
    keras.utils.save_img("levels.png", np.minimum(grid, 16) * 15, scale=False)


if __name__ == "__main__":
    main()
