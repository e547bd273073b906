"""Invertible 1×1 convolution, and the fixed permutations that can replace it."""

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors.bijector import Repeatable, Shape, WithLogDet, per_example, pixels_of, soft_bound
from glow_tf.config import PERMUTATIONS

# Log-scales of the LU diagonal stay within ±8, so that the determinant can neither vanish nor overflow.
LOG_SCALE_BOUND = 8.0


@keras.saving.register_keras_serializable(package="glow_tf")
class InvertibleConv(Repeatable):
    """Multiplies the channels of every pixel by one invertible C×C matrix W.

    Forward:   y_p = W x_p at every pixel p      log_det = H·W·log|det W|
    Inverse:   x_p = W⁻¹ y_p

    `kind` says what W is:
      `lu`       W = P·L·(U + diag(s)), P a fixed permutation, L unit lower and U strictly upper triangular,
                 s with fixed signs and log|s| bounded to ±8. log|det W| = Σ log|s|, O(C).
      `plain`    W itself is the weight. log|det W| is computed in float64, O(C³).
      `shuffle`  a fixed random permutation of the channels; log_det = 0.
      `reverse`  the channels in reverse order; log_det = 0.
    `lu` and `plain` start as a random rotation.

    Shapes: [B, H, W, C] → the same.
    Numerics: the inverse matrix is computed once per call in float64 (`lu`: by two triangular solves) and
    then applied to all pixels. With a float32 inverse, round trips would lose most of their digits.

    Args:
      kind: `lu`, `plain`, `shuffle` or `reverse`.
      seed: of the starting rotation or of the shuffle.

    Raises:
      ValueError: kind is unknown.
    Reference: Kingma & Dhariwal 2018, section 3.2, https://arxiv.org/abs/1807.03039
    """

    def __init__(self, kind: str = "lu", seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if kind not in PERMUTATIONS:
            raise ValueError(f"kind must be one of {PERMUTATIONS}. Received: kind={kind!r}")
        self.kind = kind
        self.seed = seed

    def build(self, input_shape: Shape) -> None:
        for name, value in self._starting_values(input_shape[-1], self.seed).items():
            trained = name not in ("permutation", "sign")  # weights too, so that they are saved
            weight = self.add_weight(
                name=name,
                shape=value.shape,
                # XLA on a GPU reaches no variable of int32: TensorFlow keeps those on the host.
                dtype="int64" if name == "permutation" else self.variable_dtype,
                initializer=lambda shape, dtype=None, value=value: keras.ops.convert_to_tensor(value, dtype),
                trainable=trained,
            )
            setattr(self, name, weight)
        self.built = True

    def reseed(self, seed: int) -> None:
        for name, value in self._starting_values(self.weights[0].shape[0], seed).items():
            getattr(self, name).assign(value)

    def _starting_values(self, channels: int, seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng([seed, channels])
        if self.kind == "reverse":
            return {"permutation": np.arange(channels)[::-1].copy()}
        if self.kind == "shuffle":
            return {"permutation": rng.permutation(channels)}
        if self.kind == "plain":
            return {"kernel": _random_rotation(rng, channels)}
        permutation, lower, upper = _lu(_random_rotation(rng, channels))
        diagonal = np.diag(upper)
        bounded = np.clip(np.log(np.abs(diagonal)) / LOG_SCALE_BOUND, -0.99, 0.99)
        return {
            "permutation": permutation,
            "sign": np.sign(diagonal),
            "lower": lower,
            "upper": upper,
            "raw_log_scale": LOG_SCALE_BOUND * np.arctanh(bounded),
        }

    def forward_and_log_det(self, x: tf.Tensor) -> WithLogDet:
        self._ensure_built(x)
        return mix_channels(x, self.matrix()), self._log_det(x)

    def inverse_and_log_det(self, y: tf.Tensor) -> WithLogDet:
        self._require_built()
        return mix_channels(y, self.inverse_matrix()), -self._log_det(y)

    def matrix(self) -> tf.Tensor:
        """Returns W, [C, C]."""
        if self.kind == "plain":
            return self.kernel.value
        permuted = tf.one_hot(self.permutation.value, self.permutation.shape[0], dtype=self.compute_dtype)
        if self.kind == "lu":
            return tf.matmul(permuted, tf.matmul(*self._triangles(self.compute_dtype)))
        return permuted

    def inverse_matrix(self) -> tf.Tensor:
        """Returns W⁻¹, [C, C], computed in float64."""
        if self.kind == "plain":
            inverse = tf.linalg.inv(tf.cast(self.kernel.value, tf.float64))
            return tf.cast(inverse, self.compute_dtype)
        channels = self.permutation.shape[0]
        permuted = tf.one_hot(self.permutation.value, channels, dtype=tf.float64, axis=0)  # Pᵀ
        if self.kind == "lu":
            lower, upper = self._triangles(tf.float64)
            permuted = tf.linalg.triangular_solve(lower, permuted, lower=True)
            permuted = tf.linalg.triangular_solve(upper, permuted, lower=False)
        return tf.cast(permuted, self.compute_dtype)

    def log_det_per_pixel(self) -> tf.Tensor:
        """Returns log|det W|, in nats, []."""
        if self.kind == "lu":
            return tf.reduce_sum(soft_bound(self.raw_log_scale.value, LOG_SCALE_BOUND), axis=-1)
        if self.kind == "plain":
            # float64: the determinant of a large matrix is a product of many numbers.
            return tf.cast(tf.linalg.slogdet(tf.cast(self.kernel.value, tf.float64))[1], self.compute_dtype)
        return tf.zeros(self.permutation.value.shape[:-1], self.compute_dtype)

    def _log_det(self, x: tf.Tensor) -> tf.Tensor:
        return per_example(self.log_det_per_pixel() * pixels_of(x), x)

    def _triangles(self, dtype: tf.DType) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns L with its unit diagonal, and U + diag(s), both [C, C].

        The rest of the two weights is masked and never changes.
        """
        lower = tf.linalg.band_part(tf.cast(self.lower.value, dtype), -1, 0)
        lower = tf.linalg.set_diag(lower, tf.ones(lower.shape[:-1], dtype))
        scale = tf.exp(soft_bound(tf.cast(self.raw_log_scale.value, dtype), LOG_SCALE_BOUND))
        upper = tf.linalg.band_part(tf.cast(self.upper.value, dtype), 0, -1)
        return lower, tf.linalg.set_diag(upper, tf.cast(self.sign.value, dtype) * scale)


def mix_channels(x: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Applies one [C', C] matrix to the channels of every pixel: [B, H, W, C] → [B, H, W, C']."""
    pixels = tf.matmul(tf.reshape(x, [-1, x.shape[-1]]), matrix, transpose_b=True)
    return tf.reshape(pixels, [-1, *x.shape[1:-1], matrix.shape[0]])


def _random_rotation(rng: np.random.Generator, size: int) -> np.ndarray:
    rotation, triangle = np.linalg.qr(rng.normal(size=(size, size)))
    return rotation * np.sign(np.diag(triangle))


def _lu(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factorises W with partial pivoting and returns permutation, L and U, so that W = (L·U)[permutation]."""
    with tf.init_scope():  # Keras may build layers within a graph
        lower_upper, pivots = tf.linalg.lu(matrix)
    lower = np.tril(lower_upper.numpy(), -1) + np.eye(len(matrix))
    # tf.linalg.lu gives W[pivots] = L·U; rows go back to their places by the inverse permutation.
    return np.argsort(pivots.numpy()), lower, np.triu(lower_upper.numpy())
