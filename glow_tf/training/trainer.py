"""`PartsTrainer`: a Keras model that trains a flow in phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from glow_tf.architectures.schedule import Phase, end_to_end, named_phases
from glow_tf.bijectors.condition import Array, Condition
from glow_tf.config import TrainConfig
from glow_tf.internals import BuiltBeforeFit
from glow_tf.model.density_model import DensityModel
from glow_tf.model.flow import Flow
from glow_tf.model.flow_functions import is_initialized
from glow_tf.training import inputs
from glow_tf.training.averages import Averages
from glow_tf.training.batch import filled_up, initialize_from, named
from glow_tf.training.fit_callbacks import callbacks_for
from glow_tf.training.forward_pass import ForwardPass
from glow_tf.training.metrics import Logs, reset, results_of
from glow_tf.training.objective import Objectives, objectives_of
from glow_tf.training.optimizers import OptimizerOfParts, Optimizers
from glow_tf.training.options import (
    CompileOptions,
    check_compiled,
    check_phases,
    check_planned,
    optimizers_per_part,
    warn_of_rates,
)
from glow_tf.training.prefix import PrefixCache
from glow_tf.training.recipe import recipe_of
from glow_tf.training.saving import compile_config_of, compiled_of, config_of, trainer_of
from glow_tf.training.training_steps import TrainingSteps


@keras.saving.register_keras_serializable(package="glow_tf")
class PartsTrainer(DensityModel, BuiltBeforeFit):
    """Trains a `Flow` in phases; `fit` and `evaluate` are Keras's loops.

    `fit` trains in one phase, `trainer.phase`; a schedule of several is a loop over it:

        for epoch, phase in enumerate(trainer.phases):
            trainer.set_phase(phase)
            trainer.fit(images, initial_epoch=epoch, epochs=epoch + 1)

    A phase that trains one part runs the parts before it forward only, and does not run those after it.

    Logs: what `StepMeans` lists for training; `bpd`, `bpd_se` and `loss`, which is the bpd again, for an
    evaluation. Ordinary Keras callbacks work; see docs/guides/keras.md. One that sets the learning rate sets
    the first part's, and the others' follow in proportion. A subclass may have metrics of its own: an
    attribute such as `keras.metrics.Mean("mine")`, which its `train_step` updates.

    Where optimizers keep moving averages of the weights (`use_ema`), `with trainer.averages.in_place():`
    evaluates them, or saves them with `trainer.flow.save`; `trainer.averages.swap()` ends training with them.

    Args:
      flow: the model to train, built.
      seed: of the order of the images and the noise, where `fit` is given an array.
      objective: a `LocalObjective` class, which each part but the last is trained on in the place of its
        truncated likelihood; or one object for each part, None where it keeps its own.

    Raises:
      ConfigError: an objective does not fit.
    Reference: Glow parts, section 3 and Eq. 3.
    """

    def __init__(self, flow: Flow, seed: int = 0, objective: Objectives = None, **kwargs):
        super().__init__(**kwargs)
        self.flow, self.seed, self.phase = flow, seed, end_to_end(len(flow.parts))
        self.local_objectives = objectives_of(flow, objective)
        self.forward_pass = ForwardPass(flow, self.local_objectives)
        self.logs = Logs(flow.fixed_parts, self.local_objectives)
        self.prefix_caches: dict[Phase, PrefixCache] = {}
        self.finished_epochs = 0  # of the run that `load_trainer` loads
        self.build((None, *flow.image_shape))

    def build(self, input_shape: Any = None) -> None:
        self.built = True  # as the flow is

    def compile(self, optimizers: Any = None, **options: Any) -> None:
        """Sets one optimizer per part, and how steps are computed.

        Args:
          optimizers: a `TrainConfig`, to train as `glow-tf train` does with these settings; nothing, for the
            default settings; one optimizer per part; or one optimizer or its name, such as "adamax", of which
            every part gets a new one. `optimizer` is another name of the argument.
          **options: of `CompileOptions`; and `phases`, of every epoch, which the trainer keeps and of which
            it is in the first one. They win over those of a `TrainConfig`. With one, also `steps_per_epoch`;
            otherwise the first `fit` finds it where the rates need it.

        Raises:
          ConfigError: there is not one optimizer per part, an option is wrong, or options exclude each other,
            or a phase names a part that there is not.
        """
        given = options.pop("optimizer", None) if optimizers is None else optimizers
        phases = options.pop("phases", ())
        if given is None or isinstance(given, TrainConfig):
            steps = options.pop("steps_per_epoch", None)
            with self.distribute_strategy.scope():
                phases, given, of_train = recipe_of(given or TrainConfig(), self.flow, phases, steps)
            options = of_train | options
        checked = CompileOptions.of(options)
        with self.distribute_strategy.scope():
            optimizers = optimizers_per_part(given, len(self.flow.parts))
        self.compile_steps(optimizers, checked, phases)
        warn_of_rates(self.optimizers, checked.rate_scaling)

    def compile_steps(self, optimizers: Optimizers, options: CompileOptions, phases: Sequence[Phase]) -> None:
        """Sets one optimizer per part, how steps are computed, and the phases; see `compile`."""
        options = options.checked(self.flow, self.distribute_strategy, optimizers)
        with self.distribute_strategy.scope():
            self.training_steps = TrainingSteps(self.forward_pass, optimizers, options, self.seed)
            of_all = OptimizerOfParts(optimizers)
        self.averages = Averages(self.forward_pass, optimizers)
        super().compile(of_all, **options.of_keras())
        self.optimizers, self.options = optimizers, options
        self.phases = named_phases(phases, len(self.flow.parts))
        if phases:
            self.set_phase(self.phases[0])

    def set_phase(self, phase: Phase) -> None:
        """Sets the phase of the steps from now on; ConfigError if it has parts that there are not."""
        (self.phase,) = named_phases([phase], len(self.flow.parts))

    def make_train_function(self, force: bool = False) -> None:
        """Makes the train function of the phase, unless there is one; its first step traces it."""
        functions = self.training_steps.functions
        if force or self.phase not in functions:
            functions[self.phase] = self.training_steps.function_of(self.train_step, trains=True)
        self.train_function = functions[self.phase]

    def make_test_function(self, force: bool = False) -> None:
        if force or self.test_function is None:
            self.test_function = self.training_steps.function_of(self.test_step, trains=False)

    def train_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Runs one step of the current phase, and returns the phase's logs so far in this epoch, [] each.

        The batch is what `named` takes. A step that is not finite is skipped.
        """
        batch, cache = named(batch), self.prefix_caches.get(self.phase)
        self.logs.means.update(self.phase, *self.training_steps(batch, self.phase, cache))
        return self.get_metrics_result()

    def test_step(self, batch: Any) -> dict[str, tf.Tensor]:
        """Adds a batch, to an evaluation; returns its result."""
        batch = filled_up(named(batch))
        bits = self.forward_pass.bits_of_whole(batch, self.seed)
        self.logs.of_evaluation.update_state(bits, batch.get("weight"))
        return self.get_metrics_result()

    def predict_step(self, batch: Any) -> tf.Tensor:
        """Returns what `call` returns for a batch, of which a replica may have no image: [B], nats."""
        batch = named(batch)
        filled = filled_up(batch)
        return self.flow.call(filled["images"], filled.get("condition"))[: tf.shape(batch["images"])[0]]

    def initialize(self, images: Array, noise: Array | None = None, condition: Condition = None) -> None:
        """Runs `Flow.initialize`, whose arguments it has, and then objectives', the same on all replicas."""
        with self.distribute_strategy.scope():
            outputs = self.flow.initialize(images, noise, condition)
            condition = self.flow.checked_condition(condition)
            for k, (objective, h) in enumerate(zip(self.local_objectives, outputs, strict=True)):
                with self.flow.on_device_of(k):
                    objective.initialize(h, self.flow.parts[k].read(condition).condition)

    @property
    def initialized(self) -> bool:
        """Whether the weights of model and objectives that depend on data are initialised or restored."""
        return is_initialized(self)

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int | None = None,
        epochs: int | None = None,
        **kwargs,
    ) -> Any:
        """Trains in one phase, as keras.Model.fit does.

        First it initialises ActNorms that are not, from 32 to 256 images.

        Args:
          x: uint8 images [N, H, W, C], shuffled anew every epoch (another `fit` begins again with the order
            and the noise of its `initial_epoch`), alone or in a dictionary with the `condition`; or a
            `tf.data.Dataset` of batches of images, or of dictionaries of `images`, `noise`, `condition` and,
            with a `PrefixCache`, `index`.
          y: of an array x, what a model is given with each image, [N, …], or a dictionary of such.
          batch_size: for an array; that of `compile` by default.
          epochs: the epoch to stop after; by default the last of the `phases` of `compile`, or the first.
          **kwargs: of keras.Model.fit.

        Raises:
          ConfigError: something does not fit the model, or has no meaning here; `phases` has another phase
            for one of the epochs; an epoch would train at a rate that has fallen to 0, or rates need the
            number of steps per epoch, which is not known.
          DivergedError: too many steps in a row were not finite, or an epoch ends above 32 bits/dim.
        """
        check_compiled(self, "fit")
        check_phases(self.flow, (self.phase, *self.phases), self.local_objectives)
        kwargs |= {"y": y, "epochs": max(len(self.phases), 1) if epochs is None else epochs}
        batch_size = self.options.batch_size if batch_size is None else batch_size
        dataset = inputs.for_fit(self.flow, x, batch_size, self.seed, kwargs)
        check_planned(self.phase, self.phases[kwargs.get("initial_epoch", 0) : kwargs["epochs"]])
        self.training_steps.begin_fit(dataset, self.phase, kwargs)
        initialize_from(self, dataset)
        self.averages.start()
        kwargs["callbacks"] = callbacks_for(kwargs.get("callbacks"), self.logs.means)
        return super().fit(dataset, **kwargs)

    def evaluate(self, x: Any, y: Any = None, *, batch_size: int | None = None, **kwargs) -> Any:
        """Computes the bits per dimension of the whole chain, as keras.Model.evaluate does.

        Args:
          x: as in `fit`; batches may also have a `weight`, 0 or 1 for each image, and have no `index`.
          y: as in `fit`.
          batch_size: for an array; 64 by default.
          **kwargs: of keras.Model.evaluate; with `return_dict=True`, names come in the order of the list.
        """
        check_compiled(self, "evaluate")
        x = inputs.for_evaluation(self.flow, x, batch_size, self.seed, kwargs | {"y": y})
        with self.logs.evaluating(self.reset_metrics):
            return super().evaluate(x, **kwargs)

    def train_on_batch(
        self, x: Any, y: Any = None, sample_weight=None, class_weight=None, return_dict: bool = False
    ) -> Any:
        """Makes one step of the current phase, as keras.Model.train_on_batch does; initialises like `fit`.

        Each replica takes the whole batch: images, or a dictionary with their noise, too; y is as in `fit`.
        Raises what `fit` does, and ConfigError if rates need the steps per epoch.
        """
        check_compiled(self, "train_on_batch")
        check_phases(self.flow, (self.phase,), ())
        self.training_steps.begin_batch()
        unused = {"sample_weight": sample_weight, "class_weight": class_weight}
        batch = inputs.for_one_step(self.flow, x, y, unused, trains=True)
        if not self.initialized:
            self.initialize(batch["images"], batch.get("noise"), batch.get("condition"))
        self.averages.start()
        logs = super().train_on_batch(batch, return_dict=return_dict)
        self.training_steps.skips.check(self.phase)
        return logs

    def test_on_batch(self, x: Any, y: Any = None, sample_weight=None, return_dict: bool = False) -> Any:
        """Computes the bits per dimension of one batch, as in `train_on_batch`."""
        check_compiled(self, "test_on_batch")
        batch = inputs.for_one_step(self.flow, x, y, {"sample_weight": sample_weight}, trains=False)
        with self.logs.evaluating(self.reset_metrics):
            return super().test_on_batch(batch, return_dict=return_dict)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        own = keras.layers.Layer.metrics.fget(self)  # a subclass's; Keras's models add those of their losses
        return [*self.logs.metrics(self.phase), *own]

    def get_metrics_result(self) -> dict[str, Any]:
        return results_of(self.metrics, self.distribute_strategy)

    def reset_metrics(self) -> None:
        reset(self.metrics, self.distribute_strategy)

    def call(self, images: tf.Tensor, condition: Condition = None) -> tf.Tensor:
        return self.flow.call(images, condition)

    def get_config(self) -> dict:
        return config_of(self)

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> PartsTrainer:
        return trainer_of(cls, config, custom_objects)

    def get_compile_config(self) -> dict | None:
        return compile_config_of(self.optimizers, self.options, self.phases) if self.compiled else None

    def compile_from_config(self, config: dict) -> None:
        self.compile_steps(*compiled_of(config))
