"""The flow: its parts, their devices and weights; from data to latents and back, with log-determinants."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from glow_tf.architectures import design_of
from glow_tf.bijectors import Bijector
from glow_tf.bijectors.bijector import WithLogDet
from glow_tf.bijectors.condition import Array, Condition
from glow_tf.bijectors.mode import ALONE, PLAIN, Mode
from glow_tf.config import ModelConfig
from glow_tf.core.machine import check_memory
from glow_tf.model.conditions import checked_condition
from glow_tf.model.density_model import DensityModel, checked_images, checked_policy
from glow_tf.model.part_layers import entrance_of
from glow_tf.model.parts import Part, get_weights_by_step, set_weights_by_step
from glow_tf.model.passage import PartView, Passage


def is_initialized(layer: keras.Layer) -> bool:
    """Whether all weights of a layer that depend on data have been initialised or restored."""
    flags = [v for v in layer.non_trainable_variables if v.name.endswith("initialized")]
    return all(bool(tf.reduce_all(flag.value > 0)) for flag in flags)


class FlowFunctions(DensityModel):
    """The mathematics of `Flow`, whose arguments it has: functions of tensors, not compiled.

    Attributes:
      fixed_parts: of each part, whether its output depends on none of its weights.
    """

    def __init__(
        self,
        config: ModelConfig,
        part_devices: Sequence[str] = (),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.config = config
        self.design = design_of(config)
        self.part_devices = tuple(part_devices)
        if self.part_devices and len(self.part_devices) != self.design.num_parts:
            raise ValueError(
                f"part_devices must name {self.design.num_parts} devices, one per part, or none. "
                f"Received: {self.part_devices}"
            )
        layouts = self.design.layouts
        needed = 2 * self.design.model_bytes  # each weight is drawn before it is stored
        check_memory(needed, "the model's weights", "take a smaller width or fewer flow_steps")
        policy = checked_policy(self.dtype_policy)
        self.dequantize = entrance_of(config, policy)
        self.fixed_parts = tuple(layout.fixed for layout in layouts)
        self.parts = []
        for k, layout in enumerate(layouts):
            settings = {"last": k + 1 == len(layouts), "dtype": policy, "name": f"part_{k + 1}"}
            with self.on_device_of(k):  # where one's own condition network is built
                self.parts.append(Part.from_layout(layout, self.design, **settings))
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

    def on_device_of(self, k: int) -> contextlib.AbstractContextManager:
        """Returns a context in which operations run on the device of part k, from 0."""
        return tf.device(self.part_devices[k]) if self.part_devices else contextlib.nullcontext()

    def get_flow_weights(self) -> list[np.ndarray]:
        """Returns the weights flow step by flow step, without local bases: the same wherever it is cut.

        First come what maps data to real numbers, and the networks of what the model is given.
        """
        first = [value for layer in self._beside_steps() for value in layer.get_weights()]
        return [*first, *get_weights_by_step(self._bijectors_and_top_base())]

    def set_flow_weights(self, weights: Sequence[np.ndarray]) -> None:
        """Sets the weights to the `get_flow_weights` of another model; ValueError if they do not fit."""
        weights = list(weights)
        for layer in self._beside_steps():
            layer.set_weights(weights[: len(layer.weights)])
            weights = weights[len(layer.weights) :]
        set_weights_by_step(self._bijectors_and_top_base(), weights)

    def _beside_steps(self) -> list[keras.Layer]:
        networks = (part.condition_network for part in self.parts)
        return [self.dequantize, *(network for network in networks if network is not None)]

    def _bijectors_and_top_base(self) -> list[Bijector]:
        return [*(b for part in self.parts for b in part.bijectors), self.parts[-1].base]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images."""
        return self.config.image_shape

    @property
    def data_dtype(self) -> str:
        """The type of the images: `uint8`, `uint16` or `float32`."""
        return self.config.data_dtype

    def checked_condition(self, condition: Condition) -> Condition:
        """Checks what the model is given and returns it as tensors of its dtype; see `checked_condition`."""
        return checked_condition(condition, self.config, self.compute_dtype)

    @property
    def initialized(self) -> bool:
        """Whether the weights that depend on data have been initialised or restored."""
        return is_initialized(self)

    def initialize(
        self, images: Array, noise: Array | None = None, condition: Condition = None
    ) -> list[tf.Tensor]:
        """Sets what depends on data from a batch, part by part in the forward direction.

        These are the ActNorms, and what centres and scales real data. Call it once before training, eagerly
        and outside of `strategy.run`. What is already initialised or restored keeps its weights.

        Args:
          images: a few hundred training images, [B, H, W, C].
          noise: dequantisation noise in [0, 1), [B, H, W, C]; by default, drawn from the config's seed.
          condition: what the model is given with each image.

        Returns:
          The output of each part, [B, H', W', C'].
        """
        condition = self.checked_condition(condition)
        outputs = []
        h = self.dequantize.initialize(self.dequantized(images, noise, seed=self.config.seed))
        for k, part in enumerate(self.parts):
            with self.on_device_of(k):
                h = part.initialize(h, condition)
            outputs.append(h)
        return outputs

    def dequantized(
        self, images: Array, noise: Array | float | None = None, seed: tf.Tensor | int = 0
    ) -> tf.Tensor:
        """Adds noise to grey values: v in [0, 2^n_bits), [B, H, W, C]. Real data stay as they are.

        Args:
          images: [B, H, W, C], of the type of the model's data; of levels, of any size that they halve.
          noise: in [0, 1), [B, H, W, C] or one number for all; by default, drawn from the seed.
          seed: of the noise; unused if noise is given.

        Raises:
          ConfigError: `checked_images` refuses the images.
          ValueError, InvalidArgumentError: the shape of noise is not that of the images.
        """
        shape = (None, None, self.image_shape[-1]) if self.design.any_size else self.image_shape
        images = checked_images(images, shape, self.data_dtype)
        if self.config.is_real:
            return self.dequantize.grey_values(images)
        if noise is None:
            noise = tf.random.stateless_uniform(tf.shape(images), seed=[seed, 0], dtype=self.compute_dtype)
        elif np.ndim(noise):  # not one number for all pixels
            tf.debugging.assert_equal(tf.shape(noise), tf.shape(images), "noise must have the images' shape")
        return self.dequantize.grey_values(images) + tf.cast(noise, self.compute_dtype)

    def enter(self, images: Array, noise: Array | float | None, seed: tf.Tensor | int = 0) -> Passage:
        """Makes the passage before part 1, without condition; arguments as in `dequantized`.

        Its `log_likelihood` is the log-determinant of dequantisation, [B], nats.
        """
        return Passage(*self.dequantize.forward_and_log_det(self.dequantized(images, noise, seed)))

    def _entering(self, v: tf.Tensor, condition: Condition) -> Passage:
        """Makes the passage of dequantised values before part 1, with what is given, checked."""
        given = self.checked_condition(condition)
        return Passage(*self.dequantize.forward_and_log_det(v), condition=given)

    def through_part(self, k: int, passage: Passage, mode: Mode = PLAIN) -> tuple[Passage, PartView]:
        """Runs part k (from 0) on a passage: returns what goes on, and what the part saw and made."""
        h, log_likelihood, truncated, condition = passage
        with self.on_device_of(k):
            context = self.parts[k].read(condition, mode)
            output = self.parts[k].call(h, context)
            nll = self.parts[k].truncated_nll(output, context)
            truncated = (*truncated, nll - log_likelihood)
            log_likelihood += output.log_likelihood_term
        after = Passage(output.h, log_likelihood, truncated, condition)
        return after, PartView(h, *output, condition, context.condition, nll)

    def past_part(self, k: int, passage: Passage) -> Passage:
        """Takes a passage past part k (from 0), which must be fixed, without its likelihood."""
        with self.on_device_of(k):
            h = self.parts[k].pass_on(passage.h)
            nothing = math.nan * tf.ones_like(passage.log_likelihood)
        return passage._replace(h=h, truncated_nlls=(*passage.truncated_nlls, nothing))

    def through_parts(
        self, passage: Passage, start: int = 0, stop: int | None = None, mode: Mode = PLAIN
    ) -> Passage:
        """Runs the parts from `start` (from 0) up to `stop` (not included; None: all) on a passage."""
        for k in range(len(self.parts))[start:stop]:
            passage, _ = self.through_part(k, passage, mode)
        return passage

    def forward_and_log_det(
        self, v: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN
    ) -> WithLogDet:
        """Whitens dequantised values: v [B, H, W, C] → eps [B, D], log|det d eps/d v| [B] nats.

        The condition is what the model is given with each image.
        """
        (h, log_det, *_, condition), context = self._entering(v, condition), ALONE
        latents = []
        for k, part in enumerate(self.parts):
            with self.on_device_of(k):
                context = part.read(condition, mode)
                output = part.call(h, context)
            log_det += output.log_det_of_all
            latents += output.latents
            h = output.h
        top, whitening = self.parts[-1].base.forward_and_log_det(h, context)
        eps = [tf.reshape(z, [-1, math.prod(z.shape[1:])]) for z in (*latents, top)]
        return tf.concat(eps, axis=1), log_det + whitening

    def inverse_and_log_det(
        self, eps: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN
    ) -> WithLogDet:
        """Inverts `forward_and_log_det`: eps [B, D] → v [B, H, W, C], log|det d v/d eps| [B] nats."""
        v = self.inverse(eps, condition=condition, mode=mode)
        return v, -self.forward_and_log_det(v, condition, mode)[1]

    def inverse(
        self,
        eps: tf.Tensor,
        bound: Callable[[tf.Tensor], tf.Tensor] | None = None,
        condition: Condition = None,
        stop: int = 0,
        mode: Mode = PLAIN,
    ) -> tf.Tensor:
        """Inverts `forward_and_log_det`, whose other arguments it has: eps [B, D] → v [B, H, W, C].

        `bound` changes activations; see `Part.inverse`. `sample` clips them with `ActivationLimit`, and with
        a bound images between levels are clipped, too; see `within_range`. Without one the map is exact. With
        `stop`, so many of the first parts are not inverted: of levels, v is an image of H/2^stop × W/2^stop.
        """
        condition = self.checked_condition(condition)
        shapes = [shape for part in self.parts for shape in part.latent_shapes]
        shapes.append(self.parts[-1].output_event_shape)
        pieces = tf.split(eps, [math.prod(shape) for shape in shapes], axis=1)
        latents = [tf.reshape(z, [-1, *s]) for z, s in zip(pieces, shapes, strict=True)]
        last = self.parts[-1]
        h, _ = last.base.inverse_and_log_det(latents.pop(), last.read(condition, mode))
        for k, part in reversed(list(enumerate(self.parts))[stop:]):
            own = [latents.pop() for _ in part.latent_shapes]
            with self.on_device_of(k):
                h = part.inverse(h, own[::-1], bound or tf.identity, part.read(condition, mode))
            if bound and k:
                h = self.within_range(h)
        return self.dequantize.inverse_and_log_det(h)[0]

    def within_range(self, h: tf.Tensor) -> tf.Tensor:
        """Clips the image of a level, [B, H, W, C], to where means of pixels can be; else h stays as it is.

        What is drawn may leave that range, and finer levels, which have never seen it, then magnify it.
        """
        has_range = self.design.images_between_parts and self.config.data == "bytes"
        return tf.clip_by_value(h, -0.5, 0.5) if has_range else h

    def dequantized_log_prob(
        self, v: tf.Tensor, condition: Condition = None, mode: Mode = PLAIN
    ) -> tf.Tensor:
        """Returns the exact log-density of v [B, H, W, C], given a condition, if any: [B], nats."""
        return -self.through_parts(self._entering(v, condition), mode=mode).truncated_nlls[-1]
