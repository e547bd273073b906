"""How likely a frozen network's features are, place by place and all over an image."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf

from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.progress import with_progress
from glow_tf.use.latents import batch_of
from glow_tf.use.score import lite0
from glow_tf.use.score.rule import gaussian, mean_square

MODES = 8
ROWS_OF_A_MODE = 100  # on average, at least; a mode with a fifth of them is left out
MOST_ROWS = 30_000  # places that densities are fitted to
LEAST_VARIANCE = 1e-3  # of a mode, where all rows together have 1
KIND = "features kind"
NONE = -1e9  # the log-weight of a mode that there is not


def opened(path: str | os.PathLike) -> keras.Model:
    """Loads a network: `lite0`, its wheel, or a `.keras` file, in Keras's safe mode, which refuses code."""
    if path == lite0.NAME or pathlib.Path(path).suffix == ".whl":
        return lite0.of_wheel(None if path == lite0.NAME else path)
    try:
        return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # whatever Keras raises
        raise ConfigError(
            f"features must be {lite0.NAME}, or a .keras file of a network that Keras's safe mode loads: "
            "without Lambda layers and classes of your own. "
            f"Received: {str(path)!r}, {in_one_line(str(error))}"
        ) from None


class Features:
    """A frozen network's feature maps, and how likely each place of them is, and their means.

    At each scale, places have a density of their own: a mixture of Gaussians, the same wherever a place is.
    k-means cuts the places of good images into modes. Each gets a Gaussian, whose correlations are shrunk
    (Ledoit and Wolf 2004). One Gaussian for all sees less: an edge and a surface vary differently. The kind
    of an image has a Gaussian, too, of the means of all maps over their places.

    Args:
      network: a Keras model, images [N, H, W, C] → a map [N, h, w, F], or several; or what `opened` takes. It
        takes pixels as they are, as float32. Grey images are repeated if it takes three channels.
      image_shape: (H, W, C).

    Raises:
      ConfigError: the network cannot take such images, or does not return maps.
    """

    def __init__(self, network: keras.Model | str, image_shape: Sequence[int]):
        self.network = network = opened(network) if isinstance(network, str) else network
        try:
            self._repeats = 3 if (image_shape[-1], network.input_shape[-1]) == (1, 3) else 1
            shapes = [tuple(own.shape) for own in self.maps(tf.zeros((1, *image_shape)))]
            wrong = "" if shapes and all(len(shape) == 4 for shape in shapes) else str(shapes)
        except (AttributeError, TypeError, ValueError, tf.errors.OpError) as error:
            wrong = in_one_line(str(error)) or type(error).__name__
        if wrong:
            raise ConfigError(
                "features must be a Keras model that takes images of shape "
                f"(batch, {', '.join(map(str, image_shape))}) and returns maps [batch, h, w, channels]. "
                f"Received: {wrong}"
            )
        self.used = list(range(len(shapes)))  # maps, finest first as a rule
        self.arrays = {}
        for k, (*_, size) in enumerate(shapes):
            of_density = {"whitening": (size, MODES * size), "shift": (MODES * size,), "weight": (MODES,)}
            for name, shape in of_density.items():
                self.arrays[f"features {k} {name}"] = tf.Variable(tf.zeros(shape), trainable=False)
        size = sum(own[-1] for own in shapes)
        for name, shape in {"mean": (size,), "whitening": (size, size)}.items():
            self.arrays[f"{KIND} {name}"] = tf.Variable(tf.zeros(shape), trainable=False)

    def keep(self, used: Sequence[int]) -> None:
        """Leaves out the densities of all maps but these; ValueError if there are no such maps."""
        if not used or not set(used) <= set(self.used):
            raise ValueError(f"maps must be some of {self.used}, and not {used}")
        for k in set(self.used) - set(used):
            for name in [name for name in self.arrays if name.startswith(f"features {k} ")]:
                del self.arrays[name]
        self.used = list(used)

    def maps(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns the network's maps of images, float32 [B, h, w, F] each."""
        images = tf.repeat(tf.cast(images, tf.float32), self._repeats, axis=-1)
        return [tf.cast(own, tf.float32) for own in tf.nest.flatten(self.network(images, training=False))]

    def __call__(self, images: tf.Tensor) -> list[tf.Tensor]:
        """Returns the log-densities of the maps in use, [B, h, w, 1] each, and of the image's kind, [B, 1].

        `together` adds up the former.
        """
        maps = self.maps(images)
        of_kind = -0.5 * mean_square(self.arrays, KIND, _means(maps))
        return [self.log_density(k, maps[k])[..., tf.newaxis] for k in self.used] + [of_kind[:, tf.newaxis]]

    def log_density(self, k: int, x: tf.Tensor) -> tf.Tensor:
        """Returns the mean log-density per feature, nats, of the k-th map x: [B, h, w, F] → [B, h, w]."""
        whitening, shift, weight = (
            self.arrays[f"features {k} {name}"] for name in ("whitening", "shift", "weight")
        )
        white = tf.linalg.matmul(x, whitening) - shift
        white = tf.reshape(white, [-1, *x.shape[1:3], MODES, x.shape[-1]])
        each = weight - 0.5 * tf.reduce_sum(tf.square(white), axis=-1)
        return tf.reduce_logsumexp(each, axis=-1) / x.shape[-1]

    def rows(self, images: np.ndarray, seed: int) -> list[np.ndarray]:
        """Returns features at random places of all images, [N, R, F] of each map, and all means, [N, F]."""
        rng, size = np.random.default_rng(seed % 2**32), batch_of(images.shape[1:])
        most = max(1, MOST_ROWS // len(images))
        maps = tf.function(self.maps, autograph=False, reduce_retracing=True)
        found = []
        starts = range(0, len(images), size)
        for start in with_progress(starts, len(starts), f"Computing features, batches of {size}"):
            batch = maps(tf.constant(images[start : start + size]))
            flat = [np.reshape(own, [len(own), -1, own.shape[-1]]) for own in batch]
            which = [rng.random(own.shape[:2]).argsort(axis=1)[:, :most, np.newaxis] for own in flat]
            places = [np.take_along_axis(own, w, axis=1) for own, w in zip(flat, which, strict=True)]
            found.append([*places, _means(batch).numpy()])
        return [np.concatenate(own) for own in zip(*found, strict=True)]

    def fit(self, rows: Sequence[np.ndarray], seed: int) -> None:
        """Fits the densities to what `rows` returned of good images."""
        for k in with_progress(self.used, len(self.used), "Fitting to features, maps"):
            found = _mixture(rows[k].reshape(-1, rows[k].shape[-1]), seed)
            for name, value in found.items():
                self.arrays[f"features {k} {name}"].assign(value)
        for name, value in gaussian(KIND, rows[-1]).items():
            self.arrays[name].assign(value)


def together(found: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the log-density of several maps together, at the places of the first, [B, h, w, 1]."""
    return tf.add_n([found[0], *(tf.image.resize(own, found[0].shape[1:3]) for own in found[1:])])


def _means(maps: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns the means over places of all maps, [B, F]."""
    return tf.concat([tf.reduce_mean(own, axis=[1, 2]) for own in maps], axis=-1)


def _mixture(rows: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Fits a mixture of Gaussians to rows [N, F]: white numbers of a mode are x · whitening − shift."""
    rows = np.asarray(rows, np.float64)
    mean, unit = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    rows, size = (rows - mean) / unit, rows.shape[1]
    count = min(MODES, max(1, len(rows) // ROWS_OF_A_MODE))
    k_means = KMeans(count, n_init=1, max_iter=30, random_state=seed % 2**32)
    modes = k_means.fit_predict(rows.astype(np.float32))
    whitening, shift = np.zeros((MODES, size, size)), np.zeros((MODES, size))
    weight = np.full(MODES, NONE)
    for k in range(count):
        own = rows[modes == k]
        if len(own) < min(len(rows), ROWS_OF_A_MODE) // 5:
            continue
        covariance = ledoit_wolf(own)[0] + LEAST_VARIANCE * np.eye(size)
        own_white = np.linalg.inv(np.linalg.cholesky(covariance)).T
        whitening[k] = own_white / unit[:, np.newaxis]
        shift[k] = own.mean(axis=0) @ own_white + mean @ whitening[k]
        weight[k] = np.linalg.slogdet(own_white)[1] + np.log(len(own) / len(rows))
    return {"whitening": np.hstack(whitening), "shift": shift.ravel(), "weight": weight}
