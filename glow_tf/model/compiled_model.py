"""What users call of a model: each function, checked and compiled once."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.architectures.partition import FLOAT_BYTES
from glow_tf.bijectors.condition import Array, Condition
from glow_tf.bijectors.mode import PLAIN, Mode, mode_of_process
from glow_tf.core.errors import ConfigError, in_one_line
from glow_tf.core.machine import check_memory
from glow_tf.model.conditions import check_one_for_each, num_of_request
from glow_tf.model.density_model import checked_images
from glow_tf.model.endpoints import Endpoint, Endpoints
from glow_tf.model.flow_functions import FlowFunctions

Integer = tf.Tensor | int
Number = tf.Tensor | float


class CompiledModel(FlowFunctions):
    """A flow that scores, codes and draws images in batches of any size; each function is compiled once.

    Attributes:
      image_shape: (H, W, C).
      data_dtype: of images, given and drawn: `uint8`, `uint16` (more than 8 bits) or `float32` (real data).
      dimensions: H·W·C.
      compute_dtype: of the latents.
      condition_shapes: of what it is given, by name.

    Below, images are those of a model of bytes. Real data have neither noise nor bins: their `log_prob` is
    exact, whatever the seed, and their bits per dimension are those of a density, and may be negative.

    Every call draws anew, latents and the noise of dequantisation, unless it is given a `seed`. The same
    seed, or `keras.utils.set_random_seed` before the same calls, repeats what was drawn. Pieces of many
    images that are scored one by one with the same seed share their noise.

    A model that is given something with each image takes it as `condition` in every method: a tensor [B, …],
    or a dictionary of them, of the shapes that its settings say. Others take none.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._compiled = {
            # A partial for each model: of one method TensorFlow counts all traces, and warns of many.
            name: tf.function(functools.partial(function), input_signature=signature, autograph=False)
            for name, (function, signature) in self.endpoints(mode_of_process()).items()
        }

    @property
    def condition_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what the model is given, by name; see `ModelConfig.condition_shapes`."""
        return self.config.condition_shapes

    def _call(self, name: str, condition: Condition = None, **arguments: Any) -> Any:
        """Calls an endpoint; the arguments are in its order, and `images` are checked before."""
        number = tf.TensorSpec([], tf.int32)
        eps = tf.TensorSpec([None, self.dimensions], self.compute_dtype)
        if arguments.get("seed", 0) is None:  # by an operation: a function draws anew whenever it is called
            arguments["seed"] = tf.random.uniform([], maxval=tf.int32.max, dtype=tf.int32)
        specs = {"num": number, "seed": number, "temperature": tf.TensorSpec([], tf.float32), "eps": eps}
        for own in arguments.keys() & specs.keys():
            _check_argument(own, arguments[own], specs[own])
            arguments[own] = tf.convert_to_tensor(arguments[own], specs[own].dtype)  # if functions are eager
        checked = self.checked_condition(condition)
        given = () if checked is None else (checked,)
        check_one_for_each(given, arguments)
        num = tf.get_static_value(arguments["num"]) if "num" in arguments else None
        if num is not None:
            check_memory(int(num) * self.dimensions * FLOAT_BYTES, f"{num} images at once", "draw fewer")
        try:
            return self._compiled[name](*arguments.values(), *given)
        except tf.errors.ResourceExhaustedError as error:
            raise ConfigError(
                "so many images at once take more memory than there is; take fewer, or the functions of "
                f"glow_tf.use, which work in batches. Received: {in_one_line(error.message)}"
            ) from None

    @property
    def dimensions(self) -> int:
        """D = H·W·C, the number of values per image and of latents."""
        return math.prod(self.image_shape)

    def log_prob(self, images: Array, seed: Integer | None = None, condition: Condition = None) -> tf.Tensor:
        """Returns a one-sample lower bound on log P(image): uint8 [B, H, W, C] → [B], nats.

        The noise follows from `seed`; None: it is drawn anew. `score` needs none.
        Like `bits_per_dim` and `encode`, this raises a ValueError for images that `checked` refuses.
        """
        return self._call("log_prob", condition, images=self.checked(images), seed=seed)

    def bits_per_dim(
        self, images: Array, seed: Integer | None = None, condition: Condition = None
    ) -> tf.Tensor:
        """Returns −log_prob in bits per dimension: uint8 [B, H, W, C] → [B]."""
        return self._call("bits_per_dim", condition, images=self.checked(images), seed=seed)

    def score(self, images: Array, condition: Condition = None) -> dict[str, tf.Tensor]:
        """Returns `log_prob` in nats and `bits_per_dim`, [B] each, at the middle of the images' bins.

        They follow from the image alone, uint8 [B, H, W, C]. As estimates of its likelihood they are a little
        too good, because the middle of a bin tends to be likeliest.
        """
        return self._call("serving_default", condition, images=self.checked(images))

    def encode(self, images: Array, condition: Condition = None) -> tf.Tensor:
        """Returns all whitened latents, at the middle of the bins: uint8 [B, H, W, C] → [B, D]."""
        return self._call("encode", condition, images=self.checked(images))

    def decode(self, eps: Array, condition: Condition = None) -> tf.Tensor:
        """Returns the images of whitened latents: [B, D] → uint8 [B, H, W, C]; inverts `encode`."""
        return self._call("decode", condition, eps=eps)

    def sample(
        self,
        num: Integer | None = None,
        temperature: Number = 1.0,
        seed: Integer | None = None,
        condition: Condition = None,
    ) -> tf.Tensor:
        """Draws images.

        Args:
          num: number of images; with a condition, it may be left out.
          temperature: standard deviation of the whitened latents; below 1, images are likelier and vary less.
          seed: of the latents; None: drawn anew.
          condition: what each of the num images is drawn given; see the class.

        Returns:
          uint8 [num, H, W, C].

        Raises:
          ConfigError: num is not positive, or there are not num conditions.
        """
        return self.sample_checked(num, temperature, seed, condition)["images"]

    def sample_checked(
        self,
        num: Integer | None = None,
        temperature: Number = 1.0,
        seed: Integer | None = None,
        condition: Condition = None,
    ) -> dict[str, tf.Tensor]:
        """Draws the images of `sample`: `images`, uint8 [num, H, W, C], and `limited`, bool [num].

        `limited` says whether activations were clipped to keep them finite, see `ActivationLimit`. Such an
        image says little about the model.
        """
        num = num_of_request(num, condition)
        return self._call("sample_checked", condition, num=num, temperature=temperature, seed=seed)

    def checked(self, images: Array) -> tf.Tensor:
        """Checks images and converts them to a tensor [B, H, W, C]; see `checked_images`."""
        return checked_images(images, self.image_shape, self.data_dtype)

    def call(self, images: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        """Computes `log_prob` with seed 0 when the model is called: uint8 [B, H, W, C] → [B], nats."""
        return Endpoints(self, mode_of_process()).log_prob(images, 0, condition)

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        if not self.loss:
            raise ConfigError(
                "glow_tf.PartsTrainer(flow) trains and evaluates a flow, by its bits per dimension; fit and "
                "evaluate of the flow itself need a loss of its log-probabilities. Received: loss=None"
            )
        return super().compute_loss(*args, **kwargs)

    def sample_dequantized(
        self,
        num: Integer,
        temperature: Number = 1.0,
        seed: Integer | None = None,
        condition: Condition = None,
    ) -> tf.Tensor:
        """Draws the dequantised values [num, H, W, C] that `sample` rounds down."""
        return self._call("sample_dequantized", condition, num=num, temperature=temperature, seed=seed)

    def endpoints(self, mode: Mode = PLAIN) -> dict[str, Endpoint]:
        """Returns the functions that users call, by name: each uncompiled function with its signature."""
        return Endpoints(self, mode).with_signatures()


def require_pictures(what: str, model: CompiledModel) -> None:
    """Raises ConfigError unless the data of a model are pictures, of 8 bits and one channel or three."""
    if not model.config.is_pictures:
        raise ConfigError(
            f"{what} is for pictures, uint8 of one channel or three. "
            f"Received: a model of {model.data_dtype} with {model.image_shape[-1]} channels"
        )


def check_finite(name: str, value: Any, lowest: float = -math.inf) -> None:
    """Raises ConfigError unless numbers, which a graph may not know yet, are finite and `lowest` at least."""
    known = tf.get_static_value(value) if tf.is_tensor(value) else np.asarray(value)
    if known is not None and not (np.isfinite(known).all() and np.all(known >= lowest)):
        least = f", {lowest:g} at least" if lowest > -math.inf else ""
        raise ConfigError(f"{name} must be finite{least}. Received: {name}={in_one_line(repr(known))[:60]}")


def _check_argument(name: str, value: Any, spec: tf.TensorSpec) -> None:
    """Raises ConfigError unless TensorFlow takes a value for such a tensor: it casts all but tensors."""
    try:
        found = value if tf.is_tensor(value) else np.asarray(value)
    except (ValueError, TypeError):  # lists of several lengths
        found = np.asarray(None)
    kinds = (np.integer,) if spec.dtype.is_integer else (np.integer, np.floating)
    casts = not tf.is_tensor(value) and any(np.issubdtype(found.dtype, kind) for kind in kinds)
    if casts and spec.dtype.is_integer:  # casting would wrap larger ones
        casts = bool(np.all((found >= spec.dtype.min) & (found <= spec.dtype.max)))
    if not (casts or found.dtype == spec.dtype) or not spec.shape.is_compatible_with(found.shape):
        raise ConfigError(
            f"{name} must be {spec.dtype.name} of shape {tuple(spec.shape)}; numbers are cast, tensors not. "
            f"Received: {name}={' '.join(repr(value).split())[:60]} of shape {tuple(found.shape)}"
        )
    if not spec.dtype.is_integer:
        check_finite(name, value, 0 if name == "temperature" else -math.inf)
