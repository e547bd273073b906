"""The flow that users hold: compiled, with its settings, and other cuts and sizes of it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras

from glow_tf.architectures import design_of
from glow_tf.architectures.own_layers import with_registered
from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError
from glow_tf.internals import layers_within
from glow_tf.model.compiled_model import CompiledModel


@keras.saving.register_keras_serializable(package="glow_tf")
class Flow(CompiledModel):
    """A flow for images, cut into parts: a Glow, levels, or another architecture of the config's.

    Dequantise → part 1 → … → part n. Cutting a model into parts does not change the function that it computes
    from given weights; it only changes how the model can be trained.

    The likelihood of a uint8 image is computed at one dequantised value: the byte plus noise drawn from
    `seed`. In expectation it is a lower bound on log P(image). `encode` uses the middle of each bin instead
    of noise, and `decode` inverts it. Both compute in float32, whatever the precision in the config.

    The constructor also builds the weights, because the config determines all shapes.

    Args:
      config: the model's settings.
      part_devices: per part, the device that holds its weights and runs it; empty leaves the choice to
        TensorFlow. The devices are not saved with the model.
      bijectors: in the place of ActNorm and the 1×1 convolution, a `Bijector`. This argument and the next
        three take the place of what the config says. Each is an object of a class that is registered with
        Keras, or such a class; the model's config has its JSON. See docs/guides/own_layers.md.
      coupling: what each coupling does to half of the channels, a `Transform`.
      coupling_network: the network of each coupling, a Keras layer.
      condition_network: a Keras layer or model, of which each part gets a copy, with its weights if it is
        built; it makes `config.condition_features` features [B, h, w, c] or [B, c] of what the model is
        given, or of a dictionary where that has names.

    Raises:
      ConfigError: the blocks cannot halve height or width, the policy is mixed, the weights do not fit
        into memory, or a layer of one's own cannot be copied or does not fit its place.
      ValueError: part_devices names a wrong number of devices.
    Reference: Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039; Glow parts, sections 2 and 3.
    """

    def __init__(
        self,
        config: ModelConfig,
        part_devices: Sequence[str] = (),
        *,
        bijectors: Any = "",
        coupling: Any = "",
        coupling_network: Any = "",
        condition_network: Any = "",
        **kwargs: Any,
    ):
        own = {"bijectors": bijectors, "coupling": coupling, "coupling_network": coupling_network}
        config = with_registered(config, **own, condition_network=condition_network)
        super().__init__(config, part_devices, **kwargs)
        if getattr(condition_network, "built", False) is True:
            for part in self.parts:
                part.condition_network.set_weights(condition_network.get_weights())

    @classmethod
    def from_preset(
        cls, preset: str | os.PathLike, image_shape: Sequence[int] | None = None, **changes: Any
    ) -> Flow:
        """The same as `glow_tf.load`, by the name that KerasHub gives it."""
        import glow_tf

        return glow_tf.load(preset, image_shape=image_shape, **changes)

    def resized(self, image_shape: Sequence[int]) -> Flow:
        """Returns a new model with these weights, for images of another size; at its own size the same one.

        The settings of the new model are those that the architecture makes of this one's, and each of its
        parts has a copy of the weights of one part here; see `Architecture.resized`. Levels take every size
        from a few pixels on, with odd sides too. The sides of a Glow differ from its own by multiples. What a
        model is given with each image keeps its shape.

        Args:
          image_shape: (H, W, C) of the images, of as many channels as the model's.

        Raises:
          ConfigError: the model has weights for each place, or the channels or the size cannot be.
        """
        # A model like this one checks the shape, too.
        shape = dataclasses.replace(self.config, image_shape=image_shape).image_shape
        if shape == self.image_shape:
            return self.recut()
        if shape[-1] != self.image_shape[-1]:
            kinds = {1: "grey images", 3: "images in colour"}
            own = kinds.get(self.image_shape[-1], f"images of {self.image_shape[-1]} channels")
            raise ConfigError(
                f"a model of {own} takes no others, whatever their size. Received: image_shape={shape}"
            )
        config, sources = self.design.resized(shape)
        flow = type(self)(config, dtype=self.dtype_policy, name="glow")
        pairs = [(flow.dequantize, self.dequantize)]
        pairs += [(part, self.parts[k]) for part, k in zip(flow.parts, sources, strict=True)]
        for layer, source in pairs:
            shapes = [[weight.shape for weight in each.weights] for each in (layer, source)]
            if shapes[0] != shapes[1]:
                raise ConfigError(
                    f"the weights of {source.name} belong to the model's size, so the model keeps it. "
                    f"Received: image_shape={shape} for {self.image_shape}"
                )
            layer.set_weights(source.get_weights())
        return flow

    def recut(self, dtype: Any = None, **changes: Any) -> Flow:
        """Returns a new model of the same flow, with the same weights of its flow steps and top base.

        Args:
          dtype: policy of the new model; None is this one's.
          **changes: as in `glow_tf.load`. Local bases, which only training uses, start anew.

        Raises:
          ConfigError: there is no such setting or model, or parts with networks of their own would change.
          ValueError: a change leads to a model of other weights.
        """
        config = dataclasses.replace(self.config, **changes)
        moves = design_of(config).cuts != self.design.cuts
        if moves and self.has_condition_networks:
            raise ConfigError(
                "a model whose parts have networks of what they are given keeps its parts. "
                f"Received: parts={config.parts!r} for parts={self.config.parts!r}"
            )
        dtype = self.dtype_policy if dtype is None else dtype
        flow = type(self)(config, dtype=dtype, name="glow")
        flow.set_flow_weights(self.get_flow_weights())
        return flow

    @property
    def named_weights(self) -> dict[str, keras.Variable]:
        """The weights by their names in files, such as `part_1/prior/mean`: their paths below the model.

        Those of a condition network of one's own have numbers, since Keras numbers layers as they are made.
        """
        own = self.parts if self.config.condition_network else []
        weights = ((part.name, k, w) for part in own for k, w in enumerate(part.condition_network.weights))
        names = {id(w): f"{name}/condition/{k}" for name, k, w in weights}
        return {names.get(id(w), w.path.partition("/")[2]): w for w in self.weights}

    @property
    def has_condition_networks(self) -> bool:
        """Whether each part has a network of what the model is given; then it cannot be cut elsewhere."""
        return any(part.condition_network is not None for part in self.parts)

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "config": dataclasses.asdict(self.config),
            "frozen": [k for k, layer in enumerate(layers_within(self)) if not layer.trainable],
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Flow:
        settings = ModelConfig.of_saved(config["config"])
        flow = cls(settings, name=config["name"], dtype=config["dtype"])
        if frozen := set(config.get("frozen", ())):
            for k, layer in enumerate(layers_within(flow)):
                layer.trainable = k not in frozen
        return flow


Glow = Flow  # for the architecture of that name, which is the default
