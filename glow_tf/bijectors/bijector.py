"""The contract that every bijector keeps."""

import keras
import tensorflow as tf

# By default TensorFlow rounds float32 products on newer GPUs to 10 bits: a flow would not invert itself.
tf.config.experimental.enable_tensor_float_32_execution(False)

Shape = tuple[int | None, ...]


class Bijector(keras.layers.Layer):
    """An invertible Keras layer on images that knows its log-determinant.

    **Forward** maps data to the latent (the paper's f), **inverse** maps the latent to data. TFP's own
    `tfb.Glow` names the two directions the other way round.

    A subclass MUST define `forward_and_log_det(x)` and `inverse_and_log_det(y)`; all other methods have a
    default. Each of the two returns its result and `log_det`. This is the log of the absolute determinant of
    d(result)/d(argument) *of the direction just run*, summed over the event. The log-determinant of the
    inverse is therefore minus that of the forward direction at the same point.

    A subclass with weights MUST create them in `build`. A subclass whose weights depend on data MUST also
    override `initialize`. A bijector that `Stack` can repeat derives from `Repeatable` instead. The map must
    be a bijection; `tests/bijectors/test_bijector_contract.py` checks that of every bijector of this package.

    Shapes: arguments and results are [B, H, W, C] (batch first, three event dimensions); log_det is [B],
    in nats, in the layer's compute dtype (float32 by default).
    """

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f(x) [B, H', W', C'] and log|det df(x)/dx| [B] in nats, for x [B, H, W, C]."""
        raise NotImplementedError(f"{type(self).__name__} must define forward_and_log_det(x).")

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns f⁻¹(y) [B, H, W, C] and log|det df⁻¹(y)/dy| [B] in nats, for y [B, H', W', C']."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse_and_log_det(y).")

    def forward(self, x: tf.Tensor) -> tf.Tensor:
        """Returns f(x) [B, H', W', C'], for x [B, H, W, C]."""
        return self.forward_and_log_det(x)[0]

    def inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Returns f⁻¹(y) [B, H, W, C], for y [B, H', W', C']."""
        return self.inverse_and_log_det(y)[0]

    def forward_log_det_jacobian(self, x: tf.Tensor) -> tf.Tensor:
        """Returns log|det df(x)/dx| in nats, [B]."""
        return self.forward_and_log_det(x)[1]

    def inverse_log_det_jacobian(self, y: tf.Tensor) -> tf.Tensor:
        """Returns log|det df⁻¹(y)/dy| in nats, [B]."""
        return self.inverse_and_log_det(y)[1]

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """Sets the weights that depend on data from the batch x [B, H, W, C], and returns f(x).

        Call it once, eagerly and in cross-replica context. Weights that are already initialised or restored
        keep their values. The base class has no such weights and only runs forward.
        """
        return self.forward(x)

    def call(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs `forward_and_log_det`; Keras builds the layer and casts x before it calls this."""
        return self.forward_and_log_det(x)

    def output_shape_of(self, input_shape: Shape) -> Shape:
        """Returns the shape of `forward`'s result; by default, the input's shape."""
        return tuple(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes of both results of `call`."""
        return self.output_shape_of(input_shape), (input_shape[0],)

    def ensure_built(self, x: tf.Tensor) -> None:
        """Builds the layer from the shape of x if it is not built yet."""
        if not self.built:
            self.build(x.shape)

    def require_built(self) -> None:
        """Checks that the layer has its weights: an inverse alone cannot tell their shapes.

        Raises:
          ValueError: the layer is not built.
        """
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} has no weights yet: call `build(input_shape)` or run it forward "
                "once before running its inverse. Received: built=False"
            )


def per_example(log_det: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Repeats a log-determinant that is the same for every example of x: [] → [B]."""
    return tf.fill(tf.shape(x)[:1], log_det)


def no_log_det(x: tf.Tensor) -> tf.Tensor:
    """Returns the log-determinant of a map that preserves volume: zeros, [B]."""
    return per_example(tf.zeros([], x.dtype), x)


def soft_bound(value: tf.Tensor, bound: float) -> tf.Tensor:
    """Maps a log-scale smoothly into [−bound, bound], with slope 1 at 0.

    The gradient falls off gently, where that of a clip is 0 from the bound on; in float32 it is 0 beyond 8
    times the bound. With a bound of 8, the largest in use, exp(result) and exp(−result) stay finite.
    """
    return bound * tf.math.tanh(value / bound)
