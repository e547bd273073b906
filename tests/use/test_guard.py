"""The guard for data sets: p-values hold what they promise, and what is unusual is flagged."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from absl import flags
from PIL import Image
from sklearn.datasets import load_digits
from small import preset_once, small_glow, small_levels

from glow_tf.commands import cli, model_flags
from glow_tf.commands import score as command
from glow_tf.core.errors import ConfigError
from glow_tf.data.arrays import fingerprint
from glow_tf.run.files.same_data import write_data
from glow_tf.use import Features, Scorer, features, open_model, spoiled_copies
from glow_tf.use.score import guard
from glow_tf.use.score.image_features import codec_bits
from glow_tf.use.score.rules import ONE_WAY, RULES


@pytest.fixture(scope="module")
def digits():
    images = (load_digits().images * 8).astype(np.uint8)[..., None]
    return np.random.default_rng(0).permutation(images)[:600]


@pytest.fixture(scope="module")
def model():
    return preset_once("digits")


@pytest.fixture(scope="module")
def scorer(model, digits):
    return Scorer(model).fit(digits[:400])


def flat(count):
    return np.zeros((count, 8, 8, 1), np.uint8)


def made_up(count, seed):
    """Features as of images of one kind."""
    rng = np.random.default_rng(seed)
    return Features(*rng.normal(3, [[0.3], [0.1], [0.5]], (3, count)), rng.normal(1, 0.1, (count, 2)))


def test_features_are_those_of_the_model(model, digits, eager):
    found = features(model, digits[:5])
    np.testing.assert_allclose(found.nll, model.score(digits[:5])["bits_per_dim"], atol=6e-6)
    eps = model.encode(digits[:5]).numpy()
    latent = (0.5 * (eps**2).sum(1) + 32 * np.log(2 * np.pi)) / (64 * np.log(2))
    np.testing.assert_allclose(found.latent, latent, rtol=1e-5)
    assert found.codec[3] == codec_bits(digits[3])


def test_bits_of_levels_add_up_and_are_a_score_of_their_own(digits, tmp_path, eager):
    glow = small_levels()
    glow.initialize(images := np.repeat(digits[:40], 3, axis=3))
    found = features(glow, images)
    assert found.levels.shape == (40, 3)
    for bits in (found.nll, glow.score(images)["bits_per_dim"]):
        np.testing.assert_allclose(found.levels.sum(1), bits, atol=3e-5)
    scorer = Scorer(glow, "levels").fit_features(found)
    np.testing.assert_array_equal(scorer.features(images).levels, found.levels)
    assert Scorer(glow, "density").features(images).levels is None  # of which it makes nothing
    odd = Features(found.nll, found.latent, found.codec, found.levels + np.array([3, -3, 0]))
    assert scorer.p_value_of(odd).max() == scorer.smallest  # all else is as usual
    scorer.save(tmp_path / "c.json")
    loaded = Scorer.load(tmp_path / "c.json", glow)
    np.testing.assert_array_equal(loaded.p_value_of(found), scorer.p_value_of(found))
    with pytest.raises(ConfigError, match=r"levels needs a model of levels.*: features without"):
        scorer.p_value_of(Features(found.nll, found.latent, found.codec))


def test_a_complex_image_takes_more_bits_as_a_file(rng):
    noise = rng.integers(0, 256, (32, 32, 3), np.uint8)
    assert codec_bits(noise) > 7
    assert codec_bits(np.zeros_like(noise)) < 0.5


def test_an_image_like_many_good_ones_ties_with_them_also_from_a_file(model, tmp_path):
    """Blank frames, say: rounded numbers in the file would make each of them look worse than all."""
    good = made_up(400, 0)
    for name in ("nll", "latent", "codec"):
        getattr(good, name)[:120] = getattr(good, name)[0] + 1 / 3
    good = dataclasses.replace(good)
    for score in RULES:
        fitted = Scorer(model, score)._with(good[:200], good[200:])
        fitted.save(tmp_path / "calibration.json")
        loaded = Scorer.load(tmp_path / "calibration.json", model)
        np.testing.assert_array_equal(loaded.p_value_of(good), fitted.p_value_of(good))
        in_another_batch = Features(good.nll + 1e-9, good.latent - 1e-9, good.codec, good.levels)
        np.testing.assert_array_equal(fitted.p_value_of(in_another_batch), fitted.p_value_of(good))


@pytest.mark.parametrize("score", RULES)
def test_false_alarms_come_at_the_rate_that_was_asked_for(score):
    scorer = Scorer(None, score)
    shares = []
    for seed in range(40):
        scorer.fit_features(made_up(400, seed), seed)
        shares.append(np.mean(scorer.p_value_of(made_up(500, 1000 + seed)) <= 0.05))
    assert np.mean(shares) == pytest.approx(0.05, abs=0.01)


def test_p_values_count_the_good_images_that_are_as_unusual():
    scorer = Scorer(None, "nll").fit_features(made_up(40, 0))
    scorer._calibration = Features(*np.tile(np.arange(20.0), (3, 1)))
    asked = Features(*np.tile([-1.0, 19.0, 18.5, 50.0, np.nan], (3, 1)))
    np.testing.assert_allclose(scorer.p_value_of(asked) * 21, [21, 2, 2, 1, 1])
    assert scorer.smallest == pytest.approx(1 / 21)


def test_raw_likelihood_fails_where_the_default_does_not(model, digits, scorer):
    likely = Scorer(model, "nll")._with(*scorer._fitted())  # fitted to the same images
    assert likely.p_value(flat(1))[0] == 1  # an empty image is likelier than any digit
    assert scorer.p_value(flat(1))[0] == scorer.smallest
    assert np.mean(scorer.p_value(digits[400:]) <= 0.05) < 0.12
    shuffled = np.random.default_rng(1).permuted(digits[400:].reshape(200, 64), axis=1)
    assert np.mean(scorer.p_value(shuffled.reshape(200, 8, 8, 1)) <= 0.05) > 0.95


def test_the_score_is_chosen_with_good_images_alone(model, digits, scorer):
    assert set(scorer.areas) == set(RULES) - {"levels"}  # the model has none
    worst = {name: min(areas.values()) for name, areas in scorer.areas.items()}
    assert scorer.score == max(worst, key=worst.get)
    assert worst["nll"] < worst[scorer.score]
    assert scorer.areas["nll"]["emptied"] < 0.5  # an empty image is likelier than most digits
    given = Scorer(model, scorer.score).fit(digits[:400])
    np.testing.assert_array_equal(given.p_value(digits[400:]), scorer.p_value(digits[400:]))
    few = Scorer(model).fit(digits[:100])
    assert (few.score, few.areas) == ("density", {})
    assert few.fit(digits[:400]).areas == scorer.areas


def test_spoiled_copies_differ_from_the_images_and_follow_from_the_seed(rng):
    for shape in ((6, 8, 8, 1), (3, 3, 5, 3), (2, 32, 30, 3)):
        images = rng.integers(0, 100, shape).astype(np.uint8)
        copies = spoiled_copies(images, 3)
        for name, copy in copies.items():
            assert (copy.shape, copy.dtype) == (shape, np.uint8)
            assert copy.max() <= images.max()
            assert np.any(copy != images), name
            np.testing.assert_array_equal(copy, spoiled_copies(images, 3)[name])
        same = (
            np.sort(copies["shuffled patches"].reshape(shape[0], -1)),
            np.sort(images.reshape(shape[0], -1)),
        )
        np.testing.assert_array_equal(*same)
    assert all(
        copy.shape == (0, 8, 8, 1) for copy in spoiled_copies(np.zeros((0, 8, 8, 1), np.uint8)).values()
    )


def test_the_density_is_a_kernel_estimate():
    from scipy.stats import gaussian_kde

    reference, asked = made_up(300, 0), made_up(50, 1)
    points, queries = (np.stack([f.nll, f.latent, f.codec]) for f in (reference, asked))
    expected = -gaussian_kde(points, bw_method="scott").logpdf(queries)
    found = RULES["density"](reference, asked)
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=1e-3)


@pytest.mark.parametrize("score", sorted({*RULES} - {*ONE_WAY}))
def test_what_is_unusual_in_a_feature_is_flagged_whatever_the_score(score):
    """A black frame, whose bits and file are both small, and a grey one, which has as many bits as others."""
    good = made_up(1000, 0)
    good.nll[:] = 2 * good.codec + 0.3 * good.nll  # simple images need few bits
    good.latent[:] = good.latent + 0.2 * good.codec
    scorer = Scorer(None, score).fit_features(good)
    centre, spread = np.mean(good.table, axis=0), np.std(good.table, axis=0)
    frames = Features(*(centre + [[-6, -6, -6], [0, 0, -6], [6, 6, 6]] * spread).T, np.ones((3, 2)))
    assert all("unusually" in reason for reason in scorer.reasons(frames))
    assert (scorer.p_value_of(frames) <= 0.01).all()


def test_a_score_that_takes_simple_images_for_usual_is_not_chosen(model, digits, monkeypatch):
    areas = {"nll": {"noised": 0.99}, "density": {"noised": 0.6}, "complexity": {"noised": 0.7}}
    monkeypatch.setattr(guard, "areas_of", lambda *_: areas)
    assert Scorer(model).fit(digits[:200]).score == "complexity"


@pytest.mark.parametrize("score", ["density", "complexity"])
def test_a_wild_image_among_the_good_ones_does_not_blind_the_guard(score):
    for wild in (1e2, 1e4, 1e18):
        good = made_up(400, 0)
        good.nll[:3] = good.latent[:3] = wild
        scorer = Scorer(None, score).fit_features(good, seed=1)
        far = Features(np.array([9.0]), np.array([9.0]), np.array([3.0]))
        assert scorer.p_value_of(far)[0] < 0.03
        assert np.mean(scorer.p_value_of(made_up(200, 1)) < 0.05) < 0.15
    good.nll[0] = np.nan
    with pytest.raises(ConfigError, match="Received: 1 of 400 whose bits are not finite"):
        Scorer(None).fit_features(good)
    with pytest.raises(ConfigError, match=r"features are finite and alike\. Received: 0 of 400"):
        RULES["typicality"](good, good)


def test_an_image_that_cannot_be_scored_is_found_before_a_score_is_chosen(digits, monkeypatch):
    found = {100: made_up(100, 1), 400: made_up(400, 0)}  # spoiled copies, good images
    found[400].nll[0] = found[400].latent[0] = np.nan
    monkeypatch.setattr(guard, "features", lambda _, images, *args, **how: found[len(images)])
    with pytest.raises(ConfigError, match=r"able to score the good images\. Received: 1 of 400 whose bits"):
        Scorer(None).fit(digits[:400])


@pytest.mark.parametrize("ray", [(1, 1, 0), (3, 1, 0), (2, 1, 0), (-1, 0, 0), (0, -1, 5)])
def test_a_wilder_image_is_more_unusual(ray):
    """Also beyond the wildest good image, and where features depend on one another."""
    good = made_up(400, 0)
    good.latent[:] = good.nll / 3 + 0.1 * good.latent
    good.nll[:3] = good.latent[:3] = 100.0
    scorer = Scorer(None).fit_features(good, seed=1)
    centre = np.median(scorer._fitted()[0].table, axis=0)
    away = centre[:, np.newaxis] + np.outer(ray, 10.0 ** np.arange(1, 9))
    assert (np.diff(scorer.unusual(Features(*away))) > 0).all()
    assert scorer.p_value_of(Features(*away))[-1] <= 2 * scorer.smallest  # one good image is as wild


def test_reasons_name_what_is_unusual(scorer, model):
    (reason,) = scorer.reasons(features(model, flat(1)))
    assert "unusually simple" in reason
    assert "unusually few bits" in reason
    assert scorer.reasons(made_up(0, 0)) == []
    no_number = Features(*np.array([[np.nan], [np.nan], [1.0]]))
    assert scorer.reasons(no_number)[0].startswith("the model cannot score it")


def test_a_scorer_is_saved_and_loaded(scorer, model, digits, tmp_path, eager):
    scorer.save(tmp_path / "c.json")
    loaded = Scorer.load(tmp_path / "c.json", model)
    np.testing.assert_allclose(loaded.p_value(digits[400:450]), scorer.p_value(digits[400:450]), atol=0.01)
    with pytest.raises(ConfigError, match=r"for images of 256 dimensions.*for 64"):
        Scorer.load(tmp_path / "c.json", small_glow(image_shape=(16, 16, 1)))
    with pytest.raises(ConfigError, match="must be made with this model"):
        Scorer.load(tmp_path / "c.json", small_glow())


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 9}',
        '{"format": 1, "score": "density", "reference": {}}',
        '{"format": 1, "score": "auto"}',
    ],
)
def test_a_damaged_calibration_is_refused(content, model, tmp_path):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match="calibration must be a file from `glow-tf score fit`"):
        Scorer.load(tmp_path / "c.json", model)


def test_wrong_use_is_refused(model, digits, tmp_path):
    with pytest.raises(ConfigError, match="score must be auto or one of density"):
        Scorer(model, "magic")
    with pytest.raises(ConfigError, match=r"20 good images or more\. Received: 19"):
        Scorer(model).fit(digits[:19])
    with pytest.raises(ConfigError, match="fit must be called first"):
        Scorer(model).p_value(digits[:1])


# The command


def run(*arguments):
    named = any(argument.startswith("--dataset") for argument in arguments)
    return cli.run("score", [*arguments, *([] if named or not arguments else ["--dataset=digits"])])


@pytest.fixture
def folder(tmp_path, monkeypatch, digits, presets_loaded_once):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd").mkdir()
    for k in range(10):
        Image.fromarray(digits[k, ..., 0]).save(tmp_path / "odd" / f"good <{k}>.png")
    Image.fromarray(flat(1)[0, ..., 0]).save(tmp_path / "odd" / "flat.png")
    return tmp_path


def test_names_are_no_formulas_in_a_spreadsheet(folder, digits, capsys):
    for name in ("=cmd|'1'!A1.png", "-1.png", "@a.png", "+a.png", "a\x1b[2J.png"):
        Image.fromarray(digits[0, ..., 0]).save(folder / "odd" / name)
    (folder / "odd" / "b\x1b[2J.png").write_bytes(b"")
    assert run("fit", "--model=digits", "--dataset=digits") == 0
    assert run("check", "--model=digits", "--dataset=folder:odd") == 0
    with (folder / "scores" / "scores.csv").open(newline="") as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"'=cmd|'1'!A1.png", "'-1.png", "'@a.png", "'+a.png", r"a\x1b[2J.png", "flat.png"} <= names
    printed = capsys.readouterr().out
    assert r"b\x1b[2J.png: it is not" in printed
    assert "\x1b" not in printed


def test_the_command_fits_and_checks_a_folder(folder, capsys):
    assert run("fit", "--model=digits", "--dataset=digits") == 0
    assert run("check", "--model=digits", "--dataset=folder:odd", "--worst=3") == 0
    assert "of 11 images are flagged" in capsys.readouterr().out
    with (folder / "scores" / "scores.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 11
    assert rows["flat.png"]["flagged"] == "yes"
    assert "unusually simple" in rows["flat.png"]["reason"]
    assert sum(row["flagged"] == "yes" for row in rows.values()) < 4
    page = (folder / "scores" / "worst.html").read_text()
    assert page.count("<figure>") == 3
    assert page.index("flat.png") < page.index("good &lt;")
    assert "<script" not in page


def test_images_that_a_model_was_trained_on_are_no_measure(folder):
    """The folder has no test/, so without --split its training images are among the good ones."""
    (folder / "run").mkdir()
    (folder / "run" / "flags.cfg").write_text("--dataset=folder:good\n")
    values = flags.FlagValues()
    command.define(values)

    def trained_on(model, dataset, split):
        values(["score", f"--model={model}", f"--dataset={dataset}", f"--split={split}"])
        return command.trained_on(values, flat(1))

    for split, expected in (("", True), ("train", True), ("all", True), ("test", False)):
        for same in ("folder:good", "folder:good/", f"folder:{folder}/good"):
            assert trained_on("run", same, split) == expected
        assert trained_on("digits", "digits", split) == (expected and split != "")
    (folder / "good" / "test").mkdir(parents=True)  # without images, it holds nothing out
    assert trained_on("run", "folder:good", "")
    assert not trained_on("run", "folder:bad", "")
    assert not trained_on("digits", "folder:digits", "")
    (folder / "run" / "flags.cfg").write_text("--dataset=file:good.npy\n")
    assert trained_on("run", f"file:{folder}/good.npy", "")  # of a file all images are taken


def test_training_images_are_known_by_their_checksum_wherever_they_lie(folder, digits, capsys):
    (folder / "run" / "checkpoints").mkdir(parents=True)
    values = flags.FlagValues()
    command.define(values)
    values(["score", "--model=run", "--dataset=folder:copy"])
    kept = digits[np.arange(600) % 10 != 9]
    data = {"train images": fingerprint(kept[:500])}  # without those of validation
    write_data(folder / "run" / "checkpoints", data)
    assert command.trained_on(values, digits)  # of a folder without test/, they and the test images
    assert command.trained_on(values, kept)
    assert not command.trained_on(values, digits[::-1])
    assert not command.trained_on(values, digits[:100])


def test_to_check_images_that_the_model_was_trained_on_is_warned_of(folder, capsys):
    assert run("fit", "--model=digits", "--examples=40") == 0
    assert "trained on" not in capsys.readouterr().out
    arguments = ("--model=digits", "--split=train", "--examples=20", "--false_alarms=0.1")
    assert run("check", *arguments) == 0
    assert "WARNING: the model was trained on some of these images." in capsys.readouterr().out


def test_an_exported_model_checks_alike(exported_once, digits):
    model, export = exported_once
    found = features(open_model(export), digits[:20])
    expected = features(model, digits[:20])
    np.testing.assert_allclose(found.nll, expected.nll, rtol=1e-4)
    np.testing.assert_allclose(found.latent, expected.latent, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs an action first: fit or check. Received: ''"),
        (["scan"], "needs an action first: fit or check. Received: 'scan'"),
        (["check", "--model=digits"], "calibration must be a file from `glow-tf score fit`"),
        (["fit", "--model=digits", "--false_alarms=0"], "false_alarms must be between 0 and 1"),
        (["fit", "--model=digits", "--calibration="], "calibration must be a file"),
        (["fit", "--model=digits", "--score=magic"], "score must be auto or one of density"),
        (["fit", "--model=digits", "--examples=5"], "20 good images or more"),
        (["check", "--model=digits", "--worst=0"], "worst must be 1 or more"),
    ],
)
def test_bad_input_ends_with_a_sentence(folder, capsys, arguments, message):
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err


def test_a_rate_below_the_smallest_p_value_is_refused(folder, capsys):
    assert run("fit", "--model=digits", "--examples=40") == 0
    said = capsys.readouterr().out
    assert "WARNING: with 40 good images no p-value is below 0.048, and check refuses" in said
    assert said.index("For --false_alarms=0.01 fit takes 197 images or more.") < said.index("score density")
    assert json.loads((folder / "calibration.json").read_text())["score"] == "density"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_flags, "white_of", None)  # it is refused before a library is loaded
        assert run("check", "--model=digits", "--dataset=folder:odd") == 1
    assert "false_alarms must be 0.048 or more" in capsys.readouterr().err  # 1 / 21, rounded up
    assert run("check", "--model=digits", "--dataset=folder:odd", "--false_alarms=0.048") == 0
