"""No gradient crosses a cut; what a phase does not train does not change, and is not even evaluated."""

import collections

import numpy as np
import pytest
import tensorflow as tf
from small import make_small_images, objectives, small_glow, threads_for

from glow_tf import PartsTrainer
from glow_tf.architectures import schedule
from glow_tf.architectures.schedule import one_part, simultaneous
from glow_tf.training.optimizers import FusedAdam

PARTS = "across_block:3"
PHASES = {
    "part_1": one_part(0),
    "part_2": one_part(1),
    "part_3": one_part(2),
    "simultaneous": simultaneous(3),
    "end_to_end": schedule.end_to_end(3),
}


def make_trainer(phases=(), run_eagerly=False, **changes):
    flow = small_glow(parts=PARTS, flow_steps=2, local_prior="learned", **changes)
    trainer = PartsTrainer(flow)
    trainer.compile([FusedAdam(1e-2) for _ in flow.parts], run_eagerly=run_eagerly, phases=phases)
    return trainer


@pytest.fixture(scope="module")
def trainer():
    """For tests that change nothing."""
    with threads_for(1):  # a run that was the first to start TensorFlow leaves several
        return make_trainer()


@pytest.mark.parametrize("phase", [p for p in PHASES.values() if p.kind == "part"], ids=str)
def test_gradients_outside_the_trained_part_are_none(phase, trainer, small_images):
    with tf.GradientTape(persistent=True) as tape:
        losses, _ = objectives(trainer, tf.constant(small_images), phase)
        loss = tf.reduce_mean(losses)
    for k, part in enumerate(trainer.flow.parts):
        gradients = tape.gradient(loss, [v.value for v in part.trainable_variables])
        if k in phase.active:
            assert all(g is not None for g in gradients)
        else:
            assert all(g is None for g in gradients)


def test_simultaneous_gradients_are_those_of_each_part_alone(trainer, small_images):
    def gradients(phase, k):
        variables = [v.value for v in trainer.flow.parts[k].trainable_variables]
        with tf.GradientTape() as tape:
            losses, _ = objectives(trainer, tf.constant(small_images), phase)
        return tape.gradient(losses, variables)

    for k in range(3):
        together = gradients(PHASES["simultaneous"], k)
        alone = gradients(one_part(k), k)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_local_gradient_is_that_of_the_truncated_likelihood(trainer, small_images):
    """Eq. 3's two sides: the terms of the earlier parts are constant for the trained part."""
    variables = [v.value for v in trainer.flow.parts[1].trainable_variables]
    with tf.GradientTape(persistent=True) as tape:
        losses, truncated = objectives(trainer, tf.constant(small_images), PHASES["part_2"])
    for a, b in zip(tape.gradient(losses, variables), tape.gradient(truncated[1], variables), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


ENDS = ("part_1", "part_3")  # by default the part between them is trained alone, and all of them at once


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(phase, id=name, marks=pytest.mark.slow if name in ENDS else ())
        for name, phase in PHASES.items()
    ],
)
def fitted(request):
    """A step in each phase: the trainer, and its parts' weights before. One phase is traced."""
    trainer = make_trainer([request.param], run_eagerly=request.param != PHASES["part_2"])
    images = make_small_images(np.random.default_rng(0))
    trainer.initialize(images)
    before = [[w.numpy() for w in part.weights] for part in trainer.flow.parts]
    trainer.fit(images[:32], batch_size=32, verbose=0)
    return trainer, before


def test_only_the_trained_parts_change_in_fit(fitted):
    trainer, before = fitted
    phase = trainer.phase
    for k, part in enumerate(trainer.flow.parts):
        same = [np.array_equal(w.numpy(), old) for w, old in zip(part.weights, before[k], strict=True)]
        if k not in phase.active:
            assert all(same), "weights outside the phase must stay bit-identical"
        else:
            trained = [
                v.path
                for v, equal in zip(part.weights, same, strict=True)
                if equal and v.trainable and not (phase.end_to_end and k < 2 and "/prior/" in v.path)
            ]
            # A strictly upper or lower triangle of size 1 has nothing to train; all others moved.
            assert trained == []


@pytest.mark.parametrize(("phase", "last"), [(PHASES["part_1"], 0), (PHASES["part_2"], 1)], ids=["1", "2"])
def test_parts_after_the_trained_one_are_not_evaluated(phase, last, trainer, small_images, monkeypatch):
    ran = []
    for k, part in enumerate(trainer.flow.parts):
        call = part.call
        monkeypatch.setattr(part, "call", lambda *a, k=k, call=call: ran.append(k) or call(*a))
    objectives(trainer, tf.constant(small_images), phase)
    assert ran == list(range(last + 1))


@pytest.mark.parametrize("k", [1, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 2))])
def test_the_step_contains_no_backward_convolutions_but_the_trained_parts(k, trainer, small_images):
    trainer.set_phase(one_part(k))
    batch = (tf.constant(small_images), tf.zeros(small_images.shape))
    step = tf.function(trainer.train_step, autograph=False).get_concrete_function(batch)
    counts = _executed_operations(step.graph.as_graph_def())
    kernels = [v for v in trainer.flow.parts[k].flow_variables if v.name.endswith("kernel")]
    sizes = [v.shape[-3] for v in kernels for _ in range(v.shape[0] if "flow_steps" in v.path else 1)]
    # The gradient of a 1×1 kernel is a product of matrices.
    assert counts["Conv2DBackpropFilter"] == sizes.count(3) > 0
    assert counts["Conv2DBackpropInput"] <= len(sizes)


def _executed_operations(graph_def) -> collections.Counter:
    """Counts operations, those inside a called function once a call."""
    functions = {f.signature.name: f.node_def for f in graph_def.library.function}

    def count(nodes):
        total = collections.Counter()
        for node in nodes:
            total[node.op] += 1
            if node.op.endswith("PartitionedCall"):
                total += count(functions[node.attr["f"].func.name])
        return total

    return count(graph_def.node)
