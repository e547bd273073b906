"""What a flow is made of: its parts, their devices and their weights."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors import Bijector
from glow_tf.bijectors.condition import Condition
from glow_tf.conditions import checked_condition
from glow_tf.config import ModelConfig
from glow_tf.density_model import DensityModel, checked_policy
from glow_tf.memory import check_memory
from glow_tf.part_layers import copies_of, entrance_of
from glow_tf.partition import part_layouts
from glow_tf.parts import Part, get_weights_by_step, set_weights_by_step
from glow_tf.weights_file import model_bytes


class FlowOfParts(DensityModel):
    """What a flow is made of: its parts, their devices and weights; see `Flow`."""

    def __init__(
        self,
        config: ModelConfig,
        part_devices: Sequence[str] = (),
        condition_network: keras.layers.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = config
        self.part_devices = tuple(part_devices)
        if self.part_devices and len(self.part_devices) != config.num_parts:
            raise ValueError(
                f"part_devices must name {config.num_parts} devices, one per part, or none. "
                f"Received: {self.part_devices}"
            )
        layouts = part_layouts(config)
        # Twice: each weight is drawn before it is stored.
        check_memory(
            2 * model_bytes(config), "the model's weights", "take a smaller width or fewer flow_steps"
        )
        policy = checked_policy(self.dtype_policy)
        self.dequantize = entrance_of(config, policy)
        own: Sequence[keras.layers.Layer | None] = [None] * len(layouts)
        if condition_network is not None:
            own = copies_of(condition_network, config, self.compute_dtype, self.on_device_of)
        # Its copies are layers of the model, and it is none.
        self._untracked = types.SimpleNamespace(condition_network=condition_network)
        self.parts = [
            Part.from_layout(
                layout, config, own[k - 1], last=k == len(layouts), dtype=policy, name=f"part_{k}"
            )
            for k, layout in enumerate(layouts, start=1)
        ]
        self.build((None, *config.image_shape))

    def build(self, input_shape: object = None) -> None:
        """Builds the parts on the image shape of the config; `input_shape` is ignored."""
        shape = self.image_shape
        self.dequantize.build((None, *shape))
        given = {name: (None, *own) for name, own in self.config.condition_shapes.items()}
        for k, part in enumerate(self.parts):
            if not part.built:
                with self.on_device_of(k):
                    part.build((None, *shape), given)
            shape = part.output_event_shape
        self.built = True

    def own_condition_network(self) -> keras.layers.Layer | None:
        """Returns what the parts' condition networks are copies of; None: they are the package's, or none."""
        # No property: Keras would find it there, and save its weights as the model's.
        return self._untracked.condition_network

    def on_device_of(self, k: int) -> contextlib.AbstractContextManager:
        """Returns a context in which operations run on the device of part k, from 0."""
        return tf.device(self.part_devices[k]) if self.part_devices else contextlib.nullcontext()

    def get_flow_weights(self) -> list[np.ndarray]:
        """Returns the weights flow step by flow step; the list is the same wherever the model is cut.

        It does not contain the local priors, which only training uses. First come what maps data to
        real numbers, and the networks of what the model is given, one for each part.
        """
        first = [value for layer in self._beside_steps() for value in layer.get_weights()]
        return [*first, *get_weights_by_step(self._bijectors_and_top_prior())]

    def set_flow_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Sets the weights to the `get_flow_weights` of a model that differs from this one only in its cuts.

        ValueError if there are too few or too many, or one has another shape.
        """
        weights = list(weights)
        for layer in self._beside_steps():
            layer.set_weights(weights[: len(layer.weights)])
            weights = weights[len(layer.weights) :]
        set_weights_by_step(self._bijectors_and_top_prior(), weights)

    def _beside_steps(self) -> list[keras.Layer]:
        networks = (part.condition_network for part in self.parts)
        return [self.dequantize, *(network for network in networks if network is not None)]

    def _bijectors_and_top_prior(self) -> list[Bijector]:
        return [*(b for part in self.parts for b in part.bijectors), self.parts[-1].prior]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return self.config.image_shape

    @property
    def taken_shape(self) -> tuple[int | None, int | None, int]:
        """(H, W, C) of images that the mathematics takes: of levels, which are convolutions, of any size."""
        return (None, None, self.image_shape[-1]) if self.config.has_levels else self.image_shape

    @property
    def data_dtype(self) -> str:
        """The type of the images: `uint8`, `uint16` or `float32`."""
        return self.config.data_dtype

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that the top prior knows; empty if it knows none."""
        return self.config.classes

    def checked_condition(self, condition: Condition) -> Condition:
        """Checks what the model is given and returns it as tensors of its dtype; see `checked_condition`."""
        return checked_condition(condition, self.config, self.compute_dtype)

    @property
    def initialized(self) -> bool:
        """Whether the weights that depend on data have been initialised or restored."""
        flags = [v for v in self.non_trainable_variables if v.name.endswith("initialized")]
        return all(bool(tf.reduce_all(flag.value > 0)) for flag in flags)
