"""Images of other sizes than the model's: one part makes all levels, odd sides go without their last line."""

import keras
import numpy as np
import pytest
from PIL import Image
from small import (
    assert_density_is_of_the_jacobian,
    perturb,
    preset_once,
    small_glow,
    small_levels,
)

import glow_tf
from glow_tf import ConfigError
from glow_tf.bijectors.likelihood import bits_per_dim
from glow_tf.commands import cli
from glow_tf.use import levels
from glow_tf.use.evaluation import terms
from glow_tf.use.images import check_fits


def images_of(shape, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def made(**changes):
    flow = small_levels(flow_steps=1, **changes)
    flow.initialize(images_of(flow.image_shape, 32))
    perturb(flow)
    return flow


@pytest.fixture(scope="module")
def own():
    """A model of 8×8 with two levels, whose coarsest image is of 2×2."""
    return made(dtype="float64")


@pytest.fixture(scope="module")
def odd(own):
    """The same model for images whose sides are odd at every level."""
    return own.resized((7, 11, 3))


def test_at_its_own_size_a_model_stays_as_it_is(own, eager):
    again, images = own.resized((8, 8, 3)), images_of((8, 8, 3))
    assert again is not own
    assert again.config == own.config
    np.testing.assert_array_equal(again.log_prob(images, 0), own.log_prob(images, 0))


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "count", "coarsest"),
    [
        ((32, 32, 3), 4, (1, 1, 12)),
        ((7, 11, 3), 1, (1, 2, 12)),
        ((10, 100, 3), 2, (1, 12, 12)),
        ((5, 4, 3), 1, (1, 1, 12)),
    ],
    ids=str,
)
def test_the_finest_part_makes_every_level_of_another_size(own, shape, count, coarsest):
    flow = own.resized(shape)
    assert flow.design.num_parts == count + 1
    assert flow.parts[-1].output_event_shape == coarsest
    for part, source in zip(flow.parts, [own.parts[0]] * count + [own.parts[-1]], strict=True):
        for mine, theirs in zip(part.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len({id(weight) for part in flow.parts for weight in part.weights}) == len(flow.weights)


@pytest.mark.long
def test_a_model_of_one_level_fits_large_images(eager):
    """A part of details, and a flow of 4×4: a prior of images of any size."""
    own = made(num_blocks=1)
    counts = [own.design.resized((h, w, 3))[0].num_blocks for h, w in ((32, 32), (64, 64), (1000, 667))]
    assert counts == [4, 5, 8]
    flow, images = own.resized((33, 50, 3)), images_of((33, 50, 3), 2)
    np.testing.assert_array_equal(flow.decode(flow.encode(images)), images)
    assert np.isfinite(flow.bits_per_dim(images)).all()


def test_the_log_likelihood_of_odd_sides_is_that_of_the_whole_jacobian(odd):
    assert_density_is_of_the_jacobian(odd, odd.dequantized(images_of((7, 11, 3), 1), noise=0.3))


def test_the_terms_of_the_parts_of_odd_sides_add_up(odd, eager):
    v = odd.dequantized(images_of((7, 11, 3)), 0.5)
    whole = bits_per_dim(-odd.dequantized_log_prob(v), odd.image_shape)
    np.testing.assert_allclose(sum(terms(odd, v)), whole, rtol=1e-9)
    assert [own.stop - own.start for own in levels(odd)] == [3 * (11 + 6 + 3 * 3 * 5), 3 * 3 * 5]
    assert all(odd.fixed_parts[:-1])


@pytest.mark.slow  # the commands, below, take the preset of an odd model
def test_every_form_of_an_odd_model_gives_the_same(own, tmp_path, eager):
    own = own.recut(dtype="float32")
    flow, images = own.resized((7, 11, 3)), images_of((7, 11, 3))
    eps, drawn = flow.encode(images), flow.sample(2, temperature=0.7, seed=1)
    np.testing.assert_array_equal(flow.decode(eps), images)
    assert drawn.shape == (2, 7, 11, 3)
    flow.save(tmp_path / "a.keras")
    glow_tf.save(flow, tmp_path / "preset")
    for other in (keras.saving.load_model(tmp_path / "a.keras"), glow_tf.load(tmp_path / "preset")):
        np.testing.assert_allclose(other.encode(images), eps, atol=1e-4)
        np.testing.assert_array_equal(other.decode(eps), images)
    glow_tf.save(own, tmp_path / "own")
    sized = glow_tf.load(tmp_path / "own", image_shape=(7, 11, 3), seed=3)
    np.testing.assert_allclose(sized.encode(images), eps, atol=1e-4)


@pytest.mark.slow
def test_black_and_white_lines_and_noise_come_back_to_the_byte(eager):
    flow, images = preset_once("cifar10_small").resized((63, 65, 3)), np.zeros((7, 63, 65, 3), np.uint8)
    images[1, -1] = images[2, :, -1, 1] = 255
    images[3:] = 255 * np.random.default_rng(0).integers(0, 2, images[3:].shape)
    np.testing.assert_array_equal(flow.decode(flow.encode(images)), images)


@pytest.mark.long
def test_a_model_of_odd_sides_trains_and_evaluates(own, eager):
    trainer = glow_tf.PartsTrainer(own.recut(dtype="float32").resized((7, 11, 3)), seed=0)
    settings = glow_tf.TrainConfig(schedule="simultaneous", part_epochs=1, finetune_epochs=0, batch_size=4)
    trainer.compile(settings)
    images, before = images_of((7, 11, 3), 8), [part.get_weights() for part in trainer.flow.parts]
    trainer.fit(images, verbose=0)
    for part, weights in zip(trainer.flow.parts, before, strict=True):
        assert any(np.any(a != b) for a, b in zip(part.get_weights(), weights, strict=True))
    assert np.isfinite(trainer.evaluate(images, return_dict=True, verbose=0)["bpd"])
    h = trainer.flow.enter(images, 0.5).h
    part = trainer.flow.parts[0]
    np.testing.assert_array_equal(part.pass_on(h), part.call(h).h)


@pytest.mark.long
def test_what_has_one_size_alone_says_why(own):
    for flow, shape, message in (
        (own, (16, 16, 1), r"model of images in colour takes no others.*Received: image_shape=\(16, 16, 1\)"),
        (made(image_shape=(4, 4, 1), num_blocks=1), (16, 16, 3), "model of grey images takes no others"),
        (own, (3, 16, 3), "height and width must be 4 or more .*Received: image of 3×16"),
        (own, (0, 16, 3), "image_shape must be three positive integers"),
        (small_glow(), (9, 8, 1), r"differ from 8×8 by multiples of .*Received: image_shape=\(9, 8, 1\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            flow.resized(shape)


def test_a_glow_has_other_sizes_that_halve_as_often(eager):
    own = small_glow(parts="by_block:2")
    own.initialize(images_of((8, 8, 1), 16))
    flow = own.resized((16, 8, 1))
    for part, source in zip(flow.parts, own.parts, strict=True):
        for mine, theirs in zip(part.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    images = images_of((16, 8, 1)) // 8 * 8  # a model of 5 bits
    np.testing.assert_array_equal(flow.decode(flow.encode(images)), images)


# Commands


@pytest.fixture
def mixed(tmp_path, monkeypatch, own):
    """A preset, and a folder of images of two sizes."""
    monkeypatch.chdir(tmp_path)
    glow_tf.save(own, "preset", {"image_size": 0})
    for name, size in {"a": (7, 9), "b": (8, 8), "c": (7, 9)}.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(images_of((*size, 3), 1)[0]).save(f"in/{name}.png")
    return ["--model=preset", "--dataset=folder:in"]


@pytest.mark.long
def test_commands_take_images_at_their_own_sizes(mixed, capsys, eager):
    assert cli.run("evaluate", [*mixed, "--image_size=0", "--output=found.json"]) == 0
    out = capsys.readouterr().out
    assert "(3 images, 1 noise draw each" in out
    assert "7×9 (2 images)" in out
    assert "8×8 (1 image)" in out
    assert cli.run("evaluate", mixed) == 0  # the preset's card says 0
    assert cli.run("score", ["fit", *mixed]) == 1
    assert "must have one size; --image_size=64 brings them to one" in capsys.readouterr().err
    assert cli.run("sample", ["--model=preset", "--image_size=5x6", "--num=2", "--temperatures=0.7"]) == 0
    assert np.load("samples.npy").shape == (2, 1, 5, 6, 3)


@pytest.mark.long
def test_a_size_that_cannot_be_is_refused_before_time_is_spent(mixed, capsys):
    for wrong, message in (
        (["--image_size=-3"], "image_size must be empty, a side in pixels"),
        (["--image_size=0x7"], "image_size must be empty, a side in pixels"),
        (["--image_size=3"], "height and width must be 4 or more with num_blocks=1"),
        (
            ["--model=digits_classes", "--image_size=16"],
            "is given something with each image takes images of 8×8",
        ),
    ):
        assert cli.run("evaluate", [*mixed, *wrong]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.long
def test_models_that_have_one_size_alone_name_the_image():
    check_fits(preset_once("digits"), (48, 40), "a.png", gradient=True)
    with pytest.raises(ConfigError, match=r"images of 8×8 alone.*Received: sub/a.png of 9×8"):
        check_fits(preset_once("digits_classes"), (9, 8), "sub/a.png", gradient=True)
    with pytest.raises(ConfigError, match=r"must be 4 or more .*Received: a.png of 3×50"):
        check_fits(preset_once("cifar10_small"), (3, 50), "a.png", gradient=True)
    with pytest.raises(ConfigError, match=r"gradient of a.png, 80000×80000, needs must fit in"):
        check_fits(preset_once("digits"), (80_000, 80_000), "a.png", gradient=True)
