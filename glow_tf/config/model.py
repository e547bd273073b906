"""The flow, its couplings and its parts."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any

from glow_tf.config import choices
from glow_tf.config.setting import (
    ConditionShape,
    check_fields,
    check_types,
    in_range,
    one_of,
    require,
    setting,
    settings_of,
    shapes_by_name,
)
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
        in_range(self, "width", 1, choices.MOST_WIDTH)
        in_range(self, "condition_channels", 0, choices.MOST_WIDTH)
        one_of(self, "kind", choices.COUPLINGS, own=True)
        one_of(self, "network", ("",), own=True)
        read_scale(self.scale)
        one_of(self, "norm", choices.NORMS)
        one_of(self, "activation", choices.ACTIVATIONS)


def read_scale(scale: str) -> tuple[str, float | None]:
    """Reads the `--scale` notation: the kind and the soft bound of the log-scale; None for `sigmoid`."""
    if scale in choices.SCALES:
        return scale, choices.SCALES[scale]
    kind, _, argument = scale.partition(":")
    try:
        bound = float(argument)
    except ValueError:
        bound = 0.0
    if kind != "tanh" or not 0 < bound <= choices.MOST_LOG_SCALE:
        raise ConfigError(
            f"scale must be one of {', '.join(choices.SCALES)}, or tanh:B with a bound B of the log-scale, "
            f"above 0 and up to {choices.MOST_LOG_SCALE}, such as tanh:1. Received: {scale=}"
        )
    return kind, bound


# Other arguments of an exported model's functions.
TAKEN = frozenset(
    {"condition", "eps", "images", "num", "seed", "seeds", "self", "temperature", "temperatures"}
)

NAMES = (
    "of names of ASCII letters, digits and underscores that begin with a letter, are no keywords of Python, "
    f"differ in more than case, and are none of {', '.join(sorted(TAKEN))}"
)
# Settings that a coupling has under the same name.
OF_COUPLINGS = ("width", "scale", "norm", "activation", "bounded")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The flow and its parts. `Flow(ModelConfig(...))` builds it.

    Three fields are not flags of the model, because the command takes them from the data and from the run:
    `image_shape` (H, W, C), `seed`, and `condition_shape`, of what the model is given with each image:
    `(h, w, c)` of a map, `(d,)` of a vector, a dictionary of them by name, or `()`, nothing. Names are
    arguments of an exported model: identifiers such as `low_res`.

    `parts` may also be given as numbers: `parts=(16, 32, 48)` is `"16,32,48"`, the flow steps of each part.
    """

    image_shape: tuple[int, int, int] = (32, 32, 3)
    n_bits: int = setting(
        8, "Bits kept per pixel and channel, 1 to 16; above 8, images have 16.", least=1, most=16
    )
    num_blocks: int = setting(
        3, "Blocks (squeeze, flow steps, split), or levels: L.", least=1, most=choices.MOST_BLOCKS
    )
    flow_steps: int = setting(
        32, "Flow steps per block, or in the finest level: K.", least=1, most=choices.MOST_STEPS
    )
    width: int = setting(512, "Hidden channels of a coupling network.", least=1, most=choices.MOST_WIDTH)
    coupling: str = setting(
        "affine",
        "What a coupling does to half of the channels: {}; or module:Class, a Transform of your own.",
        choices=choices.COUPLINGS,
        own=True,
    )
    coupling_network: str = setting(
        "",
        "module:Class of a Keras layer of your own in the place of the coupling networks; empty: theirs.",
        own=True,
    )
    bijectors: str = setting(
        "",
        "module:Class of a bijector of your own in the place of ActNorm and the 1x1 convolution.",
        own=True,
    )
    scale: str = setting(
        "tanh:1",
        "Scale of the affine coupling: sigmoid, exp, or tanh:B, from e^-B to e^B; tanh alone is tanh:2.",
    )
    norm: str = setting("actnorm", "Inside the coupling networks: {}.", choices=choices.NORMS)
    activation: str = setting(
        "relu",
        "Between the convolutions of the coupling networks: {}; gelu is approximated by tanh, and leaky_relu "
        "has a slope of 0.1. relu is by far the fastest, since the convolutions do its work.",
        choices=choices.ACTIVATIONS,
    )
    bounded: bool = setting(
        True,
        "Bound the features of a condition network, the shifts of couplings and, more closely, the learned "
        "log-deviations, softly, so that images unlike those of the training stay finite.",
    )
    squeeze: str = setting(
        "haar",
        "How 2x2 pixels become one with four times the channels: {}. haar takes their mean and three "
        "differences, pixels places them side by side, as in the paper.",
        choices=choices.SQUEEZES,
    )
    permutation: str = setting("lu", "Channel mixing: {}.", choices=choices.PERMUTATIONS)
    split_prior: str = setting(
        "learned",
        "Base of what is factored out, in levels of the details: {}.",
        choices=choices.GAUSSIANS,
    )
    top_prior: str = setting(
        "learned",
        "Base of the last latent: {}.",
        choices=choices.GAUSSIANS,
    )
    local_prior: str = setting(
        "standard",
        "Density that scores the output of every part but the last while it is trained: learned or standard "
        "(Gaussians), or flow:WxK, a flow head of width W with at most K flow steps in each remaining block.",
    )
    precision: str = setting(
        "float32", "Of the coupling networks: {}; everything else is float32.", choices=choices.PRECISIONS
    )
    parts: str | int | Sequence[int] = setting(
        "1",
        "1, by_block:N, across_block:N, or flow steps per part such as 16,32,48.",
    )
    seed: int = 0
    condition_shape: ConditionShape = ()
    architecture: str = setting(
        "glow",
        "{}: the paper's flow, which --parts cuts, or num_blocks levels, each of which is a part: the "
        "details that an image of half the size lacks, given that image.",
        choices=choices.ARCHITECTURES,
        own=True,
    )
    level_steps: str | Sequence[int] = setting(
        "",
        "Flow steps of each level, the finest first, and of the coarsest image, comma-separated; empty: "
        "flow_steps in the finest level and half as many elsewhere, but at least two.",
    )
    level_widths: str | Sequence[int] = setting(
        "", "Width in each level, the finest first, and in the coarsest image; empty: width everywhere."
    )
    condition_features: int = setting(
        32,
        "Features of what a flow is given, such as a level's smaller image, that each coupling reads; 0: "
        "what is given itself, where there are no levels.",
        most=choices.MOST_WIDTH,
    )
    condition_depth: int = setting(
        4, "Convolutions of the network that makes these features.", least=1, most=choices.MOST_BLOCKS
    )
    condition_network: str = setting(
        "",
        "module:Class of a Keras layer of your own that makes these features; empty: the package's.",
        own=True,
    )
    condition_activation: str = setting(
        "silu", "Between these convolutions: {}.", choices=choices.ACTIVATIONS
    )
    data: str = setting(
        "bytes",
        "{}: integers of 8 bits, or of 16 with n_bits above 8, to which noise is added, or real numbers as "
        "they are, centred and scaled by the training data.",
        choices=choices.DATA,
    )
    equalize: float = setting(
        0.0,
        "For images with flat regions, such as drawings: in this share of the range of pixels, up to 0.9, "
        "grey values that are far more frequent than others have room by that. For n_bits up to 8.",
    )
    coarsest_squeeze: str = setting(
        "auto",
        "Of levels, whether the flow of the coarsest image begins with a squeeze: {}; auto: where both of "
        "its sides are even.",
        choices=choices.COARSEST,
    )

    def __post_init__(self):
        check_fields(self)
        in_range(self, "seed", 0, choices.MOST)
        if self.is_real and self.n_bits != 8:
            raise ConfigError(f"n_bits is for data=bytes. Received: n_bits={self.n_bits}, data='real'")
        require(
            0 <= self.equalize <= choices.MOST_EQUALIZED,
            self,
            "equalize",
            f"from 0 to {choices.MOST_EQUALIZED}",
        )
        if self.equalize and (self.is_real or self.n_bits > 8):
            raise ConfigError(
                "equalize is for data=bytes with n_bits of 8 or less. "
                f"Received: equalize={self.equalize}, data={self.data!r}, n_bits={self.n_bits}"
            )
        require(_has_names_of_arguments(self.condition_shape), self, "condition_shape", NAMES)
        require(
            max(self.image_shape) <= choices.MOST_SIDE, self, "image_shape", f"{choices.MOST_SIDE} or less"
        )
        read_scale(self.scale)
        read_local_prior(self.local_prior)

    @classmethod
    def of_saved(cls, settings: Mapping[str, Any]) -> ModelConfig:
        """Returns the model whose settings a file has.

        A file makes Python import nothing. ConfigError if the settings do not fit, or name code of one's own
        whose module is not imported; TypeError if one is unknown, or `image_shape` is missing.
        """
        for name in (own.name for own in settings_of(cls) if own.metadata["own"]):
            module, colon, _ = str(settings.get(name)).partition(":")
            if colon and "{" not in module and module not in sys.modules:
                raise ConfigError(
                    "the model has code of one's own: import its module first. "
                    f"Received: {name}={settings[name]!r:.100}"
                )
        return cls(**settings)

    @property
    def is_real(self) -> bool:
        """Whether the data are real numbers."""
        return self.data == "real"

    @property
    def data_dtype(self) -> str:
        """The type of the data: `uint8`, `uint16` or `float32`."""
        return "float32" if self.is_real else "uint8" if self.n_bits <= 8 else "uint16"

    @property
    def bits(self) -> int | None:
        """Bits per dimension of a uniform density of the data; None for real data."""
        return None if self.is_real else self.n_bits

    @property
    def is_pictures(self) -> bool:
        """Whether the data can be shown as pictures: bytes of one channel or three."""
        return self.data_dtype == "uint8" and self.image_shape[-1] in (1, 3)

    @property
    def has_own_steps(self) -> bool:
        """Whether flow steps have layers of one's own, whose size nobody knows."""
        return bool(self.coupling_network or self.bijectors)

    @property
    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what the model is given, by name; a condition without names has the name ""."""
        return shapes_by_name(self.condition_shape)

    @property
    def given_channels(self) -> int:
        """Channels of all that the model is given."""
        return sum(shape[-1] for shape in self.condition_shapes.values())

    @property
    def coupling_config(self) -> CouplingConfig:
        """The settings of every coupling; a level gives its own more to read."""
        network_dtype = None if self.precision == "float32" else self.precision
        read = (self.condition_features or self.given_channels) if self.given_channels else 0
        return CouplingConfig(
            kind=self.coupling,
            network_dtype=network_dtype,
            condition_channels=read,
            network=self.coupling_network,
            **{name: getattr(self, name) for name in OF_COUPLINGS},
        )


def _has_names_of_arguments(shape: ConditionShape) -> bool:
    """Whether an exported model can have the names of conditions, if there are any, as its arguments."""
    names = [] if shape == shapes_by_name(shape).get("") else [name for name, _ in shape]
    different = {name.lower() for name in names}  # TensorFlow numbers those that differ in case alone
    fits = all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not iskeyword(name) for name in names)
    return fits and len(different) == len(names) and not TAKEN & different


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """The size of a flow head, the narrow flow that scores a part's output while the part is trained."""

    width: int  # hidden channels of its coupling networks
    flow_steps: int  # the most that it has in each remaining block


def read_local_prior(local_prior: str) -> HeadSize | None:
    """Reads the `--local_prior` notation: `standard` or `learned`, Gaussians, or `flow:WxK`, a flow head.

    Returns the size of the head; None for a Gaussian. ConfigError if it is none of these, or W or K is 0.
    """
    if local_prior in choices.GAUSSIANS:
        return None
    found = re.fullmatch(r"flow:([0-9]{1,9})x([0-9]{1,9})", local_prior)
    size = HeadSize(*map(int, found.groups())) if found else HeadSize(0, 0)
    if not (size.width and size.flow_steps):
        raise ConfigError(
            f"local_prior must be {', '.join(choices.GAUSSIANS)} or flow:WxK with W and K from 1, such as "
            f"flow:8x2. Received: {local_prior=}"
        )
    return size
