"""Runs a study: every variant with every seed, gathered in one table.

    python -m lab.experiment --study=digits_tiny
    python -m lab.experiment --study=table1_small --data_dir=PATH --quick

`lab.studies.study.Study` describes the study file. Each run is `glow-tf train` in a process of its own,
with its own workdir in the output folder. The same command again skips finished runs and resumes interrupted
ones. Runs that were finished elsewhere count if results.csv and tuning.csv in the output folder hold them.
Afterwards `python -m lab.report --study=…` makes tables, figures and a page.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Mapping

from absl import flags

from glow_tf.commands import cli, parsing
from glow_tf.commands import train as train_command
from glow_tf.config import RunConfig
from glow_tf.core.errors import ConfigError
from lab import CONFIGS, children
from lab.studies.experiment import Experiment, output_folder, run_study
from lab.studies.study import read_study


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "study", "", "The study file: a path, or the name of one of the lab's.", flag_values=values
    )
    flags.DEFINE_string(
        "data_dir", "", "TFDS's data_dir, for every run; empty: the flagfile's.", flag_values=values
    )
    flags.DEFINE_boolean(
        "quick", False, "A trial: one seed, no tuning, with the study's quick flags.", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "Folder of the runs and tables; empty: runs/studies/NAME.", flag_values=values
    )


def main(values: flags.FlagValues) -> None:
    """Runs what is left of the study."""
    children.ends_by_sigterm()  # so that the run of the moment saves
    run_study(experiment_of(values.study, values.data_dir, values.quick, values.output))


def experiment_of(file: str, data_dir: str = "", quick: bool = False, output: str = "") -> Experiment:
    """Returns the experiment that the flags describe.

    Raises:
      ConfigError: the study cannot be read.
    """
    path = parsing.find_config("study", file, named=CONFIGS / "studies")
    study = read_study(path)
    flagfile = parsing.find_config("flagfile", study.flagfile)
    # The rates of a study file are scaled as its flagfile says, unless it says otherwise.
    whole = train_command.config_of([f"--flagfile={flagfile}", "--workdir=unused"])
    scaling = {"rate_scaling": whole.train.rate_scaling}

    def arguments(of_run: Mapping[str, str]) -> list[str]:
        own = [f"--{name}={value}" for name, value in (scaling | {**of_run}).items()]
        folder = [f"--data_dir={data_dir}"] if data_dir else []
        return [f"--flagfile={flagfile}", *folder, *own]

    def configure(of_run: Mapping[str, str]) -> RunConfig:
        try:
            return train_command.config_of(arguments(of_run))
        except ConfigError as error:
            raise ConfigError(f"study {study.name}: {error}") from None

    folder = pathlib.Path(output) if output else output_folder(study, quick)
    return Experiment(study, folder, configure, arguments, quick)


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
