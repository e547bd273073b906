"""Every config parses, builds a valid run, and says what to expect."""

import subprocess
import sys

import pytest
from conftest import ROOT, run_main

from glow_tf.config import RunConfig, all_settings

CONFIGS = sorted((ROOT / "configs").glob("*.cfg"))
PARSER = """
import sys; sys.path.insert(0, "train")
import json, flags_of_run
from absl import flags
flags_of_run.define()
for name in json.load(sys.stdin):
    flags.FLAGS.unparse_flags()
    for key in list(flags.FLAGS): flags.FLAGS[key].unparse()
    flags.FLAGS(["main", f"--flagfile={name}"])
    print(json.dumps(flags_of_run.run_config().to_settings()))
"""


@pytest.fixture(scope="module")
def parsed():
    """Parses all configs as main.py does, in one process, from the root of the project."""
    import json

    names = [str(path.relative_to(ROOT)) for path in CONFIGS]
    result = subprocess.run(
        [sys.executable, "-c", PARSER],
        input=json.dumps(names),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return {path.stem: RunConfig.from_settings(line) for path, line in zip(CONFIGS, lines, strict=True)}


def test_every_config_lays_out_its_parts(parsed):
    for config in parsed.values():
        assert len(config.phases()) >= 1
        if config.data.dataset == "cifar10":
            assert sum(p.flow_steps for p in config.model.plans()) == 3 * config.model.flow_steps


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_headed_by_its_command_and_what_to_expect(path):
    header = path.read_text().split("\n\n")[0]
    assert f"python train/main.py --flagfile=configs/{path.name}" in header
    assert "# Expected: " in header
    assert "TODO" not in header


def test_base_lists_every_setting_with_its_default(parsed):
    lines = [line for line in (ROOT / "configs/base.cfg").read_text().splitlines() if line.startswith("--")]
    assert [line[2:].split("=")[0] for line in lines] == [setting.name for setting in all_settings()]
    changed = {"workdir": "runs/base", "dataset": "cifar10"}
    for setting in all_settings():
        assert parsed["base"].to_settings()[setting.name] == changed.get(setting.name, setting.default)


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
    "choice": ("--schedule=random", "schedule must be one of"),
    "data": ("--dataset=folder:/no/such", "needs an existing folder"),
    "batch": ("--batch_size=4000", "at most the number of training images"),
    "workdir": ("--workdir=/proc/run", "workdir must be a folder that can be written"),
    "blocks": ("--num_blocks=4", "multiples of 16; the nearest that are: 16"),
}


@pytest.mark.parametrize(("flag", "message"), BAD_FLAGS.values(), ids=BAD_FLAGS.keys())
def test_main_names_a_bad_flag_and_exits_at_once(flag, message, tmp_path):
    flags = ["--flagfile=configs/quickstart.cfg", f"--workdir={tmp_path}/run", flag]
    result = run_main(*flags, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert message in result.stderr
    assert "Received: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run" / "history.csv").exists()
