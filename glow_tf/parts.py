"""A part of the flow: consecutive bijectors that can be trained on a local objective."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf.bijectors import (
    Bijector,
    ClassPrior,
    FlowSplit,
    FlowStep,
    GaussianPrior,
    Haar,
    Split,
    Squeeze,
    Stack,
    UniformPrior,
)
from glow_tf.bijectors.bijector import PartOutput
from glow_tf.config import ModelConfig
from glow_tf.partition import Element, PartLayout


@keras.saving.register_keras_serializable(package="glow_tf")
class Part(keras.Model):
    """Consecutive flow steps with the squeezes and splits between them, and a prior for their output.

    `truncated_nll` is the truncated negative log-likelihood on which the part alone is trained (Glow
    parts, Eq. 3): −(log p_local(h) + log p(z | h) + log_det). The parts before it are held fixed, and the
    parts after it do not run.

    The prior may be a part itself. It is then a **flow head**: a narrow flow that stands for everything after
    the part, is trained with it, and is used by nothing but its local objective.

    Args:
      bijectors: in forward order.
      prior: p_local, the density of the part's output; in the last part it is the model's top prior.
    """

    def __init__(
        self, bijectors: Sequence[Bijector], prior: GaussianPrior | ClassPrior | UniformPrior | Part, **kwargs
    ):
        super().__init__(**kwargs)
        self.bijectors = list(bijectors)
        self.prior = prior

    @classmethod
    def from_layout(
        cls, layout: PartLayout, config: ModelConfig, *, last: bool, dtype: str | None = None, name: str
    ) -> Part:
        """Makes the part that a layout describes; it is not built yet.

        The random starting values of a flow step depend on the model's seed and on the step's place in the
        *flow*. A model therefore starts from the same weights wherever it is cut.

        Args:
          layout: the part's elements.
          config: the model's settings.
          last: whether it is the last part, whose prior is the model's top prior.
          dtype: dtype policy of all layers; None means Keras's default.
          name: of the part.
        """
        if layout.head:
            narrow = dataclasses.replace(config, width=config.head_size.width, classes=())
            head = PartLayout(layout.head, layout.output_shape)
            prior = cls.from_layout(head, narrow, last=True, dtype=dtype, name="head")
        elif last and config.classes:
            prior = ClassPrior(len(config.classes), dtype=dtype, name="prior")
        elif config.has_levels and not last:
            prior = UniformPrior(dtype=dtype, name="prior")
        else:
            kind = config.top_prior if last else config.local_prior
            prior = GaussianPrior(kind, dtype=dtype, name="prior")
        return cls(_bijectors(layout, config, dtype), prior, dtype=dtype, name=name)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Builds the bijectors and the prior, and records the shapes of the latents and of the output."""
        shape = tuple(input_shape)
        self.latent_shapes: list[tuple[int, int, int]] = []
        for bijector in self.bijectors:
            if not bijector.built:  # Keras has already built one that it loaded
                bijector.build(shape)
            shape, latent_shapes = bijector.shapes_in_part(shape)
            self.latent_shapes += [latent_shape[1:] for latent_shape in latent_shapes]
        if not self.prior.built:
            self.prior.build(shape)
        self.output_event_shape = shape[1:]
        self.built = True

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """Returns the shape of h_k, what goes on to the next part: (B, H, W, C)."""
        return (input_shape[0], *self.output_event_shape)

    def call(self, h: tf.Tensor) -> PartOutput:
        """Runs the part forward: [B, H, W, C] → `PartOutput`."""
        output = PartOutput.start(h)
        for bijector in self.bijectors:
            output = bijector.forward_in_part(output)
        return output

    def inverse(
        self,
        h: tf.Tensor,
        latents: Sequence[tf.Tensor],
        bound: Callable[[tf.Tensor], tf.Tensor] = tf.identity,
    ) -> tf.Tensor:
        """Recovers the part's input from its output and its whitened latents.

        Args:
          h: the part's output, [B, H, W, C].
          latents: the latents that its splits factored out, in forward order.
          bound: changes the output of every inverted bijector, [B, H, W, C]; the default, the exact
            inverse, does not.

        Returns:
          The part's input, [B, H', W', C'].

        Raises:
          ValueError: the part is not built.
        """
        for bijector in reversed(self.bijectors):
            h, latents = bijector.inverse_in_part(h, latents, bound)
        return h

    def initialize(self, h: tf.Tensor) -> tf.Tensor:
        """Sets the weights that depend on data from the part's input, and returns the part's output.

        A flow head's weights follow from the part's output. Weights that are already initialised or restored
        keep their values.

        Args:
          h: the part's input, [B, H, W, C]: a few hundred training examples, run through the parts before.

        Returns:
          The part's output h, without the latents, [B, H', W', C']; the input of the next part.

        Raises:
          ValueError: the part is not built yet, and the shape of h does not fit its bijectors.
        """
        for bijector in self.bijectors:
            h = bijector.initialize_in_part(h)
        self.prior.initialize(h)
        return h

    def log_prob(self, h: tf.Tensor) -> tf.Tensor:
        """Returns the log-density of the part's input under the part and its prior, [B], nats.

        This is what a flow head is used for.

        Args:
          h: the part's input, [B, H, W, C].
        """
        return -self.truncated_nll(self.call(h))

    def truncated_nll(self, output: PartOutput, labels: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the truncated negative log-likelihood of the part alone, [B], nats.

        It contains the local prior of h. Only the last part's objective is therefore a term of the whole
        model's likelihood: its prior is the model's top prior.

        Args:
          output: what `call` returned.
          labels: the class of each example, integers [B], for a `ClassPrior`; None if it is not known.
        """
        log_prob = self.prior.log_prob(output.h, *for_prior(labels))
        return -(log_prob + output.log_likelihood_term)

    def set_reversible(self, reversible: bool) -> None:
        """Sets whether backpropagation recomputes the activations of the flow steps; see `Stack`."""
        for bijector in self.bijectors:
            bijector.reversible = reversible
        if self.has_head:
            self.prior.set_reversible(reversible)

    @property
    def reversible(self) -> bool:
        """Whether backpropagation recomputes the activations of the flow steps."""
        return any(bijector.reversible for bijector in self.bijectors)

    @property
    def has_head(self) -> bool:
        """Whether a flow head scores the part's output."""
        return isinstance(self.prior, Part)

    @property
    def fixed(self) -> bool:
        """Whether the part's output depends on none of its weights."""
        return all(bijector.fixed_in_part for bijector in self.bijectors)

    def pass_on(self, h: tf.Tensor) -> tf.Tensor:
        """Returns the output of a part that is `fixed`, and computes nothing else: [B, H, W, C] → h_k."""
        for bijector in self.bijectors:
            h = bijector.pass_on(h)
        return h

    @property
    def flow_variables(self) -> list[keras.Variable]:
        """Trainable variables of the bijectors, without those of the prior."""
        return [v for bijector in self.bijectors for v in bijector.trainable_variables]

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "bijectors": [keras.saving.serialize_keras_object(b) for b in self.bijectors],
            "prior": keras.saving.serialize_keras_object(self.prior),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Part:
        """See keras.Layer."""
        load = keras.saving.deserialize_keras_object
        return cls(
            [load(b, custom_objects) for b in config["bijectors"]],
            load(config["prior"], custom_objects),
            name=config["name"],
            dtype=config["dtype"],
        )


def for_prior(labels: tf.Tensor | None) -> tuple[tf.Tensor, ...]:
    """Returns labels as arguments of a prior: only a `ClassPrior` takes them."""
    return () if labels is None else (labels,)


def _bijectors(layout: PartLayout, config: ModelConfig, dtype: str | None) -> list[Bijector]:
    found: list[Bijector] = []
    for (block, kind), elements in itertools.groupby(layout.elements, lambda e: (e.block, e.kind)):
        label = f"block_{block}_{kind}"
        if kind == "squeeze":
            found.append(Squeeze(dtype=dtype, name=label))
        elif kind == "split":
            found.append(Split(config.split_prior, dtype=dtype, name=label))
        elif kind == "haar":
            return [Haar(dtype=dtype, name=f"level_{block}_haar"), _details(layout, config, dtype)]
        else:
            elements = list(elements)
            place = _place(config, elements[0])
            coupling = dataclasses.replace(config.coupling_config, width=elements[0].hidden)
            step = FlowStep(
                coupling,
                config.permutation,
                seed=config.seed * 10_007 + place,
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
        seed=config.seed * 10_007 + _place(config, steps[0]),
        dtype=dtype,
        name=f"level_{steps[0].block}_details",
    )


def get_weights_by_step(bijectors: Sequence[Bijector]) -> list[np.ndarray]:
    """Returns the weights of the bijectors, those of a stack copy by copy.

    The list is the same however the flow steps are distributed over stacks: a stack's weight [copies, …] is
    one entry for each copy, without this axis.
    """
    return [value for bijector in bijectors for value in bijector.get_weights_by_step()]


def set_weights_by_step(bijectors: Sequence[Bijector], weights: Sequence[np.ndarray]) -> None:
    """Sets the weights of the bijectors to a list from `get_weights_by_step`.

    Raises:
      ValueError: there are too few or too many weights, or one has another shape.
    """
    remaining = iter(weights)
    for bijector in bijectors:
        count = len(bijector.weights) * len(bijector.step_names)
        own = list(itertools.islice(remaining, count))
        if len(own) < count:
            raise ValueError(f"weights end before {bijector.name}. Received: {len(weights)} weights")
        bijector.set_weights_by_step(own)
    if next(remaining, None) is not None:
        raise ValueError(f"the model has fewer weights than were given. Received: {len(weights)} weights")
