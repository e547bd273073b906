"""What an architecture says of itself."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from glow_tf.architectures.partition import FLOAT_BYTES, Element, PartLayout, network_macs
from glow_tf.config import ModelConfig, names_own_layer
from glow_tf.core.errors import ConfigError

SEEDS = 10_007  # of each model; the first ones are for its flow steps
FLOW_STEPS, MOST_PER_BLOCK = 24, 12  # of all blocks, and of one, where nothing is said
OUTPUTS_PER_CHANNEL = {"affine": 2, "additive": 1}  # that a coupling's network makes


@dataclasses.dataclass(frozen=True)
class Architecture(abc.ABC):
    """A kind of flow, bound to the settings of a model: its parts, what they are made of and cost.

    One subclass is a whole architecture; `name`, `cuts` and `lay_out` are all that it must say.
    `ModelConfig(architecture="module:Class")` names it, and `design_of` binds it.

    Attributes:
      config: the settings of the model.
      name: how messages name a model.
      settings: the fields of `ModelConfig` that only this architecture has. Others refuse them.
      separable: whether parts share nothing. Then each may be trained alone, anywhere, in any order.
      any_size: whether parts are convolutions, which take images of any size, and learn from crops of them.
      images_between_parts: whether a part hands on the image at half the size.
      suited: the settings, besides the sizes, of a run without a flagfile.
    """

    config: ModelConfig

    name: ClassVar[str]
    settings: ClassVar[Sequence[str]] = ()
    separable: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    images_between_parts: ClassVar[bool] = False
    suited: ClassVar[Mapping[str, Any]] = {}

    def check(self) -> None:
        """Raises ConfigError if settings contradict one another; `design_of` calls it."""
        _ = self.cuts, self.widths

    # How an image becomes parts

    @property
    @abc.abstractmethod
    def cuts(self) -> tuple[int, ...]:
        """The flow steps of each part; ConfigError if the settings do not fit."""

    @abc.abstractmethod
    def lay_out(self) -> tuple[PartLayout, ...]:
        """Returns the elements of each part with their costs, and its output's shape, but no `given`."""

    @property
    def num_parts(self) -> int:
        """Number of parts n."""
        return len(self.cuts)

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of the coupling networks of each part."""
        return (self.config.width,) * self.num_parts

    @functools.cached_property
    def layouts(self) -> tuple[PartLayout, ...]:
        """The elements of each part; ConfigError if the image does not fit, see `check_size`."""
        self.check_size(self.config.image_shape)
        layouts = self.lay_out()
        return tuple(dataclasses.replace(p, given=self._given(p, p is layouts[-1])) for p in layouts)

    def halvings(self, size: tuple[int, int]) -> int:
        """Returns how often the height and width of an image are halved; they must be even each time."""
        return 0

    @property
    def least_side(self) -> int:
        """The least height or width of an image."""
        return 1

    def check_size(self, image_shape: Sequence[int], received: str = "") -> None:
        """Raises ConfigError, naming the nearest sizes that fit, unless H and W can be halved as they must.

        The message says what was `received`, by default the image's sides.
        """
        height, width = image_shape[:2]
        received, blocks = received or f"image of {height}×{width}", self.config.num_blocks
        if min(height, width) < self.least_side:
            raise ConfigError(
                f"height and width must be {self.least_side} or more with num_blocks={blocks}, which halves "
                f"them as often. Received: {received}"
            )
        halvings = self.halvings((height, width))
        multiple = 2**halvings
        if height % multiple or width % multiple:
            sides = {side for side in (height, width) if side % multiple}
            nearest = {s // multiple * multiple for s in sides}
            nearest |= {-(-s // multiple) * multiple for s in sides}
            fewer = min((side & -side).bit_length() for side in (height, width))
            instead = f", or --num_blocks={fewer}" if fewer else ""
            raise ConfigError(
                f"num_blocks={blocks} halves the image {halvings} times, so height and width must be "
                f"multiples of {multiple}; the nearest that are: "
                f"{', '.join(map(str, sorted(nearest - {0})))} (--image_size resizes){instead}. "
                f"Received: {received}"
            )

    # Elements, and what they cost

    def flow_steps(
        self, block: int, count: int, size: tuple[int, int, int], hidden: int = 0, features: int = 0
    ) -> list[Element]:
        """Returns the flow steps of a block, which keep the size (H, W, C).

        Args:
          block: from 1.
          count: how many.
          size: (H, W, C) of what they change.
          hidden: hidden channels of the coupling networks; 0: the width of the settings.
          features: channels of a map that the couplings read; 0: of what the model is given, if anything.
        """
        height, width, channels = size
        hidden = hidden or self.config.width
        given = features or self.config.coupling_config.condition_channels
        first = max(channels // 2, 1)
        outputs = self._outputs_per_channel * max(channels - first, 1)
        network = 9 * first * hidden + hidden * hidden + 9 * hidden * outputs
        is_vector = not features and self._is_given_vectors
        once = given * hidden if is_vector else 0
        macs = height * width * (network + channels * channels + given * hidden * (not is_vector)) + once
        return [Element("flow_step", block, k, *size, macs, hidden, once) for k in range(1, count + 1)]

    @functools.cached_property
    def _outputs_per_channel(self) -> int:
        coupling = self.config.coupling
        if not names_own_layer(coupling):
            return OUTPUTS_PER_CHANNEL[coupling]
        from glow_tf.architectures.own_layers import made  # which needs Keras

        # A coupling refuses what has none.
        return getattr(made("coupling", coupling), "outputs_per_channel", 1)

    def _given(self, layout: PartLayout, last: bool) -> tuple[Element, ...]:
        """Returns what a part makes of a condition, and what the top base reads of it."""
        config, block = self.config, layout.elements[0].block
        found: list[Element] = []
        if config.condition_shape and config.condition_features:
            height, width = self._size_of_condition
            features = config.condition_features
            macs = network_macs(config.given_channels, features, config.condition_depth)
            found += [Element("condition", block, 0, height, width, features, height * width * macs)]
        read = config.coupling_config.condition_channels
        if read and last and config.top_prior == "learned":
            height, width, channels = layout.output_shape
            macs = 9 * read * 2 * channels
            once = macs if self._is_given_vectors else 0
            macs = once or height * width * macs
            block = layout.elements[-1].block
            found += [Element("base", block, 0, height, width, channels, macs, once=once)]
        return tuple(found)

    @property
    def _size_of_condition(self) -> tuple[int, int]:
        """Height and width of the largest map that is given; a vector is a map of one pixel."""
        shapes = self.config.condition_shapes.values()
        return max([(1, 1), *(shape[:2] for shape in shapes if len(shape) == 3)], key=math.prod)

    @property
    def _is_given_vectors(self) -> bool:
        return self._size_of_condition == (1, 1)

    @property
    def model_bytes(self) -> int:
        """Bytes of the model's weights, in float32 and nearly: those of biases are not counted.

        Those of layers of one's own are not counted either: nobody knows their size.
        """
        config = self.config
        elements = [e for p in self.layouts for e in (*p.elements, *p.given)]
        own = {"flow_step": config.has_own_steps, "condition": config.condition_network}
        elements = [e for e in elements if not own.get(e.kind)]
        is_fixed = config.permutation not in ("lu", "plain")
        fixed = sum(e.channels**2 for e in elements if is_fixed and e.kind == "flow_step")
        return FLOAT_BYTES * (sum(e.kernel_size for e in elements) - fixed)

    # What training and starting values follow

    def steps_in_series(self, k: int) -> int:
        """Returns how many flow steps run one after another where part k (from 0) is; rates depend on it."""
        return sum(self.cuts)

    def seed(self, step: Element) -> int:
        """Returns the seed of a flow step, by its place in the whole flow: the same wherever that is cut."""
        return self.config.seed * SEEDS + self._places[step.block, step.step]

    @functools.cached_property
    def _places(self) -> dict[tuple[int, int], int]:
        elements = (e for layout in self.layouts for e in layout.elements)
        steps = [(e.block, e.step) for e in elements if e.kind == "flow_step"]
        return {step: place for place, step in enumerate(steps, start=1)}

    # Images of another size

    def resized(self, image_shape: tuple[int, int, int]) -> tuple[ModelConfig, tuple[int, ...]]:
        """Returns the settings of the same model for images of another size.

        With them comes, for each of the parts that they make, the part of this model that serves there, from
        0: the new part has its weights. ConfigError if a model of these settings has one size alone.
        """
        raise ConfigError(
            "this architecture does not say how its models take images of another size: its method `resized` "
            f"would. Received: architecture={self.config.architecture!r}, image_shape={image_shape}"
        )

    def takes_also(self, image_shape: tuple[int, int, int]) -> bool:
        """Whether images have another size than the model's, and its parts, which have none, take them."""
        own = self.config.image_shape
        return self.any_size and own[:2] != image_shape[:2] and own[2] == image_shape[2]

    def serving(self, image_shape: tuple[int, int, int], level: int) -> int:
        """Returns which part makes the details of a level, from 0, of images of a shape; only of levels."""
        return level

    # What suits a data set, in a run without a flagfile

    @classmethod
    def suited_flow_steps(cls, num_blocks: int) -> int:
        """Returns the `flow_steps` that suit a model of `num_blocks` blocks."""
        return min(max(FLOW_STEPS // num_blocks, 1), MOST_PER_BLOCK)

    @classmethod
    def implied(cls, settings: Mapping[str, Any], unknown: set[str]) -> dict[str, int]:
        """Returns those of `num_blocks` and `flow_steps` that are unknown and follow from other settings."""
        return {}

    def describe(self) -> tuple[str, str]:
        """Returns what a preset's card says of the kind of model, and of its flow steps."""
        return self.name[0].upper() + self.name[1:], f"{self.config.num_blocks} × {self.config.flow_steps}"
