"""All settings of a run are decided once; the command says what was decided, and flags.cfg keeps it."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from absl import flags as absl_flags
from PIL import Image

from glow_tf.architectures import design_of
from glow_tf.commands import cli, parsing
from glow_tf.commands import train as train_command
from glow_tf.commands.train import config_of
from glow_tf.config import ModelConfig, RunConfig, TrainConfig
from glow_tf.core.errors import ConfigError
from glow_tf.run import settings
from glow_tf.run.flags_file import command_of, read_config, read_flagfile, sources_of
from glow_tf.run.settings import (
    DEFAULT,
    FLAGFILE,
    FOLLOWS,
    IMAGES,
    SIZES,
    START,
    TYPED,
    WORKDIR,
    Asked,
    Images,
    Start,
)
from glow_tf.training.tuned import tuned

PHOTOGRAPHS = Images((32, 32, 3), 3200, 255)
PRIOR = Start("kept", ModelConfig((32, 32, 3), architecture="levels", width=16, flow_steps=2))


def asked(*arguments, **facts):
    """Returns what a command asks for, with no prior installed but those of the `facts`."""
    values = absl_flags.FlagValues()
    train_command.define(values)
    parsing.parse(values, ["--workdir=unused", *arguments])
    return train_command.asked(values)._replace(**{"priors": {}, **facts})


def choice(*arguments, images=PHOTOGRAPHS):
    """Returns what the images decide of the sizes of a run without a prior."""
    decided = settings.resolve(asked(*arguments), images)
    found = decided.config.to_settings()
    return {name: found[name] for name in SIZES if decided.sources[name] == IMAGES}


def sizes(*values):
    return dict(zip(SIZES, values, strict=True))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (PHOTOGRAPHS, sizes(8, 3, 8, 96, 10, 0, 320)),  # those of configs/own_images.cfg
        (Images((8, 8, 1), 1437, 0b11111000), sizes(5, 1, 12, 96, 23, 0, 143)),  # the digits
        (Images((28, 28, 1), 60_000, 255), sizes(8, 2, 12, 96, 2, 0, 1000)),
        (Images((256, 256, 3), 1000, 255), sizes(8, 6, 4, 96, 32, 0, 100)),
        (Images((2, 2, 1), 9, 0), sizes(1, 1, 12, 96, 50, 0, 0)),
    ],
)
def test_what_is_decided_suits_the_images(images, expected):
    assert choice("--architecture=glow", images=images) == expected
    assert choice(images=images) == expected | {"flow_steps": 8}  # of the finest level


def test_levels_are_trained_unless_a_flag_is_for_a_glow():
    def form(*flags):
        found = config_of(["--workdir=unused", "--from_scratch", *flags])
        return found.model.architecture, found.train.schedule, found.model.equalize

    assert form() == form("--width=8") == ("levels", "simultaneous", 0.5)
    assert form("--equalize=0") == form("--n_bits=9") == ("levels", "simultaneous", 0)
    assert form("--architecture=levels", "--schedule=sequential") == ("levels", "sequential", 0.5)
    assert form("--architecture=glow") == form("--parts=by_block:2") == form("--data=real")
    assert form("--data=real") == form("--flagfile=defaults") == ("glow", "end_to_end", 0)
    assert form("--schedule=alternating", "--parts=by_block:2") == ("glow", "alternating", 0)
    for start, expected in (
        ("digits", ("glow", "end_to_end", 0)),
        ("cifar10", ("levels", "simultaneous", 0)),
    ):
        found = config_of(["--workdir=unused", f"--init_from={start}"])
        assert (found.model.architecture, found.train.schedule, found.model.equalize) == expected


def test_every_choice_can_be_built_and_halves_the_image_as_far_as_is_useful():
    flow = asked("--architecture=glow")
    for height, width in itertools.product((2 * k for k in range(2, 70)), (32, 28, 44)):
        found = settings.resolve(flow, Images((height, width, 3), 100, 255)).config.model
        design_of(found).check_size((height, width))
        assert min(height, width) >> found.num_blocks >= settings.LEAST_SIDE or found.num_blocks == 1
    assert choice("--architecture=glow", images=Images((27, 31, 5), 100, 0))["num_blocks"] == 1  # odd sides
    assert choice(images=Images((27, 31, 5), 100, 0))["num_blocks"] == 2
    assert "n_bits" not in choice("--data=real", images=Images((4, 4, 5), 100, 0))


def test_what_is_typed_wins_and_the_rest_follows_it():
    epochs = {"part_epochs": 10, "finetune_epochs": 0, "validation_examples": 320}
    assert choice("--width=8", "--num_blocks=1", "--n_bits=8") == epochs | {"flow_steps": 8}
    in_parts = choice("--schedule=alternating", "--parts=across_block:2")
    assert (in_parts["part_epochs"], in_parts["finetune_epochs"]) == (4, 6)
    for name, other in (("part_epochs", "finetune_epochs"), ("finetune_epochs", "part_epochs")):
        assert choice(f"--{name}=2")[other] == 0
        assert choice(f"--{name}=0")[other] == 10
        assert other not in choice(f"--{name}=2", f"--{other}=3")
    with pytest.raises(ConfigError, match=r"give --num_blocks or --flow_steps, too\. Received: parts='6,6'"):
        config_of(["--workdir=unused", "--parts=6,6"])


SOURCES = {
    "nothing": ([], {}, {"workdir": TYPED, "num_blocks": IMAGES, "seed": DEFAULT, "architecture": IMAGES}),
    "flags": (["--level_steps=2,2,2", "--width=8"], {}, {"num_blocks": FOLLOWS, "width": TYPED}),
    "a glow": (["--parts=by_block:2"], {}, {"architecture": FOLLOWS, "parts": TYPED, "schedule": DEFAULT}),
    "a flagfile": (["--flagfile=defaults", "--width=8"], {}, {"width": TYPED, "num_blocks": FLAGFILE}),
    "a rate": (["--learning_rate=1"], {}, {"rate_scaling": TYPED}),
    "a model": (
        ["--init_from=digits", "--scale=exp"],
        {},
        {"width": START, "scale": TYPED, "image_size": START, "part_epochs": IMAGES, "parts": DEFAULT},
    ),
    "a prior": (
        ["--flow_steps=2"],
        {"priors": {3: PRIOR}},
        {"init_from": IMAGES, "width": START, "flow_steps": TYPED, "batch_size": IMAGES, "parts": DEFAULT},
    ),
    "a workdir": (
        ["--width=8"],
        {"workdir": {"width": 9, "num_blocks": 2, "seed": 3, "init_from": ""}},
        {"num_blocks": WORKDIR, "width": TYPED, "init_from": WORKDIR, "seed": DEFAULT},
    ),
}


@pytest.mark.parametrize(("arguments", "facts", "expected"), SOURCES.values(), ids=SOURCES)
def test_every_setting_has_its_source(arguments, facts, expected):
    found = settings.resolve(asked(*arguments, **facts), PHOTOGRAPHS)
    assert {name: found.sources[name] for name in expected} == expected
    assert found.sources.keys() == found.config.to_settings().keys()


def test_a_flagfile_decides_all_and_python_has_its_defaults(tmp_path):
    (tmp_path / "own.cfg").write_text("--width=8\n")
    for arguments in (["--flagfile=quickstart"], ["--width=9", f"--flagfile={tmp_path}/own.cfg"]):
        found = asked(*arguments)
        assert not found.needs_images
    config = settings.likely(found).config
    assert (config.model, config.train) == (ModelConfig(width=9), TrainConfig())
    run = RunConfig(workdir="unused")
    python = Asked(run.to_settings())
    assert (python.needs_images, settings.resolve(python, PHOTOGRAPHS).config) == (False, run)
    with pytest.raises(ConfigError, match=r"init_from must be a model; .* Received: init_from='prior'"):
        RunConfig(workdir="unused", init_from="prior")


@pytest.mark.parametrize(
    ("images", "validation", "epochs", "rate", "warmup", "patience"),
    [
        (3, 0, 50, "5e-3", 16, 0),
        (20, 5, 37, "5e-3", 37, 13),
        (160, 16, 20, "1e-2", 100, 7),
        (3200, 320, 8, "2e-2", 100, 3),
        (50_000, 1000, 4, "2e-2", 100, 2),
    ],
)
def test_what_follows_the_number_of_images(images, validation, epochs, rate, warmup, patience):
    found = tuned({}, images)
    assert (found["validation_examples"], found["part_epochs"]) == (validation, epochs)
    assert (found["learning_rate"], found["warmup_steps"], found["patience"]) == (rate, warmup, patience)


@pytest.mark.parametrize(
    ("flags", "images", "why"),
    [
        (["--width=8"], {}, "it has width=16 (this run: 8)"),
        (["--parts=by_block:2"], {}, "it has architecture=levels (this run: glow)"),
        (["--condition=label"], {}, "it does not know what is given with images"),
        (["--learning_rate=1,1,1,1,1", "--num_blocks=4"], {}, "num_blocks=3 (this run: 4)"),
        (["--data=real"], {"used": 0}, "it is of uint8, and the data are float32"),
        ([], {"used": 0b11100000}, "it is of 8 bits, and 3 suffice for these images"),
        ([], {"unlike": "untouched it is worse"}, "untouched it is worse"),
        (["--finetune_learning_rate=1,1"], {"shape": (8, 8, 3)}, "needs one rate, or one for each of the 3"),
    ],
    ids=str,
)
def test_what_contradicts_a_prior_makes_a_run_start_anew(flags, images, why):
    images = PHOTOGRAPHS._replace(**images)
    found = settings.resolve(asked(*flags, priors={3: PRIOR}), images)
    assert (found.config.init_from, found.prior) == ("", "")
    assert why in found.why_anew != ""
    assert found.config == settings.resolve(asked(*flags), images).config


def test_a_flagfile_starts_from_the_prior_and_what_is_typed_wins():
    def train(*typed, count=40):
        own = ["--flagfile=own_images", "--dataset=folder:unused", *typed]
        found = settings.resolve(asked(*own, priors={3: PRIOR}), Images((32, 32, 3), count, 255)).config
        return found, found.train

    found, own = train()
    assert (found.init_from, found.data.validation_examples, found.model.width) == ("kept", 8, 16)
    assert (own.learning_rate, own.part_epochs, found.patience) == ("5e-3", 30, 10)
    found, own = train("--validation_examples=4", "--learning_rate=3e-2", "--part_epochs=5", "--width=16")
    assert (own.learning_rate, own.rate_scaling, own.part_epochs) == ("3e-2", "none", 5)
    assert (found.data.validation_examples, found.patience, found.init_from) == (4, 2, "kept")
    few = train("--validation_examples=60", count=120)[1]
    assert (few.learning_rate, few.batch_size) == ("1e-2", 8)
    assert train("--finetune_epochs=3")[1].part_epochs == 0
    assert train("--from_scratch")[0].init_from == ""
    assert train("--from_scratch")[1].part_epochs == 10  # as it says
    for start in ("--init_from=mine", "--init_from=digits"):
        with pytest.raises(ConfigError, match="a run starts from a model or from scratch"):
            asked("--from_scratch", start)


def test_settings_that_the_images_will_decide_refuse_nothing():
    arguments = ["--dataset=digits", "--workdir=unused", "--from_scratch"]
    assert config_of([*arguments, "--patience=3"]).patience == 3
    with pytest.raises(ConfigError, match="patience needs validation_examples"):
        config_of([*arguments, "--patience=3", "--validation_examples=0"])
    assert config_of([*arguments[:2], "--train_examples=6"]).train.batch_size == 4
    devices = ["--architecture=levels", "--strategy=part_parallel", f"--part_devices={','.join('abcdef')}"]
    assert design_of(config_of([*arguments, *devices]).model).num_parts == 6  # of images of 128 × 128
    with pytest.raises(ConfigError, match="part_devices needs strategy=part_parallel"):
        config_of([*arguments, devices[0], devices[2]])


def test_a_wrong_flag_is_found_before_tensorflow_is_loaded():
    code = "import sys; from glow_tf.commands import cli; cli.run('train', ['--workdir=w', '--batch_size=0'])"
    code += "; assert 'tensorflow' not in sys.modules"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "batch_size must be" in found.stderr


def test_a_run_without_a_flagfile_says_what_it_takes_and_goes_on_with_it(tmp_path, capsys, eager):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(20):
        Image.fromarray(rng.integers(0, 2, (12, 12), dtype=np.uint8) * 128).save(pictures / f"{k}.png")
    small = ["--width=4", "--flow_steps=1", "--part_epochs=1", "--tensorboard=false", "--export=false"]
    data = [f"--dataset=folder:{pictures}", f"--workdir={tmp_path / 'run'}", "--strategy=one_device"]
    assert cli.run("train", [*data, *small]) == 0
    decided = {"architecture": "levels", "schedule": "simultaneous", "equalize": "0.5", "n_bits": "1"}
    decided |= {"num_blocks": "1", "finetune_epochs": "0", "validation_examples": "0"}  # of so few
    table = capsys.readouterr().out.partition("Decided for 18 images of 12×12×1; what is typed wins:\n")[2]
    rows = [line.split(maxsplit=2) for line in table.splitlines()[2 : 2 + len(decided)]]
    assert sorted(rows) == sorted([name, value, IMAGES] for name, value in decided.items())
    text = (tmp_path / "run" / "flags.cfg").read_text()
    flags, sources = read_flagfile(text), sources_of(text)
    assert flags.keys() == sources.keys() == read_config(tmp_path / "run").to_settings().keys()
    assert {name: flags[name] for name in decided} == decided
    assert {name for name, source in sources.items() if source == IMAGES} == decided.keys()
    assert (sources["width"], sources["seed"]) == (TYPED, DEFAULT)
    # The same command, and another: what is typed is compared, the rest is what the run began with.
    assert cli.run("train", [*data, *small]) == 0
    shown = capsys.readouterr().out
    assert "This run is finished" in shown
    assert "Decided" not in shown
    (tmp_path / "run" / "summary.json").unlink()
    assert cli.run("train", data) == 0
    assert "Decided" not in capsys.readouterr().out
    assert cli.run("train", [*data, "--width=5"]) == 1
    assert "--width=5 (was 4)" in capsys.readouterr().err
    kept = (tmp_path / "run" / "flags.cfg").read_text()
    assert sources_of(kept) == sources
    command = command_of(RunConfig(workdir="unused"))  # says what would be decided otherwise
    assert all(f"--{name}=" in command for name in (*settings.LEVELS, *SIZES))
