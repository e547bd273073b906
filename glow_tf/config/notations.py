"""How `--parts`, `--local_prior`, `--level_steps` and `--level_widths` are written. No TensorFlow."""

from __future__ import annotations

import dataclasses
import re

from glow_tf.config.choices import GAUSSIANS, MOST_STEPS, MOST_WIDTH
from glow_tf.core.errors import ConfigError

NOTATIONS = ("1", "by_block:N", "across_block:N", "flow steps per part such as 16,32,48")


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
    counts = [_whole_number(piece) for piece in parts.split(",")]
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
    count = _whole_number(argument)
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


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """The size of a flow head, the narrow flow that scores a part's output while the part is trained."""

    width: int  # hidden channels of its coupling networks
    flow_steps: int  # the most that it has in each remaining block


def read_local_prior(local_prior: str) -> HeadSize | None:
    """Reads the `--local_prior` notation: `standard` or `learned`, Gaussians, or `flow:WxK`, a flow head.

    Returns the size of the head; None for a Gaussian. ConfigError if it is none of these, or W or K is 0.
    """
    if local_prior in GAUSSIANS:
        return None
    found = re.fullmatch(r"flow:([0-9]{1,9})x([0-9]{1,9})", local_prior)
    size = HeadSize(*map(int, found.groups())) if found else HeadSize(0, 0)
    if not (size.width and size.flow_steps):
        raise ConfigError(
            f"local_prior must be {', '.join(GAUSSIANS)} or flow:WxK with W and K from 1, such as flow:8x2. "
            f"Received: {local_prior=}"
        )
    return size


def read_level_steps(text: str, num_blocks: int, flow_steps: int) -> tuple[int, ...]:
    """Returns the flow steps of each of L levels, the finest first, and at last those of the coarsest image.

    The text is comma-separated; empty: all of `flow_steps` in the finest level, and half of them elsewhere,
    but two at least where there are two, as a single coupling changes half of the channels alone.
    ConfigError if there are not L + 1 positive integers.
    """
    if not text:
        return (flow_steps, *[max((flow_steps + 1) // 2, min(flow_steps, 2))] * num_blocks)
    return _counts("level_steps", text, num_blocks + 1, MOST_STEPS)


def read_level_widths(text: str, num_blocks: int, width: int) -> tuple[int, ...]:
    """Returns the width of the networks of each level, as `read_level_steps` its steps; empty: `width`."""
    if not text:
        return (width,) * (num_blocks + 1)
    return _counts("level_widths", text, num_blocks + 1, MOST_WIDTH)


def _counts(name: str, text: str, count: int, most: int) -> tuple[int, ...]:
    found = tuple(_whole_number(piece) for piece in text.split(","))
    if len(found) != count or not all(number and number <= most for number in found):
        raise ConfigError(
            f"{name} must be {count} integers from 1 to {most}, comma-separated: one for each level, the "
            f"finest first, and one for the coarsest image. Received: {name}={text!r}"
        )
    return found


def _whole_number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
