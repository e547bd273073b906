"""A condition network of one's own: each part trains a copy of it, and files keep the copies."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import make_small_images, objectives, perturb, small_glow

import glow_tf
from glow_tf.architectures.schedule import end_to_end, one_part, simultaneous
from glow_tf.core.errors import ConfigError

pytestmark = pytest.mark.long

IMAGES = make_small_images(np.random.default_rng(0))
GIVEN = IMAGES[:, ::2, ::2]
OF_MAPS = {"condition_shape": (4, 4, 1), "condition_features": 3, "flow_steps": 1, "parts": "by_block:2"}


@keras.saving.register_keras_serializable(package="test_own_condition_network")
class OfBoth(keras.layers.Layer):
    """Features of a map and a vector, by their names."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.of_map, self.of_vector = keras.layers.Conv2D(units, 1), keras.layers.Dense(units)

    def call(self, given):
        return tf.nn.tanh(self.of_map(given["a"]) + self.of_vector(given["b"])[:, None, None])

    def compute_output_shape(self, given_shape):
        return (*given_shape["a"][:-1], self.units)

    def build(self, given_shape):
        self.of_map.build(given_shape["a"])
        self.of_vector.build(given_shape["b"])

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def convolutions(filters=3):
    own = [keras.layers.Conv2D(5, 3, padding="same", activation="gelu"), keras.layers.Conv2D(filters, 1)]
    return keras.Sequential(own, name="mine")


def functional():
    given = keras.Input((5,))
    return keras.Model(given, keras.layers.Dense(3)(keras.layers.Dense(8, "relu")(given)))


# What is given, and a network that makes 3 features of it.
NETWORKS = {
    "a functional model, of a vector": (np.eye(64, 5, dtype=np.float32), (5,), functional),
    "a layer, of both by name": (
        {"a": GIVEN, "b": np.eye(64, 5, dtype=np.float32)},
        {"a": (4, 4, 1), "b": (5,)},
        lambda: OfBoth(3),
    ),
}
CASES = [
    pytest.param(*case, id=name, marks=[] if "by name" in name else pytest.mark.slow)
    for name, case in NETWORKS.items()
]


def some(given, count=8):
    return tf.nest.map_structure(lambda own: own[:count], given)


@pytest.mark.parametrize(("given", "shape", "make"), CASES)
def test_each_part_trains_its_own_copy_and_files_keep_it(given, shape, make, tmp_path, eager):
    small = {"flow_steps": 1, "parts": "by_block:2"}
    config = small_glow(condition_shape=shape, condition_features=3, **small).config
    network = make()
    flow = glow_tf.Flow(config, condition_network=network)
    own = [part.condition_network for part in flow.parts]
    assert len({id(layer) for layer in (network, *own)}) == 3
    assert all(type(layer) is type(network) for layer in own)
    before = [layer.get_weights() for layer in own]
    trainer = glow_tf.PartsTrainer(flow)
    trainer.compile(glow_tf.TrainConfig(schedule="simultaneous", part_epochs=2, finetune_epochs=0))
    trainer.fit(IMAGES[:16], some(given, 16), batch_size=16, verbose=0)
    for layer, values in zip(own, before, strict=True):
        assert all(np.any(a != b) for a, b in zip(layer.get_weights(), values, strict=True))
    assert any(np.any(a != b) for a, b in zip(own[0].get_weights(), own[1].get_weights(), strict=True))

    expected = flow.log_prob(IMAGES[:8], 0, condition=some(given))
    trainer.save(tmp_path / "trainer.keras")
    flow.save(tmp_path / "model.keras")
    loaded = glow_tf.load(tmp_path / "trainer.keras")
    np.testing.assert_allclose(loaded.log_prob(IMAGES[:8], 0, condition=some(given)), expected, rtol=1e-6)
    others = [
        glow_tf.load(tmp_path / "model.keras"),
        keras.saving.load_model(tmp_path / "model.keras"),
        keras.saving.load_model(tmp_path / "trainer.keras").flow,
        flow.recut(),
    ]
    for other in others:
        for a, b in zip(other.get_weights(), flow.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_model_whose_parts_have_networks_of_their_own_keeps_its_cuts():
    flow = small_glow(condition_shape=(3,), condition_features=2, num_blocks=1, flow_steps=4, parts="1,3")
    with pytest.raises(ConfigError, match=r"keeps its parts\. Received: parts='3,1'"):
        flow.recut(parts=(3, 1))


def test_no_gradient_of_a_part_reaches_the_network_of_another():
    flow = glow_tf.Flow(small_glow(**OF_MAPS, local_prior="learned").config, condition_network=convolutions())
    perturb(flow)
    trainer = glow_tf.PartsTrainer(flow)
    trainer.compile()

    def gradients(phase):
        with tf.GradientTape() as tape:
            losses, _ = objectives(trainer, IMAGES, phase, condition=GIVEN)
        own = [[v.value for v in part.condition_network.trainable_variables] for part in flow.parts]
        return tape.gradient(losses, own)

    together = gradients(simultaneous(2))
    for k in range(2):
        alone = gradients(one_part(k))
        assert all(g is None for g in alone[1 - k])
        for a, b in zip(together[k], alone[k], strict=True):
            assert np.any(a)
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert all(np.any(g) for own in gradients(end_to_end(2)) for g in own)


def test_copies_start_from_a_trained_network_and_may_stay_as_they_are(tmp_path):
    network = convolutions()
    network.build((None, 4, 4, 1))
    perturb(network)
    network.trainable = False
    flow = glow_tf.Flow(small_glow(**OF_MAPS).config, condition_network=network)
    for part in flow.parts:
        for a, b in zip(part.condition_network.get_weights(), network.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        assert not part.condition_network.trainable_variables
    flow.save(tmp_path / "model.keras")
    again = glow_tf.load(tmp_path / "model.keras")
    assert not again.parts[1].condition_network.trainable_variables


@keras.saving.register_keras_serializable(package="test_own_condition_network")
class WithoutConfig(keras.layers.Layer):
    def get_config(self):
        raise NotImplementedError("no get_config")


REFUSED = {
    "no layer": (
        keras.initializers.Zeros,
        OF_MAPS,
        "must be a Keras layer or model. Received: <keras",
    ),
    "nothing given": (convolutions, {}, r"needs a condition_shape.*Received: \(\)"),
    "other features": (lambda: convolutions(4), OF_MAPS, "as many features as condition_features.*4, 4, 4"),
    "another input": (functional, OF_MAPS, r"read a condition of shape \(4, 4, 1\).*Received: Functional"),
    "no config": (WithoutConfig, OF_MAPS, "get_config describes.*no get_config"),
}


@pytest.mark.parametrize(("make", "settings", "match"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_parts_cannot_have_is_refused(make, settings, match):
    with pytest.raises(ConfigError, match=match):
        glow_tf.Flow(small_glow(**settings).config, condition_network=make())


def test_presets_and_other_sizes_have_it(tmp_path):
    given = {"a": (4, 4, 1), "b": (5,)}
    config = small_glow(**OF_MAPS | {"condition_shape": given}).config
    own = glow_tf.Flow(config, condition_network=OfBoth(3))
    perturb(own)
    glow_tf.save(own, tmp_path / "preset")
    some = {"a": GIVEN[:2], "b": np.eye(2, 5, dtype=np.float32)}
    for other in (glow_tf.load(tmp_path / "preset"), own.resized((8, 8, 1))):
        np.testing.assert_allclose(
            other.log_prob(IMAGES[:2], 0, condition=some),
            own.log_prob(IMAGES[:2], 0, condition=some),
            rtol=1e-6,
        )
