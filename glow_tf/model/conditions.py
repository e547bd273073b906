"""What a model is given with each image, as users give it, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from glow_tf.bijectors.condition import Condition
from glow_tf.config import ModelConfig
from glow_tf.core.errors import ConfigError


def by_name(condition: Any) -> dict[str, Any]:
    """Returns what is given by its names: {} for nothing; one thing without a name has the name "".

    Lists become arrays; ConfigError if that cannot be.
    """
    if condition is None:
        return {}
    members = condition if isinstance(condition, Mapping) else {"": condition}
    return {name: _array(own) if isinstance(own, list | tuple) else own for name, own in members.items()}


def of_names(members: Mapping[str, Any]) -> Any:
    """Inverts `by_name`."""
    return members.get("", members) if members else None


def checked_condition(condition: Any, config: ModelConfig, dtype: str) -> Condition:
    """Checks what a model is given, and converts it to tensors of a dtype.

    It is a map [B, h, w, c] or a vector [B, d], a dictionary of them where the model knows them by name, or
    None. Bytes are centred and scaled as images are, to [−½, ½); other numbers stay as they are. ConfigError
    if it is missing, has another shape, is not finite, or the model is given nothing.
    """
    found = {name: tf.convert_to_tensor(own) for name, own in by_name(condition).items()}
    check_specs_of_condition(of_names(found), config)
    tensors = {name: _as_numbers(tensor, dtype) for name, tensor in found.items()}
    for name, tensor in tensors.items():
        if tf.executing_eagerly() and not bool(tf.reduce_all(tf.math.is_finite(tensor))):
            raise ConfigError(
                f"a condition must be finite. Received: {name or 'condition'} with NaN or infinity"
            )
    return of_names(tensors)


def in_arrays(given: Any) -> Any:
    """Returns conditions with lists as arrays; None of None."""
    return of_names(by_name(given))


def some_of(condition: Any, which: Any) -> Any:
    """Returns what some examples, a slice or an array of places, are given; None of None."""
    given = by_name(condition).items()
    return of_names({k: some_of(own, which) if isinstance(own, Mapping) else own[which] for k, own in given})


def check_given(model: Any, condition: Any, count: int) -> None:
    """Raises ConfigError, before anything is computed, unless there is a condition for each of the images."""
    first = {name: own[:1] if np.ndim(own) else own for name, own in by_name(condition).items()}
    model.checked_condition(of_names(first))
    for own in by_name(condition).values():
        if len(own) != count:
            raise ConfigError(
                f"there must be a condition for each of the {count} images. Received: {len(own)}"
            )
        if not np.isfinite(own).all():
            raise ConfigError("a condition must be finite. Received: one with NaN or infinity")


def num_of_request(num: Any, condition: Condition) -> Any:
    """Returns the number of images to draw: as many as there are conditions, if it is not said.

    ConfigError if neither is given, or num is no positive number.
    """
    members = list(by_name(condition).values())
    num = len(members[0]) if num is None and members else num
    number = tf.convert_to_tensor(-1 if num is None else num)
    known = tf.get_static_value(number)  # None within a graph
    one = number.dtype.is_integer and number.shape.is_compatible_with([])
    if not one or (known is not None and known < 1):
        raise ConfigError(f"num must be a positive number of images. Received: num={num}")
    return num


def check_one_for_each(given: tuple[Condition, ...], arguments: Mapping[str, Any]) -> None:
    """Raises ConfigError unless a call has a condition for each of its images or latents."""
    batches = [arguments[name] for name in ("images", "eps") if name in arguments]
    count = batches[0].shape[0] if batches else tf.get_static_value(tf.convert_to_tensor(arguments["num"]))
    for tensor in tf.nest.flatten(given):
        if None not in (count, tensor.shape[0]) and tensor.shape[0] != count:
            raise ConfigError(
                f"there must be a condition for each of the {count} images. Received: {tensor.shape[0]}"
            )


def specs_of_condition(config: ModelConfig, dtype: str) -> Any:
    """Returns the specs of what one example is given, in the structure of a condition; None for nothing."""
    specs = {
        name: tf.TensorSpec(shape, dtype, name or "condition")
        for name, shape in config.condition_shapes.items()
    }
    return of_names(specs)


def check_specs_of_condition(condition: Any, config: ModelConfig) -> None:
    """Raises ConfigError unless tensors, or the specs of a dataset's batches, are what the model is given."""
    shapes, given = config.condition_shapes, by_name(condition)
    fits = given.keys() == shapes.keys() and all(_fits(own, shapes[name]) for name, own in given.items())
    if not fits:
        found = {name: f"{own.dtype.name} {own.shape}" for name, own in given.items()}
        raise ConfigError(f"the model needs {_written(shapes)}. Received: {of_names(found)}")


def _array(members: Sequence[Any]) -> Any:
    if any(map(tf.is_tensor, members)):
        return tf.convert_to_tensor(members)  # also where a function is traced
    try:
        return np.asarray(members)
    except ValueError as error:  # lists of several lengths
        raise ConfigError(f"a condition must be an array [batch, …]. Received: a list, {error}") from None


def _fits(own: Any, shape: tuple[int, ...]) -> bool:
    has_numbers = own.dtype.is_floating or own.dtype.is_integer
    dense = isinstance(own, tf.Tensor | tf.TensorSpec)
    return dense and has_numbers and own.shape.is_compatible_with([None, *shape])


def _as_numbers(tensor: tf.Tensor, dtype: str) -> tf.Tensor:
    numbers = tf.cast(tensor, dtype)
    return numbers / 256 - 0.5 if tensor.dtype == tf.uint8 else numbers


def _written(shapes: Mapping[str, tuple[int, ...]]) -> str:
    if not shapes:
        return "no condition"
    written = {name: f"(batch, {', '.join(map(str, shape))})" for name, shape in shapes.items()}
    named = ", ".join(f"{name!r} of shape {shape}" for name, shape in written.items() if name)
    return f"a condition: a dictionary with {named}" if named else f"a condition of shape {written['']}"
