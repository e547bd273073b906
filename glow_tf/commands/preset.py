"""Keeps the model of a finished run as a preset: a folder of plain files.

    glow-tf preset --workdir=runs/mine --output=presets/mine --weights_dtype=float16

The folder has config.json, model.safetensors and a card, README.md. The weights are rounded, if
--weights_dtype says so, and scored on the run's test images as they are kept. The card has this score, the
run's data, seed and command. `glow_tf.load`, every command's --model and `glow-tf train
--init_from` take the folder.
"""

import pathlib

from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.store.files import WEIGHTS_DTYPES


def define(values: flags.FlagValues) -> None:
    model_flags.define_output(values, output="")
    parsing.define(
        values,
        workdir=("", "The finished run."),
        data_dir=("", "TFDS's data_dir; empty: the run's."),
        title=("", "Of the card; empty: the folder's name."),
        command=("", "That made the run, for the card; empty: the one that its settings make."),
        limits=("", "For the card: what the model is not good for."),
        licence=("", "Of the data, for the card."),
    )
    flags.DEFINE_enum("weights_dtype", "float16", WEIGHTS_DTYPES, "How weights are kept.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    folder = model_flags.output_folder(values)
    from glow_tf.use import save_run_to_preset

    texts = {name: values[name].value for name in ("title", "command", "limits", "licence")}
    about = save_run_to_preset(
        pathlib.Path(values.workdir),
        folder,
        values.weights_dtype,
        data_dir=values.data_dir,
        texts={name: text for name, text in texts.items() if text},
    )
    print(
        f"{values.output}: test {about['test_bpd']:.4f} bits/dim as {values.weights_dtype}; the run's own "
        f"weights: {about['run_test_bpd']:.4f}"
    )
