"""What an epoch of each phase costs. Pure Python: no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from glow_tf.config import ModelConfig
from glow_tf.layout.partition import FLOAT_BYTES, PartLayout, part_layouts

BOTH_WAYS = 3  # forward and backward passes of a part, in forward passes; one more recomputes activations


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


def weight_bytes(layouts: Sequence[PartLayout]) -> float:
    """Returns the bytes of a model's kernels."""
    elements = [e for p in layouts for e in (*p.elements, *p.given)]
    return FLOAT_BYTES * sum(e.kernel_size for e in elements)


def model_bytes(model: ModelConfig) -> int:
    """Returns the bytes of a model's weights, in float32 and nearly: those of biases are not counted.

    Those of layers of one's own are not counted either: nobody knows their size.
    """
    elements = [e for p in part_layouts(model) for e in (*p.elements, *p.given)]
    if model.has_own_steps:
        elements = [e for e in elements if e.kind != "flow_step"]
    is_fixed = model.permutation not in ("lu", "plain")
    fixed = sum(e.channels**2 for e in elements if is_fixed and e.kind == "flow_step")
    return FLOAT_BYTES * (sum(e.kernel_size for e in elements) - fixed)
