"""The commands for trained models, on the digits preset and on folders."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

from glow_tf.commands import cli

pytestmark = pytest.mark.long


@pytest.fixture
def here(tmp_path, monkeypatch, presets_loaded_once):
    monkeypatch.chdir(tmp_path)
    return tmp_path


WITH_IMAGES = ("evaluate",)


def run(name, *arguments, model="digits"):
    name, *action = name.split()
    images = ["--dataset=digits"] if name in WITH_IMAGES else []
    return cli.run(name, [*action, f"--model={model}", *images, *arguments])


def test_sample_draws_rows_by_temperature(here, capsys):
    assert run("sample", "--num=4", "--temperatures=0,0.7") == 0
    assert "samples.png and samples.npy: 4 rows of 2 images" in capsys.readouterr().out
    rows = np.load("samples.npy")
    assert rows.shape == (4, 2, 8, 8, 1)
    assert (rows[:2] == rows[0, 0]).all()  # temperature 0 is one image, the mode
    with Image.open("samples.png") as picture:
        assert picture.size == (2 * 68, 4 * 68)
        assert np.asarray(picture).max() == 255  # digits have levels up to 128


def test_sample_counts_images_whose_activations_were_clipped(here, capsys):
    assert run("sample", "--num=4", "--temperatures=0.7,1e6") == 0
    printed = capsys.readouterr().out
    assert "At temperature 1e+06, 4 of 4 images needed clipped activations." in printed
    assert "At temperature 0.7" not in printed


def test_more_images_than_there_are_cannot_be_asked_for(here, capsys):
    (here / "few").mkdir()
    for place in range(3):
        Image.new("L", (8, 8)).save(here / "few" / f"{place}.png")
    assert run("evaluate", "--dataset=folder:few") == 0
    assert run("evaluate", "--dataset=folder:few", "--examples=8") == 1
    assert (
        "examples must be at most 3 here, or 0 for all of them. Received: examples=8"
        in capsys.readouterr().err
    )


def test_evaluate_prints_the_score_its_terms_and_the_classes(here, capsys):
    assert run("evaluate", "--draws=2", "--output=score.json") == 0
    report = json.loads((here / "score.json").read_text())
    assert report["images"] == 360
    assert report["importance_weighted"]["bits_per_dim"] < report["bits_per_dim"]
    assert report["importance_weighted"]["standard_error"] > 0
    assert sum(report["terms"].values()) == pytest.approx(report["bits_per_dim"], rel=1e-4)
    assert sum(own["images"] for own in report["classes"].values()) == 360
    assert f"{report['bits_per_dim']:.4f} ± " in capsys.readouterr().out


def test_an_export_replaces_no_other_folder(here, capsys):
    (here / "thesis").mkdir()
    (here / "thesis" / "thesis.txt").write_text("mine")
    assert run("export", "--output=thesis", "--overwrite") == 1
    assert "must be empty, or hold a SavedModel and nothing else" in capsys.readouterr().err
    assert (here / "thesis" / "thesis.txt").read_text() == "mine"


def test_a_preset_is_found_by_name_beside_a_folder_of_that_name(here, capsys):
    (here / "digits").mkdir()
    assert run("sample", "--num=2") == 0
    assert run("sample", "--output=other.png", model="") == 1
    assert "model must name a preset" in capsys.readouterr().err


def test_a_saved_model_is_refused_with_what_loads_it(here, exported_once, capsys):
    assert run("sample", "--num=2", model=exported_once[1]) == 1
    assert "a SavedModel loads with tf.saved_model.load" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("sample", ["--temperatures=-1"], "temperatures must be one or more numbers from 0"),
        ("sample", ["--num=3"], "num must be even"),
        ("sample", ["--output=grid.jpg"], "output must be a .png file"),
        ("sample", ["--white=300"], "white must be 0 or a grey value from 1 to 255"),
        ("evaluate", ["--dataset=folder:absent"], "needs an existing folder"),
        ("evaluate", ["--examples=-1"], "examples must be 0 or a positive integer"),
        ("enlarge", ["--temperature=0,1"], "temperature must be one number"),
        ("sample", ["--seed=-1"], "seed"),
        ("evaluate", ["--output=."], "output must be a .json file"),
        ("export", ["--output=."], "output must be a folder with a name"),
        ("evaluate", ["--draws=0"], "draws must be 1 or more"),
    ],
)
def test_bad_input_ends_with_a_sentence(here, capsys, command, arguments, message):
    assert run(command, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Received" in error or "--seed" in error


def test_a_finished_run_becomes_a_preset(here, capsys, eager):
    run_flags = [
        *(
            "--strategy=one_device",
            "--tensorboard=false",
            "--export=false",
            "--dataset=digits",
            "--train_examples=64",
            "--test_examples=32",
            "--validation_examples=8",
            "--n_bits=5",
        ),
        *("--num_blocks=1", "--flow_steps=1", "--width=4", "--architecture=glow", "--equalize=0.0"),
        *("--schedule=end_to_end", "--part_epochs=1", "--finetune_epochs=0"),
    ]
    assert cli.run("train", [*run_flags, "--workdir=run"]) == 0
    assert cli.run("preset", ["--workdir=run", "--output=mine", "--licence=none"]) == 0
    about = json.loads((here / "mine" / "config.json").read_text())["about"]
    summary = json.loads((here / "run" / "summary.json").read_text())
    assert about["test_bpd"] == pytest.approx(summary["test_bpd"], abs=0.01)
    assert (about["licence"], about["top"], about["test_examples"]) == ("none", 128, 32)
    assert about["command"] == shlex.join(["glow-tf", "train", "--workdir=PATH", *run_flags])
    data = here / "run" / "checkpoints" / "data.json"  # as if a folder had got a picture since
    data.write_text(json.dumps({**json.loads(data.read_text()), "test images": "31 (checksum 0)"}))
    assert cli.run("preset", ["--workdir=run", "--output=other"]) == 1
    assert "removed or changed: test images=31" in capsys.readouterr().err
    assert cli.run("preset", ["--workdir=absent", "--output=mine", "--overwrite"]) == 1
    assert "a run's workdir must have" in capsys.readouterr().err


UNFIT = {
    "a file in the place of a folder": (
        ("sample", "--output=file/drawn.png"),
        "output must be in a folder that can be written; ",
    ),
    "a folder in the place of a file": (
        ("sample", "--output=odd.png"),
        "output must be a file, not a folder.",
    ),
    "a calibration in a file": (
        ("score fit", "--dataset=digits", "--calibration=file/c"),
        "calibration must be in a folder that can be written; ",
    ),
    "a folder without folder:": (
        ("evaluate", "--dataset=grey"),
        "folder:PATH, file:PATH.npy or an image data set",
    ),
    "colour for grey": (
        ("evaluate", "--dataset=folder:colour"),
        "the model is for grey images, and these are in",
    ),
}


@pytest.fixture
def folders(here):
    """Folders of a kind that the digits preset was not made for: 28×28 grey, 64×64 in colour, and mixed."""
    rng = np.random.default_rng(0)
    for name, shapes in {
        "grey": [(28, 28)] * 3,
        "colour": [(64, 64, 3)] * 12,
        "mixed": [(28, 28), (40, 60), (10, 9)],
    }.items():
        (here / name).mkdir()
        for k, shape in enumerate(shapes):
            picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            picture.save(here / name / f"{k}.{'jpg' if name == 'colour' else 'png'}")
    (here / "file").touch()
    (here / "odd.png").mkdir()
    return here


@pytest.mark.parametrize(("arguments", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_what_cannot_be_done_is_named(folders, capsys, arguments, message):
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err


def test_commands_take_pictures_of_other_sizes_and_say_that_they_are_brighter(folders, capsys):
    assert run("evaluate", "--dataset=folder:mixed") == 0
    assert "data have grey values up to 128, and these images up to " in capsys.readouterr().out


def test_a_run_from_a_preset_needs_images_of_its_shape(folders, capsys):
    arguments = ["--init_from=digits", "--dataset=folder:colour", "--image_size=8", "--workdir=run"]
    assert cli.run("train", arguments) == 1
    error = capsys.readouterr().err
    assert "must have images of its shape (height × width × channels), 8×8×1. Received: " in error
