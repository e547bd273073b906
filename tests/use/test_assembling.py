"""Levels that were trained apart, put together as one model."""

import csv
import json
import shutil

import numpy as np
import pytest
from helpers import train
from small import make_small_images

import glow_tf
from glow_tf import ConfigError
from glow_tf.architectures.design import check_run
from glow_tf.architectures.levels import Levels
from glow_tf.commands import cli
from glow_tf.use import assemble, save_run_to_preset

pytestmark = pytest.mark.long

SETTINGS = {
    "dataset": "digits",
    "architecture": "levels",
    "num_blocks": 2,  # three parts: one with two parts before it
    "flow_steps": 1,
    "width": 4,
    "condition_features": 2,
    "train_examples": 32,
    "test_examples": 16,
    "batch_size": 16,
    "part_epochs": 1,
    "finetune_epochs": 0,
    "schedule": "simultaneous",
    "clip_norm": 0.0,
    "sample_every": 0,
    "export": False,
    "tensorboard": False,
    "n_bits": 5,
    "equalize": 0.5,  # what stands before the parts has weights, too
    "strategy": "one_device",
}


def run(folder, **changes):
    train(glow_tf.RunConfig.from_settings({**SETTINGS, "workdir": str(folder), **changes}), eager=True)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    return [run(folder / f"part_{k}", only_part=k) for k in (1, 2, 3)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that trains all parts at once."""
    return run(tmp_path_factory.mktemp("whole") / "run")


def test_parts_that_were_trained_apart_are_the_model_that_was_trained_at_once(parts, whole):
    at_once = glow_tf.load(whole)
    found = assemble(parts)
    assert found.sources == tuple(map(str, parts))
    for mine, others in zip(found.flow.get_weights(), at_once.get_weights(), strict=True):
        np.testing.assert_allclose(mine, others, atol=1e-6)
    with open(parts[1] / "history.csv") as file:
        (row,) = csv.DictReader(file)
    assert (row["phase"], row["active_parts"]) == ("part", "2")


def test_the_command_writes_a_preset_and_says_where_each_part_is_from(parts, tmp_path, capsys, eager):
    listed = ",".join(map(str, reversed(parts)))
    assert cli.run("assemble", [f"--workdirs={listed}", f"--output={tmp_path / 'preset'}"]) == 0
    assert f"part 1 from {parts[0]}\npart 2 from {parts[1]}\n" in capsys.readouterr().out
    images = make_small_images(np.random.default_rng(0))[:4, :, :, :1]
    expected = assemble(parts).flow.bits_per_dim(images, 0)
    np.testing.assert_array_equal(glow_tf.load(tmp_path / "preset").bits_per_dim(images, 0), expected)


def test_a_run_of_all_parts_gives_those_that_no_other_run_has(parts, whole):
    found = assemble([parts[1], whole])
    assert found.sources == (str(whole), str(parts[1]), str(whole))


@pytest.mark.parametrize("missing", ["index", "data-00000-of-00001"])
def test_a_workdir_that_was_copied_half_is_refused_by_name(missing, parts, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(parts[0], half)
    shutil.copytree(half / "checkpoints", tmp_path / "older")  # an older checkpoint that is whole
    for file in (tmp_path / "older").glob("ckpt-1.*"):
        shutil.copy(file, half / "checkpoints" / file.name.replace("ckpt-1", "ckpt-0"))
    (half / "checkpoints" / f"ckpt-1.{missing}").unlink()
    with pytest.raises(OSError, match=r"half is not whole: .*epoch 1 .*Received: ckpt-1\."):
        assemble([half, *parts[1:]])


def edited(folder, target, name, **changes):
    """Returns a copy of a workdir whose file of this name says something else."""
    shutil.copytree(folder, target)
    path = target / "checkpoints" / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return target


def test_what_does_not_fit_together_is_refused(parts, whole, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"part 2 of 3 must come from one run.*Received: none"):
        assemble(parts[:1])
    with pytest.raises(ConfigError, match=r"part 1 of 3 must come from one run.*Received: .*, "):
        assemble([parts[0]] * 2)
    early = shutil.copytree(whole, tmp_path / "early")  # as if only part 1 had had its turn in it
    flags = (early / "flags.cfg").read_text().replace("simultaneous", "sequential")
    (early / "flags.cfg").write_text(flags.replace("--part_epochs=1", "--part_epochs=3"))
    assert assemble([early, *parts[1:]]).sources[0] == str(early)
    with pytest.raises(ConfigError, match=r"part 2 of 3 must be trained.*Received: .*early, 1 epochs of sch"):
        assemble([early, parts[0]])
    with pytest.raises(ConfigError, match=r"a whole model.*glow-tf assemble.*Received: .*only_part=1"):
        save_run_to_preset(parts[0], tmp_path / "preset")
    unlike = edited(parts[1], tmp_path / "unlike", "model.json", scale="sigmoid")
    with pytest.raises(
        ConfigError, match=r"same model and data: scale='tanh:1' in .*Received: scale='sigmoid'"
    ):
        assemble([parts[0], unlike])
    other = edited(parts[1], tmp_path / "other", "data.json", **{"train images": "48 (checksum 0a)"})
    with pytest.raises(ConfigError, match=r"same model and data: train images=.*Received"):
        assemble([parts[0], other])
    with pytest.raises(ConfigError, match=r"needs the workdirs.*Received: none"):
        assemble([])
    monkeypatch.setattr(Levels, "separable", False)  # as of other architectures
    with pytest.raises(ConfigError, match=r"only levels are put together.*Received"):
        assemble([whole])


@pytest.mark.parametrize("changes", [{"only_part": 4}, {"only_part": 1, "architecture": "glow"}], ids=str)
def test_only_a_part_of_levels_is_trained_alone(changes, tmp_path):
    with pytest.raises(ConfigError, match=r"only_part needs architecture=levels.*Received: only_part="):
        check_run(glow_tf.RunConfig.from_settings({**SETTINGS, "workdir": str(tmp_path), **changes}))
