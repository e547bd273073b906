"""A flow step of bijectors of one's own."""

import keras

from glow_tf.bijectors.bijector import Bijector, Shape
from glow_tf.bijectors.chain import Chain
from glow_tf.bijectors.coupling import Coupling, coupling_settings, pop_coupling_config
from glow_tf.bijectors.flow_step import FlowStep
from glow_tf.bijectors.registered import made, seeded
from glow_tf.bijectors.repeatable import Repeatable, all_variables
from glow_tf.config import CouplingConfig
from glow_tf.core.errors import ConfigError


@keras.saving.register_keras_serializable(package="glow_tf")
class OwnFlowStep(Chain, Repeatable):
    """A flow step whose bijectors are made by code of one's own.

    If `make` names the class of a bijector, one such bijector takes the place of ActNorm and the 1×1
    convolution, and a `Coupling` follows. If it names a function, the function returns all bijectors of the
    step, as a list in forward order. Together they must keep the shape.

    Args:
      make: the text of the setting `bijectors`; see `registered.py`. The class or function is given the
        arguments `coupling`, which is a `CouplingConfig`, `seed` and `dtype`, those of them that it takes.
      coupling: the settings of the coupling.
      seed: of all random starting values.
    """

    def __init__(self, make: str, coupling: CouplingConfig, seed: int = 0, **kwargs):
        self.make, self.coupling, self.seed = make, coupling, seed
        policy = keras.layers.Layer(**{k: v for k, v in kwargs.items() if k == "dtype"}).dtype_policy
        super().__init__(_bijectors(make, coupling, seed, policy), **kwargs)

    def build(self, input_shape: Shape) -> None:
        self._event_shape = tuple(input_shape)
        with seeded(self.seed):
            super().build(input_shape)
        if self.output_shape_of(input_shape) != tuple(input_shape):
            raise ConfigError(
                f"bijectors of a flow step must keep the shape {tuple(input_shape)}. "
                f"Received: {self.make!r}, whose result has {self.output_shape_of(input_shape)}"
            )
        for k, variable in enumerate(all_variables(self)):
            variable.name_in_stack = f"own_{k}"  # Keras numbers layers as they are made

    def reseed(self, seed: int) -> None:
        other = OwnFlowStep(self.make, self.coupling, seed, dtype=self.dtype_policy, name=self.name)
        other.build(self._event_shape)
        self.set_weights(other.get_weights())

    def get_config(self) -> dict:
        base = keras.layers.Layer.get_config(self)
        return {**base, **coupling_settings(self.coupling), "make": self.make, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict) -> "OwnFlowStep":
        config = dict(config)
        return cls(config.pop("make"), pop_coupling_config(config), **config)


def _bijectors(make: str, coupling: CouplingConfig, seed: int, policy: keras.DTypePolicy) -> list[Bijector]:
    with seeded(seed):
        found = made("bijectors", make, coupling=coupling, seed=seed, dtype=policy)
    if isinstance(found, Bijector):
        return [found, Coupling(coupling, seed=seed, dtype=policy, name="coupling")]
    if not isinstance(found, list | tuple) or not all(isinstance(own, Bijector) for own in found):
        raise ConfigError(
            "bijectors must be the class of a Bijector, or a function that returns a list of them. "
            f"Received: {make!r}, which made {found!r:.200}"
        )
    return list(found)


def flow_step(bijectors: str, coupling: CouplingConfig, permutation: str, **kwargs) -> Repeatable:
    """Makes the flow step that the settings say: the package's, or one of `bijectors` of one's own."""
    if bijectors:
        return OwnFlowStep(bijectors, coupling, **kwargs)
    return FlowStep(coupling, permutation, **kwargs)
