"""What a part minimises: a loss per example, of what the part saw and made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from glow_tf.architectures import Architecture
from glow_tf.architectures.own_layers import seeded
from glow_tf.architectures.partition import PartLayout
from glow_tf.bijectors.condition import Condition
from glow_tf.bijectors.mode import Context, Mode
from glow_tf.core.errors import ConfigError
from glow_tf.core.lazy import imported
from glow_tf.internals import layers_within
from glow_tf.model.flow import Flow
from glow_tf.model.part_layers import base_of, bijectors_of
from glow_tf.model.parts import Part
from glow_tf.model.passage import PartView

OF_PARTS = ("local_bpd", "gradient_norm")  # what is reported of every part
Losses = tf.Tensor | tuple[tf.Tensor, Mapping[str, tf.Tensor]]


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

    Attributes:
      is_likelihood: whether the losses are the negative log-likelihood of what enters the part, by a density
        of the output in the place of its base. `local_bpd` then reports it, where the part is trained on it.
      per_example: whether the loss of an example depends on that example alone, and on no random numbers.
        Then the cores of a CPU may compute it for a piece of the batch each.
      metric_names: of its metrics. Logs, history.csv and TensorBoard have the mean of each over an epoch's
        examples, with the number of the part: `accuracy_1`.

    Reference: Glow parts, Eq. 3, of which `BaseObjective` is one.
    """

    is_likelihood = False
    per_example = False
    metric_names: tuple[str, ...] = ()

    def losses(self, view: PartView) -> Losses:
        """Returns a loss for every example, [B], nats, or in the scale of nats: see `clip_norm`.

        It sees the whole batch, on any number of cores; of several replicas, each sees its own share. With
        `metric_names` it returns the losses and a dictionary of these metrics, [B] or [] each. For random
        numbers there is `view.seed`.
        """
        raise NotImplementedError

    def initialize(self, h: tf.Tensor, given: Condition = None) -> None:
        """Sets weights that depend on data from the part's output h [B, H, W, C]; by default there are none.

        `given` is what the part reads of what the model is given.
        """

    def losses_in(self, view: PartView, mode: Mode) -> Losses:
        """Returns the `losses`; one of the package's own that runs a flow does so in this mode."""
        return self.losses(view)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None]:
        """Returns the shape of the losses, (B,), for a summary of the trainer."""
        return (input_shape[0],)


class BaseObjective(LocalObjective):
    """The part's truncated negative log-likelihood: its output is scored by its base (Glow parts, Eq. 3).

    The base is a Gaussian, `standard` or `learned`, whose weights are the part's.
    """

    per_example = True

    def losses(self, view: PartView) -> tf.Tensor:
        return view.truncated_nll


class FlowHead(BaseObjective):
    """The same with a flow in the place of the base: a narrow one that stands for everything after the part.

    Only the objective uses it, and its weights are the objective's.
    """

    is_likelihood = True

    def __init__(self, layout: PartLayout, design: Architecture, dtype: str):
        super().__init__(dtype=dtype)
        of_flow = PartLayout(layout.head, layout.output_shape)
        base = base_of(design.config, of_flow, True, dtype)
        self.flow = Part(bijectors_of(design, of_flow, dtype), base, dtype=dtype, name="head")

    def build(self, output_shape: Sequence[int | None]) -> None:
        self.flow.build(output_shape)

    def losses_in(self, view: PartView, mode: Mode) -> tf.Tensor:
        return -(self.flow.log_prob(view.output, Context(view.given, mode)) + view.log_likelihood_term)

    def initialize(self, h: tf.Tensor, given: Condition = None) -> None:
        self.flow.initialize(h, given)


def losses_and_metrics(
    objective: LocalObjective, view: PartView, mode: Mode
) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Returns what an objective says of a part, [B] each; ConfigError if that is something else."""
    found, name = objective.losses_in(view, mode), type(objective).__name__
    losses, metrics = found if isinstance(found, tuple) else (found, {})
    if losses.shape.rank != 1:
        raise ConfigError(
            f"an objective must return a loss for each example, [B]. Received: {losses.shape}, of {name}"
        )
    if set(metrics) != set(objective.metric_names):
        raise ConfigError(
            "an objective must return losses and a dictionary of the metrics that its metric_names lists, "
            f"{list(objective.metric_names)}. Received: {list(metrics)}, of {name}"
        )
    metrics = {own: tf.cast(values, tf.float32) for own, values in metrics.items()}
    for own, values in metrics.items():
        if values.shape.rank and not values.shape.is_compatible_with(losses.shape):
            raise ConfigError(
                "a metric of an objective must have a value for each example, [B], or one, []. "
                f"Received: {own} of the shape {values.shape}, of {name}"
            )
    return losses, {own: tf.broadcast_to(values, tf.shape(losses)) for own, values in metrics.items()}


Objectives = type[LocalObjective] | Callable[[], LocalObjective] | Sequence[LocalObjective | None] | None


def objectives_of(flow: Flow, given: Objectives) -> list[LocalObjective]:
    """Returns the objective of each part, built: one's own, or what the model's `local_prior` says.

    Given is a class, or a function without arguments, for an objective of every part but the last; or one
    objective for each part, None where the part keeps the model's. ConfigError if it is something else, or a
    part that it is for has a local base to train.
    """
    found = _listed(given, len(flow.parts))
    for k, objective in enumerate(found[:-1]):
        if objective is not None and flow.config.local_prior != "standard":
            raise ConfigError(
                "an objective of your own takes the place of the local base, which must be standard. "
                f"Received: local_prior={flow.config.local_prior!r}, and an objective for part {k + 1}"
            )
    layouts, dtype = flow.design.layouts, flow.dtype_policy.name
    for k, (own, layout) in enumerate(zip(found, layouts, strict=True)):
        with flow.on_device_of(k), seeded(flow.config.seed + k):
            of_model = FlowHead(layout, flow.design, dtype) if layout.head else BaseObjective()
            found[k] = _built(own or of_model, flow.parts[k].output_event_shape)
    return found


def _listed(given: Objectives, num_parts: int) -> list[LocalObjective | None]:
    """Returns what was given as one objective, or None, for each part; ConfigError if that cannot be."""
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
    return found


def _built(objective: LocalObjective, output_shape: tuple[int, ...]) -> LocalObjective:
    """Returns an objective, built on the shape of its part's output; ConfigError if a layer of it is not."""
    if not objective.built:
        objective.build((None, *output_shape))
        objective.built = True
    if unbuilt := [layer.name for layer in layers_within(objective) if not layer.built]:
        raise ConfigError(
            "the build of an objective must build its layers, whose weights the optimizer is made for. "
            f"Received: {type(objective).__name__} with {', '.join(unbuilt)}"
        )
    names = objective.metric_names
    different = not isinstance(names, str) and len({*names} - {*OF_PARTS}) == len(names)
    if not (different and all(map(str.isidentifier, names))):
        raise ConfigError(
            "metric_names must be a tuple of different names of letters, digits and _, other than "
            f"{', '.join(OF_PARTS)}. Received: {type(objective).__name__} with metric_names={names!r}"
        )
    return objective


def imported_objective(name: str) -> type[LocalObjective]:
    """Returns the class that `--objective=module:Class` names; ConfigError if there is none."""
    found = imported("objective", name)
    if not (isinstance(found, type) and issubclass(found, LocalObjective)):
        raise ConfigError(f"objective must name a LocalObjective class. Received: objective={name!r}")
    return found
