"""Writes the page about a run again, or a page that compares several runs.

    glow-tf report --workdir=runs/mine
    glow-tf report --workdir=runs/first,runs/second --output=comparison.html

A run writes its own page, report.html in its workdir, when it ends. Each page is one file, which needs no
other. --workdir may be given several times.
"""

from __future__ import annotations

import pathlib

from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.core.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_multi_string(
        "workdir", [], "The workdir of a run, or several, comma-separated.", flag_values=values
    )
    about = "The page, a .html file; empty: report.html in the workdir, and comparison.html of several runs."
    parsing.define(values, output=("", about))


def main(values: flags.FlagValues) -> None:
    each = ([text] if pathlib.Path(text).is_dir() else text.split(",") for text in values.workdir)
    named = [name for own in each for name in own if name]
    folders = list(dict.fromkeys(pathlib.Path(name).expanduser() for name in named))
    if not folders:
        raise ConfigError("workdir must name a run, or several. Received: workdir=''")
    if not values.output:
        values.output = str(folders[0] / "report.html") if len(folders) == 1 else "comparison.html"
    path = model_flags.output_path(values, ".html")
    from glow_tf.run.report.content import read_run

    runs = [read_run(folder) for folder in folders]
    from glow_tf.run.report.page import comparison_page, run_page  # loads matplotlib

    model_flags.write(path, run_page(runs[0]) if len(runs) == 1 else comparison_page(runs))
    print(path)
