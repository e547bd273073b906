"""The layers of a part and what stands before the first, as layout and settings say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import keras

from glow_tf.architectures.architecture import SEEDS
from glow_tf.bijectors import ConditionNetwork, Dequantize, Equalize, Standardize
from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.layout.partition import PartLayout
from glow_tf.model.conditions import of_names


def entrance_of(config: ModelConfig, dtype: str | None) -> Dequantize | Standardize:
    """Makes what stands before the parts: the map from data to real numbers of about −½ to ½."""
    if config.is_real:
        return Standardize(dtype=dtype, name="standardize")
    if config.equalize:
        return Equalize(config.n_bits, config.equalize, dtype=dtype, name="equalize")
    return Dequantize(config.n_bits, dtype=dtype)


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
        activation=config.condition_activation,
        bounded=config.bounded,
        dtype=config.coupling_config.network_dtype or dtype,
        name="condition",
    )


def copies_of(
    network: keras.layers.Layer,
    config: ModelConfig,
    dtype: str,
    on_device_of: Callable[[int], AbstractContextManager],
) -> list[keras.layers.Layer]:
    """Makes the condition network of each part, built: copies of one's own, with its weights if it is built.

    ConfigError if network is no Keras layer or model, cannot be copied by `from_config`, has no condition to
    read, makes another number of features than the couplings read, or its copies share weights. `dtype` is
    that of the condition; within `on_device_of(k)` weights lie on the device of part k, from 0.
    """
    if not isinstance(network, keras.layers.Layer):
        raise ConfigError(f"condition_network must be a Keras layer or model. Received: {network!r:.100}")
    if not config.condition_shape:
        raise ConfigError(
            "a model with a condition_network needs a condition_shape: what the network reads. Received: ()"
        )
    copies = []
    for k in range(config.num_parts):
        with keras.name_scope(f"part_{k + 1}"), on_device_of(k):
            copies.append(_copy(network, config, dtype))
    _check_apart(network, copies)
    return copies


def _copy(network: keras.layers.Layer, config: ModelConfig, dtype: str) -> keras.layers.Layer:
    shapes = config.condition_shapes
    given = {name: keras.KerasTensor((None, *shape), dtype) for name, shape in shapes.items()}
    try:
        copy = type(network).from_config(network.get_config())
        features = copy(of_names(given))
        if network.built:
            copy.set_weights(network.get_weights())
    except Exception as error:  # whatever Keras and the layers of others raise
        raise ConfigError(
            "condition_network must be a layer that from_config makes again of its get_config, and must read "
            f"a condition of shape {config.condition_shape}. Received: {type(network).__name__}, and "
            f"{type(error).__name__}: {in_one_line(str(error))}"
        ) from error
    shape = getattr(features, "shape", None)
    if shape is None or len(shape) not in (2, 4) or shape[-1] != config.condition_features:
        raise ConfigError(
            "condition_network must make as many features as condition_features says, in a map [B, h, w, "
            f"{config.condition_features}] or a vector [B, {config.condition_features}]. Received: "
            f"{features!r:.200}"
        )
    return copy


def _check_apart(network: keras.layers.Layer, copies: list[keras.layers.Layer]) -> None:
    """Raises ConfigError if parts would share weights: each part's objective would train the others'."""
    seen: set[int] = set()
    for copy in copies:
        own = {id(variable): variable.path for variable in copy.variables}
        if shared := seen & own.keys():
            raise ConfigError(
                "each part must have a condition network of its own, so from_config must make new layers. "
                f"Received: {type(network).__name__}, whose copies share {own[shared.pop()]}"
            )
        seen |= own.keys()
