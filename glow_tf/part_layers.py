"""The layers of a part and what stands before the first, as layout and settings say."""

from __future__ import annotations

import dataclasses
import itertools

from glow_tf.bijectors import (
    Bijector,
    ClassPrior,
    ConditionNetwork,
    Dequantize,
    Equalize,
    FlowSplit,
    FlowStep,
    GaussianPrior,
    Haar,
    Split,
    Squeeze,
    Stack,
    Standardize,
    UniformPrior,
)
from glow_tf.config import PRIORS, ModelConfig
from glow_tf.partition import Element, PartLayout

SEEDS = 10_007  # as many for each model, the first of them for its flow steps


def entrance_of(config: ModelConfig, dtype: str | None) -> Dequantize | Standardize:
    """Makes what stands before the parts: the map from data to real numbers of about −½ to ½."""
    if config.is_real:
        return Standardize(dtype=dtype, name="standardize")
    if config.equalize:
        return Equalize(config.n_bits, config.equalize, dtype=dtype, name="equalize")
    return Dequantize(config.n_bits, dtype=dtype)


def bijectors_of(layout: PartLayout, config: ModelConfig, dtype: str | None) -> list[Bijector]:
    """Makes the bijectors of a part."""
    found: list[Bijector] = []
    for (block, kind), elements in itertools.groupby(layout.elements, lambda e: (e.block, e.kind)):
        label = f"block_{block}_{kind}"
        if kind == "squeeze":
            found.append(Squeeze(dtype=dtype, name=label))
        elif kind == "split":
            read = config.coupling_config.condition_channels
            found.append(Split(config.split_prior, read, dtype=dtype, name=label))
        elif kind == "haar":
            return [Haar(dtype=dtype, name=f"level_{block}_haar"), _details(layout, config, dtype)]
        else:
            elements = list(elements)
            place = _place(config, elements[0])
            coupling = dataclasses.replace(config.coupling_config, width=elements[0].hidden)
            step = FlowStep(
                coupling,
                config.permutation,
                seed=config.seed * SEEDS + place,
                dtype=dtype,
                name=kind,
            )
            found.append(Stack(step, len(elements), dtype=dtype, name=f"{label}s"))
    return found


def _place(config: ModelConfig, step: Element) -> int:
    """Returns the place of a flow step in the whole flow, from 1, which its starting values depend on."""
    if config.has_levels:
        return sum(config.cuts.counts[: step.block - 1]) + step.step
    return (step.block - 1) * config.flow_steps + step.step


def _details(layout: PartLayout, config: ModelConfig, dtype: str | None) -> FlowSplit:
    """Makes what factors a level's details out."""
    steps = [e for e in layout.elements if e.kind == "flow_step"]
    coupling = dataclasses.replace(
        config.coupling_config, width=steps[0].hidden, condition_channels=config.condition_features
    )
    return FlowSplit(
        layout.output_shape[-1],
        coupling,
        len(steps),
        config.permutation,
        config.condition_depth,
        config.coupling_config.condition_channels,
        seed=config.seed * SEEDS + _place(config, steps[0]),
        dtype=dtype,
        name=f"level_{steps[0].block}_details",
    )


def prior_of(config: ModelConfig, last: bool, dtype: str | None) -> GaussianPrior | ClassPrior | UniformPrior:
    """Makes the density of a part's output: the model's top prior if it is the last part."""
    if last and config.classes:
        return ClassPrior(len(config.classes), dtype=dtype, name="prior")
    if config.has_levels and not last:
        return UniformPrior(dtype=dtype, name="prior")
    kind = config.top_prior if last else config.local_prior
    if kind not in PRIORS:  # a flow head, which the part makes
        kind = "standard"
    read = config.coupling_config.condition_channels
    return GaussianPrior(kind, read, dtype=dtype, name="prior")


def condition_network_of(
    layout: PartLayout, config: ModelConfig, dtype: str | None
) -> ConditionNetwork | None:
    """Makes the network of what the model is given; None if it has none."""
    if not (config.condition_shape and config.condition_features):
        return None
    return ConditionNetwork(
        config.condition_features,
        config.condition_depth,
        seed=config.seed * SEEDS + SEEDS // 2 + layout.elements[0].block,
        dtype=config.coupling_config.network_dtype or dtype,
        name="condition",
    )
