"""Moves images along a direction between two classes.

    glow-tf edit --model=digits --dataset=digits --away=3 --towards=8
    glow-tf edit --model=runs/mine --dataset=folder:PATH --away=plain --towards=smiling
    glow-tf edit --model=runs/mine --away=folder:PLAIN --towards=folder:SMILING

The direction is the difference between the mean latents of two classes of the data: labels, or the subfolders
of a folder. A class may be a folder of its own, too. Each row shows an image of the class --away at several
strengths: 0 is the image itself, in the bits that the model keeps, and 1 moves it by the whole difference.
What the model is given with it stays.
"""

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing
from glow_tf.config import folder_of
from glow_tf.core.errors import ConfigError

CLASSES = ("away", "towards")  # flags
FEW = 10  # images of a class


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="edited.png")
    model_flags.define_images(values)
    parsing.define(
        values,
        away=("", "The class that images have, or folder:PATH."),
        towards=("", "The class that they are moved to, or folder:PATH."),
        strengths=(["0", "0.5", "1", "1.5", "2"], "Comma-separated."),
        rows=(6, "How many images are moved."),
        white=model_flags.WHITE,
    )


def main(values: flags.FlagValues) -> None:
    folders = _folders(values)
    strengths = model_flags.floats_of(values, "strengths")
    count = model_flags.count_of(values, "rows")
    write_rows = model_flags.picture_writer(values)
    from glow_tf.model.conditions import some_of
    from glow_tf.use import decode, direction, edited, encode

    model = model_flags.model_of(values)
    found = {name: model_flags.images_of(values, model, dataset=values[name].value) for name in folders}
    sets = {name: (used.images, used.condition) for name, used in found.items()}
    if len(sets) < 2:
        used = model_flags.images_of(values, model)
        places = {name: used.places_of_class(values[name].value) for name in CLASSES if name not in sets}
        sets |= {name: (used.images[own], some_of(used.condition, own)) for name, own in places.items()}
    (away, given), (towards, _) = sets["away"], sets["towards"]
    along = direction(model, away, towards, (given, sets["towards"][1]))
    print(f"Direction: from the mean of {len(away)} images to that of {len(towards)}.")
    if min(len(away), len(towards)) < FEW:
        print(f"With fewer than {FEW} images of a class the direction is mostly that of these very images.")
    given = some_of(given, slice(count))
    moved = edited(encode(model, away[:count], given), along, strengths)
    given = None if given is None else np.repeat(given, len(strengths), axis=0)
    images = decode(model, moved.reshape(-1, model.dimensions), given)
    write_rows(images.reshape(*moved.shape[:2], *model.image_shape))


def _folders(values: flags.FlagValues) -> list[str]:
    """Returns the flags that name a folder as a class; ConfigError unless both are different classes."""
    folders = {}
    for name in CLASSES:
        value = values[name].value
        if not value:
            raise ConfigError(f"{name} must be a class of the images, or folder:PATH. Received: {name}=''")
        if folder := folder_of(value):
            folders[name] = folder.resolve()
            if not folder.is_dir():
                raise ConfigError(f"{name}=folder:PATH needs an existing folder. Received: {name}={value!r}")
    away, towards = (folders.get(name, values[name].value) for name in CLASSES)
    if away == towards:
        raise ConfigError(f"away and towards must be two classes. Received: {values.away!r} for both")
    if len(folders) == 2 and values.dataset:
        raise ConfigError(
            "dataset has no meaning where both classes are folders of their own. "
            f"Received: dataset={values.dataset!r}"
        )
    return list(folders)
