import dataclasses
import pathlib
import re

import numpy as np
import pytest

from glow_tf.architectures import check_run, design_of
from glow_tf.config import (
    GROUPS,
    CouplingConfig,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    all_settings,
    read_scale,
)
from glow_tf.core.errors import ConfigError
from glow_tf.run.flags_file import flagfile, read_flagfile, read_settings

BASE = {"workdir": "w", "flow_steps": 4, "num_blocks": 3, "width": 8}

INVALID = {
    "workdir": "",
    "seed": -1,
    "strategy": "tpu",
    "virtual_devices": -1,
    "streams": -1,
    "jit_compile": "yes",
    "sample_every": -2,
    "dataset": " ",
    "image_size": -8,
    "train_examples": -1,
    "test_examples": -1,
    "validation_examples": -1,
    "augment": "rotate",
    "n_bits": 17,
    "data": "floats",
    "num_blocks": 0,
    "flow_steps": 0,
    "width": 0,
    "coupling": "linear",
    "scale": "softplus",
    "norm": "batch",
    "permutation": "qr",
    "split_prior": "flow",
    "top_prior": "flow",
    "local_prior": "flow",
    "parts": "5,5",
    "schedule": "random",
    "part_epochs": -1,
    "finetune_epochs": -1,
    "period": 0,
    "optimizer": "lamb",
    "beta_2": "1.5",
    "learning_rate": "fast",
    "rate_schedule": "step",
    "warmup_steps": -1,
    "clip_norm": -1.0,
    "finetune_learning_rate": "0",
    "batch_size": 0,
}


@pytest.mark.parametrize(("name", "value"), INVALID.items())
def test_every_bad_value_is_named_with_what_was_received(name, value):
    with pytest.raises(ConfigError, match=rf"(?s){name}.*Received: {name}={value!r}".replace(".0", r"\.0")):
        check_run(RunConfig.from_settings({**BASE, name: value}))


@pytest.mark.parametrize(
    "scale", ["tanh:", "tanh:0", "tanh:-1", "tanh:100", "tanh:inf", "tanh:x", "exp:2", "sigmoid:1"]
)
def test_only_tanh_has_a_bound_and_it_is_a_positive_number(scale):
    with pytest.raises(
        ConfigError,
        match=rf"tanh:B with a bound B of the log-scale, above 0 and up to 8,.* Received: scale='{scale}'",
    ):
        ModelConfig(scale=scale)
    assert (read_scale("tanh"), read_scale("tanh:0.5")) == (("tanh", 2.0), ("tanh", 0.5))


@pytest.mark.parametrize("name", ["learning_rate", "finetune_learning_rate"])
def test_rates_must_be_one_or_one_a_part(name):
    check_run(RunConfig.from_settings({**BASE, "parts": "across_block:3", name: "1e-3,2e-3,3e-3"}))
    with pytest.raises(ConfigError, match=f"{name} needs one rate, or one for each of the 3 parts"):
        check_run(RunConfig.from_settings({**BASE, "parts": "across_block:3", name: "1e-3,2e-3"}))
    with pytest.raises(ConfigError, match="each of the 1 parts"):
        check_run(RunConfig.from_settings({**BASE, name: "1e-3,2e-3"}))


def test_no_epochs_at_all_is_an_error():
    with pytest.raises(ConfigError, match="at least one epoch"):
        RunConfig.from_settings({**BASE, "part_epochs": 0, "finetune_epochs": 0})


def test_a_setting_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset must be one line.* Received: 'folder:a\\nb'"):
        RunConfig.from_settings({"workdir": "w", "dataset": "folder:a\nb"})
    (tmp_path / "flags.cfg").write_text(
        flagfile(RunConfig.from_settings({"workdir": "w", "dataset": "a\u2028b"}))
    )
    assert read_settings(tmp_path)["dataset"] == "a\u2028b"


def test_images_are_read_in_the_type_of_the_model():
    config = RunConfig.from_settings({"workdir": "w", "data": "real"})
    assert config.data.dtype == "float32"
    assert dataclasses.replace(config, model=ModelConfig()).data.dtype == "uint8"


def test_settings_survive_the_flagfile():
    config = RunConfig.from_settings({**BASE, "learning_rate": "1e-3,2e-3", "parts": "across_block:2"})
    settings = config.to_settings()
    text = read_flagfile(flagfile(config))
    assert set(text) == set(settings)
    assert text["learning_rate"] == "1e-3,2e-3"
    assert text["tensorboard"] == "true"
    assert RunConfig.from_settings(settings) == config


# Types

BY_TYPE = {
    "int": [8.0, 8.5, np.float32(8), True, np.True_, "8", None, (8,), [8], {8}, np.array([8]), 8 + 0j],
    "float": [True, np.True_, "0.5", None, (0.5,), [0.5], {}, np.array([0.5]), 1j],
    "bool": [1, 0.0, np.int64(1), "true", None, (True,), []],
    "str": [1, 1.0, True, None, ("digits",), ["digits"], b"digits", pathlib.Path("digits"), object()],
    "str | os.PathLike": [1, 1.0, True, None, ("a",), ["a"], object()],
    "str | float": [True, None, (0.9,), [0.9], b"0.9", {}, 1j, object()],
    "str | float | Sequence[float]": [True, None, ("1e-3",), [True], {1e-3: 1}, b"1e-3", [[1e-3]]],
    "str | int | Sequence[int]": [True, None, (2.0, 2.0), ["2", "2"], [True], {2: 2}, b"2", ((2,),)],
    "str | Sequence[int]": [True, None, 2.0, (2.0, 2.0), ["2", "2"], [True], {2}, {2: 2}, b"2", ((2,),)],
    "str | Sequence[str]": [1, True, None, (1,), {"CPU:0"}, b"CPU:0", object()],
}
WRONG = [(setting.name, value) for setting in all_settings() for value in BY_TYPE[setting.type]]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: re.sub(" at 0x.*>", ">", str(value)))
def test_every_setting_of_the_wrong_type_is_named_with_the_type_received(name, value):
    with pytest.raises(ConfigError) as raised:
        RunConfig.from_settings({**BASE, name: value})
    assert str(raised.value).startswith(f"{name} must be ")
    assert f"Received: {name}={value!r} ({type(value).__name__})" in str(raised.value)


SHAPES = [(32, 32), (32.0, 32, 3), (0, 32, 3), (True, 32, 3), "abc", 32, None, {1, 2, 3}]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_shape_is_three_positive_integers(shape):
    with pytest.raises(ConfigError, match=r"image_shape must be three positive integers.*Received"):
        ModelConfig(image_shape=shape)


@pytest.mark.parametrize("names", ["condition", "Images", "low res", "größe", "_x", "class", "a A", ""])
def test_names_of_conditions_that_could_not_be_exported_are_refused(names):
    shapes = [(name, (3,)) for name in (names.split() if names.startswith("a ") else [names, "other"])]
    with pytest.raises(ConfigError, match=r"condition_shape must be of names of ASCII.*Received: condition_"):
        ModelConfig((8, 8, 1), condition_shape=shapes)
    assert ModelConfig((8, 8, 1), condition_shape={"LowRes": (4, 4, 1), "a_1": (3,)}).given_channels == 4


@pytest.mark.parametrize("seed", [1.0, "1", None, True, -1, 2**31])
def test_the_seed_of_a_model_is_an_integer(seed):
    with pytest.raises(ConfigError, match=r"seed must be (an|0 or a positive) integer.* Received: seed="):
        ModelConfig(seed=seed)


@pytest.mark.parametrize("value", [None, {}, TrainConfig, CouplingConfig(8)])
@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_settings_has_its_own_class(group, value):
    with pytest.raises(ConfigError, match=rf"{group} must be a {GROUPS[group].__name__}. Received: {group}="):
        RunConfig("w", **{group: value})


SAME = {
    "rate": (TrainConfig, {"learning_rate": 1e-3}, {"learning_rate": "1e-3"}),
    "rates": (TrainConfig, {"learning_rate": (1e-3, 2e-3)}, {"learning_rate": "1e-3,2e-3"}),
    "clip_norm": (TrainConfig, {"clip_norm": 1}, {"clip_norm": 1.0}),
    "NumPy float": (TrainConfig, {"clip_norm": np.float64(0.5)}, {"clip_norm": 0.5}),
    "NumPy int": (TrainConfig, {"batch_size": np.int32(8)}, {"batch_size": 8}),
    "NumPy bool": (TrainConfig, {"reversible": np.True_}, {"reversible": True}),
    "one part": (ModelConfig, {"parts": 1}, {"parts": "1"}),
    "NumPy counts": (ModelConfig, {"parts": np.array([16, 80])}, {"parts": "16,80"}),
    "shape": (ModelConfig, {"image_shape": np.array([8, 8, 1])}, {"image_shape": (8, 8, 1)}),
    "path": (DataConfig, {"data_dir": pathlib.Path("a/b")}, {"data_dir": "a/b"}),
    "devices": (
        lambda **settings: RunConfig(
            pathlib.Path("w"), strategy="part_parallel", model=ModelConfig(parts="by_block:2"), **settings
        ),
        {"part_devices": ["CPU:0", "CPU:1"]},
        {"part_devices": "CPU:0,CPU:1"},
    ),
}


@pytest.mark.parametrize(("make", "python", "flag"), SAME.values(), ids=SAME)
def test_python_values_become_what_the_flag_would_be(make, python, flag):
    config, wanted = make(**python), make(**flag)
    assert config == wanted
    (name,) = python
    assert type(getattr(config, name)) is type(getattr(wanted, name))
    assert dataclasses.replace(config) == config


def test_parts_as_text_of_one_number_says_how_to_write_a_number_of_parts():
    with pytest.raises(ConfigError, match=r"for 3 parts there is across_block:3"):
        design_of(ModelConfig(parts="3"))


@pytest.mark.parametrize("rate", [0, -1e-3, float("nan"), float("inf"), (1e-3, 0)])
def test_rates_as_numbers_are_positive_and_finite(rate):
    with pytest.raises(ConfigError, match=r"learning_rate must be one positive rate.*Received"):
        TrainConfig(learning_rate=rate)
