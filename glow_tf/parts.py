"""A part of the flow: consecutive bijectors with an objective of their own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from glow_tf.bijectors import Bijector, FlowStep, GaussianPrior, Split, Squeeze, Stack
from glow_tf.config import ModelConfig
from glow_tf.partition import PartPlan


class PartOutput(NamedTuple):
    """What a part makes of its input.

    Attributes:
      h: goes on to the next part, [B, H, W, C].
      latents: what the splits inside the part factored out, whitened by their priors, in forward order.
      latents_log_prob: Σ log p(z | h) of the factored-out latents, [B], nats.
      log_det: log|det| of the part's flow steps, [B], nats.
    """

    h: tf.Tensor
    latents: tuple[tf.Tensor, ...]
    latents_log_prob: tf.Tensor
    log_det: tf.Tensor

    @property
    def log_likelihood_term(self) -> tf.Tensor:
        """The part's share of the whole log-likelihood: everything but a prior of h. [B], nats."""
        return self.latents_log_prob + self.log_det


@keras.saving.register_keras_serializable(package="glow_tf")
class Part(keras.Model):
    """Consecutive flow steps with the squeezes and splits between them, and a prior for their output.

    `local_objective` is the truncated negative log-likelihood that the part alone is trained on (Glow
    parts, Eq. 3): −(log p_local(h) + log p(z | h) + log_det), where everything before the part is held
    fixed and everything after it does not exist.

    Args:
      bijectors: in forward order.
      prior: p_local; the last part's is the model's top prior.
    """

    def __init__(self, bijectors: Sequence[Bijector], prior: GaussianPrior, **kwargs):
        super().__init__(**kwargs)
        self.bijectors = list(bijectors)
        self.prior = prior

    @classmethod
    def from_plan(
        cls, plan: PartPlan, config: ModelConfig, *, prior: str, dtype: str | None = None, name: str
    ) -> Part:
        """Makes the (unbuilt) part that a plan lays out.

        A flow step's random starting values follow from the model's seed and its place in the *flow*, so
        the same model cut differently starts from the same weights.
        """
        bijectors: list[Bijector] = []
        for (block, kind), elements in itertools.groupby(plan.elements, lambda e: (e.block, e.kind)):
            label = f"block_{block}_{kind}"
            if kind == "squeeze":
                bijectors.append(Squeeze(dtype=dtype, name=label))
            elif kind == "split":
                bijectors.append(Split(config.split_prior, dtype=dtype, name=label))
            else:
                elements = list(elements)
                place = (block - 1) * config.flow_steps + elements[0].step
                step = FlowStep(
                    config.width,
                    config.coupling,
                    config.scale,
                    config.permutation,
                    config.norm,
                    seed=config.seed * 10_007 + place,
                    network_dtype=None if config.precision == "float32" else config.precision,
                    dtype=dtype,
                    name=kind,
                )
                bijectors.append(Stack(step, len(elements), dtype=dtype, name=f"{label}s"))
        return cls(bijectors, GaussianPrior(prior, dtype=dtype, name="prior"), dtype=dtype, name=name)

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Builds the bijectors and the prior, and learns the shapes of the latents."""
        shape = tuple(input_shape)
        self.latent_shapes: list[tuple[int, int, int]] = []
        for bijector in self.bijectors:
            if not bijector.built:  # a deserialised one is
                bijector.build(shape)
            shape = bijector.output_shape_of(shape)
            if isinstance(bijector, Split):
                shape = (*shape[:-1], shape[-1] // 2)
                self.latent_shapes.append(shape[1:])
        if not self.prior.built:
            self.prior.build(shape)
        self.output_event_shape = shape[1:]
        self.built = True

    def call(self, h: tf.Tensor) -> PartOutput:
        """Runs the part forward: [B, H, W, C] → `PartOutput`."""
        latents = []
        latents_log_prob = log_det = tf.zeros(tf.shape(h)[:1], h.dtype)
        for bijector in self.bijectors:
            if isinstance(bijector, Split):
                h, eps, log_prob = bijector.factor_out(h)
                latents.append(eps)
                latents_log_prob += log_prob
            else:
                h, change = bijector.forward_and_log_det(h)
                log_det += change
        return PartOutput(h, tuple(latents), latents_log_prob, log_det)

    def inverse(self, h: tf.Tensor, latents: Sequence[tf.Tensor], limit: float | None = None) -> tf.Tensor:
        """Recovers the part's input from its output and its whitened latents.

        Args:
          h: the part's output, [B, H, W, C].
          latents: what its splits factored out.
          limit: clips what passes between the bijectors to ±limit; None, the exact inverse, does not.
        """
        remaining = list(latents)
        for bijector in reversed(self.bijectors):
            if isinstance(bijector, Split):
                h = bijector.merge(h, remaining.pop())
            elif isinstance(bijector, Stack):
                h = bijector.inverse(h, limit)
            else:
                h = bijector.inverse(h)
            if limit is not None:
                h = tf.clip_by_value(h, -limit, limit)
        return h

    def initialize(self, h: tf.Tensor) -> tf.Tensor:
        """Sets data-dependent weights from the part's input h, and returns its output."""
        for bijector in self.bijectors:
            if isinstance(bijector, Split):
                h = bijector.factor_out(h)[0]
            else:
                h = bijector.initialize(h)
        return h

    def local_objective(self, output: PartOutput) -> tf.Tensor:
        """Returns the truncated negative log-likelihood of the part alone, [B], nats.

        It contains the local prior of h, so it is part of no likelihood of the whole chain, except for
        the last part, whose prior is the model's.
        """
        return -(self.prior.log_prob(output.h) + output.log_likelihood_term)

    def set_reversible(self, reversible: bool) -> None:
        """Chooses whether backpropagation recomputes the flow steps' activations; see `Stack`."""
        for bijector in self.bijectors:
            if isinstance(bijector, Stack):
                bijector.reversible = reversible

    @property
    def flow_variables(self) -> list[keras.Variable]:
        """Trainable variables of the bijectors, without the prior's."""
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
