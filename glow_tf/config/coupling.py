"""A coupling: its transform and its network."""

import dataclasses

from glow_tf.config.choices import ACTIVATIONS, COUPLINGS, MOST_LOG_SCALE, MOST_WIDTH, NORMS, SCALES
from glow_tf.config.setting import check_types, in_range, one_of
from glow_tf.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class CouplingConfig:
    """What a coupling is, from its transform to its network.

    Attributes:
      width: hidden channels of the network.
      kind: the transform, one of `COUPLINGS` or one's own; see `architectures/own_layers.py`.
      scale: how an affine transform reads its scale: `sigmoid`, `exp`, `tanh` or `tanh:B`.
      norm: of the network's hidden convolutions: `actnorm` or `bias`.
      network_dtype: dtype policy of the network, such as `mixed_bfloat16`; None is the layer's own.
      condition_channels: channels of the condition that the network reads; 0: none.
      network: a network of one's own; see `OwnNetwork`. Empty: the package's, to which width and norm belong.
      activation: between the network's convolutions, one of `ACTIVATIONS`.
      bounded: whether shifts are softly bounded; see `ModelConfig.bounded`.
    """

    width: int
    kind: str = "affine"
    scale: str = "tanh:1"
    norm: str = "actnorm"
    network_dtype: str | None = None
    condition_channels: int = 0
    network: str = ""
    activation: str = "relu"
    bounded: bool = True

    def __post_init__(self):
        check_types(self)
        in_range(self, "width", 1, MOST_WIDTH)
        in_range(self, "condition_channels", 0, MOST_WIDTH)
        one_of(self, "kind", COUPLINGS, own=True)
        one_of(self, "network", ("",), own=True)
        read_scale(self.scale)
        one_of(self, "norm", NORMS)
        one_of(self, "activation", ACTIVATIONS)


def read_scale(scale: str) -> tuple[str, float | None]:
    """Reads the `--scale` notation: the kind and the soft bound of the log-scale; None for `sigmoid`."""
    if scale in SCALES:
        return scale, SCALES[scale]
    kind, _, argument = scale.partition(":")
    try:
        bound = float(argument)
    except ValueError:
        bound = 0.0
    if kind != "tanh" or not 0 < bound <= MOST_LOG_SCALE:
        raise ConfigError(
            f"scale must be one of {', '.join(SCALES)}, or tanh:B with a bound B of the log-scale, above 0 "
            f"and up to {MOST_LOG_SCALE}, such as tanh:1. Received: {scale=}"
        )
    return kind, bound
