"""Where the flow is cut into parts; what a part and an epoch cost. Pure Python: no TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from glow_tf.config import ModelConfig, check_divisible

FLOAT_BYTES = 4  # activations cross a cut in float32
BOTH_WAYS = 3  # forward and backward passes of a part, in forward passes; one more recomputes activations


@dataclasses.dataclass(frozen=True)
class Element:
    """One element of the flow: a squeeze, a flow step or a split; in levels also those of their kind."""

    # `squeeze`, `flow_step` or `split`; in a level `haar`, `features` (the network of the smaller image),
    # `flow_step` and `prior` (of the details' latents), before them `last_row` and `last_column`, where a
    # side is odd. Of what a part is given: `condition`, its network, and `prior`, the convolution that the
    # top prior reads it with.
    kind: str
    block: int  # or level, from 1
    step: int  # of a flow step within its block, from 1; otherwise 0
    height: int  # of its output, before a split factors anything out
    width: int
    channels: int
    macs: int  # multiply-adds of one forward evaluation per image
    hidden: int = 0  # hidden channels of a flow step's coupling network
    once: int = 0  # those of the macs that are made once, not for every pixel: what is read of vectors

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


def part_layouts(config: ModelConfig) -> tuple[PartLayout, ...]:
    """Lays out the flow's elements and cuts them into parts, one layout per part.

    ConfigError if the flow cannot halve the image's height or width; see `check_divisible`.
    """
    check_divisible(config.image_shape, config)
    layouts = config.design.layouts(config)
    return tuple(dataclasses.replace(p, given=_given(config, p, p is layouts[-1])) for p in layouts)


def _given(config: ModelConfig, layout: PartLayout, last: bool) -> tuple[Element, ...]:
    """Returns what a part makes of a condition, and what the top prior reads of it."""
    read = config.coupling_config.condition_channels
    if not read or not last or config.top_prior != "learned":
        return condition_network_elements(config, layout.elements[0].block)
    height, width, channels = layout.output_shape
    macs = 9 * read * 2 * channels
    once = macs if is_given_vectors(config) else 0
    macs = once or height * width * macs
    prior = Element("prior", layout.elements[-1].block, 0, *layout.output_shape, macs, once=once)
    return (*condition_network_elements(config, layout.elements[0].block), prior)


def condition_network_elements(config: ModelConfig, block: int) -> tuple[Element, ...]:
    """Returns the network of what a part is given, if there is one."""
    features, depth = config.condition_features, config.condition_depth
    if not (config.condition_shape and features):
        return ()
    height, width = _size_of_condition(config)
    macs = height * width * network_macs(config.given_channels, features, depth)
    return (Element("condition", block, 0, height, width, features, macs),)


def network_macs(channels: int, features: int, depth: int) -> int:
    """Returns the multiply-adds of a `ConditionNetwork` per pixel."""
    return 9 * features * (channels + (depth - 1) * features)


def _size_of_condition(config: ModelConfig) -> tuple[int, int]:
    """Returns height and width of the largest map that is given; a vector is a map of one pixel."""
    sizes = [(1, 1), *(shape[:2] for shape in config.condition_shapes.values() if len(shape) == 3)]
    return max(sizes, key=math.prod)


def is_given_vectors(config: ModelConfig) -> bool:
    """Returns whether all that the model is given are vectors."""
    return _size_of_condition(config) == (1, 1)


def flow_step_elements(
    config: ModelConfig,
    block: int,
    count: int,
    size: tuple[int, int, int],
    hidden: int,
    given: int = 0,
    is_vector: bool = False,
) -> list[Element]:
    """Returns the flow steps of a block; their couplings read `given` channels, of a vector or of a map."""
    height, width, channels = size
    first = max(channels // 2, 1)
    outputs = config.design.outputs_per_channel(config) * max(channels - first, 1)
    network = 9 * first * hidden + hidden * hidden + 9 * hidden * outputs
    once = given * hidden if is_vector else 0
    macs = height * width * (network + channels * channels + given * hidden * (not is_vector)) + once
    return [Element("flow_step", block, k, *size, macs, hidden, once) for k in range(1, count + 1)]


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


def model_bytes(model: ModelConfig) -> int:
    """Returns the bytes of a model's weights, in float32 and nearly: those of biases are not counted.

    Those of layers of one's own are not counted either: nobody knows their size.
    """
    elements = [e for p in part_layouts(model) for e in (*p.elements, *p.given)]
    own = {"flow_step": model.has_own_steps, "condition": model.condition_network}
    elements = [e for e in elements if not own.get(e.kind)]
    is_fixed = model.permutation not in ("lu", "plain")
    fixed = sum(e.channels**2 for e in elements if is_fixed and e.kind == "flow_step")
    return FLOAT_BYTES * (sum(e.kernel_size for e in elements) - fixed)
