"""Each private API of TensorFlow and Keras still means what this package takes it to mean."""

import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import small_glow

from glow_tf import internals
from glow_tf.training.optimizers import FusedAdam, FusedAdamax


def test_variables_have_other_values_even_of_another_shape_within_the_scope():
    variable = keras.Variable(np.zeros(3), dtype="float32")
    with internals.with_values([variable], [tf.ones([2, 3])]):
        assert variable.value.shape == (2, 3)
        np.testing.assert_array_equal(variable.value, np.ones([2, 3]))
    np.testing.assert_array_equal(variable.value, np.zeros(3))


def test_assigning_within_the_scope_is_seen_by_the_scope_alone():
    variable = keras.Variable(np.zeros(3), dtype="float32")
    with internals.with_values([variable], [tf.ones([3])]) as scope:
        variable.assign(tf.fill([3], 5.0))
    np.testing.assert_array_equal(scope.get_current_value(variable), np.full(3, 5.0))
    np.testing.assert_array_equal(variable.value, np.zeros(3))


def test_keras_does_not_track_what_is_held_untracked():
    layer = keras.layers.Layer()
    inner = keras.layers.Dense(2)
    inner.build((None, 3))
    layer.held = types.SimpleNamespace(inner=inner)
    assert layer.variables == []
    layer.tracked = inner
    assert len(layer.variables) == 2


def test_a_rate_can_be_set_unless_it_follows_a_schedule():
    rate = internals.rate_of(keras.optimizers.Adamax(1e-3))
    assert isinstance(rate, keras.Variable)
    assert float(rate.numpy()) == pytest.approx(1e-3)
    decay = keras.optimizers.schedules.CosineDecay(1e-3, 10)
    assert internals.rate_of(keras.optimizers.Adamax(decay)) is decay


def test_a_model_that_is_built_before_is_not_built_by_fit_and_takes_metrics():
    class Model(internals.BuiltBeforeFit):
        def train_step(self, data):
            return {"loss": tf.zeros([])}

        test_step = train_step

        def build(self, input_shape):
            pass

        def call(self, x):
            raise AssertionError("Keras built the model with a batch")

    model = Model()
    model.compile()
    model.build((None, 1))
    model.own = keras.metrics.Sum("own")
    assert model.own in model.metrics
    model.fit(np.zeros([4, 1]), verbose=0)
    model.evaluate(np.zeros([4, 1]), verbose=0)


@pytest.mark.parametrize("optimizer_class", [FusedAdam, FusedAdamax])
def test_an_optimizer_sums_gradients_over_replicas_exactly_when_it_is_to(optimizer_class):
    """The quiet one: a hook that is not called would let the gradients be summed twice.

    Both optimizers divide by the size of the gradients, so the sums are read from their first moments.
    """

    def first_moment(as_given):
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice())
        with strategy.scope():
            variable = keras.Variable(np.zeros(1), dtype="float32")
            optimizer = optimizer_class(0.1, beta_1=0.5)
            optimizer.build([variable])
        optimizer.as_given = as_given

        @tf.function
        def step():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            optimizer.apply([tf.cast([2 * replica + 1], tf.float32)], [variable])  # 1 and 3

        strategy.run(step)
        (moment,) = [v for v in optimizer.variables if "momentum" in v.path or v.path.endswith("_m")]
        return [float(v.numpy()[0]) for v in strategy.experimental_local_results(moment.value)]

    assert first_moment(as_given=False) == [2.0, 2.0]
    assert first_moment(as_given=True) == [0.5, 1.5]


def test_a_function_kept_whole_stays_one_node_per_call():
    inner = internals.function_kept_whole(lambda x: tf.sin(x) + 1)
    outer = tf.function(lambda x: inner(inner(x)))
    concrete = outer.get_concrete_function(tf.zeros([2]))
    calls = [n for n in concrete.graph.as_graph_def().node if n.op.endswith("PartitionedCall")]
    assert len(calls) == 2
    library = concrete.graph.as_graph_def().library.function
    assert all(f.attr["_noinline"].b for f in library)


def test_custom_gradients_of_a_function_that_is_kept_live_as_long_as_what_keeps_them():
    @tf.custom_gradient
    def doubled(x):
        return 2 * x, lambda upstream: 3 * upstream

    def gradient(function, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return tape.gradient(y, x)

    known, kept = set(internals._gradients()), []
    once = internals.function_kept_whole(internals.keeping_custom_gradients(doubled, kept))
    tf.function(once)(tf.constant(1.0))
    later = tf.function(functools.partial(gradient, once))
    assert float(later(tf.constant(1.0))) == 3.0
    assert len(kept) == 1
    kept.clear()
    assert set(internals._gradients()) == known


def test_layers_within_come_after_the_one_that_holds_them_and_alike_in_equal_models():
    layers, again = (internals.layers_within(small_glow()) for _ in range(2))
    assert [(type(a), a.path) for a in layers[2:]] == [(type(a), a.path) for a in again[2:]]
    place = {id(layer): k for k, layer in enumerate(layers)}
    for part in layers[0].parts:
        assert place[id(part)] < min(place[id(bijector)] for bijector in (*part.bijectors, part.base))


def test_an_optimizer_knows_what_it_was_built_with():
    variables = [keras.Variable(np.zeros(n), dtype="float32") for n in (2, 3)]
    optimizer = keras.optimizers.Adam()
    assert not internals.built_with_others(optimizer, variables)
    optimizer.build(variables)
    assert not internals.built_with_others(optimizer, variables)
    assert internals.built_with_others(optimizer, variables[:1])
