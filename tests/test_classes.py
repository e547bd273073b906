"""Models with classes: what their prior computes, and how labels reach it."""

import contextlib
import json
import types

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from helpers import config, rows_of, train
from small import eagerly, make_small_images, perturb, small_config, small_glow

import glow_tf
from glow_tf import ConfigError, Glow, PartsTrainer, data, phases
from glow_tf.bijectors import ClassPrior, class_prior
from glow_tf.commands import cli, run_flags
from glow_tf.config import DataConfig, ModelConfig
from glow_tf.data.batches import untuned
from glow_tf.devices.strategies import make_strategy, part_devices
from glow_tf.layout.schedule import turn_starts
from glow_tf.run.callbacks import FillPrefixCaches
from glow_tf.run.epoch import EpochResult
from glow_tf.run.files.checksums import check_same_data, fingerprints, write_data
from glow_tf.training.optim.optimizers import FusedAdamax
from glow_tf.training.step.prefix import PrefixCache
from glow_tf.use import label_bits, labels_of

tfd = tfp.distributions
CLASSES = ("ape", "bee", "cow", "dog")
SEEN = [0, 2]  # the classes that occur in the data below
LABELS = np.array(SEEN * 32)


@pytest.fixture(scope="module")
def glow():
    return small_glow("float64", classes=CLASSES, flow_steps=1, parts="1")


@pytest.fixture
def images(small_images):
    return small_images


# The prior


@pytest.fixture
def prior():
    layer = ClassPrior(3, dtype="float64")
    layer.build((None, 2, 4, 3))
    perturb(layer, 0.5)
    return layer


@pytest.mark.parametrize("at_once", [2, 16])
def test_the_prior_is_tfps_gaussians_and_their_mixture(prior, rng, at_once, monkeypatch):
    monkeypatch.setattr(class_prior, "CLASSES_AT_ONCE", at_once)
    h, labels = tf.constant(rng.normal(size=(5, 2, 4, 3))), tf.constant([2, 0, 1, 1, 2])
    deviations = tf.exp(5 * tf.tanh(prior.raw_log_deviation.value / 5))
    components = tfd.Independent(tfd.Normal(prior.mean.value, deviations), 3)
    probabilities = tf.constant([1 / 3] * 3, tf.float64)
    mixture = tfd.MixtureSameFamily(tfd.Categorical(probs=probabilities), components)
    np.testing.assert_allclose(prior.log_prob(h), mixture.log_prob(h))
    every = components.log_prob(h[:, tf.newaxis])
    np.testing.assert_allclose(prior.log_prob_by_label(h), every)
    np.testing.assert_allclose(prior.log_prob(h, labels), tf.gather(every, labels, batch_dims=1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint32, np.int64])
def test_labels_may_be_integers_of_any_kind(prior, rng, dtype):
    h, labels = tf.constant(rng.normal(size=(2, 2, 4, 3))), np.array([2, 0])
    known = prior.log_prob(h, tf.constant(labels))
    for same in (labels, labels.tolist(), labels.astype(dtype), tf.constant(labels.astype(dtype))):
        np.testing.assert_array_equal(prior.log_prob(h, same), known)


def test_without_labels_the_prior_whitens_the_mixture(prior):
    draws = 40_000
    labels = tf.constant(np.random.default_rng(0).integers(3, size=draws))
    noise = tf.constant(np.random.default_rng(1).normal(size=(draws, 2, 4, 3)))
    h = prior.inverse_and_log_det(noise, labels)[0]
    eps = prior.forward(h).numpy()
    np.testing.assert_allclose(eps.mean(axis=0), 0, atol=0.03)
    np.testing.assert_allclose(eps.std(axis=0), 1, atol=0.03)
    np.testing.assert_allclose(prior.forward_and_log_det(h, labels)[0], noise, atol=1e-12)


def test_the_gradient_of_a_label_that_occurs_twice_is_a_tensor_of_the_sum(prior, rng):
    h = tf.constant(rng.normal(size=(3, 2, 4, 3)))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(prior.log_prob(h, tf.constant([1, 1, 0])))
    gradient = tape.gradient(loss, prior.mean.value)
    assert isinstance(gradient, tf.Tensor)
    precision = tf.exp(-10 * tf.tanh(prior.raw_log_deviation.value / 5))
    np.testing.assert_allclose(gradient[1], (h[0] + h[1] - 2 * prior.mean.value[1]) * precision[1])
    np.testing.assert_array_equal(gradient[2], np.zeros((2, 4, 3)))


# The model


def test_a_model_scores_by_label_and_by_mixture(glow, images, eager):
    every = glow.label_log_probs(images, seed=3).numpy()
    assert every.shape == (64, 4)
    mixture = glow.log_prob(images, seed=3).numpy()
    np.testing.assert_allclose(mixture, np.logaddexp.reduce(every, axis=1) - np.log(4))
    v = glow.dequantized(images, seed=3)
    own = glow.dequantized_log_prob(v, tf.constant(LABELS, tf.int32))
    np.testing.assert_allclose(own, every[np.arange(64), LABELS])
    nats = glow.dimensions * np.log(2)
    np.testing.assert_allclose(label_bits(glow, images, seed=3), -every / nats)


def test_only_the_last_part_sees_labels(images):
    glow = small_glow(classes=CLASSES, parts="by_block:2", local_prior="flow:4x1")
    with_classes = [v.path for v in glow.variables if len(v.shape) == 4 and v.shape[0] == 4]
    assert with_classes == ["glow/part_2/prior/mean", "glow/part_2/prior/raw_log_deviation"]

    def truncated(labels):
        passage = glow.enter(images, 0.5)._replace(labels=tf.constant(labels, tf.int32))
        passage, _ = glow.through_part(0, passage)
        return [t.numpy() for t in glow.through_part(1, passage)[0].truncated_nlls]

    (first, whole), (other_first, other) = truncated(LABELS), truncated(LABELS + 1)
    np.testing.assert_array_equal(first, other_first)
    assert not np.allclose(whole, other)


def test_latents_by_label_come_back_and_temperature_0_is_the_mode_of_the_class(glow, images, eager):
    few, labels = images[:8], LABELS[:8]
    for given in (None, labels):
        np.testing.assert_array_equal(glow.decode(glow.encode(few, given), given), few)
    assert not np.array_equal(glow.encode(few), glow.encode(few, labels))
    modes = glow.sample(labels=range(4), temperature=0.0)
    np.testing.assert_array_equal(modes, glow.decode(np.zeros((4, glow.dimensions)), range(4)))
    assert len({mode.tobytes() for mode in modes.numpy()}) == 4
    drawn = {image.tobytes() for image in glow.sample(64, 0.0, seed=1).numpy()}
    assert drawn == {mode.tobytes() for mode in modes.numpy()}  # every class is drawn


def test_a_label_changes_nothing_but_the_class_of_a_sample(glow):
    same = glow.sample(labels=[1, 1, 3], seed=5).numpy()
    again = glow.sample(3, seed=5, labels=[1, 1, 1]).numpy()
    np.testing.assert_array_equal(same[:2], again[:2])
    assert not np.array_equal(same[2], again[2])


REFUSED = {
    "no classes": (lambda: small_glow().sample(labels=[0]), "trained with --conditional"),
    "no labels": (lambda: small_glow().label_log_probs(np.zeros((1, 8, 8, 1), np.uint8)), "--conditional"),
    "too large": (lambda: small_glow(classes=CLASSES).sample(labels=[4]), r"integers from 0 to 3.*\[4\]"),
    "fractions": (lambda: small_glow(classes=CLASSES).sample(labels=[0.5]), "integers from 0 to 3"),
    "another number": (
        lambda: small_glow(classes=CLASSES).sample(3, labels=[0]),
        "a label for each of the 3 images",
    ),
    "neither": (lambda: small_glow(classes=CLASSES).sample(), "needs num or labels"),
    "standard prior": (lambda: small_config(classes=CLASSES, top_prior="standard"), "must be learned"),
    "a number": (lambda: ModelConfig(classes=10), "classes must be names"),
    "no prior": (lambda: ClassPrior(0), "classes must be a positive number"),
    "no label for TFP": (lambda: glow_tf.as_distribution(small_glow(classes=CLASSES)), "needs a label"),
    "TFP, no classes": (lambda: glow_tf.as_distribution(small_glow(), 1), "--conditional"),
    "no such name": (lambda: labels_of(small_glow(classes=CLASSES), ["cat"]), r"ape, bee.*\['cat'\]"),
}


@pytest.mark.parametrize(("ask", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_has_no_meaning_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask()


def test_a_file_and_a_preset_keep_the_classes(images, tmp_path, eager):
    glow = small_glow(classes=CLASSES, num_blocks=1, parts="1", flow_steps=1)
    expected = glow.label_log_probs(images[:4])
    glow.save(tmp_path / "model.keras")
    glow.save_to_preset(tmp_path / "preset")
    for name in ("model.keras", "preset"):
        loaded = glow_tf.load(tmp_path / name)
        assert loaded.classes == CLASSES
        np.testing.assert_allclose(loaded.label_log_probs(images[:4]), expected, rtol=1e-5)


def test_tfp_sees_the_density_of_a_class(glow, images):
    density = glow_tf.as_distribution(glow, label=2)
    v = glow.dequantized(images[:4], seed=3)
    np.testing.assert_allclose(density.log_prob(v), glow.label_log_probs(images[:4], seed=3)[:, 2])
    by_bijector = tfd.TransformedDistribution(density.distribution, density.bijector)
    np.testing.assert_allclose(by_bijector.log_prob(v), density.log_prob(v))
    eps = tf.constant(np.random.default_rng(0).normal(size=(2, 64)))
    np.testing.assert_allclose(
        density.bijector.forward(eps), glow.inverse(eps, labels=tf.constant([2, 2])), atol=1e-9
    )


# Training


def make_trainer(schedule="end_to_end", epochs=4, devices=(), dtype=None, part_delay=0, **changes):
    settings = {"flow_steps": 1, "parts": "by_block:2", "classes": CLASSES, **changes}
    glow = Glow(small_config(**settings), devices, dtype=dtype, name="glow")
    n = len(glow.parts)
    trainer = PartsTrainer(glow, phases(schedule, n, epochs), seed=3)
    eager = not part_delay  # queues are in graphs alone
    optimizers = [FusedAdamax(5e-3) for _ in range(n)]
    trainer.compile(optimizers, clip_norm=1.0, part_delay=part_delay, run_eagerly=eager)
    return trainer


def trained_classes(trainer):
    """Returns the labels whose means have moved from 0, where they start."""
    mean = trainer.glow.parts[-1].prior.mean.value
    return [k for k in range(len(CLASSES)) if np.any(np.asarray(mean[k]))]


@pytest.mark.parametrize(
    ("schedule", "changes"),
    [
        pytest.param("end_to_end", {"parts": "1"}, marks=pytest.mark.slow),  # as datasets, below
        pytest.param("alternating", {"local_prior": "flow:4x1"}, marks=pytest.mark.slow),
        pytest.param("sequential", {}, marks=pytest.mark.slow),
        pytest.param("simultaneous", {"local_prior": "learned"}, marks=pytest.mark.slow),
    ],
)
def test_every_schedule_trains_the_priors_of_the_labels_that_occur(schedule, changes, images, eager):
    trainer = make_trainer(schedule, **changes)
    history = trainer.fit(
        images[:32], LABELS[:32], batch_size=16, validation_data=images[:32], verbose=0
    ).history
    assert trained_classes(trainer) == SEEN
    assert history["bpd"][-1] < np.nanmax(history["bpd"])
    assert history["val_bpd"][-1] < history["val_bpd"][0]


def test_labels_stay_with_their_images_whatever_the_order(images):
    batches = data.training_batches(images, 16, 1, augment="flip")
    for batch in data.with_members(batches, {"labels": np.arange(64)}, 64).take(6):
        np.testing.assert_array_equal(batch["index"], batch["labels"])


def test_datasets_end_with_labels(images, eager):
    dataset = untuned(tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(16))
    trainer = make_trainer(num_blocks=1, parts="1", epochs=1)
    trainer.fit(dataset, verbose=0)
    assert trained_classes(trainer) == SEEN
    with pytest.raises(ConfigError, match=r"needs labels with the images.*Received: \{'images': 'uint8"):
        trainer.fit(dataset.map(lambda x, y: x), verbose=0)
    with pytest.raises(ConfigError, match="integers from 0 to 3"):
        trainer.fit(dataset.map(lambda x, y: (x, y + 2)), verbose=0)
    with pytest.raises(ConfigError, match="y goes with an array"):
        trainer.fit(dataset, LABELS, verbose=0)
    with pytest.raises(ConfigError, match=r"needs labels with the images: as y of an array"):
        trainer.fit(images, verbose=0)
    with pytest.raises(ConfigError, match=r"labels must be integers \[N\], one for .* shape \(3,\)"):
        trainer.fit(images, LABELS[:3], verbose=0)


@pytest.mark.slow  # devices/test_part_parallel.py has labels in queues too
def test_queues_between_parts_keep_labels_with_their_images(images):
    labels = np.arange(64) % 4

    def trained(delay):
        devices = part_devices("part_parallel", "", 2)
        small = {"num_blocks": 1, "flow_steps": 2, "parts": "1,1"}
        trainer = make_trainer("simultaneous", 2, devices, "float64", part_delay=delay, **small)
        with contextlib.nullcontext() if delay else eagerly():
            trainer.fit(images, labels, batch_size=16, verbose=0)
        return trainer.glow.get_weights()

    for a, b in zip(trained(0), trained(1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
def test_two_replicas_train_the_priors_as_one_does(images):
    def trained(strategy):
        with make_strategy(strategy).scope():
            trainer = make_trainer(parts="1", epochs=2)
        trainer.fit(images, LABELS, batch_size=16, verbose=0)
        return trainer.glow.get_weights()

    for a, b in zip(trained("one_device"), trained("mirrored"), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
def test_a_cached_prefix_has_the_labels_of_its_images(images):
    labels = np.arange(64) % 4

    def trained(cached):
        sequential = phases("sequential", 2, 4)
        trainer, turns = make_trainer("sequential"), turn_starts(sequential)
        if cached:
            trainer.prefix_caches = {sequential[-1]: PrefixCache(trainer.glow, 1, 64)}
        run = types.SimpleNamespace(
            cache_noise_epochs=turns, prefix_batches=lambda turn: data.prefix_batches(images, 16, 3, turn)
        )
        fill = FillPrefixCaches(run, EpochResult())
        batches = data.training_batches(images, 16, 3, epochs=data.Epochs(noise=turns))
        batches = data.with_members(batches, {"labels": labels}, len(labels))
        trainer.fit(batches, steps_per_epoch=4, callbacks=[fill], verbose=0)
        return trainer.glow.get_weights()

    for a, b in zip(trained(False), trained(True), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


# Runs and commands


def test_other_labels_are_other_data(tmp_path):
    digits = data.load(DataConfig("digits"))
    before = fingerprints(digits, conditional=True)
    digits.labels["train"] = digits.labels["train"][::-1]
    after = fingerprints(digits, conditional=True)
    assert {name for name in after if after[name] != before[name]} == {"train labels"}
    assert not any("labels" in name for name in fingerprints(digits))
    (tmp_path / "ckpt-1.index").touch()
    (tmp_path / "ckpt-1.data-00000-of-00001").touch()
    write_data(tmp_path, before)
    with pytest.raises(ConfigError, match=r"the data must be what the run began with.*train labels="):
        check_same_data(tmp_path, small_config(), after)
    write_data(tmp_path, fingerprints(digits))  # as releases did before labels were compared
    check_same_data(tmp_path, small_config(), after)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conditional") / "run"
    settings = {"schedule": "end_to_end", "part_epochs": 5, "finetune_epochs": 0, "flow_steps": 2}
    settings |= {
        "num_blocks": 1,
        "parts": "1",
        "width": 16,
        "train_examples": 1280,
        "learning_rate": "1e-1",
        "batch_size": 16,
    }
    settings |= {"augment": "none", "export": False, "tensorboard": False, "sample_every": 0}
    train(config(folder, conditional=True, **settings))
    return folder


@pytest.mark.long
def test_a_run_learns_the_classes(run, eager):
    digits = data.load(DataConfig("digits"))
    glow = glow_tf.load(run)
    assert glow.classes == digits.class_names
    found = label_bits(glow, digits.test).argmin(axis=1)
    assert np.mean(found == digits.labels["test"]) > 0.8
    labels = np.arange(100) % 10
    drawn = label_bits(glow, glow.sample(labels=labels).numpy()).argmin(axis=1)
    assert np.mean(drawn == labels) > 0.8
    assert float(rows_of(run)[-1]["test_bpd"]) < float(rows_of(run)[0]["test_bpd"])


def test_a_run_starts_from_one_with_the_same_classes(run, tmp_path, capsys, eager):
    settings = {"conditional": True, "schedule": "end_to_end", "flow_steps": 2, "width": 16}
    settings |= {"num_blocks": 1, "parts": "1"}
    settings |= {"part_epochs": 1, "finetune_epochs": 0, "export": False, "tensorboard": False}
    settings |= {"sample_every": 0, "train_examples": 64}
    train(config(tmp_path / "more", init_from=str(run), **settings))
    assert "init_from: the weights are those of" in capsys.readouterr().out
    assert float(rows_of(tmp_path / "more")[0]["test_bpd"]) < float(rows_of(run)[1]["test_bpd"])
    with pytest.raises(ConfigError, match=r"classes=\('0', .*this run: \(\)"):
        train(config(tmp_path / "other", init_from=str(run), **settings | {"conditional": False}))
    glow_tf.load(run).save_to_preset(tmp_path / "preset")
    assert run_flags.config_of([f"--from_preset={tmp_path / 'preset'}", "--workdir=unused"]).conditional


def test_a_run_with_classes_needs_them(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for k, image in enumerate(make_small_images(np.random.default_rng(0))):
        tf.io.write_file(str(folder / f"{k}.png"), tf.io.encode_png(image))
    with pytest.raises(
        ConfigError,
        match=r"conditional needs a data set with classes.*one of two or more subfolders.*with 0 classes",
    ):
        train(
            config(
                tmp_path / "run",
                dataset=f"folder:{folder}",
                conditional=True,
                train_examples=0,
                test_examples=0,
            )
        )
    with pytest.raises(ConfigError, match=r"conditional needs top_prior=learned"):
        config(tmp_path, conditional=True, top_prior="standard")


def test_commands_know_the_classes(run, tmp_path, capsys, monkeypatch, eager):
    monkeypatch.chdir(tmp_path)
    model = f"--model={run}"
    assert cli.run("sample", [model, "--labels=3,8", "--num=5", "--temperatures=0.7,1"]) == 0
    assert np.load("samples.npy").shape == (4, 5, 8, 8, 1)
    arguments = ["--dataset=digits", "--examples=100", "--output=found.json"]
    assert cli.run("evaluate", [model, *arguments]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert report["classified"]["accuracy"] > 0.7
    assert report["given_label"]["bits_per_dim"] < report["bits_per_dim"]
    assert "bits/dim given the label" in capsys.readouterr().out
    assert cli.run("sample", [model, "--labels=cat"]) != 0
    assert "labels must be classes of the model: 0, 1" in capsys.readouterr().err


@pytest.mark.slow  # test_other_labels_are_other_data has the check
def test_classes_that_change_are_refused_and_the_run_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("bee", "cow"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k, image in enumerate(make_small_images(rng)[:16]):
            path = str(tmp_path / "images" / name / f"{k}.png")
            tf.io.write_file(path, tf.io.encode_png(image))
    settings = {"dataset": f"folder:{tmp_path / 'images'}", "train_examples": 0, "test_examples": 0}
    settings |= {
        "conditional": True,
        "batch_size": 16,
        "sample_every": 0,
        "export": False,
        "finetune_epochs": 0,
        "tensorboard": False,
        "schedule": "end_to_end",
        "num_blocks": 1,
        "parts": "1",
    }
    train(config(tmp_path / "run", part_epochs=1, rate_schedule="constant", **settings), eager=True)
    (tmp_path / "images" / "bee").rename(tmp_path / "images" / "yak")
    message = (
        r"classes=\('bee', 'cow'\)\. A new run may start from this one with --init_from=\S+/run\. "
        r"Received: classes=\('cow', 'yak'\)"
    )
    with pytest.raises(ConfigError, match=message):
        train(config(tmp_path / "run", part_epochs=2, rate_schedule="constant", **settings))
    assert glow_tf.load(tmp_path / "run").classes == ("bee", "cow")


@pytest.mark.long
def test_evaluations_of_a_model_with_classes_take_labels_and_leave_them_out(images):
    trainer = PartsTrainer(small_glow(classes=CLASSES, flow_steps=1, parts="1"), seed=3)
    trainer.compile(optimizer="adam", rate_scaling="none")
    expected = trainer.evaluate(images, verbose=0)
    labelled = untuned(tf.data.Dataset.from_tensor_slices((images, LABELS)).batch(64))
    named = untuned(tf.data.Dataset.from_tensor_slices({"images": images, "labels": LABELS}).batch(64))
    for given in ((images, LABELS), (labelled,), (named,)):
        np.testing.assert_allclose(trainer.evaluate(*given, verbose=0), expected, rtol=1e-6)
    history = trainer.fit(images, LABELS, validation_data=(images, LABELS), verbose=0).history
    assert np.isfinite(history["val_loss"]).all()
