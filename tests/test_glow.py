import contextlib
import tempfile
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import small_glow

from glow_tf.core.errors import ConfigError
from glow_tf.store import load
from glow_tf.use.latents import decode


@pytest.fixture(scope="module")
def flow():
    return small_glow()


def test_encode_and_decode_are_exact_inverses_on_images(flow, small_images):
    eps = flow.encode(small_images)
    assert eps.shape == (64, 64)
    np.testing.assert_array_equal(flow.decode(eps), small_images)


def test_samples_follow_from_their_seed_and_are_finite(flow):
    first = flow.sample(9, temperature=0.7, seed=3)
    assert first.shape == (9, 8, 8, 1)
    assert first.dtype == tf.uint8
    np.testing.assert_array_equal(first, flow.sample(9, 0.7, 3))
    assert not np.array_equal(first, flow.sample(9, 0.7, 4))
    for temperature in (0.5, 1.0, 50.0):
        assert np.isfinite(flow.sample_dequantized(64, temperature)).all()


@pytest.mark.parametrize("temperature", [np.nan, np.inf, -np.inf, -1.0, tf.constant(np.nan)])
def test_a_temperature_is_finite_and_not_negative(flow, temperature):
    for draw in (flow.sample, flow.sample_dequantized):
        with pytest.raises(ConfigError, match=r"temperature must be finite, 0 at least\. Received: temp"):
            draw(2, temperature)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_latents_are_finite(flow, number):
    eps = np.full((2, 64), number, np.float32)
    with pytest.raises(ConfigError, match=r"eps must be finite\. Received: eps="):
        flow.decode(eps)
    with pytest.raises(ConfigError, match=r"eps must be finite\. Received: eps="):
        flow.decode(tf.constant(eps))
    with pytest.raises(ConfigError, match=r"eps must be finite\. Received: eps="):
        decode(flow, eps)


def test_more_images_than_fit_into_memory_are_refused(flow, monkeypatch):
    with pytest.raises(ConfigError, match=r"1000000000 images at once must fit .* draw fewer\. Received: "):
        flow.sample(10**9)

    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setitem(flow._compiled, "sample_checked", exhausted)
    with pytest.raises(ConfigError, match=r"take fewer, .* Received: OOM when allocating tensor"):
        flow.sample(2)


@pytest.mark.parametrize("compiled", [False, True])
def test_without_a_seed_every_call_draws_anew_and_keras_can_repeat_them(compiled, flow, small_images):
    def draw():
        return flow.sample(8), flow.sample_dequantized(8), flow.bits_per_dim(small_images[:8])

    def twice():
        called = tf.function(draw) if compiled else draw
        keras.utils.set_random_seed(3)
        return [*called(), *called()]

    first, second = twice(), twice()
    for k in range(3):
        assert not np.array_equal(first[k], first[k + 3])
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_encoding_a_sample_gives_its_latents_back(eager):
    """In float64, so that only the bytes are rounded."""
    flow = small_glow("float64")
    images = flow.sample(16, 0.7, seed=0)
    np.testing.assert_array_equal(flow.decode(flow.encode(images)), images)


def test_bits_per_dim_is_log_prob_in_other_units(flow, small_images, eager):
    bpd = flow.bits_per_dim(small_images, seed=2)
    np.testing.assert_allclose(bpd, -flow.log_prob(small_images, seed=2) / (64 * np.log(2)), rtol=1e-6)
    assert not np.array_equal(bpd, flow.bits_per_dim(small_images, seed=3))


def test_a_function_or_a_dataset_may_score_and_code(small_images, caplog):
    flow = small_glow(num_blocks=1, flow_steps=1, parts="1", condition_shape=(2,))
    images, condition = small_images[:4], np.eye(2, dtype=np.float32)[[0, 1, 1, 0]]
    eps = flow.encode(images, condition)

    def answers(images, condition, eps):
        own = {"condition": condition, "seed": 1}
        density = flow.log_prob(images, **own), flow.bits_per_dim(images, **own)
        coded = flow.encode(images, condition), flow.decode(eps, condition)
        return *density, flow.score(images, condition)["log_prob"], *coded, flow.sample(4, **own)

    given = images, condition, eps
    mapped = next(iter(tf.data.Dataset.from_tensors(given).map(answers)))
    batched = next(iter(tf.data.Dataset.from_tensor_slices(given).batch(4).map(answers)))  # of unknown size
    for found in (mapped, batched, tf.function(answers)(*map(tf.constant, given))):
        for own, expected in zip(found, answers(*given), strict=True):
            np.testing.assert_allclose(own, expected, rtol=1e-5, atol=1e-6)
    assert "AutoGraph" not in caplog.text


@pytest.mark.parametrize(
    "own", [{"architecture": "levels", "parts": "1"}, {"local_prior": "flow:4x1"}], ids=str
)
def test_no_two_weights_have_the_same_name(own):
    """Checkpoints name weights by their paths."""
    flow = small_glow(condition_shape=(4, 4, 1), condition_features=2, **own)
    assert len({weight.path for weight in flow.weights}) == len(flow.weights)


def test_neither_seeds_nor_batch_sizes_retrace(flow, small_images):
    for seed, count in ((0, 64), (1, 3), (2, 10)):
        flow.log_prob(small_images[:count], seed)
        flow.sample(count, 0.5 + seed / 10, seed)
    assert flow._compiled["log_prob"].experimental_get_tracing_count() == 1
    assert flow._compiled["sample_checked"].experimental_get_tracing_count() == 1


def test_one_keras_file_holds_the_model(tmp_path, small_images, eager):
    flow = small_glow(parts="across_block:3", local_prior="learned")
    flow.initialize(small_images)
    flow.save(tmp_path / "glow.keras")
    loaded = load(tmp_path / "glow.keras")
    np.testing.assert_array_equal(loaded.log_prob(small_images, 0), flow.log_prob(small_images, 0))
    assert loaded.config == flow.config
    assert loaded.initialized


def test_a_keras_file_cannot_write_outside_of_itself(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    path = tmp_path / "models" / "glow.keras"
    path.parent.mkdir()
    small_glow(flow_steps=1, parts="1").save(path)
    with zipfile.ZipFile(path, "a") as archive:
        for name in ("../outside", str(tmp_path / "outside"), "assets/../../outside"):
            archive.writestr(name, b"x")
    with contextlib.suppress(ValueError):
        load(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["models", "tmp"]
    assert not list((tmp_path / "tmp").rglob("outside"))
    assert [entry.name for entry in path.parent.iterdir()] == ["glow.keras"]


@pytest.mark.parametrize("settings", [{}, {"condition_shape": (3,), "parts": "1"}], ids=str)
def test_parts_are_layers_of_a_functional_model_which_is_saved(settings, small_images, tmp_path, eager):
    flow = small_glow(num_blocks=1, **settings)
    values = keras.Input(flow.image_shape)
    given = [keras.Input(flow.config.condition_shape)] if settings else []
    h, _ = flow.dequantize(values)
    for part in flow.parts:
        h = part(h, *(part.read(condition).condition for condition in given)).h
    model = keras.Model([values, *given], h)
    condition = [tf.ones((5, 3))] if settings else []
    own = [flow.dequantized(small_images[:5], 0.5), *condition]
    whole = flow.through_parts(flow.enter(small_images[:5], 0.5)._replace(condition=(*condition, None)[0]))
    np.testing.assert_allclose(model(own), whole.h, rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(own), model(own))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda model: model.sample(2, temperature="a"), r"temperature must be float32.*Received: .*='a'"),
        (lambda model: model.sample(2, seed=0.5), r"seed must be int32 .*Received: seed=0\.5"),
        (lambda model: model.sample([2, 3]), r"num must be a positive number.*\[2, 3\]"),
        (lambda model: model.decode(np.zeros((2, 63))), r"eps must be float32.* of shape \(2, 63\)"),
    ],
)
def test_what_an_endpoint_does_not_take_is_refused_with_a_sentence(flow, call, expected):
    with pytest.raises(ConfigError, match=expected):
        call(flow)


def test_a_glow_is_trained_by_a_trainer(small_images):
    flow = small_glow(flow_steps=1, num_blocks=1, parts="1")
    flow.compile("sgd")
    with pytest.raises(ConfigError, match=r"PartsTrainer\(flow\) trains.* Received: loss=None"):
        flow.evaluate(small_images)


def test_images_of_another_kind_are_refused(flow, small_images):
    with pytest.raises(
        ValueError, match=r"images must be uint8 of shape \(batch, 8, 8, 1\).*Received: float32"
    ):
        flow.log_prob(small_images.astype(np.float32))
    with pytest.raises(ValueError, match=r"Received: uint8 of shape \(64, 4, 8, 1\)"):
        flow.encode(small_images[:, :4])
    for method in (flow, flow.dequantized, flow.initialize):
        with pytest.raises(ConfigError, match=r"must be uint8 .*Received: float32"):
            method(small_images.astype(np.float32) / 255)
        with pytest.raises(ConfigError, match=r"Received: uint8 of shape \(64, 4, 8, 1\)"):
            method(small_images[:, :4])


def test_load_names_what_it_was_given(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no last checkpoint. Received"):
        load(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    with pytest.raises(ValueError, match=r"tf.saved_model.load.*Received"):
        load(tmp_path)


def test_flow_weights_of_another_model_are_refused():
    flow, deeper = small_glow(flow_steps=2), small_glow(flow_steps=3)
    with pytest.raises(ValueError, match=r"has \d+ weights, step by step\. Received: \d+ weights"):
        flow.set_flow_weights(deeper.get_flow_weights())
    with pytest.raises(ValueError, match=r"has \d+ weights, step by step\. Received: 3 weights"):
        flow.set_flow_weights(flow.get_flow_weights()[:3])
    with pytest.raises(ValueError, match=r"has \d+ weights, step by step\. Received: \d+ weights"):
        flow.set_flow_weights([*flow.get_flow_weights(), np.zeros(3)])


def test_a_passage_goes_part_by_part_or_several_parts_at_once(small_images, eager):
    flow = small_glow(parts="across_block:3")
    entered = passage = flow.enter(small_images, None, seed=2)
    assert passage.truncated_nlls == ()
    for k in range(1, 4):
        passage, _ = flow.through_part(k - 1, passage)
        np.testing.assert_array_equal(flow.through_parts(entered, stop=k).h, passage.h)
    apart = flow.through_parts(flow.through_parts(entered, stop=1), start=1)
    np.testing.assert_array_equal(apart.h, passage.h)
    np.testing.assert_allclose(-passage.truncated_nlls[-1], flow.log_prob(small_images, 2), rtol=1e-6)
    with pytest.raises(IndexError):
        flow.through_part(3, passage)


def test_no_images_are_refused_with_a_sentence():
    flow = small_glow(flow_steps=1, parts="1")
    for call in (flow.log_prob, flow.bits_per_dim, flow.encode, flow.score):
        with pytest.raises(
            ConfigError,
            match=r"images must be uint8 of shape .*, one image or more. Received: uint8 of .*\(0,",
        ):
            call(np.zeros((0, 8, 8, 1), np.uint8))
    with pytest.raises(ConfigError, match=r"num must be a positive number of images. Received: num=0"):
        flow.sample(0)


def test_noise_of_another_shape_is_refused(small_images):
    flow = small_glow()
    for shape in ([1, 8, 8, 1], [16, 1, 1, 1]):
        with pytest.raises(
            (ValueError, tf.errors.InvalidArgumentError), match="noise must have the images' shape"
        ):
            flow.dequantized(small_images[:16], tf.zeros(shape))
    np.testing.assert_array_equal(
        flow.dequantized(small_images[:2], 0.5),
        flow.dequantized(small_images[:2], np.full([2, 8, 8, 1], 0.5)),
    )
