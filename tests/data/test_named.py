"""Data sets that are not there: refused with a sentence that lists what there may be."""

import pytest
from small import run_program

from glow_tf import ConfigError
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
