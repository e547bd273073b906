"""Glow: the parts in order, as a density of images."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from glow_tf import likelihood
from glow_tf.bijectors import Bijector, Dequantize, Stack
from glow_tf.bijectors.networks import full_precision
from glow_tf.config import ModelConfig
from glow_tf.parts import Part
from glow_tf.streams import in_streams

# Where images are made from latents, no activation may leave ±1e4. Those of images stay within about ±10;
# latents far from any image's are otherwise amplified from step to step until they overflow.
ACTIVATION_LIMIT = 1e4


class Passage(NamedTuple):
    """A batch on its way through the parts.

    Attributes:
      h: what the parts passed so far make of it, [B, H, W, C].
      log_likelihood: their share of the log-likelihood, [B], nats.
      truncated: for each of them, the negative log-likelihood of the flow that ends with it, [B], nats.
    """

    h: tf.Tensor
    log_likelihood: tf.Tensor
    truncated: tuple[tf.Tensor, ...] = ()

    def isolated(self) -> Passage:
        """Returns the batch as it stands, without a way back: no gradient crosses this cut.

        The one place where parts are isolated.
        """
        return self._replace(h=tf.stop_gradient(self.h))


@keras.saving.register_keras_serializable(package="glow_tf")
class Glow(keras.Model):
    """A multi-scale flow for images, cut into parts.

    Dequantise → part 1 → … → part n. A model of one part and the same model cut into several compute the
    same function from the same weights; the cut says only how it can be trained.

    Likelihoods of uint8 images are those of one dequantised value (the byte plus noise drawn from `seed`):
    a lower bound in expectation on log P(image). `encode`, which takes the middle of each bin instead, and
    `decode` are inverses of one another; both compute in float32 whatever the config's precision.

    The constructor builds the weights: shapes are known from the config.

    Args:
      config: the model's settings.
      part_devices: of each part, the device that holds its weights and runs it; empty leaves it to
        TensorFlow. Where a model runs is no part of what it is: it is not saved.

    Raises:
      ConfigError: the settings do not make a model.
    Reference: Kingma & Dhariwal 2018, https://arxiv.org/abs/1807.03039; Glow parts, sections 2 and 3.
    """

    def __init__(self, config: ModelConfig, part_devices: Sequence[str] = (), **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.part_devices = tuple(part_devices)
        if self.part_devices and len(self.part_devices) != len(config.flow_step_counts):
            raise ValueError(
                f"part_devices must name {len(config.flow_step_counts)} devices, one for each part, or none. "
                f"Received: {self.part_devices}"
            )
        plans = config.plans()
        policy = self.dtype_policy.name
        self.dequantize = Dequantize(config.n_bits, dtype=policy)
        self.parts = [
            Part.from_plan(
                plan,
                config,
                prior=config.local_prior if k < len(plans) else config.top_prior,
                dtype=policy,
                name=f"part_{k}",
            )
            for k, plan in enumerate(plans, start=1)
        ]
        self.build()
        self._compiled = {
            name: tf.function(function, input_signature=signature, autograph=False)
            for name, (function, signature) in self.endpoints().items()
        }

    def build(self, input_shape: object = None) -> None:
        """Builds the parts on the config's image shape."""
        shape = self.image_shape
        for k, part in enumerate(self.parts):
            if not part.built:
                with self.on_device_of(k):
                    part.build((None, *shape))
            shape = part.output_event_shape
        self.built = True

    def on_device_of(self, k: int) -> contextlib.AbstractContextManager:
        """Within it, operations run where part k (from 0) lives."""
        return tf.device(self.part_devices[k]) if self.part_devices else contextlib.nullcontext()

    def get_flow_weights(self) -> list[np.ndarray]:
        """Returns the weights flow step by flow step, the same list however the model is cut.

        Local priors, which only training uses, are not among them.
        """
        found: list[np.ndarray] = []
        for bijector in self._bijectors_and_top_prior():
            values = bijector.get_weights()
            copies = range(bijector.count) if isinstance(bijector, Stack) else None
            found += values if copies is None else [value[k] for k in copies for value in values]
        return found

    def set_flow_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Takes over the `get_flow_weights` of a model that differs in its cuts at most.

        Raises:
          ValueError: the number or a shape of the weights is another one's.
        """
        remaining = iter(weights)
        for bijector in self._bijectors_and_top_prior():
            count = bijector.count if isinstance(bijector, Stack) else 1
            rows = [list(itertools.islice(remaining, len(bijector.weights))) for _ in range(count)]
            if any(len(row) < len(bijector.weights) for row in rows):
                raise ValueError(f"weights end before {bijector.name}. Received: {len(weights)} weights")
            stacked = [np.stack(column) for column in zip(*rows, strict=True)]
            bijector.set_weights(stacked if isinstance(bijector, Stack) else rows[0])
        if next(remaining, None) is not None:
            raise ValueError(f"weights are more than the model has. Received: {len(weights)} weights")

    def _bijectors_and_top_prior(self) -> list[Bijector]:
        return [*(b for part in self.parts for b in part.bijectors), self.parts[-1].prior]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return self.config.image_shape

    @property
    def dimensions(self) -> int:
        """D = H·W·C, also the number of latents."""
        return math.prod(self.image_shape)

    @property
    def initialized(self) -> bool:
        """Whether the data-dependent initialisation has happened (or was restored)."""
        flags = [v for v in self.non_trainable_variables if v.name.endswith("initialized")]
        return all(bool(tf.reduce_all(flag.value > 0)) for flag in flags)

    def initialize(self, images: tf.Tensor, noise: tf.Tensor | None = None) -> None:
        """Sets every ActNorm from a batch, part by part in the encode direction.

        Run it once before training, eagerly and outside of `strategy.run`. What is initialised or restored
        already stays as it is.

        Args:
          images: uint8 [B, H, W, C]; a few hundred training images.
          noise: dequantisation noise in [0, 1), [B, H, W, C]; drawn from the model's seed by default.
        """
        h = self.dequantize.forward(self.dequantized(images, noise, seed=self.config.seed))
        for k, part in enumerate(self.parts):
            with self.on_device_of(k):
                h = part.initialize(h)

    def dequantized(
        self, images: tf.Tensor, noise: tf.Tensor | None = None, seed: tf.Tensor | int = 0
    ) -> tf.Tensor:
        """Adds noise to the levels of uint8 images; without noise given, draws it from the seed."""
        images = tf.convert_to_tensor(images)
        if noise is None:
            noise = tf.random.stateless_uniform(tf.shape(images), seed=[seed, 0], dtype=self.compute_dtype)
        return self.dequantize.levels(images) + tf.cast(noise, self.compute_dtype)

    def enter(self, images: tf.Tensor, noise: tf.Tensor | None, seed: tf.Tensor | int = 0) -> Passage:
        """Dequantises uint8 images, which then stand before the first part."""
        return Passage(*self.dequantize.forward_and_log_det(self.dequantized(images, noise, seed)))

    def through_next_part(self, passage: Passage) -> tuple[Passage, tf.Tensor]:
        """Takes a batch through one more part; returns it and the part's `local_objective`."""
        h, log_likelihood, truncated = passage
        k = len(truncated)
        with self.on_device_of(k):
            output = self.parts[k].call(h)
            objective = self.parts[k].local_objective(output)
            log_likelihood_after = log_likelihood + output.log_likelihood_term
            truncated = (*truncated, objective - log_likelihood)
        return Passage(output.h, log_likelihood_after, truncated), objective

    def forward_and_log_det(self, v: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Whitens dequantised values: v [B, H, W, C] → eps [B, D], log|det d eps/d v| [B] nats."""
        h, log_det = self.dequantize.forward_and_log_det(v)
        latents = []
        for k, part in enumerate(self.parts):
            with self.on_device_of(k):
                output = part.call(h)
            # Whitening is part of this map: log p(z | h) = log N(eps) + its log-determinant.
            log_det += output.log_likelihood_term
            log_det -= sum(likelihood.standard_normal_log_prob(eps) for eps in output.latents)
            latents += output.latents
            h = output.h
        top, whitening = self.parts[-1].prior.forward_and_log_det(h)
        eps = [tf.reshape(z, [-1, math.prod(z.shape[1:])]) for z in (*latents, top)]
        return tf.concat(eps, axis=1), log_det + whitening

    def inverse_and_log_det(self, eps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Undoes `forward_and_log_det`: eps [B, D] → v [B, H, W, C], log|det d v/d eps| [B] nats."""
        v = self.inverse(eps)
        return v, -self.forward_and_log_det(v)[1]

    def inverse(self, eps: tf.Tensor, limit: float | None = None) -> tf.Tensor:
        """Maps whitened latents to dequantised values: eps [B, D] → v [B, H, W, C].

        `limit` is that of `Part.inverse`: None is exact; images are drawn with `ACTIVATION_LIMIT`.
        """
        shapes = [shape for part in self.parts for shape in part.latent_shapes]
        shapes.append(self.parts[-1].output_event_shape)
        pieces = tf.split(eps, [math.prod(shape) for shape in shapes], axis=1)
        latents = [tf.reshape(z, [-1, *s]) for z, s in zip(pieces, shapes, strict=True)]
        h = self.parts[-1].prior.inverse(latents.pop())
        for k, part in reversed(list(enumerate(self.parts))):
            own = [latents.pop() for _ in part.latent_shapes]
            with self.on_device_of(k):
                h = part.inverse(h, own[::-1], limit)
        return self.dequantize.inverse(h)

    def dequantized_log_prob(self, v: tf.Tensor) -> tf.Tensor:
        """Returns the exact log-density of dequantised values v [B, H, W, C]: [B], nats."""
        passage = Passage(*self.dequantize.forward_and_log_det(v))
        for _ in self.parts:
            passage, _ = self.through_next_part(passage)
        return -passage.truncated[-1]

    def log_prob(self, images: tf.Tensor, seed: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns a one-sample lower bound on log P(image): uint8 [B, H, W, C] → [B], nats.

        Raises:
          ValueError: images are not uint8 [B, H, W, C] of the model's shape (so do those below).
        """
        return self._compiled["log_prob"](self.checked(images), seed)

    def bits_per_dim(self, images: tf.Tensor, seed: tf.Tensor | int = 0) -> tf.Tensor:
        """Returns −log_prob in bits per dimension: uint8 [B, H, W, C] → [B]."""
        return self._compiled["bits_per_dim"](self.checked(images), seed)

    def encode(self, images: tf.Tensor) -> tf.Tensor:
        """Returns every latent, whitened, of images at the middle of their bins: → [B, D]."""
        return self._compiled["encode"](self.checked(images))

    def decode(self, eps: tf.Tensor) -> tf.Tensor:
        """Returns the images of whitened latents: [B, D] → uint8 [B, H, W, C]."""
        return self._compiled["decode"](eps)

    def sample(
        self, num: tf.Tensor | int, temperature: tf.Tensor | float = 1.0, seed: tf.Tensor | int = 0
    ) -> tf.Tensor:
        """Draws images.

        Args:
          num: how many.
          temperature: deviation of the whitened latents; below 1 trades variety for likelihood.
          seed: the same seed draws the same latents.

        Returns:
          uint8 [num, H, W, C].
        """
        return self._compiled["sample"](num, temperature, seed)

    def sample_dequantized(
        self, num: tf.Tensor | int, temperature: tf.Tensor | float = 1.0, seed: tf.Tensor | int = 0
    ) -> tf.Tensor:
        """Draws what `sample` rounds down: dequantised values [num, H, W, C]."""
        return self._compiled["sample_dequantized"](num, temperature, seed)

    def endpoints(self) -> dict[str, tuple[Callable[..., tf.Tensor], list[tf.TensorSpec]]]:
        """Returns the functions that users call, uncompiled, each with its signature.

        They are compiled once with free batch sizes: neither a new seed nor a new batch size retraces.
        """
        images = tf.TensorSpec((None, *self.image_shape), tf.uint8, name="images")
        eps = tf.TensorSpec((None, self.dimensions), self.compute_dtype, name="eps")
        seed = tf.TensorSpec((), tf.int32, name="seed")
        num = tf.TensorSpec((), tf.int32, name="num")
        temperature = tf.TensorSpec((), tf.float32, name="temperature")
        return {
            "sample": (self._sample, [num, temperature, seed]),
            "sample_dequantized": (self._sample_dequantized, [num, temperature, seed]),
            "encode": (self._encode, [images]),
            "decode": (self._decode, [eps]),
            "log_prob": (self._log_prob, [images, seed]),
            "bits_per_dim": (self._bits_per_dim, [images, seed]),
        }

    def _log_prob(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return in_streams(self.dequantized_log_prob, self.dequantized(images, seed=seed))

    def _bits_per_dim(self, images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return likelihood.bits_per_dim(-self._log_prob(images, seed), self.image_shape)

    def _encode(self, images: tf.Tensor) -> tf.Tensor:
        with full_precision():
            return in_streams(self.forward_and_log_det, self.dequantized(images, noise=0.5))[0]

    def _decode(self, eps: tf.Tensor) -> tf.Tensor:
        with full_precision():
            return self.dequantize.to_uint8(self._image_values(eps))

    def _sample(self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return self.dequantize.to_uint8(self._sample_dequantized(num, temperature, seed))

    def _sample_dequantized(self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        eps = tf.random.stateless_normal([num, self.dimensions], seed=[seed, 1], dtype=self.compute_dtype)
        return self._image_values(tf.cast(temperature, self.compute_dtype) * eps)

    def _image_values(self, eps: tf.Tensor) -> tf.Tensor:
        return in_streams(lambda own: self.inverse(own, ACTIVATION_LIMIT), eps)

    def checked(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the images as a tensor; raises ValueError unless they are uint8 of the model's shape."""
        images = tf.convert_to_tensor(images)
        if images.dtype != tf.uint8 or images.shape.rank != 4 or images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images must be uint8 of shape (batch, {', '.join(map(str, self.image_shape))}). "
                f"Received: {images.dtype.name} of shape {tuple(images.shape)}"
            )
        return images

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Keras's entry point: `log_prob` with seed 0."""
        return self._log_prob(images, 0)

    def get_config(self) -> dict:
        """See keras.Layer."""
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "config": dataclasses.asdict(self.config),
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Glow:
        """See keras.Layer."""
        return cls(ModelConfig(**config["config"]), name=config["name"], dtype=config["dtype"])
