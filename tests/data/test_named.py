"""Data sets that are not there: refused with a sentence that lists what there may be."""

import json
import sys
from unittest import mock

import pytest
from small import run_program

from glow_tf import ConfigError, data
from glow_tf.commands import cli, model_flags
from glow_tf.config import DataConfig
from glow_tf.data.named import check_named


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a folder and a file of data."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "all.npy").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


CHOICES = r"dataset must be digits, folder:PATH, file:PATH\.npy or an image data set that TFDS can load .*: "
ABSENT = {
    "folder:photo": r"dataset=folder:PATH needs an existing folder\. Received: 'folder:photo'$",
    "file:al.npy": r"dataset=file:PATH\.npy needs an existing file\. Received: dataset='file:al\.npy'$",
    "cifar": CHOICES + r"TFDS knows none of this name\. Received: dataset='cifar', data_dir=''$",
    "photos": CHOICES + r"TFDS knows none of this name\. Received: dataset='photos'",
    "foldr:photos": CHOICES + r".*Received: dataset='foldr:photos'",
}


@pytest.mark.parametrize("dataset", ABSENT)
def test_what_is_not_there_is_refused_with_what_there_may_be(dataset, here):
    with pytest.raises(ConfigError, match=ABSENT[dataset]):
        check_named(DataConfig(dataset))


@pytest.mark.parametrize("dataset", ["digits", "folder:photos", "file:all.npy", "cifar10", "cifar10:3.0.2"])
def test_what_may_be_there_is_not_refused(dataset, here):
    check_named(DataConfig(dataset))


@pytest.mark.parametrize("command", ["evaluate"])
def test_a_command_refuses_its_data_set_before_it_loads_the_model(command, here, monkeypatch, capsys):
    monkeypatch.setattr(model_flags, "model_of", None)
    assert cli.run(command, ["--model=digits", "--dataset=folder:photo"]) == 1
    assert "needs an existing folder. Received: 'folder:photo'" in capsys.readouterr().err


def test_a_run_refuses_its_data_set_before_tensorflow_and_leaves_nothing(here):
    program = """
import pathlib, sys
from glow_tf.commands import cli
assert cli.main(["train", "--dataset=folder:photo", "--workdir=runs/one"]) == 1
assert not pathlib.Path("runs").exists() and "tensorflow" not in sys.modules
"""
    run_program(program, cwd=here)


@pytest.mark.parametrize("key", ["type", "pythonClassName", "python_class_name"])
def test_a_prepared_data_set_makes_python_import_nothing(tmp_path, key):
    """TFDS itself imports the module of every feature that features.json names."""
    folder = tmp_path / "strange" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text('{"name": "strange", "version": "1.0.0"}')
    inner = {"image": {key: "module_of_a_stranger.Image"}}
    (folder / "features.json").write_text(json.dumps({"featuresDict": {"features": inner}}))
    (tmp_path / "module_of_a_stranger.py").write_text("raise SystemExit('imported')")
    config = DataConfig("strange", str(tmp_path))
    with mock.patch.object(sys, "path", [str(tmp_path), *sys.path]):
        for look in (check_named, data.load):
            with pytest.raises(ConfigError, match=r"must name features of TFDS alone.*stranger"):
                look(config)
    assert "module_of_a_stranger" not in sys.modules
