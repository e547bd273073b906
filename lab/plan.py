"""Forecasts time, memory and traffic of every strategy, schedule and partition on a cluster.

    python -m lab.plan --flagfile=paper_5 --cluster=eight_v100

The flags of `glow-tf train` describe the model and the schedule. The cluster file describes devices and links
(see `lab.planning.cluster_file`); the lab's own are found by name. Devices that are given by their
speed relative to this machine need this machine's rates. Measure them first, on one core:

    python -m lab.plan --flagfile=paper_5 --calibrate --calibration=machine.json
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

from absl import flags

from glow_tf import presets
from glow_tf.commands import cli, configs, run_flags
from glow_tf.config import RunConfig
from glow_tf.core.durable_files import write_atomically
from glow_tf.core.errors import ConfigError
from glow_tf.run.suited import suited
from lab import CONFIGS
from lab.planning.cluster_file import read_cluster_file
from lab.planning.forecast import EXAMPLES, batches_per_epoch, candidates, forecast_table, recommendations
from lab.planning.rates import read_calibration

SIDE = 32  # of CIFAR-10's images


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags and those of a run."""
    flags.DEFINE_string(
        "cluster",
        "",
        "File that describes devices and links; the lab's own by name.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "calibration", "", "File of this machine's rates, as --calibrate writes it.", flag_values=values
    )
    flags.DEFINE_boolean(
        "calibrate", False, "Measure this machine's rates, on one core, and write them.", flag_values=values
    )
    flags.DEFINE_list(
        "image_shape",
        [],
        f"Height, width and channels of the images; empty: the preset's, or image_size or {SIDE}, 3 colours.",
        flag_values=values,
    )
    run_flags.define(values)


def main(values: flags.FlagValues) -> None:
    """Measures this machine's rates, or prints a forecast."""
    config = _config(values)
    if values.calibrate:
        _calibrate(config, values.calibration)
    else:
        _forecast(config, values.cluster, values.calibration)


def _config(values: flags.FlagValues) -> RunConfig:
    config = dataclasses.replace(run_flags.run_config(values), init_from="", follows=())
    shape = _image_shape(values, config.data.image_size or SIDE)
    if config.left_open:
        config = suited(config, shape, config.data.train_examples or EXAMPLES, levels=255)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, image_shape=shape))


def _image_shape(values: flags.FlagValues, side: int) -> tuple[int, ...]:
    if values.from_preset and not values.image_shape:
        return presets.read_model(presets.find(values.from_preset)).image_shape
    try:
        return tuple(int(number) for number in values.image_shape or (side, side, 3))
    except ValueError:
        raise ConfigError(
            f"image_shape must be height, width and channels. Received: {','.join(values.image_shape)!r}"
        ) from None


def _calibrate(config: RunConfig, file: str) -> None:
    if not file:
        raise ConfigError("--calibrate needs --calibration, a file to write. Received: --calibration=''")
    from lab.planning.calibrate import calibrate

    path = pathlib.Path(file)
    if path.is_dir():
        raise ConfigError(f"calibration must be a file. Received: calibration={file!r}, which is a folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = calibrate(config).to_json()
    write_atomically(path, text.encode())
    print(text, end="")


def _forecast(config: RunConfig, cluster_file: str, calibration_file: str) -> None:
    cluster = read_cluster_file(configs.find("cluster", cluster_file, named=CONFIGS / "clusters"))
    calibration = read_calibration(calibration_file) if calibration_file else None
    found = candidates(config, cluster, calibration)
    train = config.train
    print(
        f"{cluster.title}: {len(cluster.devices)} devices, {8 * cluster.rate / 1e6:.0f} Mbit/s and "
        f"{1e3 * cluster.latency:g} ms between any two. Batch {train.batch_size}, "
        f"{batches_per_epoch(config)} steps per epoch, {train.part_epochs} + {train.finetune_epochs} epochs."
    )
    print(forecast_table(found, cluster))
    print(
        "A sequential schedule takes as long as an alternating one with as many epochs for each part; "
        "mirrored also stands for multi_worker."
    )
    if train.cache_prefix:
        print("cache_prefix is not planned: it makes longer turns of one part cheaper.")
    print(*recommendations(found, cluster), sep="\n")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
