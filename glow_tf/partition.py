"""Where the flow is cut into parts, and what each part costs. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

FLOAT_BYTES = 4  # what crosses a cut is float32


@dataclasses.dataclass(frozen=True)
class Element:
    """One element of the flow, in order: a squeeze, a flow step or a split.

    Attributes:
      kind: `squeeze`, `flow_step` or `split`.
      block: its block, from 1.
      step: the flow step's place within its block, from 1 (0 for the others).
      height, width, channels: shape of the element's *output* before anything is factored out of it.
      macs: multiply-adds of one forward evaluation, per image.
    """

    kind: str
    block: int
    step: int
    height: int
    width: int
    channels: int
    macs: int


@dataclasses.dataclass(frozen=True)
class PartPlan:
    """One part: its elements and what it costs.

    Attributes:
      elements: in forward order.
      output_shape: (H, W, C) of h_k, what goes on to the next part.
    """

    elements: tuple[Element, ...]
    output_shape: tuple[int, int, int]

    @property
    def flow_steps(self) -> int:
        """Number of flow steps."""
        return sum(e.kind == "flow_step" for e in self.elements)

    @property
    def forward_macs(self) -> int:
        """Multiply-adds of one forward evaluation of the part, per image (F_k)."""
        return sum(e.macs for e in self.elements)

    @property
    def output_bytes(self) -> int:
        """Bytes that cross the cut after the part in one direction: h_k and the log-likelihood so far."""
        return FLOAT_BYTES * (math.prod(self.output_shape) + 1)


def flow_step_counts(
    parts: str, num_blocks: int, flow_steps: int, step_costs: Sequence[float] = ()
) -> tuple[int, ...]:
    """Reads a `--parts` notation as flow steps per part.

    Args:
      parts: `1` (end to end), `by_block:N` (blocks 1 … N−1 each alone, then the rest), `across_block:N`
        (cuts blocks 1 … N−1 after ⌊K/2⌋ steps each), `balanced:N` (the costliest part costs as little as
        can be), `balanced:N@s_1,…,s_N` (the same, part k on a device of relative speed s_k), or counts such
        as `16,32,48`.
      num_blocks: L.
      flow_steps: K, flow steps per block.
      step_costs: of every flow step, for `balanced`.

    Returns:
      Flow steps of each part; they add up to L·K.

    Raises:
      ValueError: the notation is unknown, or does not fit L and K.
    """
    total = num_blocks * flow_steps
    name, _, argument = parts.partition(":")
    if name == "balanced" and argument:
        return _balanced_counts(step_costs or [1.0] * total, _device_speeds(parts, argument, total))
    if name in ("by_block", "across_block") and argument:
        most = num_blocks if name == "by_block" else num_blocks + 1
        count = _whole_number(argument)
        if count is None or not 1 <= count <= most:
            raise ValueError(
                f"parts={name}:N needs N from 1 to {most} with num_blocks={num_blocks}. "
                f"Received: parts={parts!r}"
            )
        first = flow_steps if name == "by_block" else flow_steps // 2
        if first == 0:
            raise ValueError(
                "parts=across_block:N cuts a block in half and needs flow_steps of 2 or more. "
                f"Received: parts={parts!r}, flow_steps={flow_steps}"
            )
        cuts = [block * flow_steps + first for block in range(count - 1)]
        return tuple(b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True))
    if parts == "1":
        return (total,)
    counts = [_whole_number(piece) for piece in parts.split(",")]
    if None in counts or 0 in counts:
        raise ValueError(
            "parts must be 1, by_block:N, across_block:N, balanced:N or flow steps a part such as 16,32,48. "
            f"Received: parts={parts!r}"
        )
    if sum(counts) != total:
        raise ValueError(
            f"parts must add up to num_blocks × flow_steps = {num_blocks} × {flow_steps} = {total} flow "
            f"steps. Received: parts={parts!r}, which adds up to {sum(counts)}"
        )
    return tuple(counts)


def _device_speeds(parts: str, argument: str, total: int) -> list[float]:
    number, at, listed = argument.partition("@")
    count = _whole_number(number)
    if count is None or not 1 <= count <= total:
        raise ValueError(
            f"parts=balanced:N needs N from 1 to {total}, the number of flow steps. Received: parts={parts!r}"
        )
    try:
        speeds = [float(speed) for speed in listed.split(",")] if at else [1.0] * count
    except ValueError:
        speeds = []
    if len(speeds) != count or not all(0 < speed < math.inf for speed in speeds):
        raise ValueError(
            f"parts=balanced:{count}@… needs {count} positive speeds, comma-separated. "
            f"Received: parts={parts!r}"
        )
    return speeds


def _balanced_counts(costs: Sequence[float], speeds: Sequence[float]) -> tuple[int, ...]:
    """Cuts so that the slowest part takes as little time as possible, and the others differ little."""
    before = [0.0, *itertools.accumulate(costs)]
    # best[i]: the best way to cut the first i steps into the parts so far, as (slowest, Σ time², counts).
    best: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for k, speed in enumerate(speeds):
        ways: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for end in range(k + 1, len(costs) - (len(speeds) - k - 1) + 1):
            candidates = []
            for start, (slowest, squares, counts) in best.items():
                if start < end:
                    time = (before[end] - before[start]) / speed
                    candidates.append((max(slowest, time), squares + time**2, (*counts, end - start)))
            ways[end] = min(candidates)
        best = ways
    return best[len(costs)][2]


def _whole_number(text: str) -> int | None:
    return int(text) if text.strip().isascii() and text.strip().isdigit() else None


def plan_parts(
    image_shape: Sequence[int],
    num_blocks: int,
    flow_steps: int,
    width: int,
    parts: str = "1",
    *,
    coupling: str = "affine",
    split_prior: str = "learned",
) -> tuple[PartPlan, ...]:
    """Lays out the flow's elements and cuts them into parts.

    A squeeze belongs to the part of the flow steps after it, a split to the part of those before it.

    Args:
      image_shape: (H, W, C).
      num_blocks: blocks L.
      flow_steps: flow steps per block K.
      width: hidden channels of a coupling network.
      parts: see `flow_step_counts`.
      coupling: `affine` or `additive`.
      split_prior: `learned` or `standard`.

    Returns:
      One plan per part, in order.

    Raises:
      ValueError: parts does not fit, or H or W is not a multiple of 2^num_blocks.
    """
    check_divisible(image_shape, num_blocks)
    elements = _elements(image_shape, num_blocks, flow_steps, width, coupling, split_prior)
    remaining = list(flow_step_counts(parts, num_blocks, flow_steps, _step_costs(elements)))
    groups: list[list[Element]] = [[]]
    for element in elements:
        # A squeeze opens the part of the flow step after it; a split belongs to the step before it.
        if remaining[0] == 0 and element.kind != "split":
            remaining.pop(0)
            groups.append([])
        groups[-1].append(element)
        remaining[0] -= element.kind == "flow_step"
    return tuple(PartPlan(tuple(group), _output_shape(group[-1])) for group in groups)


def step_costs(
    image_shape: Sequence[int],
    num_blocks: int,
    flow_steps: int,
    width: int,
    *,
    coupling: str = "affine",
    split_prior: str = "learned",
) -> list[int]:
    """Returns the multiply-adds of every flow step, with those of a split that follows it."""
    return _step_costs(_elements(image_shape, num_blocks, flow_steps, width, coupling, split_prior))


def _elements(
    image_shape: Sequence[int], num_blocks: int, flow_steps: int, width: int, coupling: str, split_prior: str
) -> list[Element]:
    height, w, channels = image_shape
    elements = []
    for block in range(1, num_blocks + 1):
        height, w, channels = height // 2, w // 2, channels * 4
        elements.append(Element("squeeze", block, 0, height, w, channels, 0))
        macs = _flow_step_macs(height, w, channels, width, coupling)
        elements += [
            Element("flow_step", block, step, height, w, channels, macs) for step in range(1, flow_steps + 1)
        ]
        if block < num_blocks:
            macs = height * w * 9 * (channels // 2) * channels if split_prior == "learned" else 0
            elements.append(Element("split", block, 0, height, w, channels, macs))
            channels //= 2
    return elements


def _step_costs(elements: Sequence[Element]) -> list[int]:
    costs: list[int] = []
    for element in elements:
        if element.kind == "flow_step":
            costs.append(element.macs)
        elif element.kind == "split":
            costs[-1] += element.macs
    return costs


def check_divisible(image_shape: Sequence[int], num_blocks: int) -> None:
    """Raises ValueError, naming the nearest sizes that fit, unless H and W divide by 2^num_blocks."""
    multiple = 2**num_blocks
    height, width = image_shape[:2]
    if height % multiple or width % multiple:
        sides = sorted({side for side in (height, width) if side % multiple})
        nearest = sorted(
            {
                size
                for side in sides
                for size in (side // multiple * multiple, -(-side // multiple) * multiple)
            }
            - {0}
        )
        raise ValueError(
            f"num_blocks={num_blocks} halves the image {num_blocks} times, so height and width must be "
            f"multiples of {multiple}; the nearest that are: {', '.join(map(str, nearest))} "
            f"(--image_size resizes). Received: image of {height}×{width}"
        )


def _flow_step_macs(height: int, width: int, channels: int, hidden: int, coupling: str) -> int:
    half = channels // 2
    outputs = channels if coupling == "affine" else half
    network = 9 * half * hidden + hidden * hidden + 9 * hidden * outputs
    return height * width * (network + channels * channels)


def _output_shape(last: Element) -> tuple[int, int, int]:
    return last.height, last.width, last.channels // 2 if last.kind == "split" else last.channels


def relative_cost(
    plans: Sequence[PartPlan], trained: Sequence[int], end_to_end: bool = False, *, prefix: bool = True
) -> float:
    """Cost of one epoch of a phase over that of an end-to-end epoch.

    A forward pass costs F, a backward pass 2F. Parts before the first trained one run forward only; parts
    after the last trained one do not run.

    Args:
      plans: the parts.
      trained: indices (from 0) of the parts trained in the phase.
      end_to_end: gradients cross the cuts, so everything runs both ways.
      prefix: whether the parts before the first trained one run; not where their output is cached.
    """
    whole = 3 * sum(p.forward_macs for p in plans)
    if end_to_end:
        return 1.0
    first = 0 if prefix else min(trained)
    forward = sum(p.forward_macs for p in plans[first : max(trained) + 1])
    backward = 2 * sum(plans[k].forward_macs for k in trained)
    return (forward + backward) / whole


def relative_cost_from_seconds(
    plans: Sequence[PartPlan],
    trained: Sequence[int],
    end_to_end: bool,
    seconds: Mapping[int, tuple[float, float]],
) -> float:
    """`relative_cost` with what a flow step of each block takes in place of its multiply-adds.

    Narrow networks and bfloat16 do not run all blocks at the same rate, so there the arithmetic alone is off.

    Args:
      plans: the parts.
      trained: indices (from 0) of the parts trained in the phase.
      end_to_end: gradients cross the cuts.
      seconds: for each block, from 1, the seconds of one flow step forward alone, and forward and backward.
    """

    def spent(parts: Sequence[int], direction: int) -> float:
        steps = [e for k in parts for e in plans[k].elements if e.kind == "flow_step"]
        return sum(seconds[e.block][direction] for e in steps)

    if end_to_end:
        return 1.0
    frozen = [k for k in range(max(trained)) if k not in trained]
    return (spent(frozen, 0) + spent(trained, 1)) / spent(range(len(plans)), 1)


def traffic(plans: Sequence[PartPlan], last: int, end_to_end: bool = False) -> tuple[int, int]:
    """Bytes per image that cross all cuts in one training step: (forward, backward).

    Args:
      plans: the parts.
      last: index (from 0) of the last part that is evaluated.
      end_to_end: gradients of the same size go back across the cuts.
    """
    forward = sum(p.output_bytes for p in plans[:last])
    return forward, forward if end_to_end else 0
