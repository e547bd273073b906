"""What a part minimises: a loss per example, of what the part saw and made."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from glow_tf.bijectors.registered import seeded
from glow_tf.core.errors import ConfigError
from glow_tf.core.lazy import imported
from glow_tf.internals import layers_within
from glow_tf.model.glow import Glow
from glow_tf.model.passage import PartView


class LocalObjective(keras.layers.Layer):
    """What a part is trained on while no gradient comes back from the parts after it.

    A subclass says the loss of every example, and may have weights, which the part's optimizer trains:

        class Reconstruction(glow_tf.LocalObjective):
            def build(self, output_shape):
                self.decoder = keras.layers.Conv2DTranspose(3, 2, strides=2)
                self.decoder.build(output_shape)

            def losses(self, view):
                return tf.reduce_sum((self.decoder(view.output) - view.input) ** 2, axis=(1, 2, 3))

    It is given to `PartsTrainer(objective=Reconstruction)`, or named in a flagfile, as
    `--objective=module:Class`. The reported likelihoods are computed apart from it.

    Reference: Glow parts, Eq. 3, of which `PriorObjective` is one.
    """

    def losses(self, view: PartView) -> tf.Tensor:
        """Returns a loss for every example, [B], nats, or in the scale of nats: see `clip_norm`."""
        raise NotImplementedError


class PriorObjective(LocalObjective):
    """The part's truncated negative log-likelihood: its output is scored by its prior (Glow parts, Eq. 3).

    The prior is a Gaussian, a learned one, or a flow head; its weights are the part's.
    """

    def losses(self, view: PartView) -> tf.Tensor:
        return view.truncated_nll


Objectives = type[LocalObjective] | Callable[[], LocalObjective] | Sequence[LocalObjective | None] | None


def objectives_of(glow: Glow, given: Objectives) -> list[LocalObjective | None]:
    """Returns the objectives of one's own, built: one for each part, or None where the prior scores the part.

    Given is a class, or a function without arguments, for an objective of every part but the last; or one
    objective for each part, None where the part keeps its own. ConfigError if it is something else, or a part
    that it is for has a prior to train.
    """
    num_parts = len(glow.parts)
    if given is None:
        return [None] * num_parts
    if isinstance(given, type) and not issubclass(given, LocalObjective):
        given = [given]  # which is refused
    if callable(given) and not isinstance(given, LocalObjective):  # layers can be called, too
        if num_parts == 1:
            raise ConfigError(
                "objective is for parts that are cut, so parts must be 2 or more. Received: parts=1"
            )
        given = [*(given() for _ in range(num_parts - 1)), None]
    found = list(given) if isinstance(given, list | tuple) else [given]
    if len(found) != num_parts or not all(isinstance(o, LocalObjective | None) for o in found):
        raise ConfigError(
            f"objective must be a LocalObjective class, or one LocalObjective (or None) for each of the "
            f"{num_parts} parts. Received: {str(given)[:200]}"
        )
    for k, (part, objective) in enumerate(zip(glow.parts, found, strict=True)):
        if objective is None:
            continue
        if k < num_parts - 1 and part.prior.trainable_variables:
            raise ConfigError(
                "an objective of your own takes the place of the local prior, which must be standard. "
                f"Received: local_prior={glow.config.local_prior!r}, and an objective for part {k + 1}"
            )
        if not objective.built:
            with glow.on_device_of(k), seeded(glow.config.seed + k):
                objective.build((None, *part.output_event_shape))
                objective.built = True
        if unbuilt := [layer.name for layer in layers_within(objective) if not layer.built]:
            raise ConfigError(
                "the build of an objective must build its layers, whose weights the optimizer is made for. "
                f"Received: {type(objective).__name__} with {', '.join(unbuilt)}"
            )
    return found


def imported_objective(name: str) -> type[LocalObjective]:
    """Returns the class that `--objective=module:Class` names; ConfigError if there is none."""
    found = imported("objective", name)
    if not (isinstance(found, type) and issubclass(found, LocalObjective)):
        raise ConfigError(f"objective must name a LocalObjective class. Received: objective={name!r}")
    return found
