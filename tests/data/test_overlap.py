"""Tests of what is said of held-out images that show pixels of images to train on."""

import dataclasses
import types

import numpy as np
import pytest

from glow_tf.architectures.schedule import end_to_end
from glow_tf.config import TrainConfig
from glow_tf.data import ImageData
from glow_tf.data.overlap import overlapping
from glow_tf.run import finish

SIDE = 24


def pieces(channels, *corners):
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, channels), dtype=np.uint8)
    return np.stack([picture[top : top + SIDE, left : left + SIDE] for top, left in corners])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("corner", "found"), [((24, 24), 1), ((33, 15), 1), ((24, 24 + SIDE), 0), ((24 + SIDE, 24), 0)], ids=str
)
def test_a_piece_that_overlaps_is_found_at_any_offset(channels, corner, found):
    train = pieces(channels, (72, 72), (24, 24), (0, 72))
    assert overlapping(train, pieces(channels, corner, (72, 0))) == (found, 2)


def test_flat_regions_and_edges_are_no_overlap():
    image = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    image[2:, :, 10:] = 200
    assert overlapping(image, image) == (0, 4)


@pytest.mark.parametrize(
    "images", [np.zeros((0, SIDE, SIDE, 3), np.uint8), np.ones((2, 4, 4, 3), np.uint8), np.ones((2, 9, 9, 1))]
)
def test_images_without_windows_have_no_overlap(images):
    assert overlapping(images, images) == (0, len(images))


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_a_run_says_that_held_out_images_overlap(held_out):
    run = types.SimpleNamespace(phases=[end_to_end(1)], layouts=[])
    run.config = types.SimpleNamespace(train=TrainConfig())
    corners = {"train": [(0, 0), (24, 24)], "validation": [(72, 0)], "test": [(72, 72)]}
    run.images = ImageData(**{name: pieces(3, *own) for name, own in corners.items()})
    assert finish.troubles_ahead(run) == []
    run.images = dataclasses.replace(run.images, **{held_out: pieces(3, (5, 3))})
    (said,) = finish.troubles_ahead(run)
    assert f"1 of 1 {held_out} images show pixels of training images" in said
