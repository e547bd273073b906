"""The commands, for models that are given something with each image."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from small import small_glow

from glow_tf.commands import cli
from glow_tf.run import settings
from glow_tf.store import load

pytestmark = pytest.mark.long

SMALL = {"num_blocks": 1, "flow_steps": 1, "parts": "1", "width": 4, "condition_features": 2}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Models given a class, a smaller image, and two things by name; and pairs."""
    folder = tmp_path_factory.mktemp("kept")
    shapes = {"label": (10,), "input": (4, 4, 1), "named": {"a": (2,), "b": (4, 4, 3)}}
    images = (load_digits().images[:24] * 8).astype(np.uint8)
    for name, shape in shapes.items():
        flow = small_glow(**SMALL, condition_shape=shape, condition_depth=2)
        flow.save(folder / f"{name}.keras")
    for name, values in {"target": images, "input": images[:, ::2, ::2]}.items():
        for k, image in enumerate(values):
            path = folder / "pairs" / name / "ab"[k % 2] / f"{k:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return folder


@pytest.fixture
def run(kept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def go(command, model, *flags):
        name, *action = command.split()
        again = ["--overwrite"] if name == "sample" else []
        opened = [f"--model={kept / model}"] if model else []
        status = cli.run(name, [*action, *opened, *again, *flags])
        printed = capsys.readouterr()
        return printed.out if status == 0 else printed.err

    return go


DIGITS = ("--dataset=digits", "--condition=label")


def test_evaluate_reads_what_the_data_set_gives(run, kept, eager):
    printed = run("evaluate", "label.keras", *DIGITS, "--examples=40")
    assert "bits/dim (40 images" in printed
    assert "block 1, flow steps" in printed
    pairs = (f"--dataset=folder:{kept / 'pairs'}", "--condition=input")
    assert "(24 images" in run("evaluate", "input.keras", *pairs)
    assert "(2 images" in run("evaluate", "input.keras", *pairs, "--split=test")


def test_a_condition_that_is_missing_or_not_needed_is_named(run, kept, eager):
    missing = run("evaluate", "label.keras", "--dataset=digits")
    assert "the model needs a condition with each image, of shape (10,): --condition=input" in missing
    assert "Received: condition=''" in missing
    missing = run("sample", "label.keras")
    assert "of shape (10,): --condition=FILE.npy with an array [N, …], an image, a folder" in missing
    pairs = (f"--dataset=folder:{kept / 'pairs'}", "--condition=input")
    other = run("evaluate", "label.keras", *pairs)
    assert "must give the model shape (10,) with each image. Received: shape (4, 4, 1)" in other
    assert "'a' of shape (2,) and 'b' of shape (4, 4, 3)" in run(
        "evaluate", "named.keras", "--dataset=digits"
    )
    assert "must give the model 'a' of shape (2,) and" in run("evaluate", "named.keras", *DIGITS)
    small_glow(**{**SMALL, "condition_features": 32}).save("none.keras")
    given = run("evaluate", pathlib.Path("none.keras").resolve(), *DIGITS)
    assert "the model is given nothing with an image, so condition must be empty. Received" in given


def test_sample_draws_a_column_for_each_condition(run, kept, eager):
    np.save("given.npy", np.eye(10, dtype=np.float32)[[3, 5, 7]])
    assert "2 rows of 3 images" in run("sample", "label.keras", "--condition=given.npy", "--temperatures=0,1")
    rows = np.load("samples.npy")
    model = load(kept / "label.keras")
    drawn = model.sample(3, 0.0, 0, condition=np.load("given.npy"))
    np.testing.assert_array_equal(rows[0], drawn)
    np.save("one.npy", np.eye(10, dtype=np.float32)[3])
    assert "4 rows of 5 images" in run("sample", "label.keras", "--condition=one.npy", "--num=5")
    wrong = run("sample", "label.keras", "--condition=given.npy", "--num=4")
    assert "num must be the number of conditions, or be left out. Received: num=4, 3 conditions" in wrong


def test_sample_draws_a_row_for_each_class(run, kept, eager):
    said = run("sample", "label.keras", "--condition=label:3,8", "--num=5", "--temperatures=0.7,1")
    assert "4 rows of 5 images" in said
    rows, model = np.load("samples.npy"), load(kept / "label.keras")
    for row, label in ((0, 3), (1, 8)):
        given = np.repeat(np.eye(10, dtype=np.float32)[[label]], 5, axis=0)
        np.testing.assert_array_equal(rows[row], model.sample(5, 0.7, 0, given))
    assert "10 rows of 2 images" in run(
        "sample", "label.keras", "--condition=label:all", "--num=2", "--temperatures=0"
    )
    for model, wrong in (("label.keras", "label:10"), ("label.keras", "label:"), ("input.keras", "label:1")):
        most, said = 10 * (model == "label.keras"), run("sample", model, f"--condition={wrong}")
        assert f"classes of the model, which has {most}, counted from 0, or all. Received: " in said
        assert f"condition={wrong}" in said


def test_sample_takes_images_and_arrays_by_name(run, kept, eager):
    folder = kept / "pairs" / "input" / "a"
    printed = run("sample", "input.keras", f"--condition={folder}", "--temperatures=0.5")
    assert "1 rows of 12 images" in printed
    printed = run(
        "sample", "input.keras", f"--condition={folder / '00.png'}", "--num=3", "--temperatures=0.5"
    )
    assert "1 rows of 3 images" in printed
    np.savez("given.npz", a=np.ones((2, 2)), b=np.zeros((2, 4, 4, 1), np.uint8))
    assert "1 rows of 2 images" in run("sample", "named.keras", "--condition=given.npz", "--temperatures=0.5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.full((2, 10), np.nan), "condition must be finite numbers. Received: condition='given.npy' with"),
        (np.zeros((2, 9)), "must give the model shape (10,) with each image. Received: shape (9,)"),
        (np.zeros((0, 10)), "condition must have one or more examples, as many in each array. Received"),
        (None, "condition must be FILE.npy with an array"),
    ],
)
def test_a_file_that_is_no_condition_is_named(run, content, message):
    if content is not None:
        np.save("given.npy", content)
    assert message in run("sample", "label.keras", "--condition=given.npy")


def test_what_a_flag_names_is_not_overwritten(run):
    np.save("given.npy", np.zeros((2, 10), np.float32))
    before = pathlib.Path("given.npy").read_bytes()
    said = run("sample", "label.keras", "--condition=./given.npy", "--output=given.png")
    assert "output must not be what is read" in said
    assert pathlib.Path("given.npy").read_bytes() == before


@pytest.mark.slow
def test_score_is_given_it_too(run, eager, monkeypatch):
    monkeypatch.setattr(settings, "MOST_EPOCHS", 1)
    assert "20 good images" in run("score fit", "label.keras", *DIGITS, "--examples=20")
    assert "of 30 images are flagged" in run(
        "score check", "", *DIGITS, "--examples=30", "--false_alarms=0.1"
    )
