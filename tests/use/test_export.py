"""The SavedModel works without this package, without Keras objects."""

import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from small import ENDPOINTS, eagerly, only_endpoints, run_program, small_glow

from glow_tf import export
from glow_tf.bijectors.likelihood import bits_per_dim

pytestmark = pytest.mark.long

ALONE = """
import sys
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
images = np.load(sys.argv[2])
eps = loaded.encode(images)
out = {
    "eps": eps.numpy(),
    "decoded": loaded.decode(eps).numpy(),
    "log_prob": loaded.log_prob(images, 3).numpy(),
    "bpd": loaded.bits_per_dim(images, 3).numpy(),
    "sample": loaded.sample(5, 0.7, 2).numpy(),
    "named": loaded.sample(num=tf.constant(2), temperature=tf.constant(1.0), seed=tf.constant(1)).numpy(),
    "each": loaded.sample_each([5, 1, 5], [0.7, 1.0, 0.0]).numpy(),
    "log_prob_each": loaded.log_prob_each(images, np.arange(12, dtype=np.int32)).numpy(),
    "one": loaded.encode(images[:1]).numpy(),
}
out |= {"checked_" + name: value.numpy() for name, value in loaded.sample_checked(5, 0.7, 2).items()}
served = loaded.signatures["serving_default"](tf.constant(images))
out |= {"served_" + name: value.numpy() for name, value in served.items()}
for size in (1, 37, 256):
    batch = tf.constant(np.resize(images, (size, *images.shape[1:])))
    out[f"batch_of_{size}"] = loaded.signatures["serving_default"](batch)["log_prob"].numpy()
out["none"] = np.array([
    len(loaded.encode(images[:0])), len(loaded.decode(out["eps"][:0])), len(loaded.log_prob(images[:0], 3)),
    len(loaded.sample(0, 0.7, 2)), len(loaded.serving_default(images[:0])["log_prob"]),
])
refused = []
for call in (
    lambda: loaded.log_prob_each(images[:2], np.arange(3, dtype=np.int32)),
    lambda: loaded.sample_each([1], [0.7, 1.0]),
):
    try:
        refused.append(call() is None)
    except tf.errors.InvalidArgumentError:
        refused.append(True)
out["refused"] = np.array(refused)
assert "glow_tf" not in sys.modules
np.savez(sys.argv[3], **out)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    images = (np.random.default_rng(0).integers(0, 256, size=(12, 8, 8, 3))).astype(np.uint8)
    flow = small_glow(image_shape=(8, 8, 3), n_bits=6, perturbed=False, flow_steps=1, parts="by_block:2")
    flow.initialize(images)
    export(flow, folder / "export")
    np.save(folder / "images.npy", images)
    arguments = [folder / name for name in ("export", "images.npy", "out.npz")]
    run_program(ALONE, *arguments, cwd=folder)
    return flow, images, dict(np.load(folder / "out.npz")), folder


def test_decode_undoes_encode_but_for_the_cleared_bits(exported):
    _, images, out, _ = exported
    np.testing.assert_array_equal(out["decoded"], images // 4 * 4)
    assert out["eps"].shape == (12, 192)
    assert out["eps"].dtype == np.float32
    assert out["one"].shape == (1, 192)


def test_scores_and_samples_are_the_models(exported):
    flow, images, out, _ = exported
    np.testing.assert_allclose(out["log_prob"], flow.log_prob(images, 3), rtol=1e-5)
    np.testing.assert_allclose(out["bpd"], flow.bits_per_dim(images, 3), rtol=1e-5)
    np.testing.assert_array_equal(out["sample"], flow.sample(5, 0.7, 2))
    np.testing.assert_array_equal(out["checked_images"], out["sample"])
    assert out["checked_limited"].tolist() == [False] * 5
    assert out["named"].shape == (2, 8, 8, 3)
    assert out["named"].dtype == np.uint8


def test_given_a_class_the_endpoints_are_the_models(tmp_path):
    size = {"image_shape": (8, 8, 3), "n_bits": 6, "num_blocks": 1, "flow_steps": 1, "parts": "1"}
    flow = small_glow(condition_shape=(4,), **size)
    with only_endpoints(*ENDPOINTS):
        export(flow, tmp_path / "export")
    few = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    given = np.eye(4, dtype=np.float32)[[3, 1, 0, 1]]
    opened = tf.saved_model.load(tmp_path / "export")
    with eagerly():
        drawn, eps = flow.sample(None, 0.7, 2, given), flow.encode(few, given)
        scores = flow.log_prob(few, 3, given), flow.score(few, given)["log_prob"]
    np.testing.assert_array_equal(opened.sample_checked(4, 0.7, 2, given)["images"], drawn)
    np.testing.assert_allclose(opened.log_prob(few, 3, given), scores[0], rtol=1e-5)
    np.testing.assert_allclose(opened.serving_default(few, given)["log_prob"], scores[1], rtol=1e-5)
    np.testing.assert_allclose(opened.encode(few, given), eps, atol=1e-5)
    np.testing.assert_array_equal(opened.decode(eps, given), few // 4 * 4)
    assert opened.sample_checked(4, 0.7, 2, given)["limited"].numpy().tolist() == [False] * 4
    for refused in (lambda: opened.encode(few[:3], given[:1]), lambda: opened.decode(eps[:1], given[:3])):
        with pytest.raises(tf.errors.InvalidArgumentError):
            refused()


def test_what_a_server_calls_scores_at_the_middle_of_the_bins(exported):
    flow, images, out, _ = exported
    expected = flow.dequantized_log_prob(flow.dequantized(images, noise=0.5))
    np.testing.assert_allclose(out["served_log_prob"], expected, rtol=1e-5)
    np.testing.assert_allclose(out["served_bits_per_dim"], bits_per_dim(-expected, (8, 8, 3)), rtol=1e-5)
    assert {name for name in out if name.startswith("served_")} == {"served_log_prob", "served_bits_per_dim"}


def test_a_seed_for_each_image_gives_what_it_gives_alone(exported):
    flow, images, out, _ = exported
    alone = [flow.sample(1, *request)[0] for request in ((0.7, 5), (1.0, 1), (0.0, 5))]
    np.testing.assert_array_equal(out["each"], alone)
    scores = [flow.log_prob(images[k : k + 1], k)[0] for k in range(12)]
    np.testing.assert_allclose(out["log_prob_each"], scores, rtol=1e-5)


def test_a_batch_may_be_empty(exported):
    np.testing.assert_array_equal(exported[2]["none"], 0)


def test_seeds_that_are_not_one_for_each_image_are_refused(exported):
    assert exported[2]["refused"].all()


@pytest.mark.parametrize("size", [1, 37, 256])
def test_a_server_gets_the_same_scores_in_batches_of_any_size(exported, size):
    flow, images, out, _ = exported
    expected = flow.score(np.resize(images, (size, *images.shape[1:])))["log_prob"]
    np.testing.assert_allclose(out[f"batch_of_{size}"], expected, rtol=1e-5)
    np.testing.assert_allclose(out[f"batch_of_{size}"], np.resize(out["served_log_prob"], size), rtol=1e-5)


def write(module, path, signatures):
    """Stands for TensorFlow's: it traces nothing."""
    pathlib.Path(path).mkdir(exist_ok=True)
    (pathlib.Path(path) / "saved_model.pb").write_text("new")


def write_on_a_full_disk(module, path, signatures):
    write(module, path, signatures)
    raise OSError(28, "No space left on device")


def test_exporting_again_replaces_the_old_one(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(tf.saved_model, "save", write)
    folder = tmp_path / "export"
    shutil.copytree(exported[-1] / "export", folder)
    (folder / "variables" / "stale").touch()
    export(exported[0], folder)
    assert not (folder / "variables" / "stale").exists()
    assert (folder / "saved_model.pb").read_text() == "new"
    assert not (tmp_path / ".export.tmp").exists()


def test_what_is_beside_a_savedmodel_is_never_removed(exported, tmp_path):
    shutil.copytree(exported[-1] / "export", tmp_path / "export")
    (tmp_path / "export" / "encode.onnx").touch()
    with pytest.raises(OSError, match=r"a SavedModel and nothing else. Received: \['encode.onnx'\]"):
        export(exported[0], tmp_path / "export")
    assert (tmp_path / "export" / "encode.onnx").exists()


def test_a_failed_export_keeps_the_old_one_and_leaves_no_rest(exported, monkeypatch):
    flow, _, _, folder = exported
    before = (folder / "export" / "saved_model.pb").read_bytes()
    monkeypatch.setattr(tf.saved_model, "save", write_on_a_full_disk)
    with pytest.raises(
        OSError, match=r"^the SavedModel \S+export could not be written: No space left on dev"
    ):
        export(flow, folder / "export")
    assert not (folder / ".export.tmp").exists()
    assert (folder / "export" / "saved_model.pb").read_bytes() == before


def test_a_file_in_the_place_of_the_export_is_named_at_once(exported):
    flow, _, _, folder = exported
    (folder / "file").touch()
    with pytest.raises(OSError, match="there is a file of this name"):
        export(flow, folder / "file")
