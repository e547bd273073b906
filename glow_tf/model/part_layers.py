"""What stands before the parts, and a part's network of what the model is given, as the settings say."""

from __future__ import annotations

import keras

from glow_tf.architectures.architecture import SEEDS
from glow_tf.architectures.partition import PartLayout
from glow_tf.bijectors import ConditionNetwork, Dequantize, Equalize, Standardize
from glow_tf.bijectors.own_layers import made, seeded
from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.model.conditions import of_names


def entrance_of(config: ModelConfig, dtype: str | None) -> Dequantize | Standardize:
    """Makes what stands before the parts: the map from data to real numbers of about −½ to ½."""
    if config.is_real:
        return Standardize(dtype=dtype, name="standardize")
    if config.equalize:
        return Equalize(config.n_bits, config.equalize, dtype=dtype, name="equalize")
    return Dequantize(config.n_bits, dtype=dtype)


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
