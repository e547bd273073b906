"""Levels: conditional flows of Haar details, at last a flow of the coarsest image; parts share nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from glow_tf.architectures.architecture import Architecture
from glow_tf.architectures.partition import Element, PartLayout, network_macs, whole_number
from glow_tf.config import ModelConfig
from glow_tf.config.choices import MOST_BLOCKS, MOST_STEPS, MOST_WIDTH
from glow_tf.core.errors import ConfigError

FINEST_STEPS = 8  # flow steps of the finest level, where nothing is said


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

    def check(self) -> None:
        super().check()
        if not self.config.condition_features:
            raise ConfigError("levels need condition_features, which must be 1 or more. Received: 0")

    @property
    def cuts(self) -> tuple[int, ...]:
        """The flow steps of each level, the finest first, and at last those of the coarsest image.

        Without `level_steps` the finest level has all of `flow_steps` and the others half of them, but two at
        least where there are two, as a single coupling changes half of the channels alone.
        """
        steps, levels = self.config.flow_steps, self.config.num_blocks
        usual = (steps, *[max((steps + 1) // 2, min(steps, 2))] * levels)
        return self._counts("level_steps", MOST_STEPS) or usual

    @property
    def widths(self) -> tuple[int, ...]:
        usual = (self.config.width,) * (self.config.num_blocks + 1)
        return self._counts("level_widths", MOST_WIDTH) or usual

    def _counts(self, name: str, most: int) -> tuple[int, ...]:
        """Reads a setting with a number for each level; empty if it says nothing."""
        text, count = getattr(self.config, name), self.config.num_blocks + 1
        found = tuple(whole_number(piece) for piece in text.split(",")) if text else ()
        if text and (len(found) != count or not all(number and number <= most for number in found)):
            raise ConfigError(
                f"{name} must be {count} integers from 1 to {most}, comma-separated: one for each level, the "
                f"finest first, and one for the coarsest image. Received: {name}={text!r}"
            )
        return found

    @property
    def least_side(self) -> int:
        return (2 if self.config.coarsest_squeeze == "on" else 1) << self.config.num_blocks

    def resized(self, image_shape: tuple[int, int, int]) -> tuple[ModelConfig, tuple[int, ...]]:
        """Halves images while the coarsest one's shorter side is half of the model's or more, and 2 at least.

        Details are what the model knows best. `serving` says what makes them.
        """
        config = self.config
        least = max((min(config.image_shape[:2]) >> config.num_blocks) // 2, 2)
        levels = (min(image_shape[:2]) // least).bit_length() - 1
        levels = min(max(levels, 1), MOST_BLOCKS)
        (steps, *_, last_steps), (width, *_, last_width) = self.cuts, self.widths
        squeezes = any(element.kind == "squeeze" for element in self.lay_out()[-1].elements)
        changed = dataclasses.replace(
            config,
            image_shape=image_shape,
            num_blocks=levels,
            level_steps=(*[steps] * levels, last_steps),
            level_widths=(*[width] * levels, last_width),
            coarsest_squeeze="on" if squeezes else "off",
        )
        served = (self.serving(image_shape, level) for level in range(levels))
        return changed, (*served, config.num_blocks)

    def serving(self, image_shape: tuple[int, int, int], level: int) -> int:
        """At the model's own size each part makes its level, at other sizes the finest makes all of them.

        Photographs look alike at all scales, and the finest part has learned from the most pixels.
        """
        return level if image_shape == self.config.image_shape else 0

    def steps_in_series(self, k: int) -> int:
        return self.cuts[k]

    def lay_out(self) -> tuple[PartLayout, ...]:
        config = self.config
        height, width, channels = config.image_shape
        features, depth = config.condition_features, config.condition_depth
        given = config.coupling_config.condition_channels
        *finer, coarsest = zip(self.cuts, self.widths, strict=True)
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
                *self.flow_steps(level, count, size, hidden, features),
                Element("base", level, 0, *size, pixels * 9 * features * 2 * details),
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
        steps = self.flow_steps(block, count, size, hidden)
        squeeze = [Element("squeeze", block, 0, *size, 0)] * squeezes
        return (*layouts, PartLayout((*lines, *squeeze, *steps), size))

    @classmethod
    def suited_flow_steps(cls, num_blocks: int) -> int:
        return FINEST_STEPS

    @classmethod
    def implied(cls, settings: Mapping[str, Any], unknown: set[str]) -> dict[str, int]:
        listed = settings["level_steps"] or settings["level_widths"]
        return {"num_blocks": max(listed.count(","), 1)} if listed and "num_blocks" in unknown else {}

    def describe(self) -> tuple[str, str]:
        return "Levels", ", ".join(map(str, self.cuts))


def _lines(block: int, height: int, width: int, channels: int) -> list[Element]:
    """Returns what makes both sides of an image even."""
    even = [side // 2 * 2 for side in (height, width)]
    row = Element("last_row", block, 0, even[0], width, channels, 0)
    column = Element("last_column", block, 0, *even, channels, 0)
    return [row] * (height % 2) + [column] * (width % 2)
