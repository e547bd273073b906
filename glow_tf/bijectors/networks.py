"""The network of a coupling, and the one that turns what is given into the features that a flow reads."""

import functools
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.actnorm import ActNorm
from glow_tf.bijectors.bijector import FEATURE_BOUND, Shape, soft_bound
from glow_tf.bijectors.condition import Condition, at_its_own_resolution, brought_to
from glow_tf.bijectors.mode import ALONE, PLAIN, Context, Mode
from glow_tf.bijectors.rate_factor import REFERENCE_WIDTH, scales_with

ACTIVATION: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "silu": tf.nn.silu,
    "elu": tf.nn.elu,
    "gelu": functools.partial(tf.nn.gelu, approximate=True),
    "leaky_relu": functools.partial(tf.nn.leaky_relu, alpha=0.1),
    "relu": tf.nn.relu,
}
OF_PIXELS = "glow_tf>ConvolutionOfPixels"  # the gradient's name in TensorFlow's registry


def convolve(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None, mode: Mode = PLAIN) -> tf.Tensor:
    """Convolves, and adds the bias, in one dtype: [B, H, W, C], [k, k, C, D], [D] → [B, H, W, D]."""
    # The gradient has a name and no closure, so it outlives the step in which a stack's function was traced.
    own = {"Conv2D": OF_PIXELS} if mode.training and kernel.shape[:2] == (1, 1) else {}
    with tf.compat.v1.get_default_graph().gradient_override_map(own):
        y = tf.nn.conv2d(x, kernel, 1, "SAME")
    return y if bias is None else tf.nn.bias_add(y, bias)


@tf.RegisterGradient(OF_PIXELS)
def gradients_of_pixels(operation: tf.Operation, upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the gradients of a 1×1 convolution; its kernel's is a product of matrices.

    On a CPU this is faster than TensorFlow's own, above all in bfloat16. A tape that is opened in the
    function which convolves does not see it, and takes TensorFlow's.
    """
    x, kernel = operation.inputs
    pixels, of_pixels = (tf.reshape(tensor, [-1, tensor.shape[-1]]) for tensor in (x, upstream))
    to_x = tf.nn.conv2d_transpose(upstream, kernel, tf.shape(x), 1, "SAME")
    return to_x, tf.matmul(pixels, of_pixels, transpose_a=True)[None, None]


class _Convolution(keras.layers.Layer):
    """A convolution that keeps height and width."""

    def convolve(
        self, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None = None, mode: Mode = PLAIN
    ) -> tf.Tensor:
        """Convolves in the layer's compute dtype, and adds the bias: [B, H, W, C] → [B, H, W, filters]."""
        dtype = self.variable_dtype if mode.full_precision else self.compute_dtype
        given = [tensor if tensor is None else tf.cast(tensor, dtype) for tensor in (x, kernel, bias)]
        return convolve(*given, mode)

    def call(self, x: tf.Tensor, mode: Mode = PLAIN) -> tf.Tensor:
        return self.run_folded(x, self.fold(), mode)


@keras.saving.register_keras_serializable(package="glow_tf")
class HiddenConvolution(_Convolution):
    """A convolution of `kernel_size`² pixels, which keeps height and width, followed by ActNorm or a bias.

    ActNorm is folded into the kernel and the bias, so it needs no pass over the activations. The kernel
    starts as He normal.
    """

    def __init__(self, filters: int, kernel_size: int, norm: str = "actnorm", seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.kernel_size = kernel_size
        self.norm = norm
        self.seed = seed

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer=keras.initializers.HeNormal(self.seed),
        )
        if self.norm == "actnorm":
            self.actnorm = ActNorm(dtype=self.variable_dtype, name="actnorm")
            self.actnorm.build((*input_shape[:-1], self.filters))
        else:
            self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.built = True

    def reseed(self, seed: int) -> None:
        """Gives the kernel its starting values of another seed."""
        self.kernel.assign(keras.initializers.HeNormal(seed)(self.kernel.shape, self.kernel.dtype))

    def fold(self) -> list[tf.Tensor]:
        """Returns kernel [k, k, C, filters], scale and bias [filters] of (kernel·scale) * x + bias."""
        if self.norm == "bias":
            return [self.kernel.value, tf.ones_like(self.bias.value), self.bias.value]
        scale = tf.exp(self.actnorm.log_scale.value)
        return [self.kernel.value, scale, self.actnorm.bias.value * scale]

    def run_folded(
        self, x: tf.Tensor, folded: Sequence[tf.Tensor], mode: Mode, added: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Runs the layer with what `fold` returned: [B, H, W, C] → [B, H, W, filters].

        What is `added` to the convolution, [B, H, W, filters] or [B, 1, 1, filters], is scaled already.
        """
        kernel, scale, bias = folded
        # Scaled here and not in `fold`, which would keep the scaled kernels of all copies in memory.
        y = self.convolve(x, kernel * scale if self.norm == "actnorm" else kernel, bias, mode)
        # After the bias: convolution, bias, sum and ReLU are one operation then, where TensorFlow can.
        return y if added is None else y + added

    def initialize(self, x: tf.Tensor, added: tf.Tensor | None = None) -> tf.Tensor:
        """Sets the ActNorm from data as `Bijector.initialize` does: [B, H, W, C] → [B, H, W, filters].

        What is `added` to the convolution, [B, H, W, filters] or [B, 1, 1, filters], is not scaled yet.
        """
        if self.norm != "actnorm":
            return self.run_folded(x, self.fold(), PLAIN, added)
        y = self.convolve(x, self.kernel.value, mode=Mode(full_precision=True))
        if added is not None:
            y += tf.cast(added, y.dtype)
        self.actnorm.initialize_from(*tf.nn.moments(y, axes=[1, 2]))
        _, scale, bias = self.fold()
        return tf.nn.bias_add(y * scale, bias)


@keras.saving.register_keras_serializable(package="glow_tf")
class ZeroConvolution(_Convolution):
    """A 3×3 convolution that starts at zero, with a learned output scale.

    y = (conv(x) + bias) · exp(3·log_scale). All weights start at 0. The factor 3 makes the output scale
    learn faster than the rest of the network.
    Reference: Kingma & Dhariwal 2018, section 3.3; the factor is that of the authors' published code.
    """

    LOG_SCALE_FACTOR = 3.0

    def __init__(self, filters: int, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape: Shape) -> None:
        shape = (3, 3, input_shape[-1], self.filters)
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
        self.log_scale = self.add_weight(name="log_scale", shape=(self.filters,), initializer="zeros")
        self.built = True

    def fold(self) -> list[tf.Tensor]:
        """Returns kernel [3, 3, C, filters], scale and bias [filters] of (kernel·scale) * x + bias."""
        scale = tf.exp(self.LOG_SCALE_FACTOR * self.log_scale.value)
        return [self.kernel.value, scale, self.bias.value * scale]

    def run_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor], mode: Mode) -> tf.Tensor:
        """Runs the layer with what `fold` returned: [B, H, W, C] → [B, H, W, filters]."""
        kernel, scale, bias = folded
        y = self.convolve(x, kernel * scale, mode=mode)
        # Not `bias_add`: TensorFlow would fuse its gradient with the gradient of the kernel, and with few
        # channels that takes twice as long.
        return y + tf.cast(bias, y.dtype)


@keras.saving.register_keras_serializable(package="glow_tf")
class CouplingNetwork(keras.layers.Layer):
    """Three convolutions, 3×3 → 1×1 → 3×3, with an activation between them; the last one starts at zero.

    The hidden ones have `width` channels, and `norm` after them. Under the dtype policy `mixed_bfloat16` the
    convolutions compute in bfloat16, while input, output and weights stay in float32. A condition, of
    `condition_channels`, is read by a 1×1 convolution, whose result is added to that of the first one.
    Reference: Kingma & Dhariwal 2018, section 3.3, https://arxiv.org/abs/1807.03039
    """

    RADIUS = 2  # pixels that an output sees in each direction

    def __init__(
        self,
        width: int,
        filters: int,
        norm: str = "actnorm",
        seed: int = 0,
        condition_channels: int = 0,
        activation: str = "relu",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = activation
        self.width = width
        self.filters = filters
        self.norm = norm
        self.seed = seed
        self.condition_channels = condition_channels
        policy = self.dtype_policy
        self.hidden = [
            HiddenConvolution(width, size, norm, seed=2 * seed + k, dtype=policy, name=f"hidden_{k + 1}")
            for k, size in enumerate((3, 1))
        ]
        self.last = ZeroConvolution(filters, dtype=policy, name="last")

    def build(self, input_shape: Shape) -> None:
        shape = input_shape
        for layer in (*self.hidden, self.last):
            layer.build(shape)
            shape = (*shape[:-1], layer.filters)
        if self.condition_channels:
            self.reading = self.add_weight(
                name="reading",
                shape=(1, 1, self.condition_channels, self.width),
                initializer=_reading_kernel(self.seed),
            )
            scales_with(self.reading, width=max(self.condition_channels, REFERENCE_WIDTH))
        scales_with(self.hidden[1].kernel, width=self.width)
        for weight in self.last.trainable_variables:
            scales_with(weight, width=self.width if weight is self.last.kernel else 0, flow_steps=True)
        self.built = True

    def reseed(self, seed: int) -> None:
        """Gives the kernels their starting values of another seed."""
        for k, layer in enumerate(self.hidden):
            layer.reseed(2 * seed + k)
        if self.condition_channels:
            self.reading.assign(_reading_kernel(seed)(self.reading.shape, self.reading.dtype))

    def fold(self) -> list[tf.Tensor]:
        """Returns three tensors (kernel, scale, bias) per convolution, and the kernel that reads a condition.

        If the weights have an axis for the copies in front (see `Repeatable`), so have these.
        """
        folded = [tensor for layer in (*self.hidden, self.last) for tensor in layer.fold()]
        return [*folded, self.reading.value] if self.condition_channels else folded

    def run_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor], context: Context) -> tf.Tensor:
        """Runs the network with what `fold` returned: [B, H, W, C] → [B, H, W, filters], x's dtype."""
        added, mode = None, context.mode
        if self.condition_channels:
            added = self._read(x, context, folded[9] * folded[1])
        activation = ACTIVATION[self.activation]
        h = activation(self.hidden[0].run_folded(x, folded[:3], mode, added))
        h = activation(self.hidden[1].run_folded(h, folded[3:6], mode))
        return tf.cast(self.last.run_folded(h, folded[6:9], mode), x.dtype)

    def _read(self, x: tf.Tensor, context: Context, kernel: tf.Tensor) -> tf.Tensor:
        """Returns [B, H, W, width], or [B, 1, 1, width] of vectors."""
        given = brought_to(context.condition, x, self.condition_channels)
        return self.hidden[0].convolve(given, kernel, mode=context.mode)

    def call(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        return self.run_folded(x, self.fold(), context)

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Sets the ActNorms from data, in order, as `Bijector.initialize` does, and runs the network."""
        added = self._read(x, context, self.reading.value) if self.condition_channels else None
        activation = ACTIVATION[self.activation]
        h = activation(self.hidden[0].initialize(x, added))
        h = activation(self.hidden[1].initialize(h))
        return tf.cast(self.last.call(h), x.dtype)


def _reading_kernel(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.HeNormal(2 * seed + 1_000_003)  # apart from those of the hidden convolutions


@keras.saving.register_keras_serializable(package="glow_tf")
class ConditionNetwork(keras.layers.Layer):
    """Convolutions of 3×3 pixels, each followed by ActNorm, with an activation between them.

    Shapes: [B, h, w, c] → [B, h, w, features]. A vector [B, d] is a map of one pixel; several conditions are
    brought to the resolution of the largest.

    Args:
      features: output channels, and those in between.
      depth: number of convolutions.
      seed: of the kernels.
      activation: one of `ACTIVATIONS`.
      bounded: whether the features are softly bounded to ±3.
    """

    RADIUS = 1  # pixels that each convolution sees in each direction

    def __init__(
        self,
        features: int,
        depth: int = 2,
        seed: int = 0,
        activation: str = "relu",
        bounded: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = activation
        self.bounded = bounded
        self.features = features
        self.depth = depth
        self.seed = seed
        self.convolutions = [
            HiddenConvolution(
                features, 3, seed=depth * seed + k, dtype=self.dtype_policy, name=f"convolution_{k + 1}"
            )
            for k in range(depth)
        ]

    def build(self, input_shape: Shape) -> None:
        shapes = list(input_shape.values()) if isinstance(input_shape, Mapping) else [input_shape]
        self.channels = sum(shape[-1] for shape in shapes)
        input_shape = (None, None, None, self.channels)
        for layer in self.convolutions:
            layer.build(input_shape)
            scales_with(layer.kernel, width=max(input_shape[-1], REFERENCE_WIDTH))
            input_shape = (*input_shape[:-1], self.features)
        self.built = True

    def call(self, condition: Condition, mode: Mode = PLAIN) -> tf.Tensor:
        """Returns the features, in the dtype of the condition."""
        return self._run(condition, functools.partial(HiddenConvolution.call, mode=mode))

    def initialize(self, condition: Condition) -> tf.Tensor:
        """Sets the ActNorms from data, in order, as `Bijector.initialize` does, and returns the features."""
        return self._run(condition, HiddenConvolution.initialize)

    def _run(self, condition: Condition, run: Callable[..., tf.Tensor]) -> tf.Tensor:
        given = h = at_its_own_resolution(condition, self.channels)
        for layer in self.convolutions:
            h = run(layer, h if layer is self.convolutions[0] else ACTIVATION[self.activation](h))
        h = tf.cast(h, given.dtype)
        return soft_bound(h, FEATURE_BOUND) if self.bounded else h
