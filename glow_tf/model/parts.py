"""A part of the flow: consecutive bijectors that can be trained on a local objective."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from glow_tf.architectures import Architecture
from glow_tf.architectures.partition import PartLayout
from glow_tf.bijectors import Bijector, ConditionNetwork, GaussianBase, Stack, UniformBase
from glow_tf.bijectors.bijector import Bound, Latents, PartOutput, read_by
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import ALONE, PLAIN, Context, Mode
from glow_tf.model.part_layers import base_of, bijectors_of, condition_network_of


@keras.saving.register_keras_serializable(package="glow_tf")
class Part(keras.Model):
    """Consecutive flow steps with the squeezes and splits between them, and a base for their output.

    `truncated_nll` is the truncated negative log-likelihood on which the part alone is trained (Glow
    parts, Eq. 3): −(log p_local(h) + log p(z | h) + log_det). The parts before it are held fixed, and the
    parts after it do not run.

    Args:
      bijectors: in forward order.
      base: p_local, the density of the part's output; in the last part it is the model's top base.
      condition_network: a layer that turns what the model is given into what the part reads, such as
        `ConditionNetwork`; it belongs to the part, and is trained with it. None: the part reads what is given
        as it is, or nothing.
    """

    def __init__(
        self,
        bijectors: Sequence[Bijector],
        base: GaussianBase | UniformBase,
        condition_network: keras.Layer | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.bijectors = list(bijectors)
        self.base = base
        self.condition_network = condition_network

    @classmethod
    def from_layout(
        cls, layout: PartLayout, design: Architecture, *, last: bool, dtype: str | None = None, name: str
    ) -> Part:
        """Makes the part that a layout describes; it is not built yet. The last one has the top base."""
        base = base_of(design.config, layout, last, dtype)
        network = condition_network_of(layout, design.config, dtype)
        return cls(bijectors_of(design, layout, dtype), base, network, dtype=dtype, name=name)

    def build(self, input_shape: Sequence[int | None], given_shape: Any = None) -> None:
        """Builds the layers, and records the shapes of the latents and of the output.

        `given_shape` is that of what the condition network reads, (None, …), or several by name.
        """
        if self.condition_network is not None and not self.condition_network.built:
            self.condition_network.build(given_shape)
        shape = tuple(input_shape)

        self.latent_shapes: list[tuple[int, int, int]] = []
        for bijector in self.bijectors:
            if not bijector.built:  # Keras has already built one that it loaded
                bijector.build(shape)
            shape, latent_shapes = bijector.shapes(shape)
            self.latent_shapes += [latent_shape[1:] for latent_shape in latent_shapes]
        if not self.base.built:
            self.base.build(shape)
        self.output_event_shape = shape[1:]
        self.built = True

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of h_k, what goes on to the next part, (None, H, W, C), as Keras's summaries show it."""
        return (None, *self.output_event_shape)

    def read(self, condition: Condition, mode: Mode = PLAIN) -> Context:
        """Returns what the bijectors are handed: what the network makes of a condition, and the mode."""
        if condition is None or self.condition_network is None:
            return Context(condition, mode)
        # One's own network does not take a mode, and functional models of Keras cannot save any.
        takes_mode = isinstance(self.condition_network, ConditionNetwork) and mode != PLAIN
        return Context(self.condition_network(condition, **({"mode": mode} if takes_mode else {})), mode)

    def call(self, h: tf.Tensor, context: Context | Condition = ALONE) -> PartOutput:
        """Runs the part forward: [B, H, W, C] → `PartOutput`.

        The context is what `read` returned, or its condition alone, which functional models take.
        """
        context = context if isinstance(context, Context) else Context(context)
        output = PartOutput.start(h)
        for bijector in self.bijectors:
            output = bijector.forward_in_part(output, *read_by(bijector, context))
        return output

    def inverse(
        self, h: tf.Tensor, latents: Latents, bound: Bound = tf.identity, context: Context = ALONE
    ) -> tf.Tensor:
        """Recovers the part's input [B, H', W', C'] from its output and its whitened latents.

        Args:
          h: the part's output, [B, H, W, C].
          latents: the latents that its splits factored out, in forward order.
          bound: changes the output of every inverted bijector, [B, H, W, C]; the default, the exact
            inverse, does not.
          context: what `read` returned.
        """
        for bijector in reversed(self.bijectors):
            h, latents = bijector.inverse_in_part(h, latents, bound, *read_by(bijector, context))
        return h

    def initialize(self, h: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Sets the weights that depend on data from the part's input, and returns the next part's input.

        h [B, H, W, C] is a few hundred training examples, run through the parts before. What is already
        initialised or restored keeps its values.
        """
        if isinstance(self.condition_network, ConditionNetwork):
            self.condition_network.initialize(condition)
        context = self.read(condition)
        for bijector in self.bijectors:
            h = bijector.initialize_in_part(h, *read_by(bijector, context))
        self.base.initialize(h, context)
        return h

    def log_prob(self, h: tf.Tensor, context: Context = ALONE) -> tf.Tensor:
        """Returns the log-density of the part's input h [B, H, W, C] under the part and its base, [B], nats.

        The context is what `read` returned.
        """
        return -self.truncated_nll(self.call(h, context), context)

    def truncated_nll(self, output: PartOutput, context: Context = ALONE) -> tf.Tensor:
        """Returns the truncated negative log-likelihood of the part alone, from what `call` made: [B], nats.

        It contains the local base of h. Only the last part's objective is therefore a term of the whole
        model's likelihood: its base is the model's top base.
        """
        return -(self.base.log_prob(output.h, context) + output.log_likelihood_term)

    def pass_on(self, h: tf.Tensor) -> tf.Tensor:
        """Returns the output of a part that is fixed, and computes nothing else: [B, H, W, C] → h_k."""
        for bijector in self.bijectors:
            h = bijector.pass_on(h)
        return h

    @property
    def flow_variables(self) -> list[keras.Variable]:
        """Trainable variables of the bijectors and of the condition's network, without those of the base."""
        network = [self.condition_network] if self.condition_network else []
        return [v for layer in (*self.bijectors, *network) for v in layer.trainable_variables]

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "bijectors": [keras.saving.serialize_keras_object(b) for b in self.bijectors],
            "base": keras.saving.serialize_keras_object(self.base),
            "condition_network": keras.saving.serialize_keras_object(self.condition_network),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Part:
        load = keras.saving.deserialize_keras_object
        return cls(
            [load(b, custom_objects) for b in config["bijectors"]],
            load(config["base"], custom_objects),
            load(config.get("condition_network"), custom_objects),
            name=config["name"],
            dtype=config["dtype"],
        )


def get_weights_by_step(bijectors: Sequence[Bijector]) -> list[np.ndarray]:
    """Returns the weights of the bijectors, those of a stack copy by copy.

    The list is the same however the flow steps are distributed over stacks.
    """
    found = []
    for bijector in bijectors:
        values, copies = bijector.get_weights(), _copies(bijector)
        found += values if copies is None else [value[k] for k in range(copies) for value in values]
    return found


def set_weights_by_step(bijectors: Sequence[Bijector], weights: Sequence[np.ndarray]) -> None:
    """Sets the weights of the bijectors to a list from `get_weights_by_step`; ValueError unless it fits."""
    wanted = sum(len(bijector.weights) * (_copies(bijector) or 1) for bijector in bijectors)
    if wanted != len(weights):
        raise ValueError(f"the model has {wanted} weights, step by step. Received: {len(weights)} weights")
    remaining = iter(weights)
    for bijector in bijectors:
        count, copies = len(bijector.weights), _copies(bijector)
        own = list(itertools.islice(remaining, count * (copies or 1)))
        bijector.set_weights(own if copies is None else [np.stack(own[k::count]) for k in range(count)])


def _copies(bijector: Bijector) -> int | None:
    """Returns how many steps a stack holds together; None: it is no stack, and has no axis of copies."""
    return bijector.count if isinstance(bijector, Stack) else None
