"""Makes tables, figures and a self-contained page from a study's CSV.

    python -m lab.report --study=digits_tiny
    python -m lab.report --study=table1_small --csv=docs/results/table1_small.csv --output=FOLDER

By default it reads the CSV that `python -m lab.experiment --study=…` wrote (with the same --quick), writes
into a folder beside it, and takes sample grids from the runs' workdirs. It writes report.html, report.md and
the figures as PNG.
"""

from __future__ import annotations

import pathlib
import sys

from absl import flags

from glow_tf.commands import cli, parsing
from lab import CONFIGS
from lab.studies import report
from lab.studies.experiment import output_folder
from lab.studies.study import read_study


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "study", "", "The study file: a path, or the name of one of the lab's.", flag_values=values
    )
    flags.DEFINE_boolean(
        "quick",
        False,
        "Report on the trial that `lab.experiment --quick` made.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "csv", "", "The study's table; empty: runs/studies/NAME/results.csv.", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "Folder of the report; empty: the folder report beside the table.", flag_values=values
    )


def main(values: flags.FlagValues) -> None:
    """Writes the report."""
    study = read_study(parsing.find_config("study", values.study, named=CONFIGS / "studies"))
    table = pathlib.Path(values.csv or output_folder(study, values.quick) / "results.csv")
    folder = pathlib.Path(values.output) if values.output else table.parent / "report"
    print(report.write_report(study, table, folder), f"\n{folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
