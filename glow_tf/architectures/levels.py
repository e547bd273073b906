"""Levels: conditional flows of Haar details, at last a flow of the coarsest image; parts share nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from glow_tf.architectures.architecture import Architecture
from glow_tf.architectures.partition import (
    Element,
    PartLayout,
    flow_step_elements,
    is_given_vectors,
    network_macs,
)
from glow_tf.config.choices import MOST_BLOCKS
from glow_tf.config.notations import read_level_steps, read_level_widths
from glow_tf.core.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.bijectors import Bijector
    from glow_tf.config import ModelConfig

FINEST_STEPS = 8  # flow steps of the finest level, where nothing is said
LINES = {"last_row": 1, "last_column": 2}  # kinds of elements, with the axis


class Levels(Architecture):
    """p(x_0) = p(x_L) · Π p(d_l | x_l): each part is the flow of the details that half the size lacks.

    A part's input is a fixed function of the image, and its objective is its own term of the log-likelihood.
    A part of details is a convolution, and has no size. Where a side is odd, the last row or column is
    factored out before the image is halved; see `LastLine`.
    Reference: Yu et al. 2020 (Wavelet Flow), section 3, https://arxiv.org/abs/2010.13821
    """

    name = "levels"
    settings = ("level_steps", "level_widths", "coarsest_squeeze")
    separable = True
    any_size = True
    images_between_parts = True
    suited = {"schedule": "simultaneous", "equalize": 0.5}  # as in configs/own_images.cfg

    def check(self, config: ModelConfig) -> None:
        super().check(config)
        if not config.condition_features:
            raise ConfigError("levels need condition_features, which must be 1 or more. Received: 0")

    def cuts(self, config: ModelConfig) -> tuple[int, ...]:
        return read_level_steps(config.level_steps, config.num_blocks, config.flow_steps)

    def widths(self, config: ModelConfig) -> tuple[int, ...]:
        return read_level_widths(config.level_widths, config.num_blocks, config.width)

    def halvings(self, config: ModelConfig, size: tuple[int, int]) -> int:
        return 0  # that must be even

    def least_side(self, config: ModelConfig) -> int:
        return (2 if config.coarsest_squeeze == "on" else 1) << config.num_blocks

    def resized(
        self, config: ModelConfig, image_shape: tuple[int, int, int]
    ) -> tuple[ModelConfig, tuple[int, ...]]:
        """Halves images while the coarsest one's shorter side is half of the model's or more, and 2 at least.

        Details are what the model knows best. On photographs of 24×24 release 0.5's cifar10_small, whose
        coarsest images are of 4×4, has 2.39 bits/dim with three levels (3×3 is left), 2.57 with two and 3.58
        with one; of 64×64 2.37 with five or four, 2.42 with three. `serving` says what makes them.
        """
        least = max((min(config.image_shape[:2]) >> config.num_blocks) // 2, 2)
        levels = (min(image_shape[:2]) // least).bit_length() - 1
        levels = min(max(levels, 1), MOST_BLOCKS)
        (steps, *_, last_steps), (width, *_, last_width) = self.cuts(config), self.widths(config)
        squeezes = any(element.kind == "squeeze" for element in self.layouts(config)[-1].elements)
        changed = dataclasses.replace(
            config,
            image_shape=image_shape,
            num_blocks=levels,
            level_steps=(*[steps] * levels, last_steps),
            level_widths=(*[width] * levels, last_width),
            coarsest_squeeze="on" if squeezes else "off",
        )
        served = (self.serving(config, image_shape, level) for level in range(levels))
        return changed, (*served, config.num_blocks)

    def serving(self, config: ModelConfig, image_shape: tuple[int, int, int], level: int) -> int:
        """At the model's own size each part makes its level, at other sizes the finest makes all of them.

        Photographs look alike at all scales, and the finest part has learned from the most pixels. Of release
        0.5's cifar10_small on photographs of 64×64 it is the best at every scale: 2.184 bits/dim where it
        makes all four levels, 2.189 where it makes two or three, and 2.238 where it makes one.
        """
        return level if image_shape == config.image_shape else 0

    def steps_in_series(self, config: ModelConfig, k: int) -> int:
        return self.cuts(config)[k]

    def place(self, config: ModelConfig, step: Element) -> int:
        return sum(self.cuts(config)[: step.block - 1]) + step.step

    def layouts(self, config: ModelConfig) -> tuple[PartLayout, ...]:
        height, width, channels = config.image_shape
        features, depth = config.condition_features, config.condition_depth
        given = config.coupling_config.condition_channels
        *finer, coarsest = zip(self.cuts(config), self.widths(config), strict=True)
        layouts = []
        for level, (count, hidden) in enumerate(finer, start=1):
            lines = _lines(level, height, width, channels)
            height, width = height // 2, width // 2
            pixels, details = height * width, 3 * channels
            network = network_macs(channels + given, features, depth)
            size = (height, width, details)
            elements = (
                *lines,
                Element("haar", level, 0, height, width, 4 * channels, 0),
                Element("features", level, 0, height, width, features, pixels * network),
                *flow_step_elements(config, level, count, size, hidden, features),
                Element("prior", level, 0, *size, pixels * 9 * features * 2 * details),
            )
            layouts.append(PartLayout(elements, (height, width, channels)))
        count, hidden = coarsest
        block, squeezes = len(layouts) + 1, height % 2 == width % 2 == 0
        if config.coarsest_squeeze != "auto":
            squeezes = config.coarsest_squeeze == "on"
        lines = _lines(block, height, width, channels) if squeezes else []
        if squeezes:
            height, width, channels = height // 2, width // 2, 4 * channels
        size = (height, width, channels)
        steps = flow_step_elements(config, block, count, size, hidden, given, is_given_vectors(config))
        squeeze = [Element("squeeze", block, 0, *size, 0)] * squeezes
        return (*layouts, PartLayout((*lines, *squeeze, *steps), size))

    def bijectors(self, layout: PartLayout, config: ModelConfig, dtype: Any) -> list[Bijector]:
        from glow_tf.bijectors import FlowSplit, Haar, LastLine
        from glow_tf.bijectors.squeeze import squeeze

        kinds = [e.kind for e in layout.elements]
        steps = [e for e in layout.elements if e.kind == "flow_step"]
        level, read = steps[0].block, config.coupling_config.condition_channels
        lines = [
            LastLine(LINES[kind], dtype=dtype, name=f"level_{level}_{kind}")
            for kind in kinds
            if kind in LINES
        ]
        if not layout.fixed:  # the flow of the coarsest image
            stack = self.flow_steps(steps, config, dtype, f"block_{level}_flow_steps")
            if "squeeze" not in kinds:
                return [stack]
            return [*lines, squeeze(config.squeeze, dtype=dtype, name=f"block_{level}_squeeze"), stack]
        coupling = dataclasses.replace(
            config.coupling_config, width=steps[0].hidden, condition_channels=config.condition_features
        )
        details = FlowSplit(
            layout.output_shape[-1],
            coupling,
            len(steps),
            config.permutation,
            config.condition_depth,
            read,
            seed=self.seed(config, steps[0]),
            prior=config.split_prior,
            bijectors=config.bijectors,
            condition_activation=config.condition_activation,
            dtype=dtype,
            name=f"level_{level}_details",
        )
        return [*lines, Haar(dtype=dtype, name=f"level_{level}_haar"), details]

    def local_prior(self, config: ModelConfig, dtype: Any) -> Bijector:
        from glow_tf.bijectors import UniformPrior

        return UniformPrior(dtype=dtype, name="prior")

    def suited_flow_steps(self, num_blocks: int) -> int:
        return FINEST_STEPS

    def implied(self, settings: Mapping[str, Any], unknown: set[str]) -> dict[str, int]:
        listed = settings["level_steps"] or settings["level_widths"]
        return {"num_blocks": max(listed.count(","), 1)} if listed and "num_blocks" in unknown else {}

    def describe(self, config: ModelConfig) -> tuple[str, str]:
        return "Levels", ", ".join(map(str, self.cuts(config)))


def _lines(block: int, height: int, width: int, channels: int) -> list[Element]:
    """Returns what makes both sides of an image even."""
    even = [side // 2 * 2 for side in (height, width)]
    row = Element("last_row", block, 0, even[0], width, channels, 0)
    column = Element("last_column", block, 0, *even, channels, 0)
    return [row] * (height % 2) + [column] * (width % 2)
