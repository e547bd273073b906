"""Streams share a batch out and give back what the whole would have given."""

import contextlib
import functools

import numpy as np
import pytest
import tensorflow as tf
from small import InfoNCE, eagerly, fit_phases, small_glow, threads_for

from glow_tf import PartsTrainer, one_part, phases
from glow_tf.bijectors.mode import Mode, in_streams, mode_of_process
from glow_tf.core import machine
from glow_tf.devices.strategies import use_streams
from glow_tf.training.optimizers import FusedAdam


@pytest.mark.parametrize("size", [1, 2, 5, 6])
@pytest.mark.parametrize("known", [True, False])
def test_shares_are_joined_to_what_the_whole_gives(size, known):
    seen = []

    def function(mode, x, pair):
        seen.append(mode)
        return {"sum": tf.reduce_sum(x, axis=1) + pair[0]}, pair[1]

    x = tf.reshape(tf.range(3.0 * size), [size, 3])
    pair = (tf.range(1.0 * size), tf.range(size))
    signature = [tf.TensorSpec([size if known else None, *t.shape[1:]], t.dtype) for t in (x, *pair)]
    compiled = tf.function(lambda x, a, b: in_streams(function, Mode(streams=3), x, (a, b)), signature)
    result = compiled(x, *pair)
    assert seen == 3 * [Mode()]
    expected = function(Mode(), x, pair)
    tf.nest.map_structure(np.testing.assert_array_equal, result, expected)
    tf.nest.map_structure(lambda t: t.shape.assert_is_compatible_with([size]), result)


@pytest.mark.long
@pytest.mark.parametrize(
    ("schedule", "reversible"),
    [
        ("end_to_end", False),
        pytest.param("simultaneous", False, marks=pytest.mark.slow),
        pytest.param("alternating", True, marks=pytest.mark.slow),
    ],
)
def test_training_in_streams_is_training(schedule, reversible, small_images):
    def train(streams):
        with threads_for(streams):
            parts = "1" if schedule == "end_to_end" else "1,1"
            flow = small_glow(dtype="float64", num_blocks=1, flow_steps=parts.count("1"), parts=parts)
            trainer = PartsTrainer(flow)
            planned = phases(schedule, len(flow.parts), 2, schedule == "alternating")
            options = {"phases": planned, "reversible": reversible, "run_eagerly": streams == 1}
            trainer.compile([FusedAdam(1e-3) for _ in flow.parts], clip_norm=1.0, **options)
            history = fit_phases(trainer, small_images[:30], batch_size=15)
            return flow.get_weights(), history, trainer.evaluate(small_images, verbose=0, return_dict=True)

    one, two = train(1), train(2)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), one, two)


def test_an_objective_sees_the_whole_batch_on_any_number_of_streams(small_images):
    def train(streams):
        with threads_for(streams):
            trainer = PartsTrainer(small_glow(num_blocks=1, parts="1,1"), objective=InfoNCE)
            trainer.compile(phases=[one_part(0)], run_eagerly=streams == 1)
            return trainer.fit(small_images[:30], batch_size=15, verbose=0).history

    one, two = train(1), train(2)
    for name in ("nce_1", "gradient_norm_1", "local_bpd_1"):
        np.testing.assert_allclose(one[name], two[name], rtol=2e-6)


def test_images_are_those_of_one_stream(small_images):
    def results(streams):
        with threads_for(streams), eagerly() if streams == 1 else contextlib.nullcontext():
            flow = small_glow(flow_steps=1, num_blocks=1, parts="1")
            images = tf.constant(small_images[:5])
            eps = flow.encode(images)
            return eps, flow.decode(eps), flow.sample(3, 0.7, 1), flow.log_prob(images, 1)

    for a, b in zip(results(1), results(2), strict=True):
        np.testing.assert_allclose(tf.cast(a, tf.float32), tf.cast(b, tf.float32), rtol=1e-5, atol=1e-5)


def test_threads_that_are_running_are_left_alone():
    tf.zeros([]) + 1
    assert use_streams(64, 2) == 1
    assert mode_of_process().streams == 1


def test_a_container_has_its_share_of_the_machines_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert machine.usable_cores() == 8
    for text, expected in {"max 100000": 8, "150000 100000": 2, "10 100": 1, "900000 100000": 8}.items():
        machine.QUOTA.write_text(text)
        assert machine.usable_cores() == expected


def test_each_stream_has_a_core_of_its_own_unless_the_batch_is_small(monkeypatch):
    threads = {}
    for kind in ("intra", "inter"):
        setter = functools.partial(threads.__setitem__, kind)
        monkeypatch.setattr(tf.config.threading, f"set_{kind}_op_parallelism_threads", setter)
        getter = functools.partial(threads.get, kind)
        monkeypatch.setattr(tf.config.threading, f"get_{kind}_op_parallelism_threads", getter)
    assert (use_streams(3), use_streams(64, 2)) == (1, 2)
    assert mode_of_process().streams == 2
    own = max(machine.usable_cores() // 2, 1)
    assert threads == {"intra": own, "inter": 2 * own}
