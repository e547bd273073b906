"""Without a flagfile a run takes what suits its data, says so, and goes on with the same."""

import itertools

import numpy as np
import pytest
from PIL import Image

from glow_tf.architectures import design_of
from glow_tf.commands import cli
from glow_tf.commands.run_flags import config_of
from glow_tf.config import ModelConfig, RunConfig, TrainConfig
from glow_tf.core.errors import ConfigError
from glow_tf.run.files.flags_file import command_of, flagfile, read_config
from glow_tf.run.suited import LEAST_SIDE, LEVELS, SETTINGS, chosen

PHOTOGRAPHS = ((32, 32, 3), 3200, 255)


def choice(*arguments, data=PHOTOGRAPHS):
    return chosen(config_of(["--workdir=unused", *arguments]), *data)


def settings(*values):
    return dict(zip(SETTINGS, values, strict=True))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (PHOTOGRAPHS, settings(8, 3, 8, 96, 10, 0, 320)),  # those of configs/own_images.cfg
        (((8, 8, 1), 1437, 0b11111000), settings(5, 1, 12, 96, 23, 0, 143)),  # the digits
        (((28, 28, 1), 60_000, 255), settings(8, 2, 12, 96, 2, 0, 1000)),
        (((256, 256, 3), 1000, 255), settings(8, 6, 4, 96, 32, 0, 100)),
        (((2, 2, 1), 9, 0), settings(1, 1, 12, 96, 50, 0, 0)),
    ],
)
def test_what_is_chosen_suits_the_data(data, expected):
    assert choice("--architecture=glow", data=data) == expected
    assert choice(data=data) == expected | {"flow_steps": 8}  # of the finest level


def test_levels_are_trained_unless_a_flag_is_for_a_glow():
    def form(*flags):
        config = config_of(["--workdir=unused", *flags])
        return config.model.architecture, config.train.schedule, config.model.equalize

    assert form() == form("--width=8") == ("levels", "simultaneous", 0.5)
    assert form("--equalize=0") == form("--n_bits=9") == ("levels", "simultaneous", 0)
    assert form("--architecture=levels", "--schedule=sequential") == ("levels", "sequential", 0.5)
    assert form("--architecture=glow") == form("--parts=by_block:2") == form("--data=real")
    assert form("--data=real") == form("--flagfile=defaults") == ("glow", "end_to_end", 0)
    assert form("--schedule=alternating", "--parts=by_block:2") == ("glow", "alternating", 0)
    assert form("--init_from=digits") == ("glow", "end_to_end", 0)
    assert form("--init_from=cifar10") == ("levels", "simultaneous", 0)


def test_every_choice_can_be_built_and_halves_the_image_as_far_as_is_useful():
    sides = [2 * k for k in range(2, 70)]
    for height, width in itertools.product(sides, (32, 28, 44)):
        found = choice("--architecture=glow", data=((height, width, 3), 100, 255))
        model = {name: found[name] for name in ("num_blocks", "flow_steps", "width", "n_bits")}
        design_of(ModelConfig(image_shape=(height, width, 3), **model)).check_size((height, width))
        assert min(height, width) >> found["num_blocks"] >= LEAST_SIDE or found["num_blocks"] == 1


def test_flow_steps_of_parts_need_the_number_of_blocks_or_theirs():
    with pytest.raises(ConfigError, match=r"give --num_blocks or --flow_steps, too\. Received: parts='6,6'"):
        config_of(["--workdir=unused", "--parts=6,6"])


def test_odd_sides_of_a_glow_have_one_block_and_real_data_no_bits():
    assert choice("--architecture=glow", data=((27, 31, 5), 100, 0))["num_blocks"] == 1
    assert choice(data=((27, 31, 5), 100, 0))["num_blocks"] == 2
    assert "n_bits" not in choice("--data=real", data=((4, 4, 5), 100, 0))


def test_what_is_typed_wins_and_the_rest_follows_it():
    assert choice("--width=8", "--num_blocks=1", "--n_bits=8") == {
        "flow_steps": 8,
        "part_epochs": 10,
        "finetune_epochs": 0,
        "validation_examples": 320,
    }
    in_parts = choice("--schedule=alternating", "--parts=across_block:2")
    assert (in_parts["part_epochs"], in_parts["finetune_epochs"]) == (4, 6)


def test_epochs_of_one_kind_never_bring_epochs_of_the_other():
    for name, other in (("part_epochs", "finetune_epochs"), ("finetune_epochs", "part_epochs")):
        assert choice(f"--{name}=2")[other] == 0
        assert choice(f"--{name}=0")[other] == 10
        assert other not in choice(f"--{name}=2", f"--{other}=3")


def test_a_flagfile_leaves_nothing_open_and_python_has_its_defaults(tmp_path):
    (tmp_path / "own.cfg").write_text("--width=8\n")
    for arguments in (["--flagfile=quickstart"], ["--width=9", f"--flagfile={tmp_path}/own.cfg"]):
        config = config_of(["--workdir=unused", *arguments])
        assert config.left_open == ()
    assert config.model == ModelConfig(width=9)
    assert config.train == TrainConfig()
    assert RunConfig(workdir="unused").left_open == ()


def test_the_command_of_a_run_says_what_would_be_chosen_otherwise():
    command = command_of(RunConfig(workdir="unused"))
    assert all(f"--{name}=" in command for name in (*LEVELS, *SETTINGS))


def test_a_run_without_a_flagfile_says_what_it_takes_and_goes_on_with_it(tmp_path, capsys, eager):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(20):
        Image.fromarray(rng.integers(0, 2, (12, 12), dtype=np.uint8) * 128).save(pictures / f"{k}.png")
    small = ["--width=4", "--flow_steps=1", "--part_epochs=1", "--tensorboard=false", "--export=false"]
    data = [f"--dataset=folder:{pictures}", f"--workdir={tmp_path / 'run'}", "--strategy=one_device"]
    assert cli.run("train", [*data, *small]) == 0
    chosen = "--architecture=levels --schedule=simultaneous --equalize=0.5 --n_bits=1 --num_blocks=1"
    chosen += " --finetune_epochs=0 --validation_examples=0"  # of so few
    line = f"No flagfile: {chosen}, which suits 18 images of 12×12×1."
    assert line in capsys.readouterr().out
    text = (tmp_path / "run" / "flags.cfg").read_text()
    assert text == flagfile(read_config(tmp_path / "run"))
    assert {*chosen.split(), "--part_epochs=1", "--finetune_epochs=0"} <= set(text.split())
    # The same command, and another: what is typed is compared, the rest is what the run began with.
    assert cli.run("train", [*data, *small]) == 0
    shown = capsys.readouterr().out
    assert "This run is finished" in shown
    assert "No flagfile" not in shown
    assert cli.run("train", data) == 0
    assert cli.run("train", [*data, "--width=5"]) == 1
    assert "--width=5 (was 4)" in capsys.readouterr().err
    assert (tmp_path / "run" / "flags.cfg").read_text() == text


def test_settings_that_the_run_will_choose_refuse_nothing():
    arguments = ["--dataset=digits", "--workdir=unused", "--from_scratch"]
    assert config_of([*arguments, "--patience=3"]).patience == 3
    with pytest.raises(ConfigError, match="patience needs validation_examples"):
        config_of([*arguments, "--patience=3", "--validation_examples=0"])
    assert "batch_size" in config_of([*arguments[:2], "--train_examples=6"]).follows
