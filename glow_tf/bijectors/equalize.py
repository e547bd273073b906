"""Equalize: gives more room to the levels that many pixels have."""

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Shape, WithLogDet, set_where
from glow_tf.bijectors.dequantize import Dequantize
from glow_tf.config import MOST_EQUALIZED

FREQUENT = 4  # times the average frequency of a level


@keras.saving.register_keras_serializable(package="glow_tf")
class Equalize(Dequantize):
    """Histogram equalisation of frequent levels: stands in the place of `Dequantize`.

    Where many pixels have the same level, as on a black ground, their noise is tiny beside the range of the
    image, and a flow needs many steps to scale it up there and nowhere else. Here levels that are more than
    four times as frequent as the average level have more room: `share` of the range [−½, ½) is divided by how
    many training pixels each has, with the mean of all other levels for these; the rest is divided evenly.
    Among the other levels the map stays linear.

    With room_c[l] the length of level l's interval in channel c, Σ_l room_c[l] = 1, and ℓ = ⌊v⌋,
    Forward:   y = Σ_{l<ℓ} room_c[l] + (v − ℓ)·room_c[ℓ] − ½      log_det = Σ log room_c[ℓ]
    Inverse:   finds ℓ by bisection; beyond the range the map goes on as in its first and last level.

    The rooms are no trained weights. `adapt` sets them from all training images; otherwise `initialize` sets
    them from a batch. They depend on nothing else, so parts of `levels` that are trained apart have the same.

    Args:
      n_bits: bits kept per pixel and channel, 1 to 8.
      share: in (0, 0.9]. A level has at least 1 − share of the room that it has in `Dequantize`.

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
        level = tf.clip_by_value(tf.floor(x), 0, self.bins - 1)
        # Of a NaN, which makes its image's density one, the cast may be any integer.
        place = tf.clip_by_value(tf.cast(level, tf.int32), 0, self.bins - 1)
        room, start = self._of_levels(place, *self._tables())
        return start + (x - level) * room - 0.5, tf.reduce_sum(tf.math.log(room), axis=[1, 2, 3])

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        self._require_built()
        place, (lengths, starts) = y + 0.5, self._tables()
        level = tf.zeros_like(y, tf.int32)
        for bit in reversed(range(self.n_bits)):  # gathers alone: ONNX has no search
            higher = level + 2**bit
            (start,) = self._of_levels(higher, starts)
            level = tf.where(start <= place, higher, level)
        room, start = self._of_levels(level, lengths, starts)
        v = tf.cast(level, y.dtype) + (place - start) / room
        return v, -tf.reduce_sum(tf.math.log(room), axis=[1, 2, 3])

    def _tables(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the room of each level and where it starts, [C, levels] both."""
        return self.room.value, tf.cumsum(self.room.value, axis=1, exclusive=True)

    def _of_levels(self, level: tf.Tensor, *tables: tf.Tensor) -> list[tf.Tensor]:
        """Returns what tables [C, levels] have for levels [B, H, W, C]."""
        place = level + self.bins * tf.range(self.room.shape[0])
        return [tf.gather(tf.reshape(table, [-1]), place) for table in tables]


def rooms(counts: np.ndarray, share: float) -> np.ndarray:
    """Returns the lengths of the levels' intervals, whose sum is 1, of their counts of pixels [C, levels]."""
    levels = counts.shape[1]
    frequencies = counts / counts.sum(axis=1, keepdims=True)
    frequent = frequencies > FREQUENT / levels
    rest = 1 - np.sum(frequencies, axis=1, keepdims=True, where=frequent)
    others = np.sum(~frequent, axis=1, keepdims=True)  # most of them: less than a quarter is frequent
    return share * np.where(frequent, frequencies, rest / others) + (1 - share) / levels
