r"""Bits per dimension of a small autoregressive model by CPU seconds of training: an opponent of the flows.

    taskset -c 1 python -m lab.benchmarks.autoregressive --data_dir=PATH --seconds=60,120,240,480,960

Every pixel has a mixture of discretised logistics, as in PixelCNN++ (Salimans et al. 2017, sections 2.1 and
2.2, https://arxiv.org/abs/1701.05517). Causal convolutions make its parameters of the rows above and of what
is on its left (van den Oord et al. 2016, https://arxiv.org/abs/1606.05328). Bits are exact: no noise is
added, where those of flows are an upper bound. For each of `--seconds` there is a run of its own, whose rate
has fallen to 0 by then, as a cosine of the CPU seconds; so each is as good as its time allows. Batches come
from all training images, and the test images are those of `separability.py`; settings are chosen with
`--scored=validation`. One thread computes. `cpu_seconds` are those of training without tracing. Runs whose
row is in the CSV are not repeated.
"""

from __future__ import annotations

import math
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from glow_tf import DataConfig, data
from glow_tf.bijectors.bijector import soft_bound
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.commands import cli
from glow_tf.use.evaluation import mean_and_error
from lab.benchmarks.rows import added_to, measured

PIECE = 64  # test images at once
TRACED = 2  # steps at first that are not timed
WARMUP = 0.1  # the share of the time in which the rate rises
LOG_SCALE_BOUND = 7.0
ABOUT = ("seed", "scored", "width", "depth", "mixtures", "batch_size", "learning_rate", "seconds")
COLUMNS = (*ABOUT, "parameters", "images_seen", "cpu_seconds", "test_bpd", "test_bpd_se")


def define(values: flags.FlagValues) -> None:
    """Defines the benchmark's flags."""
    own = {"flag_values": values}
    flags.DEFINE_string("dataset", "cifar10", "Of TFDS, in colour.", **own)
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir.", **own)
    flags.DEFINE_list("seconds", ["60", "120", "240", "480"], "CPU seconds of training of each run.", **own)
    flags.DEFINE_list("seeds", ["40"], "Seeds.", **own)
    flags.DEFINE_integer("width", 32, "Channels of each convolution.", lower_bound=1, **own)
    flags.DEFINE_integer("depth", 3, "Residual blocks.", lower_bound=0, **own)
    flags.DEFINE_integer("mixtures", 5, "Logistics of each pixel's mixture.", lower_bound=1, **own)
    flags.DEFINE_integer("batch_size", 8, "Images per step.", lower_bound=1, **own)
    flags.DEFINE_float("learning_rate", 6e-3, "Of Adam, at most.", lower_bound=0, **own)
    flags.DEFINE_integer("test_examples", 1024, "Images that are scored.", lower_bound=2, **own)
    flags.DEFINE_enum(
        "scored", "test", ["test", "validation"], "Test images, or training ones held out.", **own
    )
    flags.DEFINE_string("csv", "autoregressive.csv", "To add to: one row per run.", **own)


def main(given: flags.FlagValues) -> None:
    """Makes the runs one after another, and prints a line for each."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    held_out = {f"{given.scored}_examples": given.test_examples}
    images = data.load(DataConfig(given.dataset, given.data_dir, **held_out))
    done, settings = measured(given.csv, ABOUT), [given[name].value for name in ABOUT[1:-1]]
    with added_to(given.csv, COLUMNS) as add:
        for seed in given.seeds:
            for seconds in given.seconds:
                about = (seed, *settings, seconds)
                if tuple(map(str, about)) not in done:
                    found = _run(given, images, int(seed), float(seconds))
                    row = dict(zip(ABOUT, about, strict=True)) | found
                    add(row)
                    print(*row.values(), flush=True)


def _run(given: flags.FlagValues, images: data.ImageData, seed: int, seconds: float) -> dict[str, object]:
    """Trains and evaluates a model, and returns the other cells of its row."""
    keras.utils.set_random_seed(seed)
    model = Autoregressive(given.width, given.depth, given.mixtures)
    model.compile(keras.optimizers.Adam(clipnorm=1.0), loss=bits, jit_compile=False)
    clock = ByTheClock(given.learning_rate, seconds)
    x = images.train
    model.fit(x, x, given.batch_size, epochs=10**6, verbose=0, callbacks=[clock])
    scored = getattr(images, given.scored)
    pieces = np.array_split(scored, -(-len(scored) // PIECE))
    mean, error = mean_and_error(np.concatenate([bits(own, model(own)) for own in pieces]))
    return {
        "parameters": model.count_params(),
        "images_seen": clock.steps * given.batch_size,
        "cpu_seconds": f"{clock.spent:.1f}",
        "test_bpd": f"{mean:.6f}",
        "test_bpd_se": f"{error:.6f}",
    }


class ByTheClock(keras.callbacks.Callback):
    """Lets the rate rise and fall with the CPU seconds that training has taken, and ends it when it is 0."""

    def __init__(self, learning_rate: float, seconds: float):
        super().__init__()
        self.learning_rate, self.seconds = learning_rate, seconds
        self.steps, self.spent, self.start = 0, 0.0, 0.0

    def on_train_batch_begin(self, batch: int, logs: dict | None = None) -> None:
        """Sets the rate of the step."""
        done = min(self.spent / self.seconds, 1.0)
        decay = min((done + 1e-3) / WARMUP, 1.0) * 0.5 * (1 + math.cos(math.pi * done))
        self.model.optimizer.learning_rate = self.learning_rate * decay

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts the step."""
        self.steps, now = self.steps + 1, time.process_time()
        if self.steps <= TRACED:
            self.start = now
        self.spent = now - self.start
        self.model.stop_training = self.spent >= self.seconds


def moved(x: tf.Tensor, down: int, right: int) -> tf.Tensor:
    """Returns x [B, H, W, C] with every place moved down and to the right; zeros come in."""
    kept = x[:, : x.shape[1] - down, : x.shape[2] - right]
    return tf.pad(kept, [[0, 0], [down, 0], [right, 0], [0, 0]])


class Causal(keras.layers.Layer):
    """A convolution that sees, at each place, two rows above it, and three places on its left.

    Of its own row it sees the place itself and two on its left, or, where it is `strict`, three on its left.
    """

    def __init__(self, filters: int, strict: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.strict = strict
        self.above = keras.layers.Conv2D(filters, (2, 5))
        self.before = keras.layers.Conv2D(filters, (1, 3), use_bias=False)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns [B, H, W, filters] of x [B, H, W, C]."""
        above = tf.pad(moved(x, 1, 0), [[0, 0], [1, 0], [2, 2], [0, 0]])
        before = tf.pad(moved(x, 0, int(self.strict)), [[0, 0], [0, 0], [2, 0], [0, 0]])
        return self.above(above) + self.before(before)


class Autoregressive(keras.Model):
    """Images [B, H, W, 3] → the parameters of every pixel's mixture, [B, H, W, 10·mixtures].

    Those of a pixel depend on the pixels of the rows above and on those left of it, in a cone that opens by
    two places for each row. Means are on top of the mean of the neighbours above and on the left, which
    PixelCNN++ has to learn; with the first parameters this saves half a bit in the first minute.
    """

    def __init__(self, width: int, depth: int, mixtures: int):
        super().__init__()
        self.first = Causal(width, strict=True)
        self.blocks = [(Causal(2 * width), keras.layers.Dense(width)) for _ in range(depth)]
        self.mixtures = mixtures
        start = {"kernel_initializer": "zeros", "bias_initializer": _start}
        self.last = keras.layers.Dense(10 * mixtures, **start)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the parameters, float32."""
        x = scaled(images)
        h = self.first(tf.concat([x, tf.ones_like(x[..., :1])], axis=-1))
        for convolution, mix in self.blocks:
            value, gate = tf.split(convolution(tf.nn.relu(h)), 2, axis=-1)
            h += mix(value * tf.sigmoid(gate))
        near = (moved(x, 1, 0) + moved(x, 0, 1)) / 2
        means = [[0, 0]] * 3 + [[self.mixtures, 6 * self.mixtures]]
        return self.last(tf.nn.relu(h)) + tf.pad(tf.repeat(near, self.mixtures, axis=-1), means)


def _start(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    """Returns the first parameters of a pixel, [10·mixtures]: logistics of several widths.

    Where red is above its mean, so is green, and where green is, so is blue.
    """
    mixtures = shape[0] // 10
    widths, colours = tf.linspace(-4.0, -1.0, mixtures), tf.repeat([1.0, 0.0, 1.0], mixtures)
    return tf.concat([tf.zeros([4 * mixtures]), tf.tile(widths, [3]), colours], axis=0)


def scaled(images: tf.Tensor) -> tf.Tensor:
    """Returns bytes as numbers from −1 to 1."""
    return tf.cast(images, tf.float32) / 127.5 - 1


def log_probs(images: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
    """Returns the log-probability of every byte given all before it, nats: [B, H, W, 3].

    All before it are the pixels that `parameters` are made of, and the channels before it of its own pixel.
    How far these are from their means shifts the means of the next channel's logistics, and how likely they
    are under each logistic of the mixture changes its weight.
    """
    weights, *others = tf.split(parameters, 10, axis=-1)
    means, log_scales, (of_red, *of_both) = others[:3], others[3:6], [tf.tanh(own) for own in others[6:]]
    red, green, _ = tf.split(scaled(images), 3, axis=-1)
    red, green = red - means[0], green - means[1]
    shifts = (0.0, of_red * red, of_both[0] * red + of_both[1] * green)
    so_far = tf.nn.log_softmax(weights)
    totals = [tf.zeros_like(so_far[..., 0])]
    for byte, mean, shift, log_scale in zip(
        tf.split(images, 3, axis=-1), means, shifts, log_scales, strict=True
    ):
        so_far += _log_logistic(byte, mean + shift, soft_bound(log_scale, LOG_SCALE_BOUND))
        totals.append(tf.reduce_logsumexp(so_far, axis=-1))
    return tf.stack(totals[1:], axis=-1) - tf.stack(totals[:-1], axis=-1)


def _log_logistic(byte: tf.Tensor, mean: tf.Tensor, log_scale: tf.Tensor) -> tf.Tensor:
    """Returns the logarithm of the mass of logistics on a byte's bin; the first and last have no end.

    From a to b it is σ(b) − σ(a) = σ(b)·σ(−a)·(1 − e^(a−b)), which loses no digits.
    """
    precision = tf.exp(-log_scale)
    centre = (scaled(byte) - mean) * precision
    half = precision / 255
    below_b = -tf.nn.softplus(-(centre + half))
    above_a = -tf.nn.softplus(centre - half)
    between = below_b + above_a + tf.math.log(-tf.math.expm1(-2 * half))
    return tf.where(byte == 0, below_b, tf.where(byte == 255, above_a, between))


def bits(images: tf.Tensor, parameters: tf.Tensor) -> tf.Tensor:
    """Returns bits per dimension of images [B, H, W, 3]: [B]."""
    nats = tf.reduce_sum(log_probs(images, parameters), axis=[1, 2, 3])
    return bits_per_dim(-nats, images.shape[1:])


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
