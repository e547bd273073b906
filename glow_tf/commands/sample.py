"""Draws images from a trained model.

    glow-tf sample --model=digits
    glow-tf sample --model=runs/mine --num=8 --temperatures=0.5,0.7,1 --seed=3 --output=drawn.png
    glow-tf sample --model=digits_classes --condition=label:0,3,8 --num=12 --temperatures=0.8
    glow-tf sample --model=cifar10_small --image_size=48x64

It writes a PNG with two rows of images for each temperature, which have the same latents at every
temperature, and the same images as an array, .npy: uint8 [rows, columns, H, W, C]. Temperature 0 is the mode.
With --condition, which a model that is given something
needs, rows are not in pairs, and each column has another condition; a single one is for all. With label:K,…,
of a model that is given a class, each temperature has a row for each class K, counted from 0, or for every
one with label:all, and the rows have the same latents.
"""

from typing import Any

import numpy as np
from absl import flags

from glow_tf.commands import input_flags, model_flags, parsing
from glow_tf.commands.input_flags import CLASSES, condition_of
from glow_tf.core.errors import ConfigError

ROWS = 2  # for each temperature


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="samples.png")
    model_flags.define_seed(values)
    input_flags.define_size(values, reads_images=False)
    parsing.define(
        values,
        num=(16, "Images for each temperature, an even number; with label:K, for each class."),
        temperatures=(["0.7", "0.8", "0.9", "1"], "Comma-separated, from 0."),
        condition=model_flags.CONDITION,
        white=model_flags.WHITE,
    )


def main(values: flags.FlagValues) -> None:
    temperatures = model_flags.floats_of(values, "temperatures", lowest=0)
    num = model_flags.count_of(values, "num")
    if num % ROWS and not values.condition:
        raise ConfigError(f"num must be even: each temperature has two rows. Received: {num=}")
    write_rows = model_flags.picture_writer(values)
    from glow_tf.use import draw_checked

    model = input_flags.sized_model(values, model_flags.model_of(values))
    groups, columns = [condition_of(values, model)], num // ROWS
    if values.condition:
        if values.condition.startswith(CLASSES):  # a row for each
            groups = [own[np.newaxis] for own in groups[0]]
        given = [_one_for_each(values, num, own) for own in groups]
        num, groups = given[0][0], [own for _, own in given]
        columns = num
    rows = []
    for temperature in temperatures:
        found = [draw_checked(model, num, temperature, values.seed, group) for group in groups]
        drawn = np.concatenate([each.images for each in found])
        rows.append(drawn.reshape(-1, columns, *drawn.shape[1:]))
        blank = int(np.sum(np.ptp(drawn.reshape(len(drawn), -1), axis=1) == 0))
        limited = sum(each.limited for each in found)
        for count, what in ((blank, "have a single grey value"), (limited, "needed clipped activations")):
            if count:
                print(f"At temperature {temperature:g}, {count} of {len(drawn)} images {what}.")
    write_rows(np.concatenate(rows))


def _one_for_each(values: flags.FlagValues, num: int, condition: Any) -> tuple[int, Any]:
    """Returns how many images are drawn, and a condition for each; ConfigError if --num says otherwise."""
    from glow_tf.model.conditions import by_name, of_names

    members = by_name(condition)
    count = len(next(iter(members.values())))
    if count == 1:
        members = {name: np.repeat(own, num, axis=0) for name, own in members.items()}
    elif values["num"].present and num != count:
        raise ConfigError(
            f"num must be the number of conditions, or be left out. Received: {num=}, {count} conditions"
        )
    return num if count == 1 else count, of_names(members)
