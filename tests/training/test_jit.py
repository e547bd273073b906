"""Training steps compiled with XLA."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
from small import make_small_images, small_glow, weight_of

from glow_tf import ConfigError, DivergedError, PartsTrainer, phases
from glow_tf.config import RunConfig, TrainConfig
from glow_tf.devices import strategies
from glow_tf.run.checkpoints import state_of
from glow_tf.run.context import compiled_trainer
from glow_tf.training.optimizers import FusedAdamax


def train(jit_compile):
    images = make_small_images(np.random.default_rng(0))
    flow = small_glow(perturbed=False, flow_steps=1, parts="by_block:2")
    trainer = PartsTrainer(flow, seed=5)
    trainer.compile(
        [FusedAdamax(5e-3) for _ in range(2)],
        clip_norm=0.5,
        jit_compile=jit_compile,
        phases=phases("simultaneous", 2, 1),
    )
    return trainer, trainer.fit(images, batch_size=16, verbose=0).history


@pytest.fixture(scope="module")
def compiled():
    return train(jit_compile=True)


@pytest.mark.slow
def test_compiled_steps_train_like_steps_that_are_not(compiled):
    (trainer, history), (plain, plain_history) = compiled, train(jit_compile=False)
    assert trainer.jit_compile
    for a, b in zip(plain.get_weights(), trainer.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    np.testing.assert_allclose(history["bpd"], plain_history["bpd"], atol=1e-3)


@pytest.mark.slow
def test_a_compiled_step_that_is_not_finite_changes_nothing_and_stops_the_run(compiled, small_images):
    trainer, _ = compiled
    log_scale = weight_of(trainer.flow.parts[0], "block_1_flow_steps/actnorm_log_scale")
    sound = log_scale.numpy()
    log_scale.assign(np.full(log_scale.shape, 200.0))
    before = trainer.flow.get_weights()
    with pytest.raises(DivergedError, match=r"not finite in phase .*step \d+ of part 1, at a learning rate"):
        trainer.fit(small_images, batch_size=16, epochs=1, verbose=0)
    for a, b in zip(before, trainer.flow.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    log_scale.assign(sound)


def test_no_variable_of_a_step_is_kept_on_the_host():
    """XLA on a GPU reaches no variable of int32: https://www.tensorflow.org/xla/known_issues."""
    trainer = PartsTrainer(small_glow(permutation="shuffle"))
    trainer.compile([FusedAdamax() for _ in range(2)])
    variables = [
        *trainer.variables,
        *tf.nest.flatten(list(state_of(trainer).values())),
        trainer.training_steps.skips._report,
    ]
    assert any(v.dtype in ("int64", tf.int64) for v in variables)
    assert not [v.name for v in variables if v.dtype in ("int32", tf.int32)]


def test_a_cache_is_not_for_compiled_steps_on_a_gpu(monkeypatch):
    gpu = [tf.config.PhysicalDevice("GPU:0", "GPU")]
    monkeypatch.setattr(strategies.tf.config, "list_physical_devices", lambda kind=None: gpu)
    flow = small_glow()
    train = TrainConfig(schedule="sequential", part_epochs=2, finetune_epochs=0, cache_prefix=True)
    for given, refused in (("auto", False), ("on", True)):
        config = RunConfig(workdir="unused", jit_compile=given, model=flow.config, train=train)
        with pytest.raises(ConfigError, match="must be off or auto") if refused else contextlib.nullcontext():
            trainer = compiled_trainer(config, flow, phases("sequential", 2, 2), 10)
            assert not trainer.jit_compile


def test_where_steps_are_compiled_by_default_is_decided_by_the_device(monkeypatch):
    trainer = PartsTrainer(small_glow())
    trainer.compile([FusedAdamax() for _ in range(2)])
    assert not trainer.jit_compile
    gpu = [tf.config.PhysicalDevice("GPU:0", "GPU")]
    monkeypatch.setattr(strategies.tf.config, "list_physical_devices", lambda kind=None: gpu)
    trainer.compile([FusedAdamax() for _ in range(2)])
    assert trainer.jit_compile


def test_the_flags_word_for_no_xla_does_not_turn_it_on():
    trainer = PartsTrainer(small_glow())
    with pytest.raises(ConfigError, match=r"True, False or 'auto'. Received: jit_compile='off'"):
        trainer.compile("sgd", jit_compile="off")


def test_what_cannot_be_compiled_is_refused():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()).scope():
        trainer = PartsTrainer(small_glow())
    with pytest.raises(ValueError, match=r"jit_compile needs one replica.*Received: .*2 replicas"):
        trainer.compile("adamax", jit_compile=True)
