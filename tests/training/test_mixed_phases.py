"""Phases of any parts and cuts: what gradients join trains as one part would, and the rest stays as it is."""

import re

import numpy as np
import pytest
from small import fit_phases, make_small_images, perturb, small_config

import glow_tf
from glow_tf import Phase
from glow_tf.core.errors import ConfigError
from glow_tf.training import ScaledSGD

DEVICES = [f"CPU:{k % 2}" for k in range(4)]

pytestmark = pytest.mark.usefixtures("eager_module")


def three_parts(devices=(), **changes):
    flow = glow_tf.Flow(small_config(parts="1,1,2", **changes), devices[:3], name="glow")
    perturb(flow)
    return flow


def fit(flow, phases, images):
    """Trains eagerly, which is sooner than to trace two steps an epoch."""
    trainer = glow_tf.PartsTrainer(flow)
    options = {"clip_norm": 0.5, "run_eagerly": True, "phases": phases}
    trainer.compile([ScaledSGD(1e-2) for _ in flow.parts], **options)
    return fit_phases(trainer, images[:32], batch_size=16)


def of_parts(flow):
    return [[v.numpy() for v in part.flow_variables] for part in flow.parts]


def moved(before, after):
    return [
        any(not np.array_equal(b, a) for b, a in zip(*both, strict=True))
        for both in zip(before, after, strict=True)
    ]


@pytest.fixture(scope="module")
def flow():
    found = three_parts()
    found.initialize(make_small_images(np.random.default_rng(0)))
    return found


PHASES = {  # → which of three parts train
    Phase((0, 1), (1,)): [True, True, False],
    Phase((1, 2), (2,)): [False, True, True],
    Phase((0, 2)): [True, False, True],
    Phase((0,), (1, 2)): [True, False, False],
    Phase((0, 2), (1, 2)): [True, False, True],
}


PLACED = pytest.param(DEVICES, marks=pytest.mark.slow)  # the next test is on devices by default


@pytest.mark.long
@pytest.mark.parametrize("devices", [(), PLACED], ids=["one device", "a device for each part"])
@pytest.mark.parametrize("phase", PHASES, ids=str)
def test_the_parts_that_a_phase_names_train_and_no_others(phase, devices, flow, small_images):
    own = three_parts(devices)
    own.set_weights(flow.get_weights())
    history = fit(own, [phase], small_images[:16])
    assert moved(of_parts(flow), of_parts(own)) == PHASES[phase]
    for k, trains in enumerate(PHASES[phase], start=1):
        assert (f"gradient_norm_{k}" in history) == trains
    assert ("bpd" in history) == (phase.last == 2)


@pytest.mark.parametrize(
    "devices",
    [pytest.param((), marks=pytest.mark.slow), DEVICES],
    ids=["one device", "a device for each part"],
)
def test_parts_that_gradients_join_train_as_one_part_would(devices, flow, small_images):
    joined, whole = three_parts(devices), flow.recut(parts="2,2")
    joined.set_weights(flow.get_weights())
    fit(joined, [Phase((0, 1), (1,)), Phase((2,))], small_images[:16])
    fit(whole, [glow_tf.one_part(0), glow_tf.one_part(1)], small_images[:16])
    for one, other in zip(joined.get_flow_weights(), whole.get_flow_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_gradients_that_cross_a_part_do_not_train_it(flow, small_images):
    """Part 1 through part 2, as end to end, but part 2 stays."""
    whole, through = flow.recut(), flow.recut()
    for own, phase in ((whole, Phase((0, 1), (1,))), (through, Phase((0,), (1,)))):
        trainer = glow_tf.PartsTrainer(own)
        settings = glow_tf.TrainConfig(warmup_steps=0, clip_norm=0)
        trainer.compile(settings, run_eagerly=True, phases=[phase])
        trainer.fit(small_images[:16], batch_size=16, verbose=0)
    first, second = (of_parts(g) for g in (whole, through))
    for one, other in zip(first[0], second[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    assert moved(of_parts(flow), second) == [True, False, False]


def test_a_frozen_part_among_others_stays_and_they_train(flow, small_images):
    own = flow.recut()
    own.parts[0].trainable = False
    fit(own, [glow_tf.end_to_end(3), glow_tf.simultaneous(3)], small_images[:16])
    before, after = ([part.get_weights() for part in g.parts] for g in (flow, own))
    assert moved(before, after) == [False, True, True]


def test_a_phase_of_frozen_parts_alone_is_refused(flow, small_images):
    own = flow.recut()
    own.parts[0].trainable = False
    with pytest.raises(ConfigError, match=r"a part that has weights to train. Received: phase 'part 1'"):
        fit(own, [glow_tf.one_part(0)], small_images)


def test_a_phase_of_more_parts_than_there_are_is_refused(flow):
    whole = [make(n) for make in (glow_tf.end_to_end, glow_tf.simultaneous) for n in (2, 4)]
    for phase in (Phase((3,)), Phase((0,), (1, 2, 3)), glow_tf.one_part(3), *whole):
        with pytest.raises(ConfigError, match=re.escape(f"3 parts of the flow. Received: phase '{phase}'")):
            glow_tf.PartsTrainer(flow).set_phase(phase)
