"""What an architecture says of itself."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from glow_tf.architectures.partition import Element, PartLayout
from glow_tf.config.choices import ARCHITECTURES
from glow_tf.core.errors import ConfigError
from glow_tf.core.lazy import imported

if TYPE_CHECKING:
    from glow_tf.bijectors import Bijector, Stack
    from glow_tf.config import ModelConfig

SEEDS = 10_007  # of each model; the first ones are for its flow steps


class Architecture(abc.ABC):
    """A kind of flow: how an image becomes parts, what these are made of and cost, and what suits a data set.

    One subclass, in a file of its own, is a whole architecture. `ModelConfig(architecture="module:Class")`
    names it, or a line in `ARCHITECTURES`. It holds no state: every method takes the settings. Methods import
    the bijectors that they make, so that settings need no TensorFlow.

    Attributes:
      name: how messages name a model.
      settings: the fields of `ModelConfig` that only this architecture has. Others refuse them.
      separable: whether parts share nothing. Then each may be trained alone, anywhere, in any order.
      any_size: whether parts are convolutions, which take images of any size, and learn from crops of them.
      images_between_parts: whether a part hands on the image at half the size.
      suited: the settings, besides the sizes, of a run without a flagfile.
    """

    name: ClassVar[str]
    settings: ClassVar[Sequence[str]] = ()
    separable: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    images_between_parts: ClassVar[bool] = False
    suited: ClassVar[Mapping[str, Any]] = {}

    def check(self, config: ModelConfig) -> None:
        """Raises ConfigError if settings contradict one another, or mean nothing here."""
        others = [known for known in map(architecture, ARCHITECTURES) if type(known) is not type(self)]
        defaults = {field.name: field.default for field in dataclasses.fields(config)}
        for name in {name for other in others for name in other.settings} - set(self.settings):
            if (value := getattr(config, name)) != defaults[name]:
                theirs = [key for key in ARCHITECTURES if name in architecture(key).settings]
                raise ConfigError(
                    f"{name} is for architecture={' or '.join(theirs)}. "
                    f"Received: {name}={value!r}, architecture={config.architecture!r}"
                )

    # How an image becomes parts

    @abc.abstractmethod
    def cuts(self, config: ModelConfig) -> tuple[int, ...]:
        """Returns the flow steps of each part; ConfigError if the settings do not fit."""

    @abc.abstractmethod
    def widths(self, config: ModelConfig) -> tuple[int, ...]:
        """Returns the width of the coupling networks of each part."""

    @abc.abstractmethod
    def halvings(self, config: ModelConfig, size: tuple[int, int]) -> int:
        """Returns how often the height and width of an image are halved; they must be even each time."""

    @abc.abstractmethod
    def layouts(self, config: ModelConfig) -> tuple[PartLayout, ...]:
        """Returns the elements of each part with their costs, and its output's shape, but no `given`."""

    def least_side(self, config: ModelConfig) -> int:
        """Returns the least height or width of an image."""
        return 1

    @abc.abstractmethod
    def steps_in_series(self, config: ModelConfig, k: int) -> int:
        """Returns how many flow steps run one after another where part k (from 0) is; rates depend on it."""

    @abc.abstractmethod
    def place(self, config: ModelConfig, step: Element) -> int:
        """Returns the place of a flow step in the whole flow, from 1; its starting values depend on it."""

    def seed(self, config: ModelConfig, step: Element) -> int:
        """Returns the seed of a flow step: the same wherever the flow is cut."""
        return config.seed * SEEDS + self.place(config, step)

    def outputs_per_channel(self, config: ModelConfig) -> int:
        """Returns how many numbers a coupling's network makes for each channel that the coupling changes."""
        from glow_tf.bijectors.coupling import transform_of

        return transform_of(config.coupling, config.scale, config.bounded).outputs_per_channel

    # Images of another size

    def resized(
        self, config: ModelConfig, image_shape: tuple[int, int, int]
    ) -> tuple[ModelConfig, tuple[int, ...]]:
        """Returns the settings of the same model for images of another size.

        With them comes, for each of the parts that they make, the part of this model that serves there, from
        0: the new part has its weights. ConfigError if a model of these settings has one size alone.
        """
        raise ConfigError(
            "this architecture does not say how its models take images of another size: its method `resized` "
            f"would. Received: architecture={config.architecture!r}, image_shape={image_shape}"
        )

    def serving(self, config: ModelConfig, image_shape: tuple[int, int, int], level: int) -> int:
        """Returns which part makes the details of a level, from 0, of images of a shape; only of levels."""
        return level

    # What parts are made of

    @abc.abstractmethod
    def bijectors(self, layout: PartLayout, config: ModelConfig, dtype: Any) -> list[Bijector]:
        """Makes the bijectors of a part, not built."""

    def flow_steps(self, steps: Sequence[Element], config: ModelConfig, dtype: Any, name: str) -> Stack:
        """Makes flow steps that follow one another. All have the width of the first."""
        from glow_tf.bijectors import Stack
        from glow_tf.bijectors.flow_step import flow_step

        coupling = dataclasses.replace(config.coupling_config, width=steps[0].hidden)
        seed = self.seed(config, steps[0])
        step = flow_step(
            config.bijectors, coupling, config.permutation, seed=seed, dtype=dtype, name="flow_step"
        )
        return Stack(step, len(steps), dtype=dtype, name=name)

    def top_prior(self, config: ModelConfig, dtype: Any) -> Bijector:
        """Makes the prior of the last part's output."""
        from glow_tf.bijectors import GaussianPrior

        read = config.coupling_config.condition_channels
        return GaussianPrior(config.top_prior, read, config.bounded, dtype=dtype, name="prior")

    @abc.abstractmethod
    def local_prior(self, config: ModelConfig, dtype: Any) -> Bijector:
        """Makes the density that scores the output of every part but the last."""

    # What suits a data set, in a run without a flagfile

    @abc.abstractmethod
    def suited_flow_steps(self, num_blocks: int) -> int:
        """Returns the `flow_steps` that suit a model of `num_blocks` blocks."""

    def implied(self, settings: Mapping[str, Any], unknown: set[str]) -> dict[str, int]:
        """Returns those of `num_blocks` and `flow_steps` that are unknown and follow from other settings."""
        return {}

    def describe(self, config: ModelConfig) -> tuple[str, str]:
        """Returns what a preset's card says of the kind of model, and of its flow steps."""
        return self.name[0].upper() + self.name[1:], f"{config.num_blocks} × {config.flow_steps}"


def architecture(name: str) -> Architecture:
    """Returns the architecture of a name, or of `module:Class`; ConfigError if there is none."""
    if name not in ARCHITECTURES and ":" not in name:
        listed = ", ".join(ARCHITECTURES)
        raise ConfigError(f"architecture must be one of {listed}, or module:Class. Received: {name!r}")
    found = imported("architecture", ARCHITECTURES.get(name, name))
    if not (isinstance(found, type) and issubclass(found, Architecture)):
        raise ConfigError(f"architecture must name an Architecture. Received: architecture={name!r}")
    return found()
