"""Data sets that are not there: refused before TensorFlow is loaded, with what may have been meant."""

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


MEANT = {
    "foldr:photos": r"no such kind of data set\. Did you mean folder:photos\? Received: dataset='foldr",
    "files:all.npy": r"Did you mean file:all\.npy\?",
    "folder:photo": r"needs an existing folder\. Did you mean folder:photos\? Received: 'folder:photo'",
    "folder:unlike/it": r"needs an existing folder\. Received: 'folder:unlike/it'",
    "file:al.npy": r"needs an existing file\. Did you mean file:all\.npy\? Received: dataset='file:al.npy'",
    "cifar": r"TFDS knows none of this name\. Did you mean cifar10 or cifar100",
    "CIFAR-10": r"Did you mean cifar10",
    "photos": r"Did you mean folder:photos\?",
    "digit": r"Did you mean digits\?",
}


@pytest.mark.parametrize("dataset", MEANT)
def test_what_may_have_been_meant_is_asked(dataset, here):
    with pytest.raises(ConfigError, match=MEANT[dataset]):
        check_named(DataConfig(dataset))


@pytest.mark.parametrize("dataset", ["digits", "folder:photos", "file:all.npy", "cifar10", "cifar10:3.0.2"])
def test_what_may_be_there_is_not_refused(dataset, here):
    check_named(DataConfig(dataset))


@pytest.mark.parametrize("command", ["encode", "evaluate", "interpolate", "reconstruct", "edit"])
def test_a_command_refuses_its_data_set_before_it_loads_the_model(command, here, monkeypatch, capsys):
    monkeypatch.setattr(model_flags, "_opened", None)
    assert cli.run(command, ["--model=digits", "--dataset=folder:photo"]) == 1
    assert "Did you mean folder:photos?" in capsys.readouterr().err


def test_a_run_refuses_its_data_set_before_tensorflow_and_leaves_nothing(here):
    program = """
import pathlib, sys
from glow_tf.commands import cli
for command in (["train"],):
    assert cli.main([*command, "--dataset=foldr:photos", "--workdir=runs/one"]) == 1
    assert not pathlib.Path("runs").exists() and "tensorflow" not in sys.modules
"""
    run_program(program, cwd=here)
