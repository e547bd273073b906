"""The paper's flow: blocks of squeeze, flow steps and split, which `--parts` cuts."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from glow_tf.architectures.architecture import Architecture
from glow_tf.architectures.partition import (
    Element,
    PartLayout,
    flow_step_elements,
    is_given_vectors,
)
from glow_tf.config.notations import read_cuts, read_local_prior
from glow_tf.core.errors import ConfigError

if TYPE_CHECKING:
    from glow_tf.bijectors import Bijector
    from glow_tf.config import ModelConfig

FLOW_STEPS, MOST_PER_BLOCK = 24, 12  # of all blocks, and of one, where nothing is said


class MultiScale(Architecture):
    """Glow: blocks of squeeze → K flow steps → split, in the last block without the split.

    A squeeze belongs to the part of the flow steps after it, a split to the part of the flow steps before it.
    Reference: Kingma & Dhariwal 2018, section 3, https://arxiv.org/abs/1807.03039
    """

    name = "a Glow"
    settings = ("parts", "local_prior")

    def cuts(self, config: ModelConfig) -> tuple[int, ...]:
        return read_cuts(config.parts, config.num_blocks, config.flow_steps)

    def widths(self, config: ModelConfig) -> tuple[int, ...]:
        return (config.width,) * config.num_parts

    def halvings(self, config: ModelConfig, size: tuple[int, int]) -> int:
        # The last block halves a side where that is even by then, and none does where a side is 1.
        return 0 if min(size) == 1 else config.num_blocks - 1

    def steps_in_series(self, config: ModelConfig, k: int) -> int:
        return config.num_blocks * config.flow_steps

    def place(self, config: ModelConfig, step: Element) -> int:
        return (step.block - 1) * config.flow_steps + step.step

    def layouts(self, config: ModelConfig) -> tuple[PartLayout, ...]:
        cuts = list(itertools.accumulate(self.cuts(config)))
        elements, heads = _elements(config), _heads(config, cuts)
        ends = _ends_of_steps(elements)
        return tuple(
            PartLayout(tuple(elements[ends[begin] : ends[end]]), _output_shape(elements[ends[end] - 1]), head)
            for begin, end, head in zip([0, *cuts], cuts, heads, strict=False)
        )

    def resized(
        self, config: ModelConfig, image_shape: tuple[int, int, int]
    ) -> tuple[ModelConfig, tuple[int, ...]]:
        step = 2 << config.num_blocks  # then sides are halved as often, and squeezed in the same blocks
        if any((own - side) % step for own, side in zip(config.image_shape[:2], image_shape, strict=False)):
            own = "×".join(map(str, config.image_shape[:2]))
            raise ConfigError(
                f"the sides of this Glow's images differ from {own} by multiples of {step}. "
                f"Received: image_shape={image_shape}"
            )
        return dataclasses.replace(config, image_shape=image_shape), (*range(config.num_parts),)

    def bijectors(self, layout: PartLayout, config: ModelConfig, dtype: Any) -> list[Bijector]:
        from glow_tf.bijectors import Split
        from glow_tf.bijectors.squeeze import squeeze

        found: list[Bijector] = []
        for (block, kind), elements in itertools.groupby(layout.elements, lambda e: (e.block, e.kind)):
            label = f"block_{block}_{kind}"
            if kind == "squeeze":
                found.append(squeeze(config.squeeze, dtype=dtype, name=label))
            elif kind == "split":
                read = config.coupling_config.condition_channels
                found.append(Split(config.split_prior, read, config.bounded, dtype=dtype, name=label))
            else:
                found.append(self.flow_steps(list(elements), config, dtype, f"{label}s"))
        return found

    def local_prior(self, config: ModelConfig, dtype: Any) -> Bijector:
        from glow_tf.bijectors import GaussianPrior

        kind = "learned" if config.local_prior == "learned" else "standard"
        read = config.coupling_config.condition_channels
        return GaussianPrior(kind, read, config.bounded, dtype=dtype, name="prior")

    def suited_flow_steps(self, num_blocks: int) -> int:
        return min(max(FLOW_STEPS // num_blocks, 1), MOST_PER_BLOCK)

    def implied(self, settings: Mapping[str, Any], unknown: set[str]) -> dict[str, int]:
        if not unknown or not re.fullmatch(r"[0-9]{1,9}(, ?[0-9]{1,9})+", settings["parts"]):
            return {}
        if len(unknown) == 2:
            raise ConfigError(
                "flow steps in parts must add up to num_blocks × flow_steps: without a flagfile, give "
                f"--num_blocks or --flow_steps, too. Received: parts={settings['parts']!r}"
            )
        (name,) = unknown
        known = "flow_steps" if name == "num_blocks" else "num_blocks"
        total = sum(map(int, settings["parts"].split(",")))
        return {name: max(total // max(settings[known], 1), 1)}


def _elements(config: ModelConfig) -> list[Element]:
    height, width, channels = config.image_shape
    given, is_vector = config.coupling_config.condition_channels, is_given_vectors(config)
    elements = []
    for block in range(1, config.num_blocks + 1):
        if height % 2 == width % 2 == 0:
            height, width, channels = height // 2, width // 2, channels * 4
            elements.append(Element("squeeze", block, 0, height, width, channels, 0))
        size = (height, width, channels)
        elements += flow_step_elements(config, block, config.flow_steps, size, config.width, given, is_vector)
        kept, learned = channels // 2, config.split_prior == "learned"
        if block < config.num_blocks and height * width * kept > 1:  # a coupling needs two values
            macs = height * width * 9 * (kept + given) * 2 * (channels - kept) if learned else 0
            elements.append(Element("split", block, 0, height, width, channels, macs))
            channels = kept
    return elements


def _ends_of_steps(elements: Sequence[Element]) -> list[int]:
    """Returns how many elements the first i flow steps have, from i = 0; a split that follows is counted."""
    ends = [i + 1 for i, element in enumerate(elements) if element.kind == "flow_step"]
    return [0, *(end + (end < len(elements) and elements[end].kind == "split") for end in ends)]


def _heads(config: ModelConfig, cuts: Sequence[int]) -> list[tuple[Element, ...]]:
    """Returns the flow heads of parts that end after so many flow steps of the flow."""
    size = read_local_prior(config.local_prior)
    if size is None:
        return [()] * len(cuts)
    narrow = _elements(dataclasses.replace(config, width=size.width))
    ends = _ends_of_steps(narrow)
    return [_first_steps_of_blocks(narrow[ends[cut] :], size.flow_steps) for cut in cuts]


def _first_steps_of_blocks(elements: Sequence[Element], most: int) -> tuple[Element, ...]:
    """Returns elements without the flow steps that are not among the first `most` of their block here."""
    groups = itertools.groupby(elements, key=lambda element: (element.block, element.kind))
    kept = (itertools.islice(own, most if kind == "flow_step" else None) for (_, kind), own in groups)
    return tuple(itertools.chain.from_iterable(kept))


def _output_shape(last: Element) -> tuple[int, int, int]:
    return last.height, last.width, last.channels // 2 if last.kind == "split" else last.channels
