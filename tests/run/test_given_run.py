"""Runs whose model is given something with each image."""

import numpy as np
import pytest
from helpers import config, train
from PIL import Image
from sklearn.datasets import load_digits
from small import small_glow

import glow_tf
from glow_tf import ConfigError
from glow_tf.use import evaluate, read_images, save_run_to_preset

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("eager_module")]

SMALL = {
    "num_blocks": 1,
    "flow_steps": 2,
    "parts": "1,1",  # each part's network of what is given is its own
    "width": 4,
    "condition_features": 2,
    "train_examples": 32,
    "part_epochs": 2,
    "finetune_epochs": 0,
    "rate_schedule": "constant",
    "augment": "none",
    "sample_every": 2,
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for k, image in enumerate((load_digits().images[:70] * 8).astype(np.uint8)):
        for name, own in (("target", image), ("input", image[::2, ::2])):
            (folder / name).mkdir(exist_ok=True)
            Image.fromarray(own).save(folder / name / f"{k:03d}.png")
    return folder


def of_pairs(folder, pairs, **changes):
    own = {"dataset": f"folder:{pairs}", "condition": "input", "test_examples": 0, "validation_examples": 20}
    return config(folder, **{**SMALL, **own, **changes})


@pytest.fixture(scope="module")
def finished(pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    return folder, train(of_pairs(folder, pairs, export=False))


def test_the_model_of_a_run_is_given_what_the_data_set_says(finished, pairs):
    folder, summary = finished
    flow = glow_tf.load(folder)
    assert flow.config.condition_shape == (4, 4, 1)
    used = read_images(flow.image_shape, f"folder:{pairs}", split="test", condition="input")
    found = evaluate(flow, used.images, condition=used.condition)
    assert found.per_image.mean() == pytest.approx(summary["test_bpd"], abs=1e-4)
    assert sum(term.mean() for term in found.terms.values()) == pytest.approx(summary["test_bpd"], abs=1e-4)
    assert (folder / "samples" / "epoch_0002.png").exists()
    best = evaluate(glow_tf.load(folder, "best"), used.images, condition=used.condition)
    assert np.isfinite(best.per_image).all()


def test_every_file_of_the_model_keeps_what_it_is_given(finished, pairs, tmp_path):
    folder, _ = finished
    flow = glow_tf.load(folder)
    images = read_images(flow.image_shape, f"folder:{pairs}", count=5, condition="input")
    expected = flow.log_prob(images.images, 0, condition=images.condition)
    flow.save(tmp_path / "kept.keras")
    about = save_run_to_preset(folder, tmp_path / "preset", "float32")
    assert about["test_bpd"] == pytest.approx(about["run_test_bpd"], abs=1e-4)
    trainer = glow_tf.load_trainer(folder)
    for other in (glow_tf.load(tmp_path / "kept.keras"), glow_tf.load(tmp_path / "preset"), trainer.flow):
        assert other.config.condition_shape == (4, 4, 1)
        np.testing.assert_allclose(
            other.log_prob(images.images, 0, condition=images.condition), expected, rtol=1e-5
        )


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_conditions_alone(finished, pairs, tmp_path):
    folder = tmp_path / "run"
    other = tmp_path / "pairs"
    for name in ("target", "input"):
        (other / name).mkdir(parents=True)
        for path in (pairs / name).iterdir():
            (other / name / path.name).write_bytes(path.read_bytes())
    train(of_pairs(folder, other, part_epochs=1, export=False))
    again = of_pairs(folder, other, part_epochs=2, export=False)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(other / "input" / "003.png")
    with pytest.raises(
        ConfigError, match=r"the data must be what the run began with.*train conditions=.*Received"
    ):
        train(again)
    (other / "input" / "003.png").write_bytes((pairs / "input" / "003.png").read_bytes())
    assert train(again)["epochs"] == 2


def test_the_bits_of_levels_are_told_by_level(rng):
    own = {"num_blocks": 1, "flow_steps": 1, "width": 4, "condition_features": 2}
    flow = small_glow(**own, architecture="levels", parts="1", condition_shape=(3,))
    images, given = rng.integers(0, 256, (4, 8, 8, 1)).astype(np.uint8), rng.normal(size=(4, 3))
    found = evaluate(flow, images, condition=given)
    assert set(found.parts) == {"part 1", "part 2"}
    np.testing.assert_allclose(sum(found.parts.values()), found.per_image, rtol=1e-5)
    assert {"block 1, latents", "block 2, flow steps"} < set(found.terms)
    with pytest.raises(ConfigError, match=r"a condition for each of the 4 images\. Received: 3"):
        evaluate(flow, images, condition=given[:3])
