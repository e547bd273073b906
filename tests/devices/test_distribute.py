"""N replicas train like one."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import fit_phases, make_small_images, small_config, small_glow

from glow_tf import Flow, PartsTrainer, phases
from glow_tf.core.errors import ConfigError
from glow_tf.devices import strategies
from glow_tf.devices.strategies import check_batch_size, make_strategy
from glow_tf.training.optimizers import FusedAdamax


def train(strategy_name, schedule, images, dtype, reversible=False, eager=False, given=None, **changes):
    strategy = make_strategy(strategy_name)
    with strategy.scope():
        settings = {"num_blocks": 1, "parts": "1,1", **changes}
        flow = Flow(small_config(**settings), dtype=dtype, name="glow")
        epochs = (2, schedule == "alternating") if schedule != "simultaneous" else (1, 0)
        trainer = PartsTrainer(flow, seed=5)
        options = {
            "phases": phases(schedule, len(flow.parts), *epochs),
            "reversible": reversible,
            "run_eagerly": eager,
        }
        trainer.compile([FusedAdamax(5e-3) for _ in flow.parts], clip_norm=0.5, **options)
    images, given = images[:32], None if given is None else given[:32]
    held_out = images[:25] if given is None else (images[:25], given[:25])
    history = fit_phases(trainer, images, given, batch_size=16, validation_data=held_out)
    return trainer, history


@pytest.fixture(scope="module")
def mirrored():
    """An epoch on two replicas, to be looked at."""
    images = make_small_images(np.random.default_rng(0))
    return train("mirrored", "simultaneous", images, "float64")


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param("end_to_end", marks=pytest.mark.slow),  # the phases of these two are among
        pytest.param("sequential", marks=pytest.mark.slow),  # those of alternating
        pytest.param("alternating", marks=pytest.mark.slow),
        "simultaneous",
    ],
)
def test_two_replicas_train_like_one(schedule, mirrored, small_images):
    one, one_history = train("one_device", schedule, small_images, "float64", eager=True)
    alike = schedule == "simultaneous"
    two, two_history = mirrored if alike else train("mirrored", schedule, small_images, "float64")
    assert two.distribute_strategy.num_replicas_in_sync == 2
    for a, b in zip(one.flow.get_weights(), two.flow.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    for name in ("bpd", "val_bpd", "val_bpd_se", "gradient_norm_2"):
        if name in one_history:
            np.testing.assert_allclose(two_history[name], one_history[name], rtol=1e-6)


def test_optimizers_from_outside_of_the_strategys_scope_are_refused():
    optimizers = [FusedAdamax(5e-3) for _ in range(2)]
    with make_strategy("mirrored").scope():
        trainer = PartsTrainer(Flow(small_config(num_blocks=1, parts="1,1")))
        with pytest.raises(ConfigError, match="Received: FusedAdamax of another scope"):
            trainer.compile(optimizers)


# Real data, which are centred and scaled from all replicas' images; and with a condition, bytes as well.
OTHERS = {
    "real": ({"data": "real", "n_bits": 8}, False),
    "real, given a map": ({"data": "real", "n_bits": 8, "condition_shape": (4, 4, 1)}, True),
    "bytes, given a map": ({"condition_shape": (4, 4, 1)}, True),
    "levels of real data": ({"data": "real", "n_bits": 8, "architecture": "levels", "parts": "1"}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "has_map"), OTHERS.values(), ids=OTHERS)
def test_two_replicas_train_like_one_on_other_data(changes, has_map, small_images):
    images = small_images if "data" not in changes else small_images.astype(np.float32) / 7 + 30
    given = small_images[:, ::2, ::2] if has_map else None
    own = {"given": given, "condition_features": 2, **changes}
    one, one_history = train("one_device", "simultaneous", images, "float64", eager=True, **own)
    two, two_history = train("mirrored", "simultaneous", images, "float64", **own)
    assert two.distribute_strategy.num_replicas_in_sync == 2
    for a, b in zip(one.flow.get_weights(), two.flow.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    for name in ("bpd", "val_bpd", "val_bpd_se"):
        np.testing.assert_allclose(two_history[name], one_history[name], rtol=1e-6)


def test_all_replicas_hold_the_same_actnorms(mirrored):
    trainer, _ = mirrored
    for variable in trainer.flow.variables:
        first, second = trainer.distribute_strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    assert trainer.flow.initialized


@pytest.mark.slow
def test_predict_takes_a_last_batch_that_leaves_a_replica_without_images(mirrored, small_images):
    trainer, _ = mirrored
    assert np.isfinite(found := trainer.predict(small_images[:17], batch_size=16, verbose=0)).all()
    assert found.shape == (17,)


def test_a_batch_must_divide_over_the_replicas():
    with pytest.raises(ConfigError, match=r"multiple of the 2 replicas. Received: batch_size=15"):
        check_batch_size(15, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))


def test_mirrored_on_one_device_is_that_device(monkeypatch):
    monkeypatch.setattr(strategies, "_devices", lambda: (["CPU:0"], []))
    assert make_strategy("mirrored") is tf.distribute.get_strategy()
    with pytest.raises(ConfigError, match=r"strategy must be one of auto, .* Received: strategy='mirorred'"):
        make_strategy("mirorred")


def test_an_optimizer_of_kerass_trains_on_replicas_as_on_none(small_images):
    """It sums gradients over replicas itself."""
    found, reduction = [], tf.distribute.ReductionToOneDevice()
    devices = (["CPU:0"], ["CPU:0", "CPU:1"])
    mirrored = [tf.distribute.MirroredStrategy(own, cross_device_ops=reduction) for own in devices]
    for strategy in (tf.distribute.get_strategy(), *mirrored):
        with strategy.scope():
            flow = small_glow(perturbed=False, flow_steps=1, num_blocks=1, parts="1")
            trainer = PartsTrainer(flow)
            trainer.compile([keras.optimizers.SGD(1e-2)], rate_scaling="none", run_eagerly=True)
        trainer.fit(small_images[:32], batch_size=16, verbose=0)
        found.append(trainer.flow.get_weights())
    for a, *others in zip(*found, strict=True):
        for b in others:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_virtual_devices_after_the_start_are_an_error():
    tf.config.list_logical_devices("CPU")
    with pytest.raises(ConfigError, match="Received: virtual_devices=3"):
        make_strategy("mirrored", 3)
    assert make_strategy("mirrored", 2).num_replicas_in_sync == 2
