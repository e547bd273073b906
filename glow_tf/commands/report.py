"""Makes tables, figures and a self-contained page from a study's CSV.

    glow-tf report --study=digits_tiny
    glow-tf report --study=table1_small --csv=docs/results/table1_small.csv --output=FOLDER

By default it reads the CSV that `glow-tf experiment --study=…` wrote (with the same --quick), writes into a
folder beside it, and takes sample grids from the runs' workdirs. It writes report.html, report.md and the
figures as PNG, and needs matplotlib: `pip install '.[bench]'` in a clone.

With `--documents=docs/results/heads.md,README.md` it updates the study's table in these files instead: the
lines between `<!-- table NAME -->` and `<!-- end -->`. That needs no matplotlib.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glow_tf.commands import configs
from glow_tf.studies import report
from glow_tf.studies.experiment import output_folder
from glow_tf.studies.study import read_study


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "study", "", "The study file: a path, or the name of a packaged study.", flag_values=values
    )
    flags.DEFINE_boolean(
        "quick", False, "Report on the trial that `glow-tf experiment --quick` made.", flag_values=values
    )
    flags.DEFINE_string(
        "csv", "", "The study's table; empty: runs/studies/NAME/results.csv.", flag_values=values
    )
    flags.DEFINE_string(
        "output", "", "Folder of the report; empty: the folder report beside the table.", flag_values=values
    )
    flags.DEFINE_list(
        "documents", [], "Markdown files in which to update the study's table instead.", flag_values=values
    )


def main(values: flags.FlagValues) -> None:
    """Writes the report, or updates documents."""
    study = read_study(configs.find("study", values.study))
    table = pathlib.Path(values.csv or output_folder(study, values.quick) / "results.csv")
    if values.documents:
        report.update_documents([pathlib.Path(name) for name in values.documents], study, table)
        return
    folder = pathlib.Path(values.output) if values.output else table.parent / "report"
    print(report.write_report(study, table, folder), f"\n{folder / 'report.html'}")
