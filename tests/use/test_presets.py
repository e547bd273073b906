"""Presets: models kept as plain files, those that come with the package, and runs that start from one."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small import make_small_images, preset_once, small_glow

import glow_tf
from glow_tf import data, store
from glow_tf.commands import train as train_command
from glow_tf.core.errors import ConfigError
from glow_tf.store.files import card_of
from glow_tf.use import evaluate

LIMIT_MB = 12


@pytest.fixture(scope="module")
def flow():
    flow = small_glow(local_prior="flow:4x1")
    flow.initialize(make_small_images(np.random.default_rng(0)))
    return flow


@pytest.fixture(scope="module")
def kept_once(flow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept") / "mine"
    glow_tf.save(flow, folder, {"test_bpd": 2.5, "title": "Mine"})
    return folder


@pytest.fixture
def kept(kept_once, tmp_path):
    """A copy, to be damaged."""
    return shutil.copytree(kept_once, tmp_path / "mine")


def bits(model, images):
    return np.asarray(model.bits_per_dim(images, 0))


def test_a_preset_is_the_same_model_whole_and_cut(flow, kept, small_images, eager):
    whole = glow_tf.load(kept)
    cut = glow_tf.load(kept, parts="by_block:2", local_prior="learned")
    assert (len(whole.parts), len(cut.parts)) == (1, 2)
    for model in (whole, cut, glow_tf.Flow.from_preset(kept)):
        np.testing.assert_allclose(bits(model, small_images), bits(flow, small_images), atol=1e-5)


def test_half_precision_takes_less_space_and_moves_the_score_a_little(tmp_path, small_images, eager):
    flow = small_glow(width=128)
    sizes = {}
    for dtype in ("float32", "float16"):
        glow_tf.save(flow, tmp_path / dtype, weights_dtype=dtype)
        sizes[dtype] = (tmp_path / dtype / "model.safetensors").stat().st_size
    assert sizes["float16"] < 0.7 * sizes["float32"]
    found = bits(glow_tf.load(tmp_path / "float16"), small_images)
    assert 0 < np.abs(found - bits(flow, small_images)).max() < 0.05


def test_a_weight_too_large_for_half_precision_stays_as_it_is(tmp_path):
    flow = small_glow()
    flow.parts[0].bijectors[1].weights[0].assign(np.full(flow.parts[0].bijectors[1].weights[0].shape, 1e6))
    glow_tf.save(flow, tmp_path / "large", weights_dtype="float16")
    loaded = glow_tf.load(tmp_path / "large")
    assert max(np.abs(w).max() for w in loaded.get_weights()) == 1e6


def test_the_card_tells_size_score_and_how_to_load(kept):
    card = (kept / "README.md").read_text()
    for text in ("# Mine", "8×8×1", "2.5000 bits/dim", 'load("PATH/mine")'):
        assert text in card
    assert store.about(kept)["test_bpd"] == 2.5


def test_a_preset_is_replaced_but_nothing_else_is(flow, kept, tmp_path):
    glow_tf.save(flow, kept, {"title": "Again"})
    assert store.about(kept) == {"title": "Again"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (kept / "notes.txt").write_text("mine")
    for folder in (tmp_path / "other", kept):
        with pytest.raises(OSError, match="must be empty, or hold a preset and nothing else"):
            glow_tf.save(flow, folder)
    assert store.about(kept) == {"title": "Again"}
    assert (tmp_path / "other" / "thesis.txt").read_text() == "mine"


def test_a_preset_that_cannot_be_written_leaves_the_old_one(flow, kept, monkeypatch):
    def full(*_):
        raise OSError("no space")

    before = {path.name: path.read_bytes() for path in kept.iterdir()}
    monkeypatch.setattr("glow_tf.store.files.write_arrays", full)
    with pytest.raises(OSError, match="no space"):
        glow_tf.save(flow, kept, weights_dtype="float16")
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def other_format(folder):
    (folder / "config.json").write_text(json.dumps({"format": 7, "model": {}, "about": {}}))


def cut_off_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def wider(folder):
    content = json.loads((folder / "config.json").read_text())
    content["model"]["width"] = 7
    (folder / "config.json").write_text(json.dumps(content))


def larger_than_its_weights(folder):
    content = json.loads((folder / "config.json").read_text())
    content["model"]["width"] = 8192
    (folder / "config.json").write_text(json.dumps(content))


def with_weights(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


def a_weight_missing(folder):
    with_weights(folder, lambda weights: weights.pop("part_1/prior/mean"))


def a_weight_of_nan(folder):
    with_weights(folder, lambda weights: weights["part_1/prior/mean"].fill(np.nan))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_format, "must have the format 1"),
        (cut_off_weights, r"model\.safetensors must be a file of safetensors, and whole\. Received: "),
        (
            wider,
            r"must hold real numbers of shape \(.*7.*\) as 'part_1/.*\. Received: F32 of shape \(.*8.*\)",
        ),
        (larger_than_its_weights, r"must hold the weights of the model that config\.json describes"),
        (a_weight_missing, r"an array for each of \d+ names.* Received: none for 'part_1/prior/mean'"),
        (a_weight_of_nan, r"numbers that are finite\. Received: part_1/prior/mean, with nan"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_preset_is_refused(kept, damage, message):
    damage(kept)
    with pytest.raises(ConfigError, match=message):
        glow_tf.load(kept)


def test_the_config_of_a_preset_has_every_setting():
    every = {field.name for field in dataclasses.fields(glow_tf.ModelConfig)}
    for name in store.names():
        assert json.loads((store.folder_of(name) / "config.json").read_text())["model"].keys() == every


def test_what_is_no_preset_and_other_changes_are_refused(kept, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such preset \(.*digits.*Received: path='nobody'"):
        glow_tf.load("nobody")
    with pytest.raises(ConfigError, match=r"may be changed\. Received: \['width'\]"):
        glow_tf.load(kept, width=16)
    with pytest.raises(ConfigError, match="weights_dtype must be one of"):
        glow_tf.save(glow_tf.load(kept), tmp_path / "a", weights_dtype="int8")


# Those of the package


def test_the_packages_presets_are_listed_and_small():
    assert "digits" in store.names()
    files = [f for name in store.names() for f in store.folder_of(name).iterdir()]
    assert sum(f.stat().st_size for f in files) < LIMIT_MB * 2**20


LARGE = ("cifar10", "cifar10_small", "fashion_mnist")  # seconds each


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in store.names()]
)
def test_a_preset_of_the_package_loads_and_says_where_it_comes_from(name, eager):
    about = store.about(name)
    assert {"data", "command", "seed", "test_bpd", "test_bpd_se", "licence", "limits"} <= set(about)
    flow = preset_once(name)
    given = np.eye(10, dtype=np.float32)[:4] if flow.condition_shapes else None
    images = flow.sample(4, 0.7, 0, given)
    assert np.isfinite(flow.bits_per_dim(images, condition=given)).all()
    assert np.ptp(images.numpy().reshape(4, -1), axis=1).min() > 0
    np.testing.assert_array_equal(flow.decode(flow.encode(images, given), given), images)


def test_the_digits_preset_scores_what_its_card_says():
    about = store.about("digits")
    images = data.load(glow_tf.DataConfig("digits")).test
    score = evaluate(preset_once("digits"), images, seed=about["seed"]).per_image.mean()
    assert score == pytest.approx(about["test_bpd"], abs=2e-4)


@pytest.mark.parametrize("name", store.names())
def test_the_card_of_a_preset_of_the_package_says_what_its_files_are(name):
    folder = store.folder_of(name)
    found = {value.dtype for value in load_file(folder / "model.safetensors").values()}
    dtype = "float16" if np.dtype("float16") in found else "float32"
    model, about = store.settings_of(folder), store.about(folder)
    assert (folder / "README.md").read_text() == card_of(name, model, about, dtype)


# Runs


def run_of(*arguments):
    return train_command.config_of(list(arguments))


def test_a_run_takes_the_models_settings_from_a_preset():
    run = run_of("--init_from=digits", "--parts=by_block:1", "--workdir=unused")
    model = store.settings_of("digits")
    assert run.init_from == "digits"
    assert run.data.image_size == model.image_shape[0]
    for name in ("n_bits", "num_blocks", "flow_steps", "width", "scale"):
        assert getattr(run.model, name) == getattr(model, name)
    assert run_of("--init_from=digits", "--width=7", "--workdir=unused").model.width == 7
    # A flagfile does not hide the preset.
    for name in ("defaults", "own_images"):
        run = run_of(f"--flagfile={name}", "--init_from=digits", "--workdir=unused")
        assert (run.model.width, run.model.n_bits, run.init_from) == (model.width, model.n_bits, "digits")
