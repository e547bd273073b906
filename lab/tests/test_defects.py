"""The benchmark of defects: what it measures."""

import numpy as np

from lab.benchmarks.defects import pro
from lab.benchmarks.tiles import features_of, maps_again


def test_overlap_with_regions_is_one_for_the_masks_themselves_and_counts_each_region_alike():
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 2:4, 2:4] = masks[0, 10:18, 10:18] = True
    assert pro(masks + np.random.default_rng(0).uniform(0, 0.1, masks.shape), masks) == 1
    found = masks.astype(float)
    found[0, 10:18, 10:18] = -1  # the larger of two regions is missed
    assert pro(found + np.random.default_rng(0).uniform(0, 0.1, masks.shape), masks) == 0.5


def test_maps_are_kept_together_and_taken_apart_again():
    rng = np.random.default_rng(0)
    import keras

    inputs = keras.Input((16, 16, 3))
    first = keras.layers.Conv2D(4, 3, 2, "same")(inputs)
    network = keras.Model(inputs, [first, keras.layers.Conv2D(2, 3, 2, "same")(first)])
    images = rng.integers(0, 256, (10, 16, 16, 1)).astype(np.uint8)
    apart = maps_again([(8, 4), (4, 2)])(features_of(network, images).astype(np.float32))
    for own, expected in zip(apart, network(images.repeat(3, axis=-1).astype(np.float32)), strict=True):
        np.testing.assert_allclose(own, expected, rtol=2e-3, atol=0.2)  # float16
