"""The contract that every bijector keeps."""

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors import likelihood
from glow_tf.bijectors.condition import Condition

# By default TensorFlow rounds float32 products on newer GPUs to 10 bits: a flow would not invert itself.
tf.config.experimental.enable_tensor_float_32_execution(False)

Shape = tuple[int | None, ...]
WithLogDet = tuple[tf.Tensor, tf.Tensor]  # a result, and log|det d(result)/d(argument)|, [B], nats
Latents = Sequence[tf.Tensor]
Bound = Callable[[tf.Tensor], tf.Tensor]
WithMap = tuple[tf.Tensor, tf.Tensor]  # a result [B, H, W, C], and its log-determinant by place, [B, H, W]


class PartOutput(NamedTuple):
    """What a part computes from its input.

    Attributes:
      h: input of the next part, [B, H, W, C].
      latents: the latents that the splits inside the part factored out, whitened by their priors, in forward
        order; each [B, H', W', C'].
      latents_log_prob: Σ log p(z | h) of the factored-out latents, [B], nats.
      log_det: log|det| of the part's flow steps, [B], nats.
    """

    h: tf.Tensor
    latents: tuple[tf.Tensor, ...]
    latents_log_prob: tf.Tensor
    log_det: tf.Tensor

    @classmethod
    def start(cls, h: tf.Tensor) -> "PartOutput":
        """Returns the output of a part without bijectors, whose input is h [B, H, W, C]."""
        zeros = tf.zeros(tf.shape(h)[:1], h.dtype)
        return cls(h, (), zeros, zeros)

    @property
    def log_likelihood_term(self) -> tf.Tensor:
        """The part's term of the whole model's log-likelihood, without a prior of h; [B], nats."""
        return self.latents_log_prob + self.log_det

    @property
    def log_det_of_all(self) -> tf.Tensor:
        """log|det| of the map to h and the whitened latents: log p(z | h) = log N(eps) + log|det|; [B]."""
        return self.log_likelihood_term - sum(map(likelihood.standard_normal_log_prob, self.latents))


class KeepsArguments(keras.layers.Layer):
    """A layer that keeps the arguments of its constructor, each under its own name: they are its config."""

    def get_config(self) -> dict:
        names = [name for name in inspect.signature(self.__init__).parameters if name != "kwargs"]
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


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

    A bijector may be *given* something, a condition: another map of x for every value of it. Such a bijector
    says in `condition_channels` how many channels it reads, and its methods take the condition as a second
    argument (see `condition.py` for what it may be). Other bijectors are not handed it by those that call
    them, and ignore it.

    A `Part` is a loop over bijectors, and knows no kind of them. It calls the methods from `forward_in_part`
    on, and most bijectors have the defaults. One that factors latents out, as `Split` does, overrides
    `forward_in_part`, `inverse_in_part`, `initialize_in_part` and `shapes_in_part`. `Stack`, which is several
    steps, overrides what concerns steps.

    Shapes: arguments and results are [B, H, W, C] (batch first, three event dimensions); log_det is [B],
    in nats, in the layer's compute dtype (float32 by default).

    Attributes:
      reversible: whether backpropagation recomputes activations. It may be set on every bijector; only on a
        `Stack` it has an effect.
      condition_channels: channels of the condition that it reads; 0: none.
      elementwise: whether each number of the result depends on one number of x alone, given the condition.
      takes_tiles: whether large images are computed in tiles; see `tiles.py`.
    """

    reversible = False
    condition_channels = 0
    elementwise = False
    takes_tiles = False

    def forward_and_log_det(self, x: tf.Tensor, condition: Condition = None) -> WithLogDet:
        """Returns f(x) [B, H', W', C'] and log|det df(x)/dx| [B] in nats, for x [B, H, W, C]."""
        raise NotImplementedError(f"{type(self).__name__} must define forward_and_log_det(x).")

    def inverse_and_log_det(self, y: tf.Tensor, condition: Condition = None) -> WithLogDet:
        """Returns f⁻¹(y) [B, H, W, C] and log|det df⁻¹(y)/dy| [B] in nats, for y [B, H', W', C']."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse_and_log_det(y).")

    def forward(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns f(x) [B, H', W', C'], for x [B, H, W, C]."""
        return self.forward_and_log_det(x, *self.read(condition))[0]

    def inverse(self, y: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns f⁻¹(y) [B, H, W, C], for y [B, H', W', C']."""
        return self.inverse_and_log_det(y, *self.read(condition))[0]

    def forward_log_det_jacobian(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns log|det df(x)/dx| in nats, [B]."""
        return self.forward_and_log_det(x, *self.read(condition))[1]

    def inverse_log_det_jacobian(self, y: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Returns log|det df⁻¹(y)/dy| in nats, [B]."""
        return self.inverse_and_log_det(y, *self.read(condition))[1]

    def initialize(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Sets the weights that depend on data from the batch x [B, H, W, C], and returns f(x).

        Call it once, eagerly and in cross-replica context. Weights that are already initialised or restored
        keep their values. The base class has no such weights and only runs forward.
        """
        return self.forward(x, condition)

    def call(self, x: tf.Tensor, condition: Condition = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs `forward_and_log_det`; Keras builds the layer and casts x before it calls this."""
        return self.forward_and_log_det(x, *self.read(condition))

    def read(self, condition: Condition) -> tuple[Condition, ...]:
        """Returns a condition as an argument of the bijector's methods: none where it does not read it."""
        return (condition,) if self.condition_channels else ()

    def output_shape_of(self, input_shape: Shape) -> Shape:
        """Returns the shape of `forward`'s result; by default, the input's shape."""
        return tuple(input_shape)

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes of both results of `call`."""
        return self.output_shape_of(input_shape), (input_shape[0],)

    def forward_in_part(self, so_far: PartOutput, condition: Condition = None) -> PartOutput:
        """Runs forward from what the bijectors before it made, and adds its own terms to theirs."""
        h, log_det = self.forward_and_log_det(so_far.h, *self.read(condition))
        return so_far._replace(h=h, log_det=so_far.log_det + log_det)

    def inverse_in_part(
        self, h: tf.Tensor, latents: Latents, bound: Bound, condition: Condition = None
    ) -> tuple[tf.Tensor, Latents]:
        """Undoes `forward_in_part`: returns its input [B, H, W, C], and the latents factored out before it.

        Args:
          h: what goes on after the bijector, [B, H', W', C'].
          latents: those that it and the bijectors before it factored out, in forward order.
          bound: changes the result of every inverted step, [B, H, W, C].
          condition: what the part is given.
        """
        return bound(self.inverse(h, condition)), latents

    def initialize_in_part(self, x: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Does what `initialize` does, and returns only what goes on, [B, H', W', C']."""
        return self.initialize(x, *self.read(condition))

    @property
    def fixed_in_part(self) -> bool:
        """Whether what goes on depends on no weight."""
        return not self.weights

    def pass_on(self, x: tf.Tensor) -> tf.Tensor:
        """Returns what goes on and nothing else, [B, H', W', C']; asked where it is `fixed_in_part`."""
        return self.forward(x)

    def shapes_in_part(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        """Returns the shape of what goes on, and those of the latents that are factored out."""
        return self.output_shape_of(input_shape), ()

    def forward_and_log_det_map(self, x: tf.Tensor, condition: Condition = None) -> WithMap:
        """Returns f(x) [B, H', W', C'], and its log-determinant by place, [B, H', W'] in nats.

        The sum over places is the log-determinant. Of an elementwise map each place has that of its own
        numbers; by default, all places have the same share.
        """
        read = self.read(condition)
        if self.elementwise:
            return with_slopes(lambda x: self.forward_and_log_det(x, *read)[0], x)
        y, log_det = self.forward_and_log_det(x, *read)
        return y, evenly(log_det, y)

    def places_in_part(
        self, x: tf.Tensor, condition: Condition = None
    ) -> tuple[tf.Tensor, Latents, tf.Tensor]:
        """Runs x [B, H, W, C] forward; returns what goes on, the latents, and log|det| by place, [B, H', W'].

        The latents are those that are factored out, and the log-determinant is that of the map to both.
        """
        if self.shapes_in_part(x.shape)[1]:
            output = self.forward_in_part(PartOutput.start(x), *self.read(condition))
            return output.h, output.latents, evenly(output.log_det_of_all, output.h)
        h, log_det = self.forward_and_log_det_map(x, *self.read(condition))
        return h, (), log_det

    @property
    def copies(self) -> int:
        """How many steps have weights of their own: the bijector is one, and in a `Stack`, every copy is."""
        return 1

    def get_weights_by_step(self) -> list[np.ndarray]:
        """Returns the weights, those of one step after those of another."""
        return self.get_weights()

    def set_weights_by_step(self, weights: Sequence[np.ndarray]) -> None:
        """Sets the weights to a list from `get_weights_by_step`; ValueError if it does not fit them."""
        self.set_weights(weights)

    def ensure_built(self, x: tf.Tensor) -> None:
        """Builds the layer from the shape of x if it is not built yet."""
        if not self.built:
            self.build(x.shape)

    def require_built(self) -> None:
        """Raises ValueError unless the layer has its weights: an inverse alone cannot tell their shapes."""
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} has no weights yet: call `build(input_shape)` or run it forward "
                "once before running its inverse. Received: built=False"
            )


def per_example(log_det: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Repeats a log-determinant that is the same for every example of x: [] → [B]."""
    return tf.fill(tf.shape(x)[:1], log_det)


def pixels_of(x: tf.Tensor) -> int:
    """Returns H·W of x [B, H, W, C]; ValueError where they are not known, as log-determinants need them."""
    if None in x.shape[1:3]:
        raise ValueError(f"height and width must be known when a function is traced. Received: {x.shape}")
    return x.shape[1] * x.shape[2]


def no_log_det(x: tf.Tensor) -> tf.Tensor:
    """Returns the log-determinant of a map that preserves volume: zeros, [B]."""
    return per_example(tf.zeros([], x.dtype), x)


def evenly(log_det: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """Gives each place of y [B, H, W, C] the same share of a log-determinant: [B] → [B, H, W]."""
    share = log_det / (y.shape[1] * y.shape[2])
    return share[:, tf.newaxis, tf.newaxis] + tf.zeros_like(y[..., 0])


def with_slopes(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> WithMap:
    """Runs an elementwise map on x [B, H, W, C], and returns its log-determinant by place, [B, H, W]."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return y, tf.reduce_sum(tf.math.log(tf.abs(tape.gradient(y, x))), axis=-1)


def set_where(new: tf.Tensor, variable: keras.Variable, value: tf.Tensor) -> None:
    """Sets a variable to a value where `new`, bool [], holds; otherwise it keeps what it has."""
    variable.assign(tf.where(new, tf.cast(value, variable.dtype), variable.value))


# What `ModelConfig.bounded` bounds. Features and shifts of trained models seldom reach half of these.
FEATURE_BOUND = 3.0
SHIFT_BOUND = 10.0
LOG_DEVIATION_BOUND = {False: 5.0, True: 3.0}


def soft_bound(value: tf.Tensor, bound: float) -> tf.Tensor:
    """Maps a log-scale smoothly into [−bound, bound], with slope 1 at 0.

    The gradient falls off gently, where that of a clip is 0 from the bound on; in float32 it is 0 beyond 8
    times the bound. With a bound of 8, the largest in use, exp(result) and exp(−result) stay finite.
    """
    return bound * tf.math.tanh(value / bound)
