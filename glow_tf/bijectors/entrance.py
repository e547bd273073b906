"""What stands before the parts, the only place that knows how data become real numbers and back."""

import math

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Bijector, Shape, WithLogDet, per_example, pixels_of, set_where
from glow_tf.config import MOST_EQUALIZED


@keras.saving.register_keras_serializable(package="glow_tf")
class Dequantize(Bijector):
    """Centres and scales grey values: the map between [0, 2^n_bits) and [−½, ½).

    A byte b has the grey value ⌊b / 2^(8−n_bits)⌋. With more than 8 bits, images are integers of 16 bits, and
    16 stands for the 8. The *dequantised* value is v = grey value + noise, with noise uniform in [0, 1). The
    model's input is y. The log-density of v is in expectation a lower bound on the log-probability of the
    byte.

    Forward:   y = v / 2^n_bits − ½      log_det = −H·W·C·n_bits·ln 2   (so a uniform density of y has
               exactly n_bits bits per dimension)
    Inverse:   v = (y + ½) · 2^n_bits

    `grey_values` maps bytes to them, and `to_output` maps v back to bytes. `to_output` rounds *down*: a v at
    the middle of its bin (noise ½) gives the right byte despite any error below half a grey value.

    `Standardize` stands in its place in a model of real values, `Equalize` where images have flat regions.

    Args:
      n_bits: bits kept per pixel and channel, 1 to 16.

    Attributes:
      output_dtype: of images, `uint8` or `uint16`.

    Raises:
      ValueError: n_bits is out of range.
    Reference: Theis et al. 2016, section 3.1, https://arxiv.org/abs/1511.01844
    """

    def __init__(self, n_bits: int = 8, **kwargs):
        super().__init__(**kwargs)
        if n_bits not in range(1, 17):
            raise ValueError(f"n_bits must be an integer from 1 to 16. Received: n_bits={n_bits}")
        self.n_bits = n_bits
        self.bins = 2**n_bits
        stored = 8 if n_bits <= 8 else 16
        self.output_dtype = f"uint{stored}"
        self.bin_width = 2 ** (stored - n_bits)  # in grey values of a byte
        self.built = True

    def adapt(self, images: np.ndarray) -> None:
        """Learns from all training images [N, H, W, C] what is to be known of them: here, nothing."""

    def grey_values(self, images: tf.Tensor) -> tf.Tensor:
        """Drops the lowest 8 − n_bits bits: bytes [B, H, W, C] → whole numbers in the compute dtype."""
        # As int32: ONNX Runtime has no division of uint8.
        return tf.cast(tf.cast(images, tf.int32) // self.bin_width, self.compute_dtype)

    def to_output(self, v: tf.Tensor) -> tf.Tensor:
        """Rounds dequantised values [B, H, W, C] down to bytes, the lowest 8 − n_bits bits 0, and clips."""
        value = tf.clip_by_value(tf.floor(v), 0, self.bins - 1)
        return tf.cast(value * self.bin_width, self.output_dtype)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        return x / self.bins - 0.5, per_example(self._log_det(x), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        return (y + 0.5) * self.bins, per_example(-self._log_det(y), y)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        return tf.constant(-math.prod(x.shape[1:]) * self.n_bits * math.log(2), x.dtype)


FREQUENT = 4  # times the average frequency of a grey value


@keras.saving.register_keras_serializable(package="glow_tf")
class Equalize(Dequantize):
    """Histogram equalisation of frequent grey values: stands in the place of `Dequantize`.

    Where many pixels have the same value, as on a black ground, their noise is tiny beside the range of the
    image, and a flow needs many steps to scale it up there and nowhere else. Here grey values that are more
    than four times as frequent as the average have more room: `share` of the range [−½, ½) is divided by how
    many training pixels each has, with the mean of all others for these; the rest is divided evenly. Among
    the others the map stays linear.

    With room_c[l] the length of grey value l's interval in channel c, Σ_l room_c[l] = 1, and ℓ = ⌊v⌋,
    Forward:   y = Σ_{l<ℓ} room_c[l] + (v − ℓ)·room_c[ℓ] − ½      log_det = Σ log room_c[ℓ]
    Inverse:   finds ℓ by bisection; beyond the range the map goes on as in its first and last grey value.

    The rooms are no trained weights. `adapt` sets them from all training images; otherwise `initialize` sets
    them from a batch. They depend on nothing else, so parts of `levels` that are trained apart have the same.

    Args:
      n_bits: bits kept per pixel and channel, 1 to 8.
      share: in (0, 0.9]. A grey value has at least 1 − share of the room that it has in `Dequantize`.

    Raises:
      ValueError: n_bits or share is out of range.
    Reference: maps of the marginals as layers of a flow: Meng et al. 2020 (Gaussianization Flows),
    https://arxiv.org/abs/2003.01941
    """

    def __init__(self, n_bits: int = 8, share: float = 0.5, **kwargs):
        super().__init__(n_bits, **kwargs)
        if n_bits > 8 or not 0 < share <= MOST_EQUALIZED:
            raise ValueError(
                f"Equalize needs n_bits of 8 or less, and a share above 0 and up to {MOST_EQUALIZED}. "
                f"Received: n_bits={n_bits}, share={share}"
            )
        self.share = share
        self.built = False

    def build(self, input_shape: Shape) -> None:
        self.room = self.add_weight(
            name="room",
            shape=(input_shape[-1], self.bins),
            initializer=keras.initializers.Constant(1 / self.bins),
            trainable=False,
        )
        self.initialized = self.add_weight(name="initialized", shape=(), dtype="int64", trainable=False)
        self.built = True

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        self._ensure_built(x)
        self.adapt(np.asarray(self.to_output(x)))
        return self.forward_and_log_det(x)[0]

    def adapt(self, images: np.ndarray) -> None:
        self._require_built()
        counts = np.zeros(self.room.shape)
        for image in images:  # not all at once: they may not fit into memory a second time
            for own, channel in zip(counts, np.moveaxis(image, -1, 0), strict=True):
                own += np.bincount(channel.ravel() // self.bin_width, minlength=self.bins)
        set_where(self.initialized.value < 1, self.room, rooms(counts, self.share))
        self.initialized.assign(1)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        value = tf.clip_by_value(tf.floor(x), 0, self.bins - 1)
        # Of a NaN, which makes its image's density one, the cast may be any integer.
        place = tf.clip_by_value(tf.cast(value, tf.int32), 0, self.bins - 1)
        room, start = self._of_grey_values(place, *self._tables())
        return start + (x - value) * room - 0.5, tf.reduce_sum(tf.math.log(room), axis=[1, 2, 3])

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        self._require_built()
        place, (lengths, starts) = y + 0.5, self._tables()
        value = tf.zeros_like(y, tf.int32)
        for bit in reversed(range(self.n_bits)):  # gathers alone: ONNX has no search
            higher = value + 2**bit
            (start,) = self._of_grey_values(higher, starts)
            value = tf.where(start <= place, higher, value)
        room, start = self._of_grey_values(value, lengths, starts)
        v = tf.cast(value, y.dtype) + (place - start) / room
        return v, -tf.reduce_sum(tf.math.log(room), axis=[1, 2, 3])

    def _tables(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the room of each grey value and where it starts, [C, grey values] both."""
        return self.room.value, tf.cumsum(self.room.value, axis=1, exclusive=True)

    def _of_grey_values(self, values: tf.Tensor, *tables: tf.Tensor) -> list[tf.Tensor]:
        """Returns what tables [C, grey values] have for grey values [B, H, W, C]."""
        place = values + self.bins * tf.range(self.room.shape[0])
        return [tf.gather(tf.reshape(table, [-1]), place) for table in tables]


def rooms(counts: np.ndarray, share: float) -> np.ndarray:
    """Returns the lengths of the grey values' intervals, whose sum is 1, of their counts of pixels [C, V]."""
    count = counts.shape[1]
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    frequent = frequencies > FREQUENT / count
    rest = 1 - np.sum(frequencies, axis=1, keepdims=True, where=frequent)
    others = np.sum(~frequent, axis=1, keepdims=True)  # most of them: less than a quarter is frequent
    return share * np.where(frequent, frequencies, rest / others) + (1 - share) / count


@keras.saving.register_keras_serializable(package="glow_tf")
class Standardize(Bijector):
    """Centres and scales every channel of real data, by numbers that are not trained.

    Forward:   y = (v − mean) / deviation      log_det = −H·W·Σ_c log deviation_c
    Inverse:   v = y · deviation + mean

    It stands where a model of bytes has `Dequantize`. Nothing is added to the data and nothing is rounded:
    `grey_values` and `to_output` only convert types, so the log-density of v is exact.

    `initialize` sets mean and deviation from a batch, `adapt` from all data. The weight `initialized` records
    that this has happened, so a restored layer keeps what it has. A channel that is constant has the
    deviation 1.

    Shapes: [B, H, W, C] → the same.

    Attributes:
      output_dtype: of what is drawn and decoded.
    """

    output_dtype = "float32"

    def build(self, input_shape: Shape) -> None:
        size = {"shape": (input_shape[-1],), "trainable": False}
        self.mean = self.add_weight(name="mean", initializer="zeros", **size)
        self.deviation = self.add_weight(name="deviation", initializer="ones", **size)
        self.initialized = self.add_weight(name="initialized", shape=(), dtype="int64", trainable=False)
        self.built = True

    def grey_values(self, images: tf.Tensor) -> tf.Tensor:
        """Returns real values [B, H, W, C] in the compute dtype."""
        return tf.cast(images, self.compute_dtype)

    def to_output(self, v: tf.Tensor) -> tf.Tensor:
        """Returns values [B, H, W, C] as float32."""
        return tf.cast(v, self.output_dtype)

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        self._ensure_built(x)
        self.adapt(np.asarray(x))
        return self.forward_and_log_det(x)[0]

    def adapt(self, values: np.ndarray) -> None:
        """Sets mean and deviation to those of all training values, [N, H, W, C], unless they are set."""
        self._require_built()
        mean, deviation = moments(values)
        new = self.initialized.value < 1
        # Of a constant channel rounding may leave something.
        deviation = tf.where(deviation > 1e-12 * tf.abs(mean), deviation, tf.ones_like(deviation))
        set_where(new, self.mean, mean)
        set_where(new, self.deviation, deviation)
        self.initialized.assign(1)

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        return (x - self.mean.value) / self.deviation.value, per_example(self._log_det(x), x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        self._require_built()
        return y * self.deviation.value + self.mean.value, per_example(-self._log_det(y), y)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        return -pixels_of(x) * tf.reduce_sum(tf.math.log(self.deviation.value))


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the deviation of each channel of data [N, H, W, C]: float64 [C] twice."""
    axes = (0, 1, 2)
    # Example by example: they may be larger than memory, and so may a copy in float64.
    mean = np.mean([example.mean(axes[:2], np.float64) for example in values], axis=0)
    squares = sum(np.square(example - mean).mean(axes[:2]) for example in values)
    return mean, np.sqrt(squares / len(values))
