"""The benchmark of defects: what it measures, and the network that it takes from a checkpoint."""

import collections
import io
import pickle
import sys
import types

import numpy as np
import pytest

from lab.benchmarks.defects import pro
from lab.benchmarks.tiles import DAMAGES, damaged, features_of, maps_again
from lab.lite0 import tensors


def test_overlap_with_regions_is_one_for_the_masks_themselves_and_counts_each_region_alike():
    masks = np.zeros((2, 20, 20), bool)
    masks[0, 2:4, 2:4] = masks[0, 10:18, 10:18] = True
    assert pro(masks + np.random.default_rng(0).uniform(0, 0.1, masks.shape), masks) == 1
    found = masks.astype(float)
    found[0, 10:18, 10:18] = -1  # the larger of two regions is missed
    assert pro(found + np.random.default_rng(0).uniform(0, 0.1, masks.shape), masks) == 0.5


def test_damages_change_what_their_masks_say_and_nothing_far_from_it():
    rng = np.random.default_rng(0)
    images = rng.integers(80, 120, (len(DAMAGES), 224, 224, 1)).astype(np.uint8)
    copies, masks = damaged(images, seed=0)
    for image, copy, mask in zip(images, copies, masks, strict=True):
        changed = np.abs(copy.astype(int) - image)[..., 0] > 10
        assert changed[mask].mean() > 0.2
        assert changed.sum() < 3 * mask.sum() + 200


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


class _Storage:
    def __init__(self, key, values):
        self.key, self.values = key, values


@pytest.fixture
def checkpoint(monkeypatch):
    """A file as PyTorch wrote it, of one tensor that is kept transposed."""
    kind, torch = type("FloatStorage", (), {"__module__": "torch"}), types.ModuleType("torch")
    utils = types.ModuleType("torch._utils")

    def rebuild(*given):
        """Is written by its name alone."""

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage, torch._utils = kind, utils
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    values = np.arange(6, dtype=np.float32)

    class Tensor:
        def __reduce__(self):
            given = (_Storage("0", values), 0, (2, 3), (1, 2), False, collections.OrderedDict())
            return rebuild, given

    class Pickler(pickle.Pickler):
        def persistent_id(self, own):
            return ("storage", kind, own.key, "cpu", 6, None) if isinstance(own, _Storage) else None

    file = io.BytesIO()
    for own in (0x1950A86A20F9469CFC6C, 1001, {}):
        pickle.dump(own, file, protocol=2)
    Pickler(file, protocol=2).dump(collections.OrderedDict(weight=Tensor()))
    pickle.dump(["0"], file, protocol=2)
    return file.getvalue() + (6).to_bytes(8, "little") + values.tobytes()


def test_a_checkpoint_is_read_without_pytorch_and_nothing_else_is_loaded(checkpoint):
    (found,) = tensors(checkpoint).values()
    np.testing.assert_array_equal(found, [[0, 2, 4], [1, 3, 5]])
    with pytest.raises(pickle.UnpicklingError, match=r"os\.getcwd|posix\.getcwd"):
        tensors(b"".join(pickle.dumps(n, 2) for n in (0, 1, 2)) + b"cposix\ngetcwd\n.")
