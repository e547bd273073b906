"""Data that are real numbers, or integers of 16 bits."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from helpers import rows_of, train
from PIL import Image
from small import ENDPOINTS, eagerly, only_endpoints, perturb

import glow_tf
from glow_tf import Flow, ModelConfig, PartsTrainer, RunConfig, TrainConfig
from glow_tf.bijectors.checking import log_det_of_jacobian
from glow_tf.bijectors.entrance import moments
from glow_tf.config import DataConfig
from glow_tf.core.errors import ConfigError
from glow_tf.data import load
from glow_tf.use import (
    NoveltyDetector,
    as_distribution,
    decode,
    encode,
    evaluate,
    export,
    read_images,
    upscale,
)

SHAPE = (4, 4, 2)


def made(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape)
    return (100 + 5 * values + np.arange(shape[-1])).astype(np.float32)


def real_glow(perturbed=True, **changes):
    settings = {"image_shape": SHAPE, "data": "real", "num_blocks": 1, "flow_steps": 1, "width": 4}
    flow = Flow(ModelConfig(**settings | changes), name="glow")
    flow.initialize(made(64, *flow.image_shape))
    if perturbed:
        perturb(flow)
    return flow


def compiled(flow):
    trainer = PartsTrainer(flow)
    trainer.compile(TrainConfig(rate_schedule="constant"))
    return trainer


@pytest.fixture(scope="module")
def flow():
    return real_glow()


# The model


@pytest.mark.parametrize("architecture", ["glow", "levels"])
def test_data_come_back_and_their_density_is_that_of_the_latents(architecture, eager):
    flow = real_glow(architecture=architecture)
    x = made(3, *SHAPE)
    eps = flow.encode(x)
    np.testing.assert_allclose(flow.decode(eps), x, rtol=1e-5)
    log_det, flat = log_det_of_jacobian(flow.forward_and_log_det, x[:1]), flow.forward_and_log_det(x[:1])[0]
    expected = log_det - 0.5 * (np.sum(flat**2) + 32 * np.log(2 * np.pi))
    np.testing.assert_allclose(flow.log_prob(x)[:1], expected, rtol=1e-4)
    np.testing.assert_allclose(flow.bits_per_dim(x), -flow.log_prob(x) / (32 * np.log(2)), rtol=1e-5)


@pytest.mark.long
def test_what_is_drawn_is_real_and_no_seed_changes_a_density(flow):
    drawn, x = flow.sample(20, seed=3), made(2, *SHAPE)
    assert drawn.dtype == tf.float32
    assert np.abs(np.mean(drawn) - 100) < 5
    assert np.any(drawn % 1)
    for seed in (0, 1):
        np.testing.assert_array_equal(flow.log_prob(x, seed=seed), flow.score(x)["log_prob"])


def test_the_scale_of_the_data_is_in_their_density(flow, eager):
    x, other = made(256, *SHAPE), real_glow(perturbed=False)
    scaled = Flow(other.config)
    scaled.initialize(1000 * x[:64])
    np.testing.assert_allclose(other.dequantize.mean, moments(x[:64])[0], rtol=1e-5)
    change = other.bits_per_dim(x) - scaled.bits_per_dim(1000 * x)
    np.testing.assert_allclose(change, np.full(256, -np.log2(1000)), rtol=1e-3)


def test_moments_are_those_of_all_examples():
    x = made(50, 3, 2, 2)
    mean, deviation = moments(x)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean((0, 1, 2)))
    np.testing.assert_allclose(deviation, x.astype(np.float64).std((0, 1, 2)))


def test_a_constant_channel_is_not_scaled():
    x = made(16, *SHAPE)
    x[..., 1] = 7
    flow = Flow(ModelConfig(SHAPE, data="real", num_blocks=1, flow_steps=1, width=4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ActNorm's
        flow.initialize(x)
    np.testing.assert_array_equal(flow.dequantize.deviation[1], 1)


WRONG = {
    "bytes": (
        np.zeros((2, *SHAPE), np.uint8),
        r"float32.*n_bits and data say which type a model takes",
    ),
    "16_bits": (
        np.zeros((2, *SHAPE), np.uint16),
        r"float32.*n_bits and data say.*Received: uint16",
    ),
    "nan": (np.full((2, *SHAPE), np.nan, np.float32), "real data must be finite. Received"),
    "shape": (np.zeros((2, 4, 4, 3), np.float32), r"\(batch, 4, 4, 2\).*Received: float32"),
}


@pytest.mark.parametrize(("x", "match"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_real_data_is_refused(flow, x, match):
    for method in (flow.log_prob, flow.encode, flow.initialize, compiled(flow).train_on_batch):
        with pytest.raises(ConfigError, match=match):
            method(x)


def test_real_data_are_refused_by_a_model_of_bytes():
    flow = Flow(ModelConfig(SHAPE, num_blocks=1, flow_steps=1, width=4))
    with pytest.raises(ConfigError, match=r"uint8.*n_bits and data say which type.* Received: float32"):
        flow.log_prob(made(2, *SHAPE))
    with pytest.raises(ConfigError, match=r"images must be uint8.*n_bits and data say.*Received: float32"):
        compiled(flow).fit(tf.data.Dataset.from_tensors(made(2, *SHAPE)))


def test_real_data_have_no_noise_and_no_bits(flow):
    x = made(8, *SHAPE)
    noisy = tf.data.Dataset.from_tensors({"images": x, "noise": np.full(x.shape, 0.5, np.float32)})
    with pytest.raises(ConfigError, match=r"no noise but zeros. Received: noise in \[0.5, 0.5\]"):
        compiled(flow).fit(noisy)
    with pytest.raises(ConfigError, match=r"n_bits is for data=bytes. Received: n_bits=5"):
        ModelConfig(SHAPE, data="real", n_bits=5)
    with pytest.raises(ConfigError, match=r"draws are of noise.*Received: draws=2"):
        evaluate(flow, x, draws=2)


def test_what_is_for_pictures_says_so(flow):
    x = made(100, *SHAPE)
    with pytest.raises(ConfigError, match=r"pictures.*Received: a model of float32 with 2 channels"):
        NoveltyDetector(flow).fit(x)
    with pytest.raises(ConfigError, match=r"upscale is for pictures"):
        upscale(flow, x)


def assert_same_density(model, flow, x):
    np.testing.assert_array_equal(model.log_prob(x), flow.log_prob(x))
    np.testing.assert_allclose(decode(model, encode(model, x)), x, rtol=1e-5)
    assert model.data_dtype == "float32"
    assert model.sample(2).dtype == tf.float32
    with pytest.raises(ConfigError, match="must be float32"):
        model.log_prob(x.astype(np.uint8))


@pytest.mark.slow
def test_a_file_a_preset_and_an_export_have_the_same_density(flow, tmp_path):
    x = made(3, *SHAPE)
    flow.save(tmp_path / "glow.keras")
    glow_tf.save(flow, tmp_path / "preset")
    with only_endpoints(*ENDPOINTS, "sample"):
        export(flow, tmp_path / "export")
    with eagerly():
        for name in ("glow.keras", "preset"):
            assert_same_density(glow_tf.load(tmp_path / name), flow, x)
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    np.testing.assert_allclose(loaded.log_prob(x, 0), flow.log_prob(x), rtol=1e-5)
    assert loaded.sample(2, 1.0, 0).dtype == tf.float32
    glow_tf.save(flow, tmp_path / "half", weights_dtype="float16")
    np.testing.assert_array_equal(glow_tf.load(tmp_path / "half").dequantize.mean, flow.dequantize.mean)
    assert "of real numbers" in (tmp_path / "half" / "README.md").read_text()


def test_a_view_of_tfp_and_another_cut_have_the_same_density(flow, eager):
    x = made(3, *SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(as_distribution(flow).log_prob(x / 200), flow.log_prob(x / 200), rtol=1e-5)
    whole = real_glow(flow_steps=2)
    np.testing.assert_allclose(whole.recut(parts=(1, 1)).log_prob(x), whole.log_prob(x), rtol=1e-6)


# 16 bits


@pytest.mark.parametrize("n_bits", [9, 12, 16])
def test_16_bits_come_back_in_the_bits_that_are_kept(n_bits, eager):
    x = np.random.default_rng(0).integers(0, 2**16, (64, 4, 4, 1)).astype(np.uint16)
    flow = Flow(ModelConfig((4, 4, 1), n_bits=n_bits, num_blocks=1, flow_steps=2, width=4))
    flow.initialize(x)
    perturb(flow, scale=0.02)
    width = 2 ** (16 - n_bits)
    np.testing.assert_array_equal(flow.decode(flow.encode(x)), x // width * width)
    assert flow.sample(2).dtype == tf.uint16
    with pytest.raises(ConfigError, match=r"uint16.*n_bits and data say.*Received: uint8"):
        flow.log_prob(x.astype(np.uint8))


# Folders and files


FLAGS = {
    "data": "real",
    "num_blocks": 1,
    "flow_steps": 1,
    "width": 4,
    "part_epochs": 1,
    "finetune_epochs": 1,
    "batch_size": 16,
    "strategy": "one_device",
    "rate_schedule": "constant",
}


def write(folder, examples, suffix=".npy"):
    """Writes each example to a file of its own, and returns the folder as a data set."""
    folder.mkdir()
    for place, example in enumerate(examples):
        path = folder / f"{place:03d}{suffix}"
        if suffix == ".npy":
            np.save(path, example)
        else:
            Image.fromarray(example).save(path)
    return f"folder:{folder}"


def test_arrays_of_five_channels_in_a_folder_are_read_as_they_are(tmp_path):
    x = made(20, 3, 5, 5)
    dataset = write(tmp_path / "data", x)
    found = load(DataConfig(dataset, dtype="float32"))
    np.testing.assert_array_equal(found.train, np.delete(x, [9, 19], axis=0))
    np.testing.assert_array_equal(found.test, x[[9, 19]])
    used = read_images((3, 5, 5), dataset, data_dtype="float32")
    np.testing.assert_array_equal(used.images, x)
    assert used.names[3] == "003.npy"
    resized = load(DataConfig(dataset, image_size=2, dtype="float32"))
    assert resized.train.shape == (18, 2, 2, 5)
    assert resized.train.dtype == np.float32


@pytest.mark.parametrize(
    ("suffix", "dtype"), [(".npy", "uint8"), (".npy", "uint16"), (".tif", "uint16"), (".png", "uint16")]
)
def test_integers_are_read_as_they_are(suffix, dtype, tmp_path):
    x = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (10, 4, 5), dtype)
    found = load(DataConfig(write(tmp_path / "data", x, suffix), dtype=dtype))
    np.testing.assert_array_equal(found.train, x[:9, ..., None])


def test_a_tiff_of_floats_is_real_data(tmp_path):
    x = made(10, 4, 5)
    found = load(DataConfig(write(tmp_path / "data", x, ".tif"), dtype="float32"))
    np.testing.assert_array_equal(found.train, x[:9, ..., None])


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_a_file_with_a_value_that_is_not_finite_is_named(suffix, tmp_path):
    x = made(10, 4, 5)
    x[6, 1, 1] = np.inf
    with pytest.raises(ConfigError, match=r"must be finite. Received: .*006.*with NaN or infinity"):
        load(DataConfig(write(tmp_path / "data", x, suffix), dtype="float32"))


def test_arrays_of_several_shapes_are_refused(tmp_path):
    dataset = write(tmp_path / "data", [*made(5, 4, 4, 5), *made(5, 4, 4, 2)])
    with pytest.raises(ConfigError, match=r"one size.*000.npy of 4×4×5 and 005.npy of 4×4×2"):
        load(DataConfig(dataset, dtype="float32"))


OTHERS = {
    "real_for_bytes": (made(10, 4, 4), ".npy", "uint8", "values are float32.*--data=real"),
    "bytes_for_real": (np.ones((10, 4, 4), np.uint8), ".png", "float32", "values are uint8.*--data=bytes"),
    "16_bits_for_8": (np.ones((10, 4, 4), np.uint16), ".npy", "uint8", "--n_bits from 9 to 16"),
    "8_bits_for_16": (np.ones((10, 4, 4), np.uint8), ".png", "uint16", "--n_bits up to 8"),
    "objects": (np.full((10, 2, 2), None), ".npy", "float32", "not an array of numbers"),
    "a_set_in_each": (made(10, 2, 4, 4, 1), ".npy", "float32", "must have 2 or 3 dimensions"),
}


@pytest.mark.parametrize(("x", "suffix", "dtype", "match"), OTHERS.values(), ids=OTHERS.keys())
def test_files_of_another_kind_are_left_out_with_the_reason(x, suffix, dtype, match, tmp_path):
    with pytest.raises(ConfigError, match=rf"no image could be read. Left out .*000\{suffix}: .*{match}"):
        load(DataConfig(write(tmp_path / "data", x, suffix), dtype=dtype))


def test_one_file_is_a_data_set(tmp_path):
    x = made(20, 3, 5, 2)
    np.save(tmp_path / "all.npy", x)
    dataset = f"file:{tmp_path / 'all.npy'}"
    found = load(DataConfig(dataset, dtype="float32"))
    np.testing.assert_array_equal(found.test, x[[9, 19]])
    used = read_images((3, 5, 2), dataset, split="test", data_dtype="float32")
    np.testing.assert_array_equal(used.images, x[[9, 19]])
    assert len(read_images((3, 5, 2), dataset, count=7, data_dtype="float32").images) == 7
    with pytest.raises(ConfigError, match=r"values are float32, and the run needs uint8.*Received: dataset="):
        load(DataConfig(dataset))
    x[11, 0, 0, 0] = np.nan
    np.save(tmp_path / "all.npy", x)
    with pytest.raises(ConfigError, match=r"all.npy.* with NaN or infinity in example 11"):
        load(DataConfig(dataset, dtype="float32"))
    with pytest.raises(ConfigError, match="needs an existing file"):
        load(DataConfig(f"file:{tmp_path / 'none.npy'}", dtype="float32"))
    with pytest.raises(ConfigError, match=r"dataset must be file:PATH\.npy"):
        DataConfig("file:data.csv")
    with pytest.raises(ConfigError, match="digits are bytes"):
        load(DataConfig("digits", dtype="float32"))


@pytest.mark.long
def test_a_run_of_real_data_goes_on_and_writes_arrays(tmp_path, capsys, eager):
    x = made(40, *SHAPE)
    np.save(tmp_path / "all.npy", x)
    settings = {**FLAGS, "dataset": f"file:{tmp_path / 'all.npy'}", "workdir": str(tmp_path / "run")}
    train(RunConfig.from_settings({**settings, "export": False}))
    said = capsys.readouterr().out
    for once in ("may be negative", "Samples are arrays", "of the density of the test data"):
        assert said.count(once) == 1
    assert "uniform density" not in said
    trained = np.delete(x, range(9, 40, 10), axis=0)
    np.testing.assert_allclose(glow_tf.load(tmp_path / "run").dequantize.mean, moments(trained)[0], rtol=1e-6)
    samples = np.load(tmp_path / "run" / "samples" / "epoch_0002.npy")
    assert (samples.shape, samples.dtype) == ((4, 16, *SHAPE), np.float32)
    (tmp_path / "run" / "summary.json").unlink()
    with only_endpoints("log_prob"):
        train(RunConfig.from_settings(settings))
    flow, last = glow_tf.load(tmp_path / "run"), rows_of(tmp_path / "run")[-1]
    np.testing.assert_allclose(np.mean(flow.bits_per_dim(x[9::10])), float(last["test_bpd"]), rtol=1e-5)
    exported = tf.saved_model.load(tmp_path / "run" / "export")
    np.testing.assert_allclose(exported.log_prob(x[:4], 0), flow.log_prob(x[:4]), rtol=1e-5)
    assert evaluate(flow, x[9::10]).terms.keys() >= {"centring and scaling"}


# Densities whose truth is known
MEANS = np.array([[0, 0, 1, 5], [2, -1, 0, 5], [-1, 2, 1, 5]])
DEVIATIONS = np.array([[0.7, 1, 0.6, 1.5], [1, 0.8, 1, 0.7], [0.6, 1.3, 0.9, 1]])


def mixture(seed, count=8192):
    """Draws labels [N], then data given them, and returns the log-density given the labels, [N], too."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    x = MEANS[labels] + DEVIATIONS[labels] * rng.normal(size=(count, 4))
    squares = np.square((x - MEANS[labels]) / DEVIATIONS[labels]).sum(-1)
    truth = -0.5 * squares - 2 * np.log(2 * np.pi) - np.log(DEVIATIONS[labels]).sum(-1)
    return x.astype(np.float32).reshape(-1, 1, 1, 4), labels, truth


def trained(x, y, rate, epochs=16, **settings):
    flow = Flow(ModelConfig((1, 1, 4), data="real", num_blocks=1, flow_steps=1, width=4, **settings))
    trainer = PartsTrainer(flow)
    trainer.compile(
        TrainConfig(learning_rate=rate, part_epochs=epochs, finetune_epochs=0, warmup_steps=20),
        steps_per_epoch=32,
        steps_per_execution=32,
    )
    trainer.fit(x, y, epochs=epochs, batch_size=256, verbose=0)
    return flow


def assert_moments(drawn, mean, deviation):
    """Mean and variance of draws [N, 1, 1, 4] are the truth's, within four standard errors."""
    values = (np.reshape(drawn, (len(drawn), 4)) - mean) / deviation
    np.testing.assert_allclose(values.mean(0), 0, atol=4 / len(drawn) ** 0.5)
    np.testing.assert_allclose(values.var(0), 1, atol=4 * (2 / len(drawn)) ** 0.5)


@pytest.mark.slow
def test_a_mixture_given_its_class_has_its_density_and_its_moments():
    one_hot, (x, labels, _) = np.eye(3, dtype=np.float32), mixture(0)
    flow = trained(x, one_hot[labels], 2e-2, 48, condition_shape=(3,), condition_features=0)
    x, labels, truth = mixture(1)
    assert abs(np.mean(truth - flow.log_prob(x, condition=one_hot[labels])) / 4) < 0.01
    for label in range(3):
        drawn = flow.sample(condition=np.tile(one_hot[label], (1000, 1)))
        assert_moments(drawn, MEANS[label], DEVIATIONS[label])
