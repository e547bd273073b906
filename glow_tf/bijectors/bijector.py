"""The contracts that bijectors keep: `Bijector`, and `Repeatable`, which `Stack` repeats."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors import likelihood
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.internals import with_values

# By default TensorFlow rounds float32 products on newer GPUs to 10 bits: a flow would not invert itself.
tf.config.experimental.enable_tensor_float_32_execution(False)

Shape = tuple[int | None, ...]
WithLogDet = tuple[tf.Tensor, tf.Tensor]  # a result, and log|det d(result)/d(argument)|, [B], nats
Latents = Sequence[tf.Tensor]
Bound = Callable[[tf.Tensor], tf.Tensor]


class PartOutput(NamedTuple):
    """What a part computes from its input.

    Attributes:
      h: input of the next part, [B, H, W, C].
      latents: the latents that the splits inside the part factored out, whitened by their bases, in forward
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
        """The part's term of the whole model's log-likelihood, without a base of h; [B], nats."""
        return self.latents_log_prob + self.log_det

    @property
    def log_det_of_all(self) -> tf.Tensor:
        """log|det| of the map to h and the whitened latents: log p(z | h) = log N(eps) + log|det|; [B]."""
        return self.log_likelihood_term - sum(map(likelihood.standard_normal_log_prob, self.latents))


class Bijector(keras.layers.Layer):
    """An invertible Keras layer on images that knows its log-determinant.

    **Forward** maps data to the latent (the paper's f), **inverse** maps the latent to data. TFP's own
    `tfb.Glow` names the two directions the other way round.

    A subclass MUST define `forward_and_log_det(x)` and `inverse_and_log_det(y)`; all other methods have a
    default. Each of the two returns its result and `log_det`. This is the log of the absolute determinant of
    d(result)/d(argument) *of the direction just run*, summed over the event. The log-determinant of the
    inverse is therefore minus that of the forward direction at the same point.

    A subclass with weights MUST create them in `build`, which is called before any other method. A subclass
    whose weights depend on data MUST also override `initialize`. A bijector that `Stack` can repeat derives
    from `Repeatable` instead. The map must be a bijection; `glow_tf.bijectors.check` checks that.

    A bijector may depend on more than x: on what it is *given*, a condition, with another map of x for every
    value of it, or on the mode in which it runs. Then its methods take a `Context` as one more argument.
    Those of a bijector whose `forward_and_log_det` takes x alone are handed none.

    A `Part` is a loop over bijectors, and knows no kind of them. It calls `shapes` and the last four methods,
    and most bijectors have the defaults. One that factors latents out, as `Split` does, overrides them.

    Shapes: arguments and results are [B, H, W, C] (batch first, three event dimensions); log_det is [B],
    in nats, in the layer's compute dtype (float32 by default).
    """

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        """Returns f(x) [B, H', W', C'] and log|det df(x)/dx| [B] in nats, for x [B, H, W, C]."""
        raise NotImplementedError(f"{type(self).__name__} must define forward_and_log_det(x).")

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        """Returns f⁻¹(y) [B, H, W, C] and log|det df⁻¹(y)/dy| [B] in nats, for y [B, H', W', C']."""
        raise NotImplementedError(f"{type(self).__name__} must define inverse_and_log_det(y).")

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Sets the weights that depend on data from the batch x [B, H, W, C], and returns f(x).

        Call it once, eagerly and in cross-replica context. Weights that are already initialised or restored
        keep their values. The base class has no such weights and only runs forward.
        """
        return self.forward_and_log_det(x, *read_by(self, context))[0]

    def shapes(self, input_shape: Shape) -> tuple[Shape, tuple[Shape, ...]]:
        """Returns the shape of what goes on, f(x) without latents, and those of the latents factored out.

        By default f(x) has the shape of x, and there are no latents. With latents, f(x) as a whole has the
        shape of x.
        """
        return tuple(input_shape), ()

    def forward_in_part(self, so_far: PartOutput, context: Context = ALONE) -> PartOutput:
        """Runs forward from what the bijectors before it made, and adds its own terms to theirs."""
        h, log_det = self.forward_and_log_det(so_far.h, *read_by(self, context))
        return so_far._replace(h=h, log_det=so_far.log_det + log_det)

    def inverse_in_part(
        self, h: tf.Tensor, latents: Latents, bound: Bound, context: Context = ALONE
    ) -> tuple[tf.Tensor, Latents]:
        """Undoes `forward_in_part`: returns its input [B, H, W, C], and the latents factored out before it.

        Args:
          h: what goes on after the bijector, [B, H', W', C'].
          latents: those that it and the bijectors before it factored out, in forward order.
          bound: changes the result of every inverted step, [B, H, W, C].
          context: what the part is given, and its mode.
        """
        return bound(self.inverse_and_log_det(h, *read_by(self, context))[0]), latents

    def initialize_in_part(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Does what `initialize` does, and returns only what goes on, [B, H', W', C']."""
        return self.initialize(x, *read_by(self, context))

    def pass_on(self, x: tf.Tensor) -> tf.Tensor:
        """Returns what goes on, [B, H', W', C'], and nothing else; asked where no weight changes it."""
        return self.forward_and_log_det(x)[0]

    def call(self, x: tf.Tensor, condition: Condition = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Runs `forward_and_log_det`; Keras builds the layer and casts x before it calls this."""
        return self.forward_and_log_det(x, *read_by(self, Context(condition)))

    def compute_output_shape(self, input_shape: Shape) -> tuple[Shape, Shape]:
        """Returns the shapes of both results of `call`."""
        shape, latents = self.shapes(input_shape)
        return tuple(input_shape) if latents else shape, (input_shape[0],)

    def _ensure_built(self, x: tf.Tensor) -> None:
        """Builds the layer from the shape of x if it is not built yet."""
        if not self.built:
            self.build(x.shape)

    def _require_built(self) -> None:
        """Raises ValueError unless the layer has its weights: an inverse alone cannot tell their shapes."""
        if not self.built:
            raise ValueError(
                f"{type(self).__name__} has no weights yet: call `build(input_shape)` or run it forward "
                "once before running its inverse. Received: built=False"
            )


def read_by(bijector: Bijector, context: Context) -> tuple[Context, ...]:
    """Returns a context as an argument of a bijector's methods: none where they take x alone."""
    return (context,) if _takes_context(type(bijector)) else ()


@functools.cache
def _takes_context(kind: type[Bijector]) -> bool:
    return len(inspect.signature(kind.forward_and_log_det).parameters) > 2  # beside self and x


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


Folded = Sequence[tf.Tensor]  # what `Repeatable.fold` returned for one copy


class Repeatable(Bijector):
    """A bijector that preserves its input's shape and can run with the weights of any copy of it.

    `Stack` holds the weights of all copies together and runs one bijector with the weights of each copy in
    turn. It first *folds* the weights: `fold` computes everything that does not depend on x, once per call
    and for all copies at the same time. `forward_folded` then takes the folded weights of one copy.

    The extra axis: when `Stack` calls `fold`, every weight has one axis more in front, of size `count` (the
    copies), and so must every folded tensor. A subclass that overrides `fold` therefore indexes axes from the
    end, such as `axis=-1` or `[..., tf.newaxis, :]`.

    All methods have a default. A subclass overrides `fold` and `forward_folded`, both or neither, where this
    saves time, and `reseed` if its weights start at random.

    Attributes:
      condition_channels: channels of the condition that it reads, which `Stack` brings to the resolution of x
        for all copies; 0: none.
    """

    condition_channels = 0

    def fold(self) -> list[tf.Tensor]:
        """Returns the tensors, of any shape, that replace the weights; by default, the weights themselves."""
        return [v.value for v in all_variables(self)]

    def forward_folded(self, x: tf.Tensor, folded: Folded, context: Context = ALONE) -> WithLogDet:
        """Runs `forward_and_log_det` with what `fold` returned for one copy."""
        with with_weights(self, folded):
            return self.forward_and_log_det(x, *read_by(self, context))

    def reseed(self, seed: int) -> None:
        """Gives the random weights their starting values of another seed; the base class has none."""

    def starting_values(self, count: int) -> list[np.ndarray]:
        """Returns the starting values of copies, stacked; copy k, from 0, has the seed of this one plus k.

        The bijector is new: copy 0 has the values that it was built with.
        """
        variables, seed = all_variables(self), self.get_config().get("seed", 0)
        starts = [np.empty((count, *v.shape), v.dtype) for v in variables]
        for k in range(count):
            with tf.init_scope():  # Keras may build layers within a graph
                if k:
                    self.reseed(seed + k)
                for start, variable in zip(starts, variables, strict=True):
                    start[k] = variable.numpy()
        return starts


def all_variables(bijector: Bijector) -> list[keras.Variable]:
    """Returns the trainable variables, followed by the others."""
    return [*bijector.trainable_variables, *bijector.non_trainable_variables]


def with_weights(bijector: Bijector, weights: Sequence[tf.Tensor]) -> keras.StatelessScope:
    """Returns a scope within which `all_variables` of the bijector have these values."""
    return with_values(all_variables(bijector), weights)


WithMap = tuple[tf.Tensor, tf.Tensor]  # a result [B, H, W, C], and its log-determinant by place, [B, H, W]


@functools.singledispatch
def log_det_by_place(bijector: Bijector, x: tf.Tensor, context: Context = ALONE) -> WithMap:
    """Returns f(x) [B, H', W', C'], and its log-determinant by place, [B, H', W'] in nats.

    The sum over places is the log-determinant. By default all places have the same share. Classes that know
    better are registered beside them.
    """
    y, log_det = bijector.forward_and_log_det(x, *read_by(bijector, context))
    return y, evenly(log_det, y)


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
