"""Where the flow is cut into parts, and the shape and cost of each. Pure Python: no TensorFlow."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Sequence

from glow_tf.config import OUTPUTS_PER_CHANNEL, ModelConfig, check_divisible

FLOAT_BYTES = 4  # activations cross a cut in float32


@dataclasses.dataclass(frozen=True)
class Element:
    """One element of the flow: a squeeze, a flow step or a split; in levels also those of their kind."""

    # `squeeze`, `flow_step` or `split`; in a level `haar`, `features` (the network of the smaller image),
    # `flow_step` and `prior` (of the details' latents). Of what a part is given: `condition`, its network,
    # and `prior`, the convolution that the top prior reads it with.
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
        return self.elements[0].kind == "haar"

    @property
    def crossing_values(self) -> int:
        """Numbers per image that cross the cut after the part: h_k and the log-likelihood so far."""
        return math.prod(self.output_shape) + 1

    @property
    def output_bytes(self) -> int:
        """Bytes per image that cross the cut after the part in one direction, in float32."""
        return FLOAT_BYTES * self.crossing_values


def part_layouts(config: ModelConfig) -> tuple[PartLayout, ...]:
    """Lays out the flow's elements and cuts them into parts, one layout per part.

    A squeeze belongs to the part of the flow steps after it, a split to the part of the flow steps before it.
    ConfigError if the blocks cannot halve the image's height or width; see `check_divisible`.
    """
    check_divisible(config.image_shape, config)
    layouts = _levels(config) if config.has_levels else _parts(config)
    return tuple(dataclasses.replace(p, given=_given(config, p, p is layouts[-1])) for p in layouts)


def flow_step_counts(config: ModelConfig) -> tuple[int, ...]:
    """Returns the flow steps of each part; they add up to num_blocks · flow_steps."""
    cuts = config.cuts
    if cuts.counts:
        return cuts.counts
    elements = _elements(config)
    ends = _ends_of_steps(elements)
    costs = [sum(e.macs for e in elements[a:b]) for a, b in itertools.pairwise(ends)]
    network = sum(e.macs for e in _condition_network(config, 1))  # each part has one
    heads = [network + sum(e.macs for e in head) for head in _heads(config, range(len(ends)))]
    return balanced_counts(costs, cuts.speeds, heads)


def balanced_counts(
    costs: Sequence[float], speeds: Sequence[float], heads: Sequence[float] = ()
) -> tuple[int, ...]:
    """Cuts flow steps of these costs into parts so that the slowest part takes as little time as possible.

    Among cuts that are equally good, for the parts up to each cut, it takes those that differ least. The
    devices of the parts have relative speeds; `heads` is the cost of the flow head of a part that ends after
    i flow steps.
    """
    heads = heads or [0.0] * (len(costs) + 1)
    before = [0.0, *itertools.accumulate(costs)]
    # best[i]: the best way to cut the first i steps into the parts so far, as (slowest, Σ time², counts).
    best: dict[int, tuple[float, float, tuple[int, ...]]] = {0: (0.0, 0.0, ())}
    for k, speed in enumerate(speeds):
        ways: dict[int, tuple[float, float, tuple[int, ...]]] = {}
        for end in range(k + 1, len(costs) - (len(speeds) - k - 1) + 1):
            found = (math.inf, math.inf, ())
            for start, (slowest, squares, counts) in reversed(best.items()):
                if start < end:
                    time = (before[end] - before[start] + heads[end]) / speed
                    if time > found[0]:
                        break  # and an earlier start would take longer still
                    found = min(found, (max(slowest, time), squares + time**2, (*counts, end - start)))
            ways[end] = found
        best = ways
    return best[len(costs)][2]


def _parts(config: ModelConfig) -> tuple[PartLayout, ...]:
    cuts = list(itertools.accumulate(flow_step_counts(config)))
    elements, heads = _elements(config), _heads(config, cuts)
    ends = _ends_of_steps(elements)
    return tuple(
        PartLayout(tuple(elements[ends[begin] : ends[end]]), _output_shape(elements[ends[end] - 1]), head)
        for begin, end, head in zip([0, *cuts], cuts, heads, strict=False)
    )


def _given(config: ModelConfig, layout: PartLayout, last: bool) -> tuple[Element, ...]:
    """Returns what a part makes of a condition, and what the top prior reads of it."""
    read = config.coupling_config.condition_channels
    if not read or not last or config.top_prior != "learned" or config.classes:
        return _condition_network(config, layout.elements[0].block)
    height, width, channels = layout.output_shape
    macs = 9 * read * 2 * channels
    once = macs if _is_vector(config) else 0
    macs = once or height * width * macs
    prior = Element("prior", layout.elements[-1].block, 0, *layout.output_shape, macs, once=once)
    return (*_condition_network(config, layout.elements[0].block), prior)


def _condition_network(config: ModelConfig, block: int) -> tuple[Element, ...]:
    features, depth = config.condition_features, config.condition_depth
    if not (config.condition_shape and features):
        return ()
    height, width = _size_of_condition(config)
    macs = height * width * _network_macs(config.given_channels, features, depth)
    return (Element("condition", block, 0, height, width, features, macs),)


def _network_macs(channels: int, features: int, depth: int) -> int:
    """Returns the multiply-adds of a `ConditionNetwork` per pixel."""
    return 9 * features * (channels + (depth - 1) * features)


def _size_of_condition(config: ModelConfig) -> tuple[int, int]:
    """Returns height and width of the largest map that is given; a vector is a map of one pixel."""
    sizes = [(1, 1), *(shape[:2] for shape in config.condition_shapes.values() if len(shape) == 3)]
    return max(sizes, key=math.prod)


def _is_vector(config: ModelConfig) -> bool:
    return _size_of_condition(config) == (1, 1)


def _elements(config: ModelConfig) -> list[Element]:
    height, width, channels = config.image_shape
    given, is_vector = config.coupling_config.condition_channels, _is_vector(config)
    elements = []
    for block in range(1, config.num_blocks + 1):
        if height % 2 == width % 2 == 0:
            height, width, channels = height // 2, width // 2, channels * 4
            elements.append(Element("squeeze", block, 0, height, width, channels, 0))
        size = (height, width, channels)
        elements += _flow_steps(config, block, config.flow_steps, size, config.width, given, is_vector)
        kept, learned = channels // 2, config.split_prior == "learned"
        if block < config.num_blocks and height * width * kept > 1:  # a coupling needs two values
            macs = height * width * 9 * (kept + given) * 2 * (channels - kept) if learned else 0
            elements.append(Element("split", block, 0, height, width, channels, macs))
            channels = kept
    return elements


def _levels(config: ModelConfig) -> tuple[PartLayout, ...]:
    """Lays out levels, the finest first, and at last the flow of the coarsest image."""
    height, width, channels = config.image_shape
    features, depth = config.condition_features, config.condition_depth
    given = config.coupling_config.condition_channels
    *finer, coarsest = zip(config.cuts.counts, config.widths, strict=True)
    layouts = []
    for level, (count, hidden) in enumerate(finer, start=1):
        height, width = height // 2, width // 2
        pixels, details = height * width, 3 * channels
        network = _network_macs(channels + given, features, depth)
        size = (height, width, details)
        elements = (
            Element("haar", level, 0, height, width, 4 * channels, 0),
            Element("features", level, 0, height, width, features, pixels * network),
            *_flow_steps(config, level, count, size, hidden, features),
            Element("prior", level, 0, *size, pixels * 9 * features * 2 * details),
        )
        layouts.append(PartLayout(elements, (height, width, channels)))
    count, hidden = coarsest
    squeezes = height % 2 == width % 2 == 0
    if squeezes:
        height, width, channels = height // 2, width // 2, 4 * channels
    block, size = len(layouts) + 1, (height, width, channels)
    steps = _flow_steps(config, block, count, size, hidden, given, _is_vector(config))
    squeeze = [Element("squeeze", block, 0, *size, 0)] * squeezes
    return (*layouts, PartLayout((*squeeze, *steps), size))


def _ends_of_steps(elements: Sequence[Element]) -> list[int]:
    """Returns how many elements the first i flow steps have, from i = 0; a split that follows is counted."""
    ends = [i + 1 for i, element in enumerate(elements) if element.kind == "flow_step"]
    return [0, *(end + (end < len(elements) and elements[end].kind == "split") for end in ends)]


def _heads(config: ModelConfig, cuts: Sequence[int]) -> list[tuple[Element, ...]]:
    """Returns the flow heads of parts that end after so many flow steps of the flow."""
    size = config.head_size
    if size is None:
        return [()] * len(cuts)
    narrow = _elements(dataclasses.replace(config, width=size.width))
    ends = _ends_of_steps(narrow)
    return [_first_steps_of_blocks(narrow[ends[cut] :], size.flow_steps) for cut in cuts]


def _first_steps_of_blocks(elements: Sequence[Element], most: int) -> tuple[Element, ...]:
    """Returns elements without the flow steps that are not among the first `most` of their block here."""
    seen: collections.Counter[int] = collections.Counter()
    found = []
    for element in elements:
        seen[element.block] += element.kind == "flow_step"
        if element.kind != "flow_step" or seen[element.block] <= most:
            found.append(element)
    return tuple(found)


def _flow_steps(
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
    outputs = OUTPUTS_PER_CHANNEL[config.coupling] * max(channels - first, 1)
    network = 9 * first * hidden + hidden * hidden + 9 * hidden * outputs
    once = given * hidden if is_vector else 0
    macs = height * width * (network + channels * channels + given * hidden * (not is_vector)) + once
    return [Element("flow_step", block, k, *size, macs, hidden, once) for k in range(1, count + 1)]


def _output_shape(last: Element) -> tuple[int, int, int]:
    return last.height, last.width, last.channels // 2 if last.kind == "split" else last.channels
