"""Levels that learn from crops of images, and are evaluated on whole ones."""

import numpy as np
import pytest
from helpers import config, rows_of, train
from small import small_levels

from glow_tf import ConfigError, PartsTrainer, TrainConfig, data
from glow_tf.architectures import check_run, design_of
from glow_tf.run.context import layouts_of_steps


def batch_of(images, seed=0, **crop):
    batch = next(iter(data.training_batches(images, 4, seed, crop=data.Crop(**crop)).as_numpy_iterator()))
    return batch["images"], batch["noise"], batch["index"]


@pytest.mark.long
def test_crops_are_squares_of_the_images_at_places_that_keep_squares_together():
    images = np.arange(4 * 16 * 12 * 3, dtype=np.uint16).reshape(4, 16, 12, 3)
    corners = set()
    for seed in range(8):
        crops, noise, index = batch_of(images, seed, side=8, multiple=4)
        assert crops.shape == noise.shape == (4, 8, 8, 3)
        for crop, image in zip(crops, images[index], strict=True):
            _, top, left, _ = np.unravel_index(crop[0, 0, 0], images.shape)
            np.testing.assert_array_equal(crop, image[top : top + 8, left : left + 8])
            corners.add((int(top), int(left)))
    assert corners == {(top, left) for top in (0, 4, 8) for left in (0, 4)}
    np.testing.assert_array_equal(batch_of(images, 3, side=8)[0], batch_of(images, 3, side=8)[0])
    np.testing.assert_array_equal(batch_of(images, 3, side=0)[0], images[batch_of(images, 3)[2]])


@pytest.mark.long
def test_training_on_crops_is_that_of_a_model_of_their_size(rng, eager):
    images = rng.integers(0, 256, (16, 16, 16, 3)).astype(np.uint8)
    batches = data.training_batches(images, 8, 0, crop=data.Crop(8, 4))
    trained = []
    for side in (16, 8):
        trainer = PartsTrainer(small_levels(image_shape=(side, side, 3), num_blocks=1, flow_steps=1), seed=0)
        trainer.compile(TrainConfig(schedule="simultaneous", part_epochs=1, finetune_epochs=0, batch_size=8))
        trainer.initialize(images[:, :8, :8])
        trained.append(trainer.fit(batches, steps_per_epoch=2, verbose=0).history)
    assert trained[0] == trained[1]


@pytest.mark.long
def test_a_run_trains_on_crops_and_is_evaluated_on_whole_images(tmp_path, eager):
    own = {"architecture": "levels", "schedule": "simultaneous", "num_blocks": 1, "flow_steps": 2, "width": 4}
    own |= {"part_epochs": 1, "finetune_epochs": 0, "parts": "1", "train_examples": 64, "test_examples": 32}
    run = config(tmp_path / "run", **own, crop=4, export=False, tensorboard=False, sample_every=1)
    summary = train(run)
    assert summary["test_bpd"] < 8
    row = rows_of(tmp_path / "run")[-1]
    assert float(row["train_bpd"]) < 8
    assert (tmp_path / "run/samples/epoch_0001.png").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "glow"}, r"crop needs architecture=levels.*Received: crop=4, architecture='glow'"),
        ({"crop": 5}, r"must be a multiple of 2 \(2\^num_blocks\)"),
        ({"image_size": 2}, "not larger than the images"),
        ({"cache_prefix": True}, "crop needs cache_prefix=false"),
        ({"strategy": "part_parallel"}, "Received: cache_prefix=False, strategy='part_parallel'"),
    ],
    ids=str,
)
def test_crops_that_cannot_be_learned_from_are_refused(tmp_path, changes, message):
    own = {"architecture": "levels", "schedule": "simultaneous", "num_blocks": 1, "parts": "1", "crop": 4}
    with pytest.raises(ConfigError, match=message):
        check_run(config(tmp_path, **own | changes))


def test_crops_larger_than_images_and_of_images_that_come_with_maps_are_refused():
    model = small_levels(image_shape=(8, 16, 3)).config
    assert layouts_of_steps(8, model) == design_of(small_levels(image_shape=(8, 8, 3)).config).layouts
    assert layouts_of_steps(0, model) == design_of(model).layouts
    with pytest.raises(ConfigError, match=r"crop must be at most the images' sides, 8×16.*Received: crop=12"):
        layouts_of_steps(12, model)
    given = small_levels(condition_shape=(4, 4, 1)).config
    with pytest.raises(ConfigError, match=r"maps that are given with images are not cut.*maps of \[\(4, 4"):
        layouts_of_steps(4, given)
