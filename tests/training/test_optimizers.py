"""The fused optimizers are Keras's own, in fewer passes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from glow_tf.training.optim.optimizers import FusedAdam, FusedAdamax

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
