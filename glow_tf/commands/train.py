"""Trains a flow, or resumes the run in its workdir.

    glow-tf train --flagfile=quickstart
    glow-tf train --flagfile=cifar10_small_across_2 --data_dir=PATH --workdir=runs/mine --seed=1

The first command trains two parts on scikit-learn's digits in a minute or two and downloads nothing. The
workdir gets history.csv, summary.json, checkpoints, TensorBoard logs, sample grids and a SavedModel. The same
command again resumes a run that was interrupted; with more --part_epochs or --finetune_epochs it trains for
longer, if its --rate_schedule is constant. --init_from starts a new run from the model of another one, with
its settings.

Without a flagfile, a run trains levels, or a Glow where a flag is for one, such as --parts; it chooses the
size of the model and the epochs to suit its images, and prints what it chose. What is typed wins, over a
flagfile, too.
"""

from absl import flags

from glow_tf.commands import run_flags
from glow_tf.run.settings import likely

define = run_flags.define


def main(values: flags.FlagValues) -> None:
    asked = run_flags.asked(values)
    run_flags.check_data(likely(asked).config)  # a wrong flag is found before TensorFlow is loaded
    from glow_tf.run import lifecycle
    from glow_tf.use import export

    lifecycle.train(asked, export)
