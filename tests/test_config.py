import pytest

from glow_tf.config import RunConfig
from glow_tf.errors import ConfigError
from glow_tf.run.workdir import flagfile, read_flagfile

BASE = {"workdir": "w", "flow_steps": 4, "num_blocks": 3, "width": 8}

INVALID = {
    "workdir": "",
    "seed": -1,
    "strategy": "tpu",
    "virtual_devices": -1,
    "streams": -1,
    "jit_compile": "yes",
    "sample_every": -1,
    "dataset": " ",
    "image_size": -8,
    "train_examples": -1,
    "test_examples": -1,
    "validation_examples": -1,
    "augment": "rotate",
    "n_bits": 9,
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
        RunConfig.from_settings({**BASE, name: value})


@pytest.mark.parametrize("name", ["learning_rate", "finetune_learning_rate"])
def test_rates_must_be_one_or_one_a_part(name):
    RunConfig.from_settings({**BASE, "parts": "across_block:3", name: "1e-3,2e-3,3e-3"})
    with pytest.raises(ConfigError, match=f"{name} needs one rate, or one for each of the 3 parts"):
        RunConfig.from_settings({**BASE, "parts": "across_block:3", name: "1e-3,2e-3"})
    with pytest.raises(ConfigError, match="each of the 1 parts"):
        RunConfig.from_settings({**BASE, name: "1e-3,2e-3"})


def test_no_epochs_at_all_is_an_error():
    with pytest.raises(ConfigError, match="at least one epoch"):
        RunConfig.from_settings({**BASE, "part_epochs": 0, "finetune_epochs": 0})


def test_settings_survive_the_flagfile():
    config = RunConfig.from_settings({**BASE, "learning_rate": "1e-3,2e-3", "parts": "across_block:2"})
    settings = config.to_settings()
    text = read_flagfile(flagfile(config))
    assert set(text) == set(settings)
    assert text["learning_rate"] == "1e-3,2e-3"
    assert text["tensorboard"] == "true"
    assert RunConfig.from_settings(settings) == config


def test_fixed_flag_names_exist():
    names = (
        "workdir seed dataset data_dir image_size train_examples test_examples validation_examples n_bits "
        "augment num_blocks flow_steps width coupling scale permutation split_prior top_prior local_prior "
        "parts schedule part_epochs finetune_epochs period optimizer beta_2 learning_rate rate_schedule "
        "warmup_steps clip_norm finetune_learning_rate batch_size strategy virtual_devices streams "
        "tensorboard sample_every export"
    )
    assert set(names.split()) <= set(RunConfig.from_settings(BASE).to_settings())
