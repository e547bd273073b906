"""The functions that users of a model call, as graphs with open batch sizes; an export has the same."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from glow_tf.bijectors import likelihood
from glow_tf.bijectors.bijector import WithLogDet
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import Mode, TracedOnce, filled_if_empty, in_streams
from glow_tf.model.conditions import specs_of_condition
from glow_tf.model.flow_functions import FlowFunctions

# A function that users call, and the signature that it is compiled for.
Endpoint = tuple[Callable[..., tf.Tensor | dict[str, tf.Tensor]], list[tf.TensorSpec]]


class ActivationLimit:
    """Clips activations to ±1e4, and notes which examples had larger ones.

    Activations of real images stay within about ±10. Those of latents far from the latents of any image would
    otherwise grow from flow step to flow step until they overflow.
    """

    LIMIT = 1e4

    def __init__(self):
        self.reached: tf.Tensor | None = None  # whether an example had larger ones, bool [B]

    def __call__(self, h: tf.Tensor) -> tf.Tensor:
        within = tf.reduce_all(tf.abs(h) <= self.LIMIT, axis=[1, 2, 3])
        self.reached = ~within if self.reached is None else self.reached | ~within
        return tf.clip_by_value(h, -self.LIMIT, self.LIMIT)


class Endpoints:
    """The functions of a model, uncompiled; `Flow`'s methods of the same names describe them.

    A model that is given something takes it as the last argument of every function, `condition`. Images are
    described as uint8; they have the type of the model's data. They run in a mode; what `encode` and `decode`
    do must be undone by the other, so they compute in full precision.
    """

    def __init__(self, flow: FlowFunctions, mode: Mode):
        self.flow, self._mode = flow, mode
        self._exactly = mode._replace(full_precision=True)
        # Most functions run the flow forwards or backwards: both are traced once for all of them.
        self._once = TracedOnce(kept_whole=False)

    def with_signatures(self) -> dict[str, Endpoint]:
        """Returns each function with its signature."""
        flow = self.flow
        images = tf.TensorSpec((None, *flow.image_shape), flow.data_dtype, name="images")
        eps = tf.TensorSpec((None, math.prod(flow.image_shape)), flow.compute_dtype, name="eps")
        seed = tf.TensorSpec((), tf.int32, name="seed")
        num = tf.TensorSpec((), tf.int32, name="num")
        temperature = tf.TensorSpec((), tf.float32, name="temperature")
        seeds = tf.TensorSpec((None,), tf.int32, name="seeds")
        temperatures = tf.TensorSpec((None,), tf.float32, name="temperatures")
        given = specs_of_condition(flow.config, flow.compute_dtype)
        condition = () if given is None else (tf.nest.map_structure(_of_batch, given),)
        endpoints = {
            "sample": (self.sample, [num, temperature, seed]),
            "sample_checked": (self.sample_checked, [num, temperature, seed]),
            "sample_dequantized": (self.sample_dequantized, [num, temperature, seed]),
            "encode": (self.encode, [images]),
            "decode": (self.decode, [eps]),
            "log_prob": (self.log_prob, [images, seed]),
            "bits_per_dim": (self.bits_per_dim, [images, seed]),
            "serving_default": (self.serving_default, [images]),
            "sample_each": (self.sample_each, [seeds, temperatures]),
            "log_prob_each": (self.log_prob_each, [images, seeds]),
        }
        return {
            name: (function, [*signature, *condition]) for name, (function, signature) in endpoints.items()
        }

    def sample(
        self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, condition: Condition = None
    ) -> tf.Tensor:
        """Draws images: uint8 [num, H, W, C]."""
        return self.sample_checked(num, temperature, seed, condition)["images"]

    def sample_checked(
        self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, condition: Condition = None
    ) -> dict[str, tf.Tensor]:
        """Draws images, uint8 [num, H, W, C], and whether activations were clipped for each, bool [num]."""
        v, limited = self._drawn(num, temperature, seed, condition)
        return {"images": self.flow.dequantize.to_output(v), "limited": limited}

    def sample_dequantized(
        self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, condition: Condition = None
    ) -> tf.Tensor:
        """Draws dequantised values: [num, H, W, C]."""
        return self._drawn(num, temperature, seed, condition)[0]

    def encode(self, images: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Whitens images at the middle of their bins: uint8 [B, H, W, C] → [B, D]."""
        v = self.flow.dequantized(images, noise=0.5)
        return self._of_any_number(self._whitened, self._exactly, v, _one_for_each(v, condition))[0]

    def decode(self, eps: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Inverts `encode`: [B, D] → uint8 [B, H, W, C]."""
        return self.flow.dequantize.to_output(self._dequantized(eps, condition, self._exactly)[0])

    def log_prob(self, images: tf.Tensor, seed: tf.Tensor | int, condition: Condition = None) -> tf.Tensor:
        """Scores images at one noise draw: uint8 [B, H, W, C] → [B], nats."""
        return self._scored(self.flow.dequantized(images, seed=seed), condition)

    def bits_per_dim(self, images: tf.Tensor, seed: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Scores images at one noise draw: uint8 [B, H, W, C] → [B], bits per dimension."""
        return likelihood.bits_per_dim(-self.log_prob(images, seed, condition), self.flow.image_shape)

    def serving_default(self, images: tf.Tensor, condition: Condition = None) -> dict[str, tf.Tensor]:
        """Scores images at the middle of their bins: nothing is drawn, so a server can batch requests."""
        log_prob = self._scored(self.flow.dequantized(images, noise=0.5), condition)
        bits_per_dim = likelihood.bits_per_dim(-log_prob, self.flow.image_shape)
        return {"log_prob": log_prob, "bits_per_dim": bits_per_dim}

    def sample_each(
        self, seeds: tf.Tensor, temperatures: tf.Tensor, condition: Condition = None
    ) -> tf.Tensor:
        """Draws an image for each seed, the one that `sample` draws alone: [B] twice → uint8 [B, H, W, C].

        A server may join the requests of several clients to one batch: no image depends on the others.
        """
        dtype = self.flow.compute_dtype
        eps = tf.map_fn(lambda seed: self._latents(seed, []), seeds, fn_output_signature=dtype)
        eps = tf.ensure_shape(eps, [None, math.prod(self.flow.image_shape)])
        own = tf.cast(_one_for_each(seeds, temperatures), dtype)
        v, _ = self._dequantized(own[:, tf.newaxis] * eps, condition, self._mode)
        return self.flow.dequantize.to_output(v)

    def log_prob_each(self, images: tf.Tensor, seeds: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Scores each image at the noise draw of its own seed: uint8 [B, H, W, C], [B] → [B], nats."""

        def alone(each: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            image, seed = each
            return self.flow.dequantized(image[tf.newaxis], seed=seed)[0]

        pairs = images, _one_for_each(images, seeds)
        v = tf.map_fn(alone, pairs, fn_output_signature=self.flow.compute_dtype)
        return self._scored(tf.ensure_shape(v, [None, *self.flow.image_shape]), condition)

    def _scored(self, v: tf.Tensor, condition: Condition) -> tf.Tensor:
        return self._of_any_number(self._log_prob, self._mode, v, _one_for_each(v, condition))

    def _drawn(
        self, num: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, condition: Condition
    ) -> tuple[tf.Tensor, tf.Tensor]:
        eps = self._latents(seed, [num])
        return self._dequantized(tf.cast(temperature, eps.dtype) * eps, condition, self._mode)

    def _latents(self, seed: tf.Tensor, batch: list) -> tf.Tensor:
        shape = [*batch, math.prod(self.flow.image_shape)]
        return tf.random.stateless_normal(shape, seed=[seed, 1], dtype=self.flow.compute_dtype)

    def _dequantized(self, eps: tf.Tensor, condition: Condition, mode: Mode) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns [B, H, W, C], and whether activations were clipped on the way, bool [B]."""
        return self._of_any_number(self._inverse, mode, eps, _one_for_each(eps, condition))

    def _inverse(self, mode: Mode, eps: tf.Tensor, condition: Condition) -> tuple[tf.Tensor, tf.Tensor]:
        limit = ActivationLimit()
        return self.flow.inverse(eps, limit, condition, mode=mode), limit.reached

    def _whitened(self, mode: Mode, v: tf.Tensor, condition: Condition) -> WithLogDet:
        return self.flow.forward_and_log_det(v, condition, mode)

    def _log_prob(self, mode: Mode, v: tf.Tensor, condition: Condition) -> tf.Tensor:
        return self.flow.dequantized_log_prob(v, condition, mode)

    def _of_any_number(self, function: Callable[..., Any], mode: Mode, *batches: Any) -> Any:
        """As `in_streams`; the batches may be empty."""
        size = tf.shape(batches[0])[0]
        results = in_streams(functools.partial(self._once, function), mode, *filled_if_empty(*batches))
        return tf.nest.map_structure(lambda result: result[:size], results)


def _one_for_each(batch: tf.Tensor, others: Any) -> Any:
    """Returns others [B, …]; InvalidArgumentError unless there is one for each example of a batch [B, …]."""
    for other in tf.nest.flatten(others):
        if other is not None:
            sizes = tf.shape(other)[0], tf.shape(batch)[0]
            message = "There must be one seed, temperature or condition for each example."
            tf.debugging.assert_equal(*sizes, message)
    return others


def _of_batch(spec: tf.TensorSpec) -> tf.TensorSpec:
    return tf.TensorSpec((None, *spec.shape), spec.dtype, spec.name)
