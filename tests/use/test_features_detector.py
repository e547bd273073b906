"""Unusual images by a frozen network's features: their densities, and the detector that looks at them."""

import glow_tf  # noqa: F401 - before Keras

# isort: split
import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.base import clone
from sklearn.datasets import load_digits
from small import small_levels

from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.use import NoveltyDetector
from glow_tf.use.score.choice import held_out

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images * 8).astype(np.uint8)[..., None]
    return np.random.default_rng(0).permutation(images)[:200]


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    first = keras.layers.Conv2D(4, 3, 2, "same", activation="tanh")(
        keras.layers.Rescaling(1 / 64, -1)(inputs)
    )
    return keras.Model(inputs, [first, keras.layers.Conv2D(5, 3, 2, "same")(first)])


@pytest.fixture(scope="module")
def detector(network, digits):
    return NoveltyDetector(None, features=network).fit(digits[:60])


@pytest.fixture(scope="module")
def both(network, digits):
    sizes = {"image_shape": (8, 8, 1), "num_blocks": 1, "flow_steps": 1, "condition_depth": 1}
    prior = small_levels(n_bits=5, **sizes)
    prior.initialize(digits[100:150])
    found = NoveltyDetector(prior, epochs=0, features=network).fit(digits[:20])
    assert next(iter(found.areas_)) == "pixels and features 1 + 2"  # the others are not clearly better
    return found


def test_features_tell_what_is_unlike_the_good_images_and_where(detector, digits):
    assert detector.prior_ is detector.tuned_ is None
    assert detector.predict(digits[60:]).mean() < 0.2  # one draw of good images; 0.05 on the mean of many
    odd = digits[60:].copy()
    odd[:, :4, :4] = np.random.default_rng(0).integers(0, 256, (140, 4, 4, 1))
    assert detector.predict(odd).mean() > 0.7
    heat = detector.heat(odd)
    assert heat.shape == (140, 8, 8)
    assert heat[:, :4, :4].mean() > heat[:, 4:, 4:].mean() + 0.3
    with pytest.raises(ConfigError, match="images must be uint8 of shape"):
        detector.predict(digits[:2, :4])
    with pytest.raises(ConfigError, match="without a prior nothing is given"):
        detector.predict(digits[:2], condition=np.zeros((2, 1)))


def test_an_image_may_be_unusual_as_a_whole_where_each_of_its_places_is_usual(rng):
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Rescaling([1.0, 0.5])(inputs))
    detector = NoveltyDetector(None, features=network).fit(rng.integers(0, 256, (60, 8, 8, 1), np.uint8))
    odd = np.full((2, 8, 8, 1), 200, np.uint8)
    odd[1] = rng.integers(0, 256, (8, 8, 1))
    scores, heat = detector.score_and_heat(odd)
    assert heat.max(axis=(1, 2)).max() < 1.5
    assert scores[0] > 3
    assert scores[1] < 2
    assert detector.p_value(odd)[0] == detector.smallest


@pytest.mark.parametrize("with_prior", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_is_saved_loaded_and_exported_with_the_same_numbers(
    with_prior, network, detector, both, digits, tmp_path
):
    if with_prior:
        detector = both
        assert len(detector.models_(digits[:2])) == 2 + 2  # two levels, features of all scales, their kind
    images = digits[60:70]
    scores, heat = detector.score_and_heat(images)
    detector.save(tmp_path / "d")
    loaded = NoveltyDetector.load(tmp_path / "d", network)
    with pytest.raises(ConfigError, match=rf"features must be the network .*: {network.name!r}"):
        NoveltyDetector.load(tmp_path / "d")
    np.testing.assert_array_equal(loaded.decision_function(images), scores)
    np.testing.assert_array_equal(loaded.p_value(images), detector.p_value(images))
    detector.export(tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"](tf.constant(images))
    np.testing.assert_allclose(served["score"], scores, atol=1e-3)
    np.testing.assert_allclose(served["map"], heat, atol=1e-3)
    clone(loaded)


@pytest.mark.slow
@pytest.mark.parametrize("with_prior", [False, True])
def test_onnx_says_what_the_detector_does(with_prior, network, detector, both, digits, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    detector, images = both if with_prior else detector, digits[60:64]
    detector.export(tmp_path / "d.onnx", "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx")
    name, outputs = session.get_inputs()[0].name, [own.name for own in session.get_outputs()]
    for image in images[:, np.newaxis]:
        scores, heat = detector.score_and_heat(image)
        served = dict(zip(outputs, session.run(None, {name: image}), strict=True))
        np.testing.assert_allclose(served["score"], scores, atol=2e-3)
        np.testing.assert_allclose(served["map"], heat, atol=2e-3)
    with pytest.raises(ConfigError, match="format must be one of savedmodel, onnx"):
        detector.export(tmp_path / "d", "pickle")


def test_the_command_fits_to_features_alone_and_checks(network, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    network.save("n.keras")
    np.save("good.npy", digits[:40])
    np.save("new.npy", np.concatenate([digits[40:50], np.full((1, 8, 8, 1), 255, np.uint8)]))
    given = ["fit", "--features=n.keras", "--model=", "--dataset=file:good.npy"]
    assert cli.run("score", given) == 0
    assert cli.run("score", ["check", "--features=n.keras", "--dataset=file:new.npy"]) == 0
    assert (tmp_path / "scores" / "heat" / "0001_000010.png").exists()
    assert "Beside each image is its map." in (tmp_path / "scores" / "worst.html").read_text()
    expected = NoveltyDetector(None, features=network).fit(digits[:40].repeat(3, axis=-1))
    loaded = NoveltyDetector.load("detector", network)
    np.testing.assert_allclose(loaded.decision_scores_, expected.decision_scores_, atol=1e-3)
    capsys.readouterr()
    assert cli.run("score", ["fit", "--features=n.keras", "--dataset=digits", "--image_size=16"]) == 1
    assert "takes images of shape (batch, 16, 16, 3)" in capsys.readouterr().err


def test_a_file_of_features_that_cannot_be_loaded_safely_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    inputs = keras.Input((8, 8, 1))
    keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs)).save("code.keras")
    (tmp_path / "bytes.keras").write_bytes(b"x")
    for name in ("code", "bytes", "none"):
        assert cli.run("score", ["fit", f"--features={name}.keras", "--model=", "--dataset=digits"]) == 1
        said = capsys.readouterr().err
        assert "features must be lite0, or a .keras file" in said
        assert f"Received: '{name}.keras'" in said
    vectors = keras.Input((3,))
    keras.Model(vectors, keras.layers.Dense(2)(vectors)).save("vectors.keras")
    assert cli.run("score", ["fit", "--features=vectors.keras", "--model=", "--dataset=digits"]) == 1
    assert "features must be a network from images" in capsys.readouterr().err


def test_the_command_is_for_pictures(network, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    NoveltyDetector(None, features=network).fit(digits[:20].astype(np.float32)).save("detector")
    network.save("n.keras")
    assert cli.run("score", ["check", "--features=n.keras", "--dataset=digits"]) == 1
    assert "calibration must be of images of bytes" in capsys.readouterr().err


def test_folds_keep_groups_together(network, digits):
    for count, tunes, folds in ((12, False, 10), (12, True, 3), (120, True, 1)):
        groups = np.repeat(np.arange(count), 3)
        found = held_out(groups, tunes, 0.05, seed=1)
        assert len(found) == folds
        for out in found:
            assert all(len(set(out[groups == own])) == 1 for own in range(count))
    with pytest.raises(ConfigError, match=r"groups must be a label for each of 20 images.*\(20,\) with 2"):
        NoveltyDetector(None, features=network).fit(digits[:20], groups=np.arange(20) % 2)


def test_what_gives_no_maps_is_refused(network, digits):
    vectors = keras.Model(network.inputs, keras.layers.Flatten()(network.outputs[0]))
    with pytest.raises(ConfigError, match=r"returns maps \[batch, h, w, channels\]. Received: \[\(1, 64\)\]"):
        NoveltyDetector(None, features=vectors).fit(digits[:20])
    with pytest.raises(ConfigError, match="takes images of shape"):
        NoveltyDetector(None, features=network).fit(digits[:20].repeat(2, axis=-1))
    with pytest.raises(ConfigError, match=r"features must be lite0, or a \.keras file"):
        NoveltyDetector(None, features="efficientnet").fit(digits[:20])
    with pytest.raises(ConfigError, match="there must be a prior or features"):
        NoveltyDetector(None).fit(digits[:20])
