"""What is done with a trained model: scores, latents, and the images that are read for it."""

from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from small import make_small_images, small_glow

import glow_tf
from glow_tf import PartsTrainer, data
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.core.errors import ConfigError
from glow_tf.use import (
    decode,
    draw_checked,
    encode,
    evaluate,
    latents,
    levels,
    read_files,
    read_images,
)
from glow_tf.use.evaluation import Evaluation, by_class, mean_and_error
from glow_tf.use.latents import seed_of

pytestmark = pytest.mark.usefixtures("eager_module")


@pytest.fixture(scope="module")
def flow():
    return small_glow(parts="1")


@pytest.fixture(scope="module")
def images():
    return make_small_images(np.random.default_rng(0))


# Scores


def test_the_terms_add_up_to_the_score(flow, images):
    found = evaluate(flow, images, draws=3, seed=5)
    assert found.draws.shape == (3, len(images))
    assert list(found.terms) == [
        "dequantisation",
        *(f"block {k}, {what}" for k in (1, 2) for what in ("flow steps", "latents")),
    ]
    np.testing.assert_allclose(sum(found.terms.values()), found.per_image, rtol=1e-5)
    np.testing.assert_allclose(found.terms["dequantisation"], flow.config.n_bits, rtol=1e-6)
    assert found.parts == {}


def test_the_terms_of_a_part_are_those_of_its_flow_steps_and_latents(flow, images):
    """The cut is within block 1: part 1 has half of its flow steps, and none of its latents."""
    cut = flow.recut(parts="across_block:2")
    found, whole = evaluate(cut, images, seed=5), evaluate(flow, images, seed=5)
    assert list(found.parts) == ["part 1", "part 2"]
    np.testing.assert_allclose(sum(found.parts.values()), found.per_image, rtol=1e-5)
    for name, values in whole.terms.items():
        np.testing.assert_allclose(found.terms[name], values, rtol=1e-4, atol=1e-5)
    (batch,) = data.evaluation_batches(images, len(images), seed_of(5, 0))
    h, log_det = cut.dequantize.forward_and_log_det(cut.dequantized(batch["images"], batch["noise"]))
    log_det += cut.parts[0].call(h).log_det
    np.testing.assert_allclose(found.parts["part 1"], bits_per_dim(-log_det, (8, 8, 1)), rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 50, 300])
def test_one_draw_is_what_the_trainer_evaluates(flow, rng, count):
    images = rng.integers(0, 129, (count, 8, 8, 1), np.uint8)
    trainer = glow_tf.PartsTrainer(flow)
    trainer.compile("sgd")
    expected = trainer.evaluate(data.evaluation_batches(images, 16, seed=3), return_dict=True, verbose=0)
    mean, error = mean_and_error(evaluate(flow, images, seed=3).per_image)
    assert mean == pytest.approx(expected["bpd"], rel=1e-5)
    if count > 1:
        assert error == pytest.approx(expected["bpd_se"], rel=1e-3)


def test_the_importance_weighted_bound_is_below_the_mean_and_exact_for_one_draw(flow, images):
    one, many = evaluate(flow, images), evaluate(flow, images, draws=4)
    np.testing.assert_allclose(one.tighter, one.per_image, rtol=1e-6)
    assert (many.tighter <= many.per_image + 1e-9).all()
    nats = many.draws * np.log(2) * 64
    expected = -np.log(np.mean(np.exp(-(nats - 300)), axis=0)) + 300
    np.testing.assert_allclose(many.tighter, expected / np.log(2) / 64, rtol=1e-6)
    hopeless = Evaluation(np.array([[np.inf, np.inf, 1.0], [np.inf, 1.0, 1.0]]), {}, {}, 1)
    np.testing.assert_allclose(hopeless.tighter, [np.inf, 2.0, 1.0])


def test_scores_by_class_leave_empty_classes_out():
    found = by_class(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 2]), ("a", "b", "c"))
    assert found["a"][:2] == (2, 2.0)
    assert found["c"][:2] == (1, 5.0)
    assert "b" not in found


def test_images_of_another_type_or_shape_are_refused(flow, images):
    for wrong in (images / np.float32(255), images[:, :4], images[:0]):
        with pytest.raises(ConfigError, match="Received"):
            evaluate(flow, wrong)
    assert encode(flow, images[:0]).shape == (0, 64)


# Latents


def test_many_images_come_back_in_batches(flow, images, monkeypatch):
    monkeypatch.setattr(latents, "BATCH", 10)
    eps = encode(flow, images)
    assert eps.shape == (64, 64)
    np.testing.assert_array_equal(decode(flow, eps), images)


def test_latents_may_be_tensors_and_of_more_digits_than_the_models(flow, images):
    eps = encode(flow, images)
    for other in (tf.constant(eps), eps.astype(np.float64), eps.tolist()):
        np.testing.assert_array_equal(decode(flow, other), images)
    exact = small_glow("float64")
    with mock.patch.object(exact, "decode", wraps=exact.decode) as decoding:
        decode(exact, np.zeros((1, 64)))
    assert decoding.call_args.args[0].dtype == np.float64


def test_drawn_images_are_those_of_sample_and_temperature_0_is_the_mode(flow, monkeypatch):
    np.testing.assert_array_equal(draw_checked(flow, 5, 0.7, seed=3).images, flow.sample(5, 0.7, 3))
    np.testing.assert_array_equal(draw_checked(flow, 1, 0.0, seed=0).images, decode(flow, np.zeros((1, 64))))
    monkeypatch.setattr(latents, "BATCH", 2)
    for seed in (0, -1):
        drawn = draw_checked(flow, 3, 0.7, seed).images
        np.testing.assert_array_equal(drawn[2:], flow.sample(1, 0.7, seed_of(seed, 1)))
    assert seed_of(0, 1) not in (0, 1)
    with pytest.raises(ConfigError, match=r"num must be a positive number of images\. Received: num=0"):
        draw_checked(flow, 0, 0.7, seed=0)


@pytest.mark.long
def test_conditions_may_be_lists(images):
    own = {"condition_shape": {"a": (2,), "b": (2, 2, 1)}, "condition_features": 2}
    model = small_glow(num_blocks=1, flow_steps=1, parts="1", **own)
    trainer = PartsTrainer(model)
    trainer.compile("sgd")
    vectors, maps = np.eye(3, 2, dtype=np.float32), np.ones((3, 2, 2, 1), np.float32)
    arrays = {"a": vectors, "b": maps}
    lists = tf.nest.map_structure(np.ndarray.tolist, arrays)
    for call in (
        lambda given: encode(model, images[:3], given),
        lambda given: draw_checked(model, 3, 0.7, 0, condition=given).images,
        lambda given: evaluate(model, images[:3], condition=given).per_image,
        lambda given: model.sample(seed=1, condition=given),
        lambda given: model.log_prob(images[:3], 1, condition=given),
        lambda given: trainer.evaluate(images[:3], given, verbose=0),
    ):
        np.testing.assert_array_equal(call(lists), call(arrays))
    with pytest.raises(ConfigError, match=r"must be an array \[batch, …\]\. Received: a list, "):
        encode(model, images[:2], {"a": [[0.0, 1.0], [1.0]], "b": maps[:2]})


def test_levels_cover_all_latents_from_the_finest(flow):
    assert [level.stop - level.start for level in levels(flow)] == [32, 32]
    assert levels(flow)[0].start == 0
    assert levels(small_glow(num_blocks=1, parts="1")) == [slice(0, 64)]


def test_latents_of_another_size_are_refused(flow):
    with pytest.raises(ConfigError, match=r"shape \(None, 64\).*Received: .* of shape \(2, 63\)"):
        decode(flow, np.zeros((2, 63)))


# Models and images


@pytest.mark.long
def test_a_model_is_opened_from_wherever_it_is_kept(exported_once, images, tmp_path):
    flow, _ = exported_once
    glow_tf.save(flow, tmp_path / "preset")
    flow.save(tmp_path / "model.keras")
    expected = np.asarray(flow.log_prob(images, 0))
    for path in (tmp_path / "preset", tmp_path / "model.keras"):
        model = glow_tf.load(path)
        assert (model.image_shape, model.dimensions) == ((8, 8, 1), 64)
        np.testing.assert_allclose(model.log_prob(images, 0), expected, rtol=1e-5)
        np.testing.assert_array_equal(decode(model, encode(model, images)), images)
        np.testing.assert_array_equal(
            draw_checked(model, 3, 0.5, 1).images, draw_checked(flow, 3, 0.5, 1).images
        )
        np.testing.assert_array_equal(model.sample(2, seed=1), flow.sample(2, seed=1))


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such preset \(cifar10, .*Received: path='nothing'"):
        glow_tf.load("nothing")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(OSError, match="no last checkpoint"):
        glow_tf.load(tmp_path)


def write_images(folder, count, size, mode="RGB"):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(count):
        shape = (*size, 3) if mode == "RGB" else size
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / f"{k}.png")


def test_all_images_of_a_folder_without_a_split_are_used_whatever_their_size(tmp_path):
    write_images(tmp_path / "cats", 3, (20, 30))
    write_images(tmp_path / "dogs", 2, (9, 9))
    used = read_images((8, 8, 3), f"folder:{tmp_path}")
    assert used.images.shape == (5, 8, 8, 3)
    assert used.names[0] == "cats/0.png"
    assert used.class_names == ("cats", "dogs")
    assert used.labels.tolist() == [0, 0, 0, 1, 1]
    write_images(tmp_path, 1, (9, 9))
    assert read_images((8, 8, 3), f"folder:{tmp_path}").labels is None


def test_the_test_folder_is_used_where_there_is_one(tmp_path):
    write_images(tmp_path / "train", 3, (8, 8))
    write_images(tmp_path / "test", 2, (8, 8))
    counts = {
        split: len(read_images((8, 8, 3), f"folder:{tmp_path}", split=split).images)
        for split in ("", "test", "train", "all")
    }
    assert counts == {"": 2, "test": 2, "train": 3, "all": 5}
    assert len(read_images((8, 8, 3), f"folder:{tmp_path}", count=1).images) == 1


def test_files_are_read_to_the_byte_as_training_reads_them(tmp_path):
    write_images(tmp_path, 20, (18, 30))
    run = data.load(glow_tf.DataConfig(f"folder:{tmp_path}", image_size=8))
    paths = [tmp_path / name for name in run.names["train"]]
    np.testing.assert_array_equal(read_files((8, 8, 3), paths), run.train)
    np.testing.assert_array_equal(read_files((8, 8, 3), [str(paths[3])]), run.train[3:4])
    write_images(tmp_path / "grey", 1, (9, 9), mode="L")
    grey = tmp_path / "grey" / "0.png"
    assert read_files((8, 8, 3), [grey]).shape == (1, 8, 8, 3)
    assert read_files((9, 9, 1), [grey]).shape == (1, 9, 9, 1)
    (tmp_path / "no.png").touch()
    for shape, given, message in (
        ((8, 8, 3), [], r"one file or more\. Received: paths=\[\]"),
        (
            (8, 8, 3),
            [grey, tmp_path / "no.png"],
            r"must be readable\. Left out .*no\.png: .*Received: \['.*no",
        ),
        ((8, 8, 1), paths[:1], "is for grey images, and these are in colour"),
        ((18, 16, 3), paths[:1], r"images of 18×16×3 .*Received: .* with images of 18×30×3"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_files(shape, given)


def test_images_are_brought_to_the_models_shape_or_refused(tmp_path):
    write_images(tmp_path / "grey", 2, (16, 16), mode="L")
    used = read_images((8, 8, 3), f"folder:{tmp_path / 'grey'}")
    assert used.images.shape == (2, 8, 8, 3)
    assert "Grey images fill all three channels." in used.notes
    write_images(tmp_path / "colour", 2, (16, 16))
    with pytest.raises(ConfigError, match=r"is for grey images, and these are in colour.*Received: 'folder:"):
        read_images((8, 8, 1), f"folder:{tmp_path / 'colour'}")
    write_images(tmp_path / "colour" / "more", 1, (8, 16))
    for shape in ((0, 0, 3), (8, 16, 3)):  # no command of a trained model has an --image_size
        with pytest.raises(ConfigError, match=r"must have one size: resize them first; to train, .*Received"):
            read_images(shape, f"folder:{tmp_path / 'colour'}")
    resized = read_images((16, 16, 1), "digits", count=4)
    assert resized.images.shape == (4, 16, 16, 1)
    assert "Resized from 8×8 to 16×16." in resized.notes
    assert len(read_images((8, 8, 1), "digits", split="all").images) == 1797
    with pytest.raises(ConfigError, match="split must be train, test, all or empty"):
        read_images((8, 8, 1), "digits", split="valid")
