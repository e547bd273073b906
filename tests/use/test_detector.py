"""Unusual images, and where: scores hold what they promise, and what is unusual is flagged."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.datasets import load_digits
from small import small_glow, small_levels

from glow_tf.commands import cli
from glow_tf.commands import score as command
from glow_tf.core.errors import ConfigError
from glow_tf.data.arrays import fingerprint
from glow_tf.run.checksums import write_data
from glow_tf.use import NoveltyDetector
from glow_tf.use.score.models import Models
from glow_tf.use.score.rule import Rule, place_maps

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images * 8).astype(np.uint8)[..., None]
    return np.random.default_rng(0).permutation(images)[:300]


@pytest.fixture(scope="module")
def detector(digits):
    sizes = {"image_shape": (8, 8, 1), "num_blocks": 1, "flow_steps": 1, "condition_depth": 1}
    prior = small_levels(n_bits=5, **sizes)
    prior.initialize(digits[100:200])
    return NoveltyDetector(prior, epochs=1).fit(digits[:40])


@pytest.fixture(scope="module")
def of_many(detector, digits):
    """Fitted to 300 images, two of a group."""
    prior = detector.prior_.recut()
    return NoveltyDetector(prior, epochs=1).fit(digits, groups=np.repeat(np.arange(150), 2))


def flat(level=0):
    return np.full((1, 8, 8, 1), level, np.uint8)


def made_up(count, seed, shift=0.0):
    """What is looked at in images of one kind, at two resolutions."""
    rng = np.random.default_rng(seed)
    return [(shift + rng.normal(size=(count, side, side, 3))).astype(np.float32) for side in (4, 2)]


MODELS = {
    "glow": small_glow(),
    "standard": small_glow(split_prior="standard"),
    "levels": small_levels(image_shape=(8, 8, 1)),
}


@pytest.mark.parametrize("flow", MODELS.values(), ids=MODELS)
def test_log_densities_of_places_add_up_to_that_of_the_image(flow, small_images, eager):
    images = small_images[:5]
    flow.initialize(images)
    maps = place_maps(flow, tf.constant(images))
    shapes = [shape for part in flow.parts for shape in part.latent_shapes]
    shapes.append(flow.parts[-1].output_event_shape)
    channels = {size: sum(s[2] for s in shapes if s[:2] == size) for size in maps}
    total = sum(channels[size] * tf.reduce_sum(own[..., 0], [1, 2]) for size, own in maps.items())
    first = flow.enter(images, 0.5).log_likelihood
    np.testing.assert_allclose(total + first, flow.score(images)["log_prob"], rtol=1e-4)
    eps = flow.encode(images).numpy()
    squares = sum(channels[size] * tf.reduce_sum(own[..., 1], [1, 2]) for size, own in maps.items())
    np.testing.assert_allclose(squares, np.square(eps).sum(axis=1), rtol=1e-4)


@pytest.mark.slow
def test_false_alarms_come_at_the_rate_that_was_asked_for():
    shares = []
    for seed in range(8):
        detector = NoveltyDetector(seed=seed)
        detector._calibrate(made_up(60, seed), np.arange(60), (8, 8))
        kind, places = detector._rule(made_up(200, 100 + seed), (8, 8))
        scores = np.maximum(kind, np.max(places, axis=(1, 2)))
        shares.append(np.mean(detector.p_value_of(scores) <= 0.05))
        assert (detector.p_value_of(np.array([np.inf, -np.inf])) == [detector.smallest, 1]).all()
    assert np.mean(shares) == pytest.approx(0.05, abs=0.025)


def test_one_odd_place_is_found_where_it_is_and_a_shift_of_all_is_unusual_as_a_whole():
    rule = Rule.of(made_up(60, 0)).scaled(np.linspace(-1, 0, 60), np.linspace(0, 1, 60))
    odd = made_up(2, 1)
    odd[0][0, 3, 1] = 9
    odd[0][1] += 0.7
    kind, places = rule(odd, (8, 8))
    assert np.unravel_index(np.argmax(places[0]), (8, 8)) in [(6, 2), (7, 2), (6, 3), (7, 3)]
    assert kind[1] > 1 > np.max(places[1])


def test_what_is_unlike_the_good_images_is_flagged_and_what_is_like_them_is_not(detector, digits):
    frames = np.concatenate([flat(level) for level in (0, 64, 128, 255)])
    shuffled = np.random.default_rng(1).permuted(digits[250:].reshape(50, 64), axis=1).reshape(-1, 8, 8, 1)
    assert detector.predict(frames).all()
    assert detector.predict(shuffled).mean() > 0.9
    assert detector.predict(digits[40:]).mean() < 0.15


def test_of_many_good_images_one_copy_is_tuned_on_half_and_scores_the_others(of_many, digits):
    kept = np.random.default_rng(0).permutation(150)[:75]
    others = digits[~np.isin(np.repeat(np.arange(150), 2), kept)]
    # What new ones are compared with are these images' scores by the copy that scores new ones, but for the
    # rule of scores, which is fitted to all of them or to nine of ten.
    again, before = of_many.decision_function(others), of_many.decision_scores_
    assert len(before) == len(others) == 150
    assert np.corrcoef(again, before)[0, 1] > 0.95
    assert np.median(np.abs(again - before)) < 0.1
    assert of_many.smallest == pytest.approx(1 / 151)


def test_three_folds_stay_where_so_few_could_not_tell_the_share(detector, digits):
    strict = NoveltyDetector(detector.prior_.recut(), 1 / 200, epochs=1).fit(digits)
    assert len(strict.decision_scores_) == 300


def test_a_prior_that_knew_the_good_images_is_told(detector, tmp_path, monkeypatch, capsys):
    assert detector.models_.gain > 0.1
    assert not detector.models_.warning
    monkeypatch.chdir(tmp_path)
    known = r"only -?0\.0\d\d bits/dim likelier: the prior knew such images"
    assert run("fit", "--model=digits", "--dataset=digits", "--split=train", "--examples=20") == 0
    assert re.search(f"WARNING: tuning made .* {known}", capsys.readouterr().out)
    with pytest.warns(UserWarning, match=known):
        NoveltyDetector("digits", epochs=1).fit(load_digits().images[:20, ..., None].astype(np.uint8) * 8)


def test_the_prior_is_chosen_by_the_channels_of_the_images(tmp_path, capsys):
    grey, colours = np.zeros((20, 32, 32, 1), np.uint8), np.zeros((20, 32, 32, 3), np.uint8)
    for images, channels in ((grey, 1), (colours, 3)):
        assert Models("prior", None, images).prior.config.image_shape[-1] == channels
    values = flags.FlagValues()
    command.define(values)
    for kind, name in ((grey, "photographs_grey"), (colours, "photographs")):
        np.save(tmp_path / "images.npy", kind)
        values(["score", f"--dataset=file:{tmp_path}/images.npy", "--model=prior", "--image_size=32"])
        prior, used = command._prior_and_images(values, alone=True)
        assert prior.image_shape == used.images.shape[1:] == kind.shape[1:]
        assert values.model == name
        assert ("photographs_grey looks at one of them." in capsys.readouterr().out) == (kind is grey)


def test_names_are_those_of_pyod_and_scikit_learn(detector, digits):
    images = digits[40:60]
    scores = detector.decision_function(images)
    np.testing.assert_array_equal(detector.predict(images), scores > detector.threshold_)
    np.testing.assert_array_equal(
        detector.predict(images), detector.p_value(images) <= detector.contamination
    )
    np.testing.assert_allclose(detector.predict_proba(images).sum(axis=1), 1)
    assert detector.decision_scores_.shape == detector.labels_.shape == (40,)
    assert detector.labels_.mean() <= detector.contamination
    assert detector.heat(images).shape == images.shape[:3]
    assert (detector.heat(images).max(axis=(1, 2)) <= scores + 1e-4).all()
    copy = clone(detector).set_params(contamination=0.2)
    assert copy.get_params()["contamination"] == 0.2
    with pytest.raises(ConfigError, match="fit must be called first"):
        copy.predict(images)


def test_a_detector_is_saved_loaded_and_exported_with_the_same_numbers(detector, digits, tmp_path):
    images = digits[40:50]
    detector.save(tmp_path / "d")
    loaded = NoveltyDetector.load(tmp_path / "d")
    assert detector.others_
    assert loaded.others_ == {}  # what `fit` measured is not kept
    detector.export(tmp_path / "export")
    served = tf.saved_model.load(str(tmp_path / "export")).signatures["serving_default"](tf.constant(images))
    scores, heat = detector.score_and_heat(images)
    np.testing.assert_array_equal(loaded.decision_function(images), scores)
    np.testing.assert_array_equal(loaded.decision_scores_, detector.decision_scores_)
    np.testing.assert_allclose(served["score"], scores, atol=1e-3)
    np.testing.assert_allclose(served["map"], heat, atol=1e-3)
    np.testing.assert_allclose(served["p_value"], detector.p_value(images), atol=0.03)


def with_json(change):
    def damage(folder):
        about = json.loads((folder / "detector.json").read_text())
        (folder / "detector.json").write_text(json.dumps(about | change))

    return damage


def with_arrays(change):
    def damage(folder):
        arrays = load_file(folder / "detector.safetensors")
        change(arrays)
        save_file(arrays, folder / "detector.safetensors")

    return damage


def with_another_copy(folder):
    path = folder / "tuned" / "config.json"
    path.write_text(path.read_text().replace('"scale": "tanh:1"', '"scale": "tanh:2"'))


DAMAGES = {
    "no folder": (shutil.rmtree, "No such file"),
    "no JSON": (lambda folder: (folder / "detector.json").write_bytes(b"{"), "Expecting"),
    "another format": (with_json({"format": 7}), "another format"),
    "features": (
        with_json({"features": "mine"}),
        "features must be the network that it was fitted with: 'mine'",
    ),
    "a copy of another model": (with_another_copy, "the tuned model must be a copy of the prior"),
    "no prior": (lambda folder: shutil.rmtree(folder / "prior"), "no such preset"),
    "an array missing": (with_arrays(lambda own: own.pop("scale")), "none for 'scale'"),
    "another rule": (
        with_arrays(lambda own: own.update({"places 0 mean": np.zeros(2, np.float32)})),
        r"real numbers of shape \(3,\) as 'places 0 mean'. Received: F32 of shape \(2,\)",
    ),
    "not a number": (
        with_arrays(lambda own: own["good images"].fill(np.nan)),
        "finite. Received: good images",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_detector_is_refused(damage, message, detector, tmp_path):
    detector.save(tmp_path / "d")
    damage(tmp_path / "d")
    with pytest.raises(
        ConfigError, match=f"calibration must be the folder of a detector.*Received: .*{message}"
    ):
        NoveltyDetector.load(tmp_path / "d")


def test_wrong_use_is_refused_before_anything_is_loaded(digits):
    with pytest.raises(ConfigError, match=r"20 good images or more.*Received: \(19"):
        NoveltyDetector("none").fit(digits[:19])
    with pytest.raises(ConfigError, match=r"contamination must be 0\.048 or more.*: contamination=0\.01"):
        NoveltyDetector("none", contamination=0.01).fit(digits[:20])
    for name in ("labels_", "prior_", "tuned_"):
        with pytest.raises(ConfigError, match="fit must be called first"):
            getattr(NoveltyDetector("none"), name)


# The command


def run(*arguments):
    return cli.run("score", arguments)


@pytest.fixture
def folder(tmp_path, monkeypatch, digits, detector):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    for k in range(6):
        Image.fromarray(digits[100 + k, ..., 0]).save(tmp_path / "odd" / f"good <{k}>.png")
    Image.fromarray(flat()[0, ..., 0]).save(tmp_path / "odd" / "=flat.png")
    detector.save(tmp_path / "detector")
    return tmp_path


def test_the_command_checks_a_folder_and_shows_where(folder, capsys):
    assert run("check", "--dataset=folder:odd", "--worst=3") == 0
    assert "of 7 images are flagged" in capsys.readouterr().out
    with (folder / "scores" / "scores.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    assert rows["'=flat.png"]["flagged"] == "yes"  # no spreadsheet takes the name as a formula
    for row in rows.values():
        assert float(row["place_score"]) <= float(row["score"])
        whole = float(row["place_score"]) < float(row["score"])
        said = "unusual as a whole" if whole else f"unusual in row {row['row']}, column {row['column']}"
        assert row["reason"] == (said if row["flagged"] == "yes" else "")
    picture = Image.open(folder / "scores" / "heat" / "0001_=flat.png")
    assert picture.size == (2 * (128 + 4), 128 + 4)  # the image and the map; white around each
    page = (folder / "scores" / "worst.html").read_text()
    assert page.count("<figure>") == 3
    assert page.index("=flat.png") < page.index("good &lt;")
    assert 'type="range"' in page
    assert run("check", "--dataset=folder:odd", "--false_alarms=0.01") == 1
    assert "false_alarms must be 0.025 or more" in capsys.readouterr().err


def test_training_images_are_known_by_their_checksum_wherever_they_lie(folder, digits, capsys):
    (folder / "run" / "checkpoints").mkdir(parents=True)
    values = flags.FlagValues()
    command.define(values)
    values(["score", "--model=run", "--dataset=folder:copy"])
    kept = digits[np.arange(300) % 10 != 9]
    data = {"train images": fingerprint(kept[:250])}  # without those of validation
    write_data(folder / "run" / "checkpoints", data)
    assert command.trained_on(values, digits)  # of a folder without test/, they and the test images
    assert command.trained_on(values, kept)
    assert not command.trained_on(values, digits[::-1])
    assert not command.trained_on(values, digits[:100])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan"], "needs an action first: fit or check. Received: 'scan'"),
        (["fit", "--model=digits", "--false_alarms=0"], "false_alarms must be between 0 and 1"),
        (["fit", "--model=digits", "--calibration="], "calibration must be a folder with a name"),
        (["fit", "--model=digits", "--dataset=digits", "--examples=5"], "20 good images or more"),
        (["check", "--worst=0"], "worst must be 1 or more"),
    ],
)
def test_bad_input_ends_with_a_sentence(
    tmp_path, monkeypatch, presets_loaded_once, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err


def test_images_of_several_sizes_and_other_priors_are_named(digits):
    with pytest.raises(ConfigError, match="of one size"):
        NoveltyDetector().fit([digits[0], digits[1, :4]] * 10)
    with pytest.raises(ConfigError, match=r"prior must be a Flow.*Received: prior=<object"):
        NoveltyDetector(object()).fit(digits[:20])


def test_a_second_check_leaves_no_maps_of_the_first(folder):
    heat = folder / "scores" / "heat"
    assert run("check", "--dataset=folder:odd") == 0
    assert (heat / "0001_=flat.png").exists()
    (heat / "mine.txt").write_text("kept")
    (folder / "odd" / "=flat.png").unlink()
    assert run("check", "--dataset=folder:odd") == 0
    with open(folder / "scores" / "scores.csv", newline="") as file:
        flagged = sum(row["flagged"] == "yes" for row in csv.DictReader(file))
    assert not (heat / "0001_=flat.png").exists()
    assert len([*heat.iterdir()]) == flagged + 1


def test_flags_of_fit_are_refused_by_check(folder, capsys):
    for flag in ("--image_size=64", "--model=digits"):
        assert run("check", "--dataset=folder:odd", flag) == 1
        said = f"are flags of fit. Received: check {flag.partition('=')[0]}"
        assert said in capsys.readouterr().err
