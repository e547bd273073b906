"""The fused optimizers are Keras's own, in fewer passes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import small_glow

from glow_tf import ConfigError, PartsTrainer
from glow_tf.training.optimizers import FusedAdam, FusedAdamax, RatePerWeight, ScaledSGD

PAIRS = {"adam": (FusedAdam, keras.optimizers.Adam), "adamax": (FusedAdamax, keras.optimizers.Adamax)}


def train(make_optimizer, strategy=None):
    scope = (strategy or tf.distribute.get_strategy()).scope
    with scope():
        variables = [keras.Variable(np.full(shape, 0.5), dtype="float32") for shape in [(3, 4), (5,)]]
        optimizer = make_optimizer()
        optimizer.build(variables)

    @tf.function(autograph=False)
    def step(k):
        gradients = [tf.sin(k + tf.range(v.shape[-1], dtype=tf.float32)) * v.value for v in variables]
        optimizer.apply(gradients, variables)

    for k in range(20):
        (strategy.run if strategy else lambda f, args: f(*args))(step, args=(tf.constant(float(k)),))
    return [v.numpy() for v in variables]


@pytest.mark.parametrize(("fused", "reference"), PAIRS.values(), ids=PAIRS.keys())
def test_fused_steps_are_kerass(fused, reference):
    settings = {"learning_rate": 0.03, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-5}
    for a, b in zip(train(lambda: fused(**settings)), train(lambda: reference(**settings)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(("fused", "reference"), PAIRS.values(), ids=PAIRS.keys())
def test_fused_steps_are_kerass_on_two_replicas(fused, reference):
    strategies = [
        tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
        for _ in range(2)
    ]
    mine = train(lambda: fused(0.03), strategies[0])
    theirs = train(lambda: reference(0.03), strategies[1])
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("fused", [FusedAdam, FusedAdamax])
def test_fused_optimizers_survive_serialisation(fused):
    twin = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(fused(0.03, beta_2=0.9)))
    assert isinstance(twin, fused)
    assert twin.beta_2 == 0.9


def test_amsgrad_is_refused_and_not_left_out():
    with pytest.raises(ValueError, match=r"has no amsgrad.*Received: amsgrad=True"):
        FusedAdam(amsgrad=True)


class Lion(RatePerWeight, keras.optimizers.Lion):
    """An optimizer of a user, in one line."""


@pytest.mark.parametrize("kind", [FusedAdam, FusedAdamax, ScaledSGD, Lion])
def test_each_weight_has_its_own_rate(kind):
    def moved(factors):
        variables = [keras.Variable(np.ones([2, 2]), dtype="float32") for _ in range(2)]
        optimizer = kind(0.01)
        optimizer.build(variables)
        for own in ([0.1, 0.1], factors):  # compiling twice must not multiply twice
            optimizer.scale_rates(variables, own)
        tf.function(lambda: optimizer.apply([tf.ones([2, 2])] * 2, variables))()
        return [float(v.numpy()[0, 0]) - 1 for v in variables]

    plain, same = moved([1.0, 1.0])
    assert plain == same == pytest.approx(-0.01, rel=1e-2)
    assert moved([1.0, 0.5]) == pytest.approx([plain, plain / 2], rel=2e-2)


def test_optimizers_that_cannot_scale_rates_or_would_mix_flow_steps_are_refused():
    trainer = PartsTrainer(small_glow(parts="1", num_blocks=1, flow_steps=1))
    for given in (
        keras.optimizers.Adamax(),
        {"class_name": "SGD", "config": {}},
        FusedAdam(weight_decay=0.1),
    ):
        with pytest.raises(ConfigError, match=r"rate_scaling='size' needs .*RatePerWeight; .*Received: "):
            trainer.compile(given)
    trainer.compile(keras.optimizers.Adamax(), rate_scaling="none")
    trainer.compile(Lion(1e-4))
    by_shape = [keras.optimizers.Adafactor(), keras.optimizers.Lamb()]
    by_shape += [keras.optimizers.Muon()] if hasattr(keras.optimizers, "Muon") else []
    for given in by_shape:
        with pytest.raises(ConfigError, match=rf"flow steps, which they.*Received: {type(given).__name__}"):
            trainer.compile(given, rate_scaling="none")
    if hasattr(keras.optimizers, "MultiOptimizer"):
        given = keras.optimizers.MultiOptimizer(lambda variable: keras.optimizers.SGD())
        with pytest.raises(ConfigError, match=r"update the weights themselves.*Received: MultiOptimizer"):
            trainer.compile([given], rate_scaling="none")
