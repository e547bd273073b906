"""Steps that overflow or leave their band: skipped or counted, and after too many in a row the run's end."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Sequence

import keras
import tensorflow as tf

from glow_tf.core.errors import DivergedError, NonFiniteError
from glow_tf.devices.workers import in_several_processes
from glow_tf.internals import steps_made
from glow_tf.layout.schedule import Phase
from glow_tf.model.conditions import of_names
from glow_tf.model.glow import Glow
from glow_tf.training.step.diagnosis import Seen, explain_divergence, explain_non_finite
from glow_tf.training.step.divergence import DivergenceMonitor, Observed, replicated
from glow_tf.training.step.gradients import StepGradients, mean_over_examples


class SkippedSteps:
    """Decides of every step whether it may change the weights, and when training has to stop.

    A step whose loss, or the norm of whose gradient, is not finite is skipped. If more than `most` steps in a
    row are skipped, or all steps of an epoch, training stops. The last batch is then run again, bijector by
    bijector, to find out where. These steps are counted anew in every epoch, so a resumed run decides as an
    uninterrupted one does.

    A step that is finite and outside of its band (see `DivergenceMonitor`) is applied and counted. Training
    stops if more than `most_outside` steps in a row were outside or not finite; None does not watch.

    A step that is compiled with XLA cannot call Python; then `fault_of` does not name the bijector.
    `replicas` is how many make a step together, and skip it together.

    In several processes a step that stops training ends like any other, so that all of them make it to its
    end, where `fault_of` says so in each.
    """

    def __init__(
        self,
        glow: Glow,
        optimizers: Sequence[keras.optimizers.Optimizer],
        most: int,
        most_outside: int | None,
        compiled: bool,
        replicas: int,
    ):
        self.glow = glow
        self.optimizers = optimizers
        self.most = most
        # The longer of two permissions holds for steps of both kinds.
        self.most_outside = None if most_outside is None else max(most, most_outside)
        self.compiled = compiled
        self.replicas = replicas
        self._ends_steps = in_several_processes(tf.distribute.get_strategy())
        self.fault: DivergedError | None = None  # what stopped training
        self.divergence_monitor = DivergenceMonitor(len(glow.parts))
        # How many steps in a row were not finite so far, and how many may be.
        self.in_a_row, self._allowed = (replicated(tf.constant(n, tf.int64)) for n in (0, most))

    def begin_epoch(self, steps: int | None, resumes: bool = False) -> None:
        """Counts from zero, unless the epoch goes on; its `steps` (None: not known) are too many to skip."""
        if not resumes:
            self.in_a_row.assign(0)
        self._allowed.assign(self.most if steps is None else min(self.most, steps - 1))

    def finite(
        self, phase: Phase, step: StepGradients, norms: Sequence[tf.Tensor], batch: Callable[[], Seen]
    ) -> tf.Tensor:
        """Returns whether a step may change the weights, bool []; the same on all replicas that make it.

        The step's losses are those of this replica, the gradients' norms the same on all. `batch` returns
        what the message looks into. Where training has to stop, the step fails with TensorFlow's
        InvalidArgumentError, but not in several processes; `fault` says why.
        """
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([step.loss, *norms])))
        losses = [
            mean_over_examples(step.truncated_nlls[k], step.weight)
            for k in self.divergence_monitor.rows_of(phase)[0]
        ]
        explains, first = ~finite, tf.constant(True)
        if self.replicas > 1:
            # The replica whose images are at fault is to explain; all of them skip the step. Of several
            # processes all explain: each has to stop.
            own = 1 - tf.cast(tf.math.is_finite(step.loss), tf.int32)
            anywhere, losses = _over_replicas(own, losses, step.weight)
            finite &= anywhere == 0
            explains = ~finite & ((own > 0) | (anywhere == 0) | self._ends_steps)
            first = tf.distribute.get_replica_context().replica_id_in_sync_group == 0
            first |= self._ends_steps
        in_a_row = tf.where(finite, tf.zeros([], tf.int64), self.in_a_row + 1)
        self.in_a_row.assign(in_a_row)
        stops = explains & (in_a_row > self._allowed)
        observed, row = None, in_a_row
        if self.most_outside is not None:
            observed = self.divergence_monitor.observe(phase, finite, losses, norms, step.arrived)
            stops |= tf.where(finite, first, explains) & (observed.consecutive > self.most_outside)
            row = tf.maximum(in_a_row, observed.consecutive)
        if self.compiled:
            return finite
        numbers = (tf.where(finite, tf.zeros_like(row), row), step.loss, tf.stack(norms))
        with tf.control_dependencies([self._checked(phase, stops, batch, numbers, observed)]):
            return tf.identity(finite)

    @contextlib.contextmanager
    def naming_faults(self, phase: Phase | None = None) -> Iterator[None]:
        """Within the context, what stopped training is raised in the place of TensorFlow's error.

        A phase is that of the one step which is made within the context: then nobody else asks `fault_of`.
        """
        self.fault = None
        try:
            yield
            if phase and (fault := self.fault_of(phase)):
                raise fault
        except tf.errors.OpError:
            if self.fault:
                raise self.fault from None
            raise

    def fault_of(self, phase: Phase) -> DivergedError | None:
        """Returns what stops training after a step of a phase, where the step itself did not raise it."""
        if not self.compiled:
            return self.fault
        where = f"in phase '{phase}'"
        after = f"after step {self._steps_of(phase)} of part {phase.last + 1}"
        advice = "Without XLA (jit_compile=False, --jit_compile=off) the message names the bijector."
        in_a_row, outside = int(self.in_a_row.numpy()), self.divergence_monitor.steps_outside
        if in_a_row > int(self._allowed.numpy()):
            return NonFiniteError(
                f"Training stopped: a loss or gradient was not finite {where}, {in_a_row} steps in a row, "
                f"{after}. No weight was changed by those steps. {advice}",
                phase.active,
                f"a loss or gradient was not finite {in_a_row} steps in a row, {after}",
            )
        if self.most_outside is not None and outside > self.most_outside:
            return DivergedError(
                f"Training stopped: it diverged {where}: a loss or the norm of a gradient was outside of its "
                f"band for {outside} steps in a row, {after}. {advice}",
                phase.active,
                f"a loss or gradient norm was outside of its band for {outside} steps in a row, {after}",
            )
        return None

    def _checked(
        self,
        phase: Phase,
        stops: tf.Tensor,
        batch: Callable[[], Seen],
        numbers: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        observed: Observed | None,
    ) -> tf.Tensor:
        """Returns a check that fails if training has to stop, but in several processes.

        The numbers are: how many steps in a row this one is the last of, or 0 if it is finite; its loss; the
        gradients' norms, [parts].

        Python finds out where, and the graph fails by itself. TensorFlow would log an exception of the Python
        function twice, with its traceback, before the message of the run.
        """
        # TensorFlow keeps every py_function for as long as the process lives, and all that one refers to.
        reference = weakref.ref(self)

        def explain(in_a_row: tf.Tensor, loss: tf.Tensor, norms: tf.Tensor, v: tf.Tensor, *others) -> bool:
            own = reference()
            if own._ends_steps and own.fault:  # of a step before, until the processes meet
                return True
            step = own._steps_of(phase)
            names = sorted(own.glow.config.condition_shapes)  # as `nest.flatten` has them
            given = dict(zip(names, others, strict=False))
            seen = Seen(v, of_names(given))
            if in_a_row:
                found = (int(in_a_row), seen, float(loss), [float(n) for n in norms])
                own.fault = explain_non_finite(own.glow, phase, step, *found)
            else:
                found = Observed(*(tensor.numpy() for tensor in others[len(names) :]))
                rows = own.divergence_monitor.rows_of(phase)
                own.fault = explain_divergence(own.glow, phase, step, seen, found, rows)
            return own._ends_steps

        def explained() -> tf.Tensor:
            v, condition = batch()
            given = [] if condition is None else tf.nest.flatten(condition)
            return tf.py_function(explain, [*numbers, v, *given, *(observed or ())], tf.bool)

        passed = tf.cond(stops, explained, lambda: True)
        message = "the loss or a gradient is not finite, or training diverges"
        with tf.control_dependencies([tf.debugging.Assert(passed, [message])]):
            return tf.identity(passed)

    def _steps_of(self, phase: Phase) -> int:
        return int(steps_made(self.optimizers[phase.last]).numpy())


def _over_replicas(
    bad: tf.Tensor, losses: Sequence[tf.Tensor], weight: tf.Tensor | None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """Returns on how many replicas the loss is not finite, and the mean of each loss over all examples.

    `bad` is 1 if this replica's loss is not finite, otherwise 0; the losses are means over its examples.
    """
    count = tf.ones([]) if weight is None else tf.cast(tf.reduce_sum(weight), tf.float32)
    own = [tf.cast(bad, tf.float32), count, *(count * tf.cast(loss, tf.float32) for loss in losses)]
    replica = tf.distribute.get_replica_context()
    anywhere, total, *sums = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, tf.stack(own)))
    return anywhere, [tf.math.divide_no_nan(value, total) for value in sums]
