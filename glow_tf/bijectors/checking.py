"""Whether a bijector keeps the contract: for the tests of the package, and for layers of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.architectures.own_layers import made, written
from glow_tf.bijectors.bijector import Bijector, WithLogDet

NOISE = 0.1  # added to weights, many of which start at zero or as the identity

OneDirection = Callable[[tf.Tensor], WithLogDet]


def check(bijector: Bijector, shape: Sequence[int]) -> None:
    """Raises an error unless the bijector is one, knows its log-determinants, and can be saved.

        glow_tf.bijectors.check(Shear(), (4, 4, 3))

    Training does not notice a wrong log-determinant: it makes the likelihood another number. Checked are, on
    random images and with noise on all trainable weights: that what `get_config` and the weights make again
    does the same; that examples of a batch do not mix; that each direction undoes the other; and that the
    log-determinants are those of the Jacobians. All but the first is computed in float64, or in the
    bijector's own dtype where it has operations of no other.

    Args:
      bijector: of a class that is registered with Keras, not given a condition. It is built if it is not yet;
        its weights are afterwards as they were.
      shape: (H, W, C) of the images; small, since the Jacobian has a row and a column for each number.

    Raises:
      ConfigError: `get_config` does not make a bijector again, or its class is not registered.
      ValueError: another property does not hold; the message says which, and by how much.
    """
    shape, rng, name = tuple(shape), np.random.default_rng(0), type(bijector).__name__
    if not bijector.built:
        bijector.build((None, *shape))
    images, weights = rng.normal(size=(3, *shape)), bijector.get_weights()
    try:
        for weight in bijector.trainable_variables:
            weight.assign(weight + NOISE * rng.normal(size=weight.shape))
        x = tf.constant(images, bijector.compute_dtype)
        results = [each.forward_and_log_det(x) for each in (_made_again(bijector, shape), bijector)]
        for found, expected in zip(*results, strict=True):
            _compare(
                f"what get_config and the weights make again must do as {name} does", found, expected, 0.0
            )
        exact, of_exact = _made_again(bijector, shape, "float64"), tf.constant(images)
        try:
            exact.forward_and_log_det(of_exact)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError):
            exact, of_exact = bijector, x
        check_map(exact.forward_and_log_det, exact.inverse_and_log_det, of_exact, name)
    finally:
        bijector.set_weights(weights)


def check_map(forward: OneDirection, inverse: OneDirection, x: tf.Tensor, name: str = "a map") -> None:
    """Checks what `check` does of the two directions of a map, on images x [B, H, W, C]; B is 2 or more.

    Rounding may change half of the digits of x's dtype.
    """
    y, within = forward(x)[0], float(np.finfo(x.dtype.as_numpy_dtype).eps) ** 0.5
    if y.shape[1:].num_elements() != x.shape[1:].num_elements():
        raise ValueError(f"{name} must keep the number of numbers. Received: {y.shape} of {x.shape}")
    for direction, function, images in (("forward", forward, x), ("inverse", inverse, y)):
        of_name, result = f"{direction}_and_log_det of {name}", function(images)
        if result[1].shape != x.shape[:1]:
            raise ValueError(
                f"the log-determinant by {of_name} must be [B]. Received: {result[1].shape} for {x.shape}"
            )
        for alone, among_others in zip(function(images[1:2]), result, strict=True):
            _compare(
                f"an example alone must get of {of_name} what it gets in a batch",
                alone,
                among_others[1:2],
                within,
            )
        promise = f"the log-determinant by {of_name} must be that of its Jacobian"
        _compare(promise, result[1][:1], log_det_of_jacobian(function, images[:1]), within)
    z = 0.9 * tf.reverse(y, axis=[0])
    _compare(f"the inverse of {name} must undo forward", inverse(y)[0], x, within)
    _compare(f"forward of {name} must undo the inverse", forward(inverse(z)[0])[0], z, within)


def _made_again(bijector: Bijector, shape: tuple[int, ...], dtype: str | None = None) -> Bijector:
    """Makes a bijector from the config and the weights of another, in another dtype if one is given."""
    again = made("bijector", written("bijector", bijector), dtype=dtype)
    if not again.built:
        again.build((None, *shape))
    shapes = [[weight.shape for weight in each.weights] for each in (again, bijector)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"what get_config of {type(bijector).__name__} makes again must have weights of the same shapes. "
            f"Received: {shapes[0]} for {shapes[1]}"
        )
    again.set_weights(bijector.get_weights())
    return again


def log_det_of_jacobian(function: OneDirection, x: tf.Tensor) -> np.ndarray:
    """Computes log|det| of the Jacobian at one example [1, H, W, C]: [1].

    Row i is the gradient of number i of the result. There is one copy of x per row, all in one batch.
    """
    size = np.size(x)
    copies = tf.repeat(x, size, axis=0)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(copies)
        numbers = tf.linalg.diag_part(tf.reshape(function(copies)[0], [size, size]))
    rows = tape.gradient(numbers, copies, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return np.linalg.slogdet(np.reshape(rows, [1, size, size]).astype(np.float64))[1]


def _compare(promise: str, found: Any, expected: Any, within: float) -> None:
    """Raises ValueError unless numbers are those that are expected, within a share of those above 1."""
    found, expected = (np.asarray(numbers, np.float64) for numbers in (found, expected))
    if found.shape != expected.shape:
        raise ValueError(f"{promise}. Received: the shape {found.shape} for {expected.shape}")
    gaps = np.nan_to_num(np.abs(found - expected) / np.maximum(1, np.abs(expected)), nan=np.inf)
    worst = np.argmax(gaps)
    if gaps.flat[worst] > within:
        raise ValueError(
            f"{promise}; it is {np.abs(found - expected).flat[worst]:.3g} away, and rounding explains "
            f"{within:.1g}. Received: {found.flat[worst]:.6g} for {expected.flat[worst]:.6g}"
        )
