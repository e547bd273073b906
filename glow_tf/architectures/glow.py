"""The paper's flow: blocks of squeeze, flow steps and split, which `--parts` cuts."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from glow_tf.architectures.architecture import Architecture
from glow_tf.architectures.partition import Element, PartLayout, whole_number
from glow_tf.config import ModelConfig, read_local_prior
from glow_tf.core.errors import ConfigError

NOTATIONS = ("1", "by_block:N", "across_block:N", "flow steps per part such as 16,32,48")


class MultiScale(Architecture):
    """Glow: blocks of squeeze → K flow steps → split, in the last block without the split.

    A squeeze belongs to the part of the flow steps after it, a split to the part of the flow steps before it.
    Reference: Kingma & Dhariwal 2018, section 3, https://arxiv.org/abs/1807.03039
    """

    name = "a Glow"
    settings = ("parts", "local_prior")

    @property
    def cuts(self) -> tuple[int, ...]:
        return read_cuts(self.config.parts, self.config.num_blocks, self.config.flow_steps)

    def halvings(self, size: tuple[int, int]) -> int:
        # The last block halves a side where that is even by then, and none does where a side is 1.
        return 0 if min(size) == 1 else self.config.num_blocks - 1

    def lay_out(self) -> tuple[PartLayout, ...]:
        cuts = list(itertools.accumulate(self.cuts))
        elements, heads = self._elements(self.config.width), self._heads(cuts)
        ends = _ends_of_steps(elements)
        return tuple(
            PartLayout(tuple(elements[ends[begin] : ends[end]]), _output_shape(elements[ends[end] - 1]), head)
            for begin, end, head in zip([0, *cuts], cuts, heads, strict=False)
        )

    def _elements(self, hidden: int) -> list[Element]:
        config = self.config
        height, width, channels = config.image_shape
        given, learned = config.coupling_config.condition_channels, config.split_prior == "learned"
        elements = []
        for block in range(1, config.num_blocks + 1):
            if height % 2 == width % 2 == 0:
                height, width, channels = height // 2, width // 2, channels * 4
                elements.append(Element("squeeze", block, 0, height, width, channels, 0))
            elements += self.flow_steps(block, config.flow_steps, (height, width, channels), hidden)
            kept = channels // 2
            if block < config.num_blocks and height * width * kept > 1:  # a coupling needs two values
                macs = height * width * 9 * (kept + given) * 2 * (channels - kept) if learned else 0
                elements.append(Element("split", block, 0, height, width, channels, macs))
                channels = kept
        return elements

    def _heads(self, cuts: Sequence[int]) -> list[tuple[Element, ...]]:
        """Returns the flow heads of parts that end after so many flow steps of the flow."""
        size = read_local_prior(self.config.local_prior)
        if size is None:
            return [()] * len(cuts)
        narrow = self._elements(size.width)
        ends = _ends_of_steps(narrow)
        return [_first_steps_of_blocks(narrow[ends[cut] :], size.flow_steps) for cut in cuts]

    def resized(self, image_shape: tuple[int, int, int]) -> tuple[ModelConfig, tuple[int, ...]]:
        config = self.config
        step = 2 << config.num_blocks  # then sides are halved as often, and squeezed in the same blocks
        if any((own - side) % step for own, side in zip(config.image_shape[:2], image_shape, strict=False)):
            own = "×".join(map(str, config.image_shape[:2]))
            raise ConfigError(
                f"the sides of this Glow's images differ from {own} by multiples of {step}. "
                f"Received: image_shape={image_shape}"
            )
        return dataclasses.replace(config, image_shape=image_shape), (*range(self.num_parts),)

    @classmethod
    def implied(cls, settings: Mapping[str, Any], unknown: set[str]) -> dict[str, int]:
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


def _ends_of_steps(elements: Sequence[Element]) -> list[int]:
    """Returns how many elements the first i flow steps have, from i = 0; a split that follows is counted."""
    ends = [i + 1 for i, element in enumerate(elements) if element.kind == "flow_step"]
    return [0, *(end + (end < len(elements) and elements[end].kind == "split") for end in ends)]


def _first_steps_of_blocks(elements: Sequence[Element], most: int) -> tuple[Element, ...]:
    """Returns elements without the flow steps that are not among the first `most` of their block here."""
    groups = itertools.groupby(elements, key=lambda element: (element.block, element.kind))
    kept = (itertools.islice(own, most if kind == "flow_step" else None) for (_, kind), own in groups)
    return tuple(itertools.chain.from_iterable(kept))


def _output_shape(last: Element) -> tuple[int, int, int]:
    return last.height, last.width, last.channels // 2 if last.kind == "split" else last.channels


def read_cuts(parts: str, num_blocks: int, flow_steps: int) -> tuple[int, ...]:
    """Returns the flow steps of each part, of `--parts` for L blocks of K; ConfigError if it does not fit.

    It is `1` (one part), `by_block:N` (blocks 1 … N−1 each alone, then the rest), `across_block:N` (blocks
    1 … N−1 are each cut after ⌊K/2⌋ steps), or counts such as `16,32,48`.
    """
    total = num_blocks * flow_steps
    name, _, argument = parts.partition(":")
    if name in ("by_block", "across_block") and argument:
        return _regular_counts(parts, num_blocks, flow_steps)
    if parts == "1":
        return (total,)
    counts = [whole_number(piece) for piece in parts.split(",")]
    if None in counts or 0 in counts:
        raise ConfigError(f"parts must be {', '.join(NOTATIONS[:-1])} or {NOTATIONS[-1]}. Received: {parts=}")
    if sum(counts) != total:
        raise ConfigError(
            f"parts must add up to num_blocks × flow_steps = {num_blocks} × {flow_steps} = {total} flow "
            f"steps{_number_of_parts(counts)}. Received: {parts=}, which adds up to {sum(counts)}"
        )
    return tuple(counts)


def _number_of_parts(counts: list[int]) -> str:
    """Says, where a single number was given, how that many parts are written."""
    if len(counts) > 1:
        return ""
    (count,) = counts
    return (
        f" (a single number is the flow steps of one part; for {count} parts there is across_block:{count})"
    )


def _regular_counts(parts: str, num_blocks: int, flow_steps: int) -> tuple[int, ...]:
    name, _, argument = parts.partition(":")
    most = num_blocks if name == "by_block" else num_blocks + 1
    count = whole_number(argument)
    if count is None or not 1 <= count <= most:
        raise ConfigError(
            f"parts={name}:N needs N from 1 to {most} with num_blocks={num_blocks}, which may be raised. "
            f"Received: {parts=}"
        )
    first = flow_steps if name == "by_block" else flow_steps // 2
    if first == 0 and count > 1:
        raise ConfigError(
            "parts=across_block:N cuts a block in half and needs flow_steps of 2 or more. "
            f"Received: {parts=}, {flow_steps=}"
        )
    ends = [*(block * flow_steps + first for block in range(count - 1)), num_blocks * flow_steps]
    return tuple(end - start for start, end in zip([0, *ends], ends, strict=False))
