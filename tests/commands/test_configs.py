"""Every config parses, builds a valid run, and says what to expect."""

import pathlib

import pytest
from small import ROOT, run_main

from glow_tf.architectures import design_of
from glow_tf.architectures.schedule import phases_of
from glow_tf.commands import cli
from glow_tf.commands.train import config_of
from glow_tf.config import all_settings
from glow_tf.run.flags_file import as_flags

CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))


@pytest.fixture(scope="module")
def parsed():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return {path.stem: config_of([f"--flagfile={path.relative_to(ROOT)}"]) for path in CONFIGS}


def test_every_config_lays_out_its_parts(parsed):
    for config in parsed.values():
        assert len(phases_of(config)) >= 1
        if config.data.dataset == "cifar10" and not design_of(config.model).separable:
            assert sum(p.flow_steps for p in design_of(config.model).layouts) == 3 * config.model.flow_steps


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_headed_by_its_command_and_what_to_expect(path):
    header = path.read_text().split("\n\n")[0]
    assert f"python train/main.py --flagfile=configs/{path.name}" in header
    assert "# Expected: " in header
    assert "TODO" not in header


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_only_what_differs_from_what_it_includes(path, parsed):
    lines = [line for line in path.read_text().splitlines() if line.startswith("--")]
    for included in (line for line in lines if line.startswith("--flagfile=")):
        assert not set(lines) & set(as_flags(parsed[pathlib.Path(included).stem].to_settings()))


def test_defaults_list_every_setting(parsed):
    lines = [
        line for line in (ROOT / "configs/defaults.cfg").read_text().splitlines() if line.startswith("--")
    ]
    assert [line[2:].split("=")[0] for line in lines] == [setting.name for setting in all_settings()]
    changed = {"workdir": "runs/defaults", "dataset": "cifar10"}
    for setting in all_settings():
        assert parsed["defaults"].to_settings()[setting.name] == changed.get(setting.name, setting.default)


PAPER = {
    "paper_1": ("1", "end_to_end", "1e-4"),
    "paper_2": ("by_block:2", "alternating", "1e-4"),
    "paper_3": ("across_block:2", "alternating", "1e-4"),
    "paper_4": ("1", "end_to_end", "1e-5"),
    "paper_5": ("across_block:3", "alternating", "1e-5"),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_are_those_of_table_1(name, parsed):
    config = parsed[name]
    got = (config.model.parts, config.train.schedule, config.train.learning_rate)
    assert got == PAPER[name]
    sizes = (config.model.num_blocks, config.model.flow_steps, config.model.width, config.train.batch_size)
    assert sizes == (3, 32, 512, 256)
    assert (config.train.part_epochs, config.train.finetune_epochs) == (60, 30)


BAD_FLAGS = {
    "parts": ("--parts=5,5", "which adds up to 10"),
    "rates": ("--learning_rate=1e-3,1e-3,1e-3", "needs one rate, or one for each of the 2 parts"),
    "data": ("--dataset=folder:/no/such", "needs an existing folder"),
    "batch": ("--batch_size=4000", "at most the number of training images"),
    "workdir": ("--workdir=/proc/run", "workdir must be a folder that can be written"),
    "blocks": ("--num_blocks=5", "multiples of 16; the nearest that are: 16"),
}


@pytest.mark.parametrize(("flag", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_train_names_a_bad_flag_and_exits_at_once(flag, message, tmp_path, capsys):
    assert cli.run("train", ["--flagfile=quickstart", f"--workdir={tmp_path}/run", flag]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: ")
    assert message in error
    assert "Received: " in error
    assert not (tmp_path / "run" / "history.csv").exists()


def test_the_command_ends_with_an_error_status(tmp_path):
    result = run_main(f"--workdir={tmp_path}/run", "--schedule=random", check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: schedule must be one of")
    assert "Traceback" not in result.stderr
