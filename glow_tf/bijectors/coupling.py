"""Coupling: a network of one half of the channels transforms the other half."""

import dataclasses
import inspect

import keras
import numpy as np
import tensorflow as tf

from glow_tf.architectures.own_layers import made
from glow_tf.bijectors.bijector import (
    Folded,
    Repeatable,
    Shape,
    WithLogDet,
    WithMap,
    log_det_by_place,
    with_slopes,
)
from glow_tf.bijectors.mode import ALONE, Context
from glow_tf.bijectors.networks import CouplingNetwork
from glow_tf.bijectors.own_network import OwnNetwork
from glow_tf.bijectors.transforms import Additive, Affine, Parameters, Transform
from glow_tf.config import CouplingConfig, names_own_layer
from glow_tf.core.errors import ConfigError

TRANSFORMS: dict[str, type[Transform]] = {"affine": Affine, "additive": Additive}


@keras.saving.register_keras_serializable(package="glow_tf")
class Coupling(Repeatable):
    """Transforms one half of the channels with parameters that a network computes from the other half.

    With x = [a, b] halved along the channels, θ = network(a), and T the transform (see `transforms.py`):
    Forward:   y = [a, T(b; θ)]       log_det = log|det dT(b; θ)/db|
    Inverse:   x = [a, T⁻¹(y_b; θ)]
    An affine transform is T(b; t, s) = exp(s)·b + t with log_det = Σ s; an additive one has s = 0.

    If the number of channels is odd, b has one channel more than a. A single channel is halved in space:
    a and b are the two colours of a chessboard, and couplings with even and odd seeds transform different
    ones.

    The network's last convolution starts at zero, where every transform here is the identity. A condition, if
    the config says that there is one, is read by the network.

    Shapes: [B, H, W, C] → the same.

    Args:
      config: the transform and the network.
      seed: of the network's kernels.

    Raises:
      TypeError: config is not a `CouplingConfig`.
    References: Dinh et al. 2017, sections 3.2 and 3.4, https://arxiv.org/abs/1605.08803; Kingma & Dhariwal
    2018, section 3.3, https://arxiv.org/abs/1807.03039
    """

    def __init__(self, config: CouplingConfig | dict, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.config = config = read_config(config)
        self.seed = seed
        self.transform = transform_of(config.kind, config.scale, config.bounded)

    @property
    def condition_channels(self) -> int:
        return self.config.condition_channels

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1]
        self.in_space = channels == 1
        if self.in_space:
            self._check_identity()
        first = max(channels // 2, 1)
        outputs = self.transform.outputs_per_channel * (1 if self.in_space else channels - first)
        of_both = {"seed": self.seed, "condition_channels": self.condition_channels, "name": "network"}
        of_both["dtype"] = self.config.network_dtype or self.dtype_policy
        if self.config.network:
            self.network = OwnNetwork(self.config.network, outputs, **of_both)
        else:
            width, norm, activation = self.config.width, self.config.norm, self.config.activation
            self.network = CouplingNetwork(width, outputs, norm, activation=activation, **of_both)
        self.network.build((*input_shape[:-1], first))
        if self.in_space:
            self.colour = self.add_weight(
                name="colour",
                shape=(),
                dtype="int64",
                initializer=keras.initializers.Constant(self.seed % 2),
                trainable=False,
            )
        self.built = True

    def _check_identity(self) -> None:
        """Raises ConfigError unless zeros keep numbers as they are, which pixels of a need to come back."""
        with tf.init_scope():
            b = tf.reshape(tf.linspace(-1.0, 1.0, 3), [1, 3, 1, 1])
            zeros = tf.zeros([1, 3, 1, self.transform.outputs_per_channel])
            y, _ = self.transform.forward(b, *self.transform.parameters(zeros))
        if not np.allclose(y, b, atol=1e-4):
            raise ConfigError(
                "on one channel a coupling's transform must be the identity where its network gives zeros. "
                f"Received: {type(self.transform).__name__}, which makes {np.ravel(y)} of {np.ravel(b)}"
            )

    def forward_and_log_det(self, x: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._ensure_built(x)
        return self.forward_folded(x, self.fold(), context)

    def inverse_and_log_det(self, y: tf.Tensor, context: Context = ALONE) -> WithLogDet:
        self._require_built()
        folded = self.fold()
        a, y_b = self._halves(y, folded)
        b, log_det = self.transform.inverse(y_b, *self.parameters(a, folded, context))
        return self._joined(a, b), log_det

    def fold(self) -> list[tf.Tensor]:
        """Returns what `CouplingNetwork.fold` does, and which pixels are a."""
        return [*self.network.fold(), *([self.colour.value] if self.in_space else [])]

    def forward_folded(self, x: tf.Tensor, folded: Folded, context: Context = ALONE) -> WithLogDet:
        a, b = self._halves(x, folded)
        y_b, log_det = self.transform.forward(b, *self.parameters(a, folded, context))
        return self._joined(a, y_b), log_det

    def parameters(self, a: tf.Tensor, folded: Folded | None = None, context: Context = ALONE) -> Parameters:
        """Returns the transform's parameters for the half a; every direction reads the network here.

        They are (shift, log_scale) of an affine transform, (shift,) of an additive one, of the shape of b.
        """
        folded = self.fold() if folded is None else folded
        return self._read(self.network.run_folded(a, folded, context), a, folded)

    def _read(self, output: tf.Tensor, a: tf.Tensor, folded: Folded) -> Parameters:
        """Returns the parameters of the network's output, which is 0 at the pixels of a."""
        return self.transform.parameters(output * (1 - self._is_a(a, folded)) if self.in_space else output)

    def _halves(self, x: tf.Tensor, folded: Folded) -> list[tf.Tensor]:
        """Returns a and b of x [B, H, W, C]; halved in space, b has all pixels, and a is 0 at those of b."""
        if self.in_space:
            return [x * self._is_a(x, folded), x]
        half = x.shape[-1] // 2
        return tf.split(x, [half, x.shape[-1] - half], axis=-1)

    def _joined(self, a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return b if self.in_space else tf.concat([a, b], axis=-1)

    def _is_a(self, x: tf.Tensor, folded: Folded) -> tf.Tensor:
        """Returns 1 for the pixels of a and 0 for those of b, [H, W, 1]."""
        rows, columns = (tf.range(side) for side in x.shape[1:3])
        board = (rows[:, tf.newaxis] + columns + tf.cast(folded[-1], rows.dtype)) % 2
        return tf.cast(board, x.dtype)[..., tf.newaxis]

    def reseed(self, seed: int) -> None:
        self.network.reseed(seed)
        if self.in_space:
            self.colour.assign(seed % 2)

    def initialize(self, x: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        self._ensure_built(x)
        folded = self.fold()
        a, b = self._halves(x, folded)
        parameters = self._read(self.network.initialize(a, context), a, folded)
        return self._joined(a, self.transform.forward(b, *parameters)[0])

    def get_config(self) -> dict:
        return {**super().get_config(), "config": dataclasses.asdict(self.config), "seed": self.seed}


@log_det_by_place.register
def _(coupling: Coupling, x: tf.Tensor, context: Context = ALONE) -> WithMap:
    folded = coupling.fold()
    a, b = coupling._halves(x, folded)
    parameters = coupling.parameters(a, folded, context)
    y_b, log_det = with_slopes(lambda b: coupling.transform.forward(b, *parameters)[0], b)
    return coupling._joined(a, y_b), log_det


def transform_of(kind: str, scale: str, bounded: bool) -> Transform:
    """Makes the transform of a kind, with those of the model's settings that it takes."""
    if names_own_layer(kind):
        transform = made("coupling", kind)
    else:
        settings = {"scale": scale, "bounded": bounded}
        takes = inspect.signature(TRANSFORMS[kind]).parameters
        transform = TRANSFORMS[kind](**{name: settings[name] for name in takes if name in settings})
    if not isinstance(transform, Transform):
        raise ConfigError(f"coupling must be a Transform. Received: {type(transform).__name__}")
    return transform


def read_config(config: CouplingConfig | dict) -> CouplingConfig:
    """Returns the settings of a coupling, which `get_config` of layers has as a dictionary."""
    config = CouplingConfig(**config) if isinstance(config, dict) else config
    if not isinstance(config, CouplingConfig):
        raise TypeError(
            f"Coupling needs a CouplingConfig, such as CouplingConfig(width=512). Received: config={config!r}"
        )
    return config
