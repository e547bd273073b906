"""Layers of a user's own, as docs/guides/own_layers.md has them; an architecture of one's own."""

import keras
import tensorflow as tf

from glow_tf.architectures import Architecture, Element, Levels, PartLayout
from glow_tf.bijectors import Bijector, Transform

register = keras.saving.register_keras_serializable(package="own")


@register
class ConvNeXt(keras.layers.Layer):
    """Depthwise convolutions with a residual connection, and attention over all places."""

    def __init__(self, depth=1, width=8, **kwargs):
        super().__init__(**kwargs)
        self.depth, self.width = depth, width
        layers = keras.layers
        self.first = layers.Conv2D(width, 1)
        self.spread = [layers.DepthwiseConv2D(3, padding="same") for _ in range(depth)]
        self.mix = [layers.Dense(width, activation="gelu") for _ in range(depth)]
        self.norm = layers.LayerNormalization()
        self.attention = layers.MultiHeadAttention(2, width // 2)

    def call(self, x):
        h = self.first(x)
        for spread, mix in zip(self.spread, self.mix, strict=True):
            h += mix(spread(h))
        places = keras.ops.reshape(self.norm(h), (-1, h.shape[1] * h.shape[2], self.width))
        attended = self.attention(places, places)
        return h + keras.ops.reshape(attended, (-1, *h.shape[1:3], self.width))

    def get_config(self):
        return {**super().get_config(), "depth": self.depth, "width": self.width}


DEEP, NARROW = ConvNeXt(depth=2), ConvNeXt(width=4)


@register
class Dropping(keras.layers.Layer):
    """A network that the inverse could not read again."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.drop = keras.layers.Dropout(0.5)

    def call(self, x):
        return self.drop(x)


# --8<-- [start:bijector]
@register
class Shear(Bijector):
    """Adds to each channel a learned multiple of the one before it."""

    def build(self, input_shape):
        start = keras.initializers.RandomNormal(0.0, 0.1)
        self.slope = self.add_weight(name="slope", shape=(input_shape[-1] - 1,), initializer=start)
        self.built = True

    def _matrix(self, channels):
        return tf.linalg.diag(tf.ones([channels], self.slope.dtype)) + tf.linalg.diag(self.slope.value, k=1)

    def forward_and_log_det(self, x):
        return x @ self._matrix(x.shape[-1]), tf.zeros(tf.shape(x)[:1], x.dtype)

    def inverse_and_log_det(self, y):
        inverse = tf.linalg.inv(self._matrix(y.shape[-1]))
        return y @ inverse, tf.zeros(tf.shape(y)[:1], y.dtype)


# --8<-- [end:bijector]


# --8<-- [start:transform]
@register
class Triple(Transform):
    """y = 3ᵗ·b."""

    outputs_per_channel = 1

    def __init__(self, most=1.0):
        self.most = most

    def parameters(self, output):
        return (self.most * tf.tanh(output),)

    def forward(self, b, power):
        return b * 3**power, tf.reduce_sum(power, axis=[1, 2, 3]) * tf.math.log(3.0)

    def inverse(self, y, power):
        return y * 3**-power, -tf.reduce_sum(power, axis=[1, 2, 3]) * tf.math.log(3.0)


# --8<-- [end:transform]


# --8<-- [start:levels]
class Even(Levels):
    """Levels with as many flow steps at every scale."""

    @property
    def cuts(self):
        usual = (self.config.flow_steps,) * (self.config.num_blocks + 1)
        return super().cuts if self.config.level_steps else usual


# --8<-- [end:levels]


# --8<-- [start:architecture]
class OneScale(Architecture):
    """A squeeze, and flow steps of one shape, after the first half of them a bijector of one's own."""

    name = "one scale"

    @property
    def cuts(self):
        half = self.config.flow_steps // 2
        return half, self.config.flow_steps - half

    def halvings(self, size):
        return 1

    def lay_out(self):
        height, width, channels = self.config.image_shape
        size = (height // 2, width // 2, 4 * channels)
        steps = self.flow_steps(1, self.config.flow_steps, size)
        squeeze = Element("squeeze", 1, 0, *size, macs=0)
        shear = Element("shear", 1, 0, *size, macs=height * width * 4 * channels**2, make=Shear)
        half = self.cuts[0]
        return PartLayout((squeeze, *steps[:half], shear), size), PartLayout(tuple(steps[half:]), size)


# --8<-- [end:architecture]
