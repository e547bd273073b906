"""Parts on devices of their own train like parts on one."""

import numpy as np
import pytest
import tensorflow as tf
from small import eagerly, fit_phases, make_small_images, small_config

from glow_tf import Flow, PartsTrainer, RunConfig, phases
from glow_tf.architectures.design import check_run
from glow_tf.core.errors import ConfigError
from glow_tf.devices.strategies import part_devices
from glow_tf.training.optimizers import FusedAdamax

COUNTERS = ("iteration", "learning_rate")  # scalars, which stay with the process


HEADS = {"local_prior": "flow:4x1"}
GIVEN = np.eye(2, dtype=np.float32)[np.arange(64) % 2]  # it goes from device to device, too


def train(devices, schedule, images, dtype="float64", reversible=False, **changes):
    config = small_config(flow_steps=1, parts="by_block:2", condition_shape=(2,), **HEADS, **changes)
    flow = Flow(config, devices, dtype=dtype, name="glow")
    trainer = PartsTrainer(flow, seed=5)
    planned = phases(schedule, 2, 1 + (schedule == "alternating"), 1)
    options = {"phases": planned, "reversible": reversible, "run_eagerly": True}
    held_out = images[:20], GIVEN[:20]
    with eagerly():
        trainer.compile([FusedAdamax(5e-3) for _ in range(2)], clip_norm=0.5, **options)
        history = fit_phases(trainer, images[:32], GIVEN[:32], batch_size=16, validation_data=held_out)
    return trainer, history


@pytest.fixture(scope="module")
def placed():
    """A simultaneous run of two parts on two devices, to be looked at."""
    return train(two_devices(), "simultaneous", make_small_images(np.random.default_rng(0)))


def two_devices():
    return part_devices("part_parallel", "", 2)


@pytest.mark.parametrize(  # each with an end-to-end epoch
    "schedule", [pytest.param("alternating", marks=pytest.mark.slow), "simultaneous"]
)
def test_parts_on_their_own_devices_train_like_parts_on_one(schedule, placed, small_images):
    one, one_history = train([], schedule, small_images)
    alike = schedule == "simultaneous"
    two, two_history = placed if alike else train(two_devices(), schedule, small_images)
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)
    assert set(two_history) == set(one_history)
    for name, values in one_history.items():
        np.testing.assert_allclose(two_history[name], values, rtol=1e-6)


def test_weights_and_optimizer_state_live_where_the_part_does(placed):
    trainer, _ = placed
    for k, (part, optimizer) in enumerate(zip(trainer.flow.parts, trainer.optimizers, strict=True)):
        moments = [v for v in optimizer.variables if v.path.split("/")[-1] not in COUNTERS]
        assert len(moments) == 2 * len(trainer.forward_pass.variables_of(k))
        own = (*part.variables, *trainer.local_objectives[k].variables, *moments)
        places = {variable.value.device for variable in own}
        assert [place[-len("CPU:0") :] for place in places] == [f"CPU:{k}"]


def test_devices_are_named_or_taken_in_order():
    cpus = [d.name for d in tf.config.list_logical_devices("CPU")]
    assert part_devices("mirrored", "", 2) == []
    assert part_devices("part_parallel", "", 2) == cpus[:2]
    assert part_devices("part_parallel", "CPU:1,CPU:0,CPU:1", 3) == [cpus[1], cpus[0], cpus[1]]
    with pytest.raises(ConfigError, match=r"a device for each of the 9 parts, and finds \d"):
        part_devices("part_parallel", "", 9)
    with pytest.raises(ConfigError, match=r"must name devices of this process: .*Received: GPU:7"):
        part_devices("part_parallel", "CPU:0,GPU:7", 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part_devices": "CPU:0,CPU:1"}, "part_devices needs strategy=part_parallel"),
        ({"strategy": "part_parallel", "part_devices": "CPU:0"}, "a device for each of the 2 parts"),
        (
            {
                "strategy": "part_parallel",
                "schedule": "alternating",
                "period": 2,
                "cache_prefix": True,
            },
            "needs another strategy than part_parallel",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_run(RunConfig.from_settings({"workdir": "unused", "parts": "by_block:2", **changes}))
