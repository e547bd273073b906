"""Makes a prior preset of the run that trained its parts: one part of details, which serves every level.

    python train/main.py --flagfile=configs/preset_photographs.cfg --dataset=file:TRAIN.npy
    python -m lab.prior --workdir=runs/preset_photographs --test=runs/prior_pictures/test.npy \
        --output=glow_tf/presets/photographs

The run has squares of 32×32. Of its levels the finest is trained in full, those in between are as small as
can be, and the flow of the coarsest image, 4×4, is trained in full. The preset has the finest part and that
flow, as a model of 8×8. `Flow.resized` makes models of other sizes of it.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys

import numpy as np
from absl import flags

import glow_tf
from glow_tf.commands import cli
from glow_tf.store import load

SIDE = 8


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("workdir", "", "The finished run.", flag_values=values)
    flags.DEFINE_string("test", "", "An array of test squares.", flag_values=values)
    flags.DEFINE_string("output", "", "The folder to write.", flag_values=values)
    flags.DEFINE_string("title", "Photographs", "Of the card.", flag_values=values)
    flags.DEFINE_string("command", "", "That trained the run, for the card.", flag_values=values)
    flags.DEFINE_string(
        "limits", "", "For the card: what the model must not be used for.", flag_values=values
    )
    flags.DEFINE_string("licence", "", "Of the pictures, for the card.", flag_values=values)


def main(values: flags.FlagValues) -> None:
    """Writes the preset, and prints the bits/dim of the test squares."""
    run = load(pathlib.Path(values.workdir))
    prior = of_two_parts(run)
    images = np.load(values.test)
    about = {"data": "squares of photographs and drawings at six scales", "seed": run.config.seed}
    about |= {"image_size": "0", "title": values.title, "command": values.command}
    about |= {"limits": values.limits, "licence": values.licence}
    glow_tf.save(prior, values.output, about, weights_dtype="float16")
    kept = glow_tf.load(values.output, image_shape=images.shape[1:])
    bits = kept.bits_per_dim(images, seed=0).numpy()
    about |= {"test_bpd": round(float(bits.mean()), 5), "test_examples": len(images)}
    about |= {"test_bpd_se": round(float(bits.std() / len(images) ** 0.5), 5)}
    glow_tf.save(prior, values.output, about, weights_dtype="float16")
    print(f"{values.output}: {about['test_bpd']:.4f} ± {about['test_bpd_se']:.4f} bits/dim")


def of_two_parts(run: glow_tf.Flow) -> glow_tf.Flow:
    """Returns a model of 8×8 with the finest part of a run's levels and the flow of its coarsest image."""
    config, ends = run.config, (0, -1)
    steps, widths = run.design.cuts, run.design.widths
    prior = glow_tf.Flow(
        dataclasses.replace(
            config,
            image_shape=(SIDE, SIDE, config.image_shape[-1]),
            num_blocks=1,
            level_steps=[steps[k] for k in ends],
            level_widths=[widths[k] for k in ends],
            width=widths[0],
            flow_steps=steps[0],
            precision="float32",
        )
    )
    for part, k in zip(prior.parts, ends, strict=True):
        part.set_weights(run.parts[k].get_weights())
    return prior


if __name__ == "__main__":
    sys.exit(cli.run_module(sys.modules[__name__]))
