"""The bijector contract."""

from collections.abc import Sequence

import keras
import tensorflow as tf

Shape = tuple[int | None, ...]


class Bijector(keras.layers.Layer):
    """An invertible Keras layer on images that knows its log-determinant.

    **forward** maps data towards the latent (the paper's f), **inverse** maps back. Note that TFP's own
    `tfb.Glow` names the two directions the other way round.

    A subclass MUST write `forward_and_log_det(x)` and `inverse_and_log_det(y)`. Each returns its result and
    `log_det`, the log of the absolute determinant of d(result)/d(argument) *of the direction just run*,
    summed over the event, so that the inverse's is minus the forward's at matching points. A subclass with
    weights MUST create them in `build`; one whose weights depend on data MUST also override `initialize`.
    That the map is a bijection is assumed, not checked; `tests/test_bijector_contract.py` checks it for
    every bijector of this package.

    Shapes: arguments and results are [B, H, W, C] (batch first, three event dimensions); log_det is [B],
    in nats, in the layer's compute dtype (float32 by default).
    """

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f(x) and log|det df(x)/dx| in nats, [B]."""
        raise NotImplementedError(f"{type(self).__name__} must define forward_and_log_det(x).")

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f⁻¹(y) and log|det df⁻¹(y)/dy| in nats, [B]."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse_and_log_det(y).")

    def forward(self, x: tf.Tensor) -> tf.Tensor:
        """Returns f(x)."""
        return self.forward_and_log_det(x)[0]

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Returns f⁻¹(y)."""
        return self.inverse_and_log_det(y)[0]

    def forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        """Returns log|det df(x)/dx| in nats, [B]."""
        return self.forward_and_log_det(x)[1]

    def inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        """Returns log|det df⁻¹(y)/dy| in nats, [B]."""
        return self.inverse_and_log_det(y)[1]

    def fold(self) -> list[tf.Tensor]:
        """Returns what `forward_folded` needs in place of the weights; by default, the weights.

        What can be computed without x belongs here: it is done once a call, and for all the copies of a
        `Stack` in one go. So it must also be right for weights with one more axis in front, the copies.
        """
        return [v.value for v in all_variables(self)]

    def forward_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what `forward_and_log_det(x)` does with the weights that `fold` made `folded` of."""
        with with_weights(self, folded):
            return self.forward_and_log_det(x)

    def inverse_folded(self, y: tf.Tensor, folded: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns what `inverse(y)` does with the weights that `fold` made `folded` of."""
        with with_weights(self, folded):
            return self.inverse(y)

    def pull_back(
        self,
        y: tf.Tensor,
        y_gradient: tf.Tensor,
        log_det_gradient: tf.Tensor,
        folded: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Backpropagates from the output alone: recovers x, runs forward from it, and differentiates.

        Args:
          y: what `forward_folded` returned, [B, H, W, C].
          y_gradient: gradient of a loss with respect to y.
          log_det_gradient: gradient of the loss with respect to the log-determinant, [B].
          folded: what `fold` returned.

        Returns:
          x = f⁻¹(y), the gradient with respect to x, and those of the floating tensors of `folded`.
        """
        self.require_built()
        x = self.inverse_folded(y, folded)
        sources = [x, *(tensor for tensor in folded if tensor.dtype.is_floating)]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            outputs = self.forward_folded(x, folded)
        x_gradient, *gradients = tape.gradient(
            outputs, sources, [y_gradient, log_det_gradient], tf.UnconnectedGradients.ZERO
        )
        return x, x_gradient, gradients

    def reseed(self, seed: int) -> None:
        """Gives the weights that start at random the values that another seed gives; the base has none."""

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """Sets the weights that depend on data from the batch x, and returns f(x).

        Runs in the encode direction, once, eagerly and in cross-replica context; weights that are already
        initialised (or restored) are left alone. The base has no such weights.
        """
        return self.forward(x)

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Keras's entry point: `forward_and_log_det`, with the building and casting of `__call__`."""
        return self.forward_and_log_det(x)

    def output_shape_of(self, input_shape: Shape) -> Shape:
        """Returns the shape of `forward`'s result; shape-preserving unless overridden."""
        return tuple(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Shapes of both results of `call`."""
        return self.output_shape_of(input_shape), (input_shape[0],)

    def ensure_built(self, x: tf.Tensor) -> None:
        """Builds the layer from x's shape on the first forward run."""
        if not self.built:
            self.build(x.shape)

    def require_built(self) -> None:
        """Raises ValueError unless the layer has its weights: an inverse alone cannot tell their shape."""
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} has no weights yet: call `build(input_shape)` or run it forward "
                "once before running its inverse. Received: built=False"
            )


def all_variables(bijector: Bijector) -> list[keras.Variable]:
    """Returns the trainable variables and then the others."""
    return [*bijector.trainable_variables, *bijector.non_trainable_variables]


def with_weights(bijector: Bijector, weights: Sequence[tf.Tensor]) -> keras.StatelessScope:
    """Within the scope, `all_variables` of the bijector have these values."""
    scope = keras.StatelessScope()
    for variable, value in zip(all_variables(bijector), weights, strict=True):
        scope.add_update((variable, value))  # unlike the constructor, takes weights with more axes; see fold
    return scope


def per_example(log_det: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Spreads a log-determinant that is the same for every example over x's batch: [] → [B]."""
    return tf.fill(tf.shape(x)[:1], log_det)


def soft_bound(value: tf.Tensor, bound: float) -> tf.Tensor:
    """Squeezes a log-scale smoothly into (−bound, bound); slope 1 at 0, gradient everywhere.

    Unlike a clip it never stops the gradient of a value that went too far, and exp of it and of its
    negative stay finite.
    """
    return bound * tf.math.tanh(value / bound)
