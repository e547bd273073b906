"""Shows what each level of the latents holds: images again, without their finest latents.

    glow-tf reconstruct --model=digits --dataset=digits --examples=8
    glow-tf reconstruct --model=runs/mine --dataset=folder:PATH --temperature=0.7

Each row has an image, and then the image with one level replaced, with two, and so on, finest first; the last
one keeps nothing. Replaced latents are 0, the mode given the coarser ones, or drawn at --temperature.
"""

import numpy as np
from absl import flags

from glow_tf.commands import model_flags, parsing, size_flags


def define(values: flags.FlagValues) -> None:
    model_flags.define_glow(values, output="reconstructed.png")
    model_flags.define_seed(values)
    model_flags.define_images(values, examples=8)
    size_flags.define(values)
    about = "Of the latents that are replaced; 0: the mode."
    parsing.define(values, temperature=(["0"], about), white=model_flags.WHITE)


def main(values: flags.FlagValues) -> None:
    temperature = model_flags.float_of(values, "temperature", lowest=0)
    write_rows = model_flags.picture_writer(values)
    from glow_tf.use import decode, encode, levels, without_finest

    glow, used = size_flags.model_and_images(values, model_flags.glow_of(values))
    eps = encode(glow, used.images, used.condition)
    counts = range(len(levels(glow)) + 1)
    latents = [without_finest(glow, eps, count, temperature, values.seed) for count in counts]
    columns = [decode(glow, own, used.condition) for own in latents]
    kept = [sum(eps[:, level].shape[1] for level in levels(glow)[count:]) for count in counts]
    print(f"Columns keep {', '.join(map(str, kept))} of {glow.dimensions} latents.")
    write_rows(np.stack(columns, axis=1))
