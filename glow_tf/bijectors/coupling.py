"""Coupling: a network of one half of the channels transforms the other half."""

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.bijector import Shape
from glow_tf.bijectors.networks import CouplingNetwork
from glow_tf.bijectors.repeatable import Repeatable
from glow_tf.bijectors.transforms import Parameters, make_transform
from glow_tf.config import OUTPUTS_PER_CHANNEL, CouplingConfig


@keras.saving.register_keras_serializable(package="glow_tf")
class Coupling(Repeatable):
    """Transforms one half of the channels with parameters that a network computes from the other half.

    With x = [a, b] halved along the channels, θ = network(a), and T the transform (see `transforms.py`):
    Forward:   y = [a, T(b; θ)]       log_det = log|det dT(b; θ)/db|
    Inverse:   x = [a, T⁻¹(y_b; θ)]
    An affine transform is T(b; t, s) = exp(s)·b + t with log_det = Σ s; an additive one has s = 0.

    The network's last convolution starts at zero, where every transform here is the identity.

    Shapes: [B, H, W, C] with C even → the same.

    Args:
      config: the transform and the network.
      seed: of the network's kernels.

    Raises:
      TypeError: config is not a `CouplingConfig`.
      ValueError: on build, the number of channels is odd.
    References: Dinh et al. 2017, section 3.2, https://arxiv.org/abs/1605.08803; Kingma & Dhariwal 2018,
    section 3.3, https://arxiv.org/abs/1807.03039
    """

    def __init__(self, config: CouplingConfig, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(config, CouplingConfig):
            raise TypeError(
                "Coupling needs a CouplingConfig, such as CouplingConfig(width=512). "
                f"Received: config={config!r}"
            )
        self.config = config
        self.seed = seed
        self.transform = make_transform(config)

    def build(self, input_shape: Shape) -> None:
        """Creates the network."""
        channels = input_shape[-1]
        if channels % 2:
            raise ValueError(
                f"Coupling needs an even number of channels. Received: input_shape={tuple(input_shape)}"
            )
        self.network = CouplingNetwork(
            self.config.width,
            filters=OUTPUTS_PER_CHANNEL[self.config.kind] * (channels // 2),
            norm=self.config.norm,
            seed=self.seed,
            dtype=self.config.network_dtype or self.dtype_policy,
            name="network",
        )
        self.network.build((*input_shape[:-1], channels // 2))
        self.built = True

    def parameters(self, a: tf.Tensor, folded: Sequence[tf.Tensor] | None = None) -> Parameters:
        """Returns the transform's parameters for the half a; every direction reads the network here.

        Args:
          a: the half of the channels that stays as it is, [B, H, W, C/2].
          folded: what `fold` returned; by default, the folded weights of this layer.

        Returns:
          (shift, log_scale) for an affine transform, (shift,) for an additive one; each [B, H, W, C/2].
        """
        output = self.network.run_folded(a, self.fold() if folded is None else folded)
        return self.transform.parameters(output)

    def forward_and_log_det(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.ensure_built(x)
        return self.forward_folded(x, self.fold())

    def inverse_and_log_det(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """See class."""
        self.require_built()
        a, y_b = _halves(y)
        b, log_det = self.transform.inverse(y_b, *self.parameters(a))
        return _joined(a, b), log_det

    def fold(self) -> list[tf.Tensor]:
        """Returns the folded weights of the network; see `CouplingNetwork.fold`."""
        return self.network.fold()

    def forward_folded(self, x: tf.Tensor, folded: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """See base."""
        a, b = _halves(x)
        y_b, log_det = self.transform.forward(b, *self.parameters(a, folded))
        return _joined(a, y_b), log_det

    def forward_and_log_scale(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `forward`'s result, and the largest |log s| of the transform on the way, [], nats."""
        a, b = _halves(x)
        parameters = self.parameters(a)
        y_b, _ = self.transform.forward(b, *parameters)
        return _joined(a, y_b), self.transform.largest_log_scale(*parameters)

    def pull_back(
        self,
        y: tf.Tensor,
        y_gradient: tf.Tensor,
        log_det_gradient: tf.Tensor,
        folded: Sequence[tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """See base: one evaluation of the network serves both the inverse and the gradient."""
        self.require_built()
        a, y_b = _halves(y)
        a_gradient, y_b_gradient = _halves(y_gradient)
        sources = [a, *folded]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(sources)
            parameters = self.parameters(a, folded)
        b, b_gradient, parameter_gradients = self.transform.pull_back(
            y_b, y_b_gradient, log_det_gradient, *parameters
        )
        through_network, *gradients = tape.gradient(
            parameters, sources, tuple(parameter_gradients), tf.UnconnectedGradients.ZERO
        )
        return _joined(a, b), _joined(a_gradient + through_network, b_gradient), gradients

    def reseed(self, seed: int) -> None:
        """See base."""
        self.network.reseed(seed)

    def initialize(self, x: tf.Tensor) -> tf.Tensor:
        """See base: initialises the network's ActNorms."""
        self.ensure_built(x)
        a, b = _halves(x)
        parameters = self.transform.parameters(self.network.initialize(a))
        return _joined(a, self.transform.forward(b, *parameters)[0])

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {**super().get_config(), **dataclasses.asdict(self.config), "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict) -> "Coupling":
        """See keras.Layer."""
        config = dict(config)
        return cls(pop_coupling_config(config), **config)


def pop_coupling_config(config: dict) -> CouplingConfig:
    """Removes the settings of a `CouplingConfig` from a layer's config, and returns them as one object."""
    names = [field.name for field in dataclasses.fields(CouplingConfig)]
    return CouplingConfig(**{name: config.pop(name) for name in names if name in config})


def _halves(x: tf.Tensor) -> list[tf.Tensor]:
    """[B, H, W, C] → twice [B, H, W, C/2]."""
    return tf.split(x, 2, axis=-1)


def _joined(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.concat([a, b], axis=-1)
