"""Where commands write: nothing of the user's is replaced, and no output lies among what is read."""

import json
import os
import pathlib

import numpy as np
import pytest
from PIL import Image

from glow_tf.commands import cli, model_flags
from glow_tf.core.durable_files import WRITTEN, held, replaced_files, replaced_folder
from glow_tf.core.errors import ConfigError

WRITING = {
    "sample": ["--model=digits", "--output=mine/samples.png"],
    "evaluate": ["--model=digits", "--dataset=digits", "--output=mine/found.json"],
    "export": ["--model=digits", "--output=mine"],
    "preset": ["--workdir=run", "--output=mine"],
    "assemble": ["--workdirs=one,two", "--output=mine"],
    "enlarge": ["in/a.png", "--output=mine"],
    "score fit": ["--dataset=folder:in", "--calibration=mine"],
    "score check": ["--dataset=folder:in", "--output=mine"],
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of images, and one with files of the user's; no command comes as far as its model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_flags, "model_of", None)
    for name in ("in", "mine"):
        (tmp_path / name).mkdir()
    for k in range(3):
        Image.fromarray(np.full((8, 8), k, np.uint8)).save(f"in/{k}.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("in/a.png")
    for name in ("samples.png", "samples.npy", "found.json"):
        (tmp_path / "mine" / name).write_text("the user's")
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run(name, *arguments):
    name, *action = name.split()
    return cli.run(name, [*action, *arguments])


@pytest.mark.parametrize(("name", "arguments"), WRITING.items())
def test_no_command_writes_where_there_are_files(name, arguments, here, capsys):
    before = contents(here)
    assert run(name, *arguments) == 1
    assert "must be new" in (said := capsys.readouterr().err)
    assert "--overwrite" in said
    assert contents(here) == before


READING = {
    "evaluate": ["--model=digits", "--dataset=folder:in", "--output=in/found.json"],
    "enlarge": ["in", "--output=in/deep/enlarged"],
    "sample": ["--model=digits", "--condition=in", "--output=in/samples.png"],
    "score fit": ["--dataset=folder:in", "--calibration=in/detector"],
    "score check": ["--dataset=folder:in", "--output=in/../in"],
}


@pytest.mark.parametrize(("name", "arguments"), READING.items())
def test_no_output_lies_among_what_is_read(name, arguments, here, capsys):
    before = contents(here)
    assert run(name, *arguments, "--overwrite") == 1
    assert "must not be what is read, nor lie in a folder of it" in capsys.readouterr().err
    assert contents(here) == before


def test_only_the_files_of_its_own_list_are_replaced_or_removed(tmp_path):
    """As with `score check --output`, whose earlier maps are those of other images."""
    folder = tmp_path / "scores"
    for names in ({"heat/1_a.png", "scores.csv"}, {"heat/1_b.png", "scores.csv"}):
        with replaced_files(folder, names):
            for name in names:
                (folder / name).parent.mkdir(exist_ok=True)
                (folder / name).write_text("own")
        (folder / "heat" / "7_user.png").write_text("the user's")
    left = {path.relative_to(folder).as_posix() for path in contents(folder)}
    assert left == {"heat/1_b.png", "heat/7_user.png", "scores.csv", WRITTEN}
    with (
        pytest.raises(ConfigError, match="replaced with --overwrite alone"),
        replaced_files(folder, {"heat/7_user.png"}),
    ):
        pass
    assert (folder / "heat" / "7_user.png").read_text() == "the user's"


def test_files_that_a_killed_call_left_are_known_to_the_next_one(tmp_path):
    with pytest.raises(KeyboardInterrupt), replaced_files(tmp_path, {"a", "b"}):  # noqa: PT012
        (tmp_path / "a").touch()
        raise KeyboardInterrupt
    with replaced_files(tmp_path, {"b"}):
        pass
    assert not (tmp_path / "a").exists()


def test_what_a_killed_call_left_hidden_goes_with_the_next_one(tmp_path):
    names = [".a.png.0123abcd.tmp", "deep/.b.png.0123abcd.tmp"]
    for name in (*names, "deep/.mine.tmp", "other/.a.png.0123abcd.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with held(tmp_path, ["a.png", "deep/b.png"]):
        assert not any((tmp_path / name).exists() for name in names)
    assert (tmp_path / "deep/.mine.tmp").exists()
    assert (tmp_path / "other/.a.png.0123abcd.tmp").exists()


def test_a_list_removes_nothing_outside_of_its_folder(tmp_path):
    (tmp_path / "outside").touch()
    folder = tmp_path / "scores"
    folder.mkdir()
    (folder / WRITTEN).write_text(json.dumps(["../outside", str(tmp_path / "outside")]))
    with replaced_files(folder, {"scores.csv"}):
        pass
    assert (tmp_path / "outside").exists()


def test_two_processes_do_not_write_to_one_folder(tmp_path):
    folder = tmp_path / "folder"
    with held(folder):
        for writing in (replaced_files(folder, {"a"}), replaced_folder(folder, "preset", frozenset())):
            with pytest.raises(OSError, match="another process is writing to "), writing:
                pass
    assert os.listdir(tmp_path) == []
    assert not pathlib.Path(folder).exists()
