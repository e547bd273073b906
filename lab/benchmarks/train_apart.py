"""Trains the levels of a model one after another, each for its own number of epochs, and puts them together.

    python -m lab.benchmarks.train_apart --flagfile=recommended --data_dir=PATH --epochs_of_parts=1,2,4,4

The other flags are those of `glow-tf train`. What each part sees and learns is what it would on a machine of
its own, so this says what machines that share nothing reach. It writes history.csv and summary.json of the
whole model as `glow-tf train` does, and a workdir for each part. A command that was interrupted goes on.
"""

import subprocess
import sys

from absl import flags

from glow_tf import data
from glow_tf.commands import cli, run_flags
from glow_tf.core.errors import ConfigError
from glow_tf.devices import children
from glow_tf.run.files.flags_file import as_flags
from glow_tf.run.files.history import read_rows
from glow_tf.run.files.workdir import Workdir
from glow_tf.use.assembling import assemble
from glow_tf.use.evaluation import evaluate, mean_and_error


def define(values: flags.FlagValues) -> None:
    """Defines the flags of a run, and the epochs of each part."""
    flags.DEFINE_list("epochs_of_parts", [], "Epochs of part 1, part 2, and so on.", flag_values=values)
    run_flags.define(values)


def main(values: flags.FlagValues) -> None:
    """Trains the parts that have not been trained, and writes the numbers of the whole."""
    config = run_flags.run_config(values)
    parts = config.model.num_blocks + 1
    epochs = values.epochs_of_parts
    if config.model.architecture != "levels" or len(epochs) != parts or not all(map(str.isdecimal, epochs)):
        raise ConfigError(
            f"epochs_of_parts must be a number for each of the {parts} parts of levels. "
            f"Received: architecture={config.model.architecture}, epochs_of_parts={','.join(epochs)!r}"
        )
    workdir = Workdir(config)
    try:
        workdir.claim()
        folders = [workdir.path / f"part_{k}" for k in range(1, parts + 1)]
        for k, (folder, own) in enumerate(zip(folders, epochs, strict=True), 1):
            settings = config.to_settings() | {"only_part": k, "part_epochs": own, "workdir": str(folder)}
            subprocess.run([*children.command("train"), *as_flags(settings)], check=True)
        found = evaluate(assemble(folders).glow, data.load(config.data).test, seed=config.seed)
        mean, error = mean_and_error(found.per_image)
        histories = [read_rows(f / "history.csv", workdir.history_columns) for f in folders]
        seconds = sum(float(rows[-1]["total_seconds"]) for rows in histories)
        row = {
            "epoch": "1",
            "phase": "simultaneous",
            "active_parts": " ".join(str(k) for k in range(1, parts + 1)),
            "seconds": f"{seconds:.3f}",
            "total_seconds": f"{seconds:.3f}",
            "test_bpd": f"{mean:.6f}",
            "test_bpd_se": f"{error:.6f}",
        }
        workdir.write_history([row])
        workdir.write_summary({"test_bpd": mean, "epochs": 1})
        print(f"parts of {','.join(epochs)} epochs: test {mean:.4f} ± {error:.4f} bits/dim")
    finally:
        workdir.close()


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
