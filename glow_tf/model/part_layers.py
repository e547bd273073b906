"""What stands before the parts, and what a part is made of, as its layout says."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import keras

from glow_tf.architectures import Architecture
from glow_tf.architectures.architecture import SEEDS
from glow_tf.architectures.own_layers import made, seeded
from glow_tf.architectures.partition import Element, PartLayout
from glow_tf.bijectors import (
    Bijector,
    ConditionNetwork,
    Dequantize,
    Equalize,
    FlowSplit,
    GaussianBase,
    Haar,
    LastLine,
    Split,
    Stack,
    Standardize,
    UniformBase,
)
from glow_tf.bijectors.flow_step import flow_step
from glow_tf.bijectors.squeeze import squeeze
from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.model.conditions import of_names

LINES = {"last_row": 1, "last_column": 2}  # kinds of elements, with the axis
OF_DETAILS = ("features", "base")  # kinds that the flow of a level's details has within it


def entrance_of(config: ModelConfig, dtype: str | None) -> Dequantize | Standardize:
    """Makes what stands before the parts: the map from data to real numbers of about −½ to ½."""
    if config.is_real:
        return Standardize(dtype=dtype, name="standardize")
    if config.equalize:
        return Equalize(config.n_bits, config.equalize, dtype=dtype, name="equalize")
    return Dequantize(config.n_bits, dtype=dtype)


def bijectors_of(design: Architecture, layout: PartLayout, dtype: str | None) -> list[Bijector]:
    """Makes the bijectors of a part, not built, which its elements name; ConfigError if one is unknown.

    The random starting values of a flow step depend on the model's seed and on the step's place in the
    *flow*. A model therefore starts from the same weights wherever it is cut.
    """
    config, found = design.config, []
    read = config.coupling_config.condition_channels
    kept = {e.block: e.channels // 4 for e in layout.elements if e.kind == "haar"}  # of each level's image
    for (block, kind), group in itertools.groupby(layout.elements, lambda e: (e.block, e.kind)):
        element, *others = group
        how = {"dtype": dtype, "name": f"{'level' if block in kept else 'block'}_{block}_{kind}"}
        if element.make is not None:
            found += [each.make(**how) for each in (element, *others)]
        elif kind in LINES:
            found.append(LastLine(LINES[kind], dtype=dtype, name=f"level_{block}_{kind}"))
        elif kind == "haar":
            found.append(Haar(**how))
        elif kind == "squeeze":
            found.append(squeeze(config.squeeze, **how))
        elif kind == "split":
            found.append(Split(config.split_prior, read, config.bounded, **how))
        elif kind == "flow_step" and block in kept:
            found.append(_details(design, [element, *others], kept[block], dtype))
        elif kind == "flow_step":
            found.append(_flow_steps(design, [element, *others], dtype))
        elif not (block in kept and kind in OF_DETAILS):
            raise ConfigError(f"an element of a kind of one's own needs `make`. Received: kind={kind!r}")
    return found


def _flow_steps(design: Architecture, steps: Sequence[Element], dtype: str | None) -> Stack:
    """Makes flow steps that follow one another. All have the width of the first."""
    config, first = design.config, steps[0]
    coupling = dataclasses.replace(config.coupling_config, width=first.hidden)
    how = {"seed": design.seed(first), "dtype": dtype, "name": "flow_step"}
    step = flow_step(config.bijectors, coupling, config.permutation, **how)
    return Stack(step, len(steps), dtype=dtype, name=f"block_{first.block}_flow_steps")


def _details(design: Architecture, steps: Sequence[Element], kept: int, dtype: str | None) -> FlowSplit:
    """Makes the flow of a level's details, given an image of so many `kept` channels."""
    config, first = design.config, steps[0]
    coupling = dataclasses.replace(
        config.coupling_config, width=first.hidden, condition_channels=config.condition_features
    )
    return FlowSplit(
        kept,
        coupling,
        len(steps),
        config.permutation,
        config.condition_depth,
        config.coupling_config.condition_channels,
        seed=design.seed(first),
        base=config.split_prior,
        bijectors=config.bijectors,
        condition_activation=config.condition_activation,
        dtype=dtype,
        name=f"level_{first.block}_details",
    )


def base_of(
    config: ModelConfig, layout: PartLayout, last: bool, dtype: str | None
) -> GaussianBase | UniformBase:
    """Makes what scores a part's output: the model's top base of the `last` one, or a local base."""
    if layout.fixed and not last:
        return UniformBase(dtype=dtype, name="prior")
    local = "learned" if config.local_prior == "learned" else "standard"
    read = config.coupling_config.condition_channels
    kind = config.top_prior if last else local
    return GaussianBase(kind, read, config.bounded, dtype=dtype, name="prior")


def condition_network_of(layout: PartLayout, config: ModelConfig, dtype: str | None) -> keras.Layer | None:
    """Makes the network of what the model is given, the package's or one's own, built; None: it has none.

    ConfigError if one's own cannot read a condition, or makes other features than the couplings read.
    """
    if config.condition_network and not config.condition_shape:
        raise ConfigError("condition_network needs a condition_shape: what the network reads. Received: ()")
    if not (config.condition_shape and config.condition_features):
        return None
    seed = config.seed * SEEDS + SEEDS // 2 + layout.elements[0].block
    if config.condition_network:
        return _own_condition_network(config, seed, dtype)
    return ConditionNetwork(
        config.condition_features,
        config.condition_depth,
        seed=seed,
        activation=config.condition_activation,
        bounded=config.bounded,
        dtype=config.coupling_config.network_dtype or dtype,
        name="condition",
    )


def _own_condition_network(config: ModelConfig, seed: int, dtype: str | None) -> keras.Layer:
    network = made("condition_network", config.condition_network, seed, dtype)
    if not isinstance(network, keras.Layer):
        raise ConfigError(f"condition_network must be a Keras layer or model. Received: {network!r:.100}")
    given = {name: keras.KerasTensor((None, *own)) for name, own in config.condition_shapes.items()}
    try:
        with seeded(seed):
            features = network(of_names(given))
    except Exception as error:  # whatever Keras and the layers of others raise
        raise ConfigError(
            f"condition_network must read a condition of shape {config.condition_shape}. "
            f"{type(error).__name__}: {in_one_line(str(error))}. Received: {type(network).__name__}"
        ) from error
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) not in (2, 4) or shape[-1] != config.condition_features:
        raise ConfigError(
            "condition_network must make as many features as condition_features says, in a map [B, h, w, "
            f"{config.condition_features}] or a vector [B, {config.condition_features}]. Received: "
            f"{features!r:.200}"
        )
    return network
