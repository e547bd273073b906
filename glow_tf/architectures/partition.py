"""What a part consists of; what it and an epoch cost. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

FLOAT_BYTES = 4  # activations cross a cut in float32
BOTH_WAYS = 3  # forward and backward passes of a part, in forward passes; one more recomputes activations


@dataclasses.dataclass(frozen=True)
class Element:
    """One element of the flow: a squeeze, a flow step or a split; in levels also those of their kind."""

    # `squeeze`, `flow_step` or `split`; in a level `haar`, `features` (the network of the smaller image),
    # `flow_step` and `base` (of the details' latents), before them `last_row` and `last_column`, where a
    # side is odd. Of what a part is given: `condition`, its network, and `base`, the convolution that the
    # top base reads it with.
    kind: str
    block: int  # or level, from 1
    step: int  # of a flow step within its block, from 1; otherwise 0
    height: int  # of its output, before a split factors anything out
    width: int
    channels: int
    macs: int  # multiply-adds of one forward evaluation per image
    hidden: int = 0  # hidden channels of a flow step's coupling network
    once: int = 0  # those of the macs that are made once, not for every pixel: what is read of vectors
    # Of a kind of one's own: makes its bijector of `dtype` and `name`.
    make: Callable[..., Any] | None = None

    @property
    def kernel_size(self) -> float:
        """Weights of the kernels."""
        return (self.macs - self.once) / (self.height * self.width) + self.once


@dataclasses.dataclass(frozen=True)
class PartLayout:
    """The elements of one part, in forward order."""

    elements: tuple[Element, ...]
    output_shape: tuple[int, int, int]  # (H, W, C) of h_k, the activations that go on to the next part
    # Of the flow head that scores h_k while the part is trained; empty without one.
    head: tuple[Element, ...] = ()
    given: tuple[Element, ...] = ()  # what comes to the elements with a condition

    @property
    def flow_steps(self) -> int:
        """Number of flow steps."""
        return sum(e.kind == "flow_step" for e in self.elements)

    @property
    def forward_macs(self) -> int:
        """Multiply-adds of one forward evaluation of the part per image (F_k)."""
        return sum(e.macs for e in (*self.elements, *self.given))

    @property
    def head_macs(self) -> int:
        """Multiply-adds of one forward evaluation of the part's flow head per image."""
        return sum(e.macs for e in self.head)

    @property
    def fixed(self) -> bool:
        """Whether h_k depends on none of the part's weights, as in a level."""
        return any(e.kind == "haar" for e in self.elements)

    @property
    def output_bytes(self) -> int:
        """Bytes of h_k and of the log-likelihood so far, per image, in float32."""
        return FLOAT_BYTES * (math.prod(self.output_shape) + 1)


def network_macs(channels: int, features: int, depth: int) -> int:
    """Returns the multiply-adds of a `ConditionNetwork` per pixel."""
    return 9 * features * (channels + (depth - 1) * features)


def relative_cost(
    layouts: Sequence[PartLayout],
    trained: Sequence[int],
    *,
    first: int = 0,
    reversible: bool = False,
    scored: Sequence[int] | None = None,
) -> float:
    """Returns the cost of one epoch of a phase divided by the cost of an end-to-end epoch.

    A forward pass costs F, a backward pass 2F, or 3F if it recomputes activations (`reversible`). Gradients
    run through the parts that are `trained`. Others before the last of these run forward only, or not at all
    if they are `fixed`, or before the `first` part, whose input a cache holds; parts after it do not run. A
    flow head runs, both ways, where its own part is `scored`: trained on its own objective, as all are with
    None. Parts count from 0.
    """
    both = BOTH_WAYS + reversible
    running = (k for k in range(first, max(trained) + 1) if k in trained or not layouts[k].fixed)
    forward = sum(layouts[k].forward_macs for k in running)
    backward = (both - 1) * sum(layouts[k].forward_macs for k in trained)
    heads = both * sum(layouts[k].head_macs for k in (trained if scored is None else scored))
    return (forward + backward + heads) / (both * sum(p.forward_macs for p in layouts))


def whole_number(text: str) -> int | None:
    """Reads one number of a list of settings; None if it is none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
