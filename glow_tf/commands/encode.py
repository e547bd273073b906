"""Maps images to latents, in a file from which `glow-tf decode` makes the images again.

    glow-tf encode --model=digits --dataset=digits --output=latents.npz
    glow-tf encode --model=runs/mine --dataset=folder:PATH

The file has the arrays `eps`, float32 [N, D], every latent whitened by its prior; `names`, the files of the
images; `labels`, where there are classes (empty for an image without one); and `condition`, what the model is
given with each, if it is given anything. Images are taken at the middle
of their bins, without noise. With a model of n bits, images come back without their lowest 8 − n bits.
"""

import io

import numpy as np
from absl import flags

from glow_tf.commands import model_flags


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="latents.npz")
    model_flags.define_images(values)


def main(values: flags.FlagValues) -> None:
    path = model_flags.output_path(values, ".npz")
    from glow_tf.use import encode

    model = model_flags.model_of(values)
    used = model_flags.images_of(values, model)
    arrays = {"eps": encode(model, used.images, used.condition), "names": np.array(used.names)}
    if used.labels is not None:
        arrays["labels"] = np.array([used.class_names[k] if k >= 0 else "" for k in used.labels])
    if used.condition is not None:
        arrays["condition"] = used.condition
    content = io.BytesIO()
    np.savez(content, **arrays)
    model_flags.write(path, content.getvalue())
    print(f"{path}: {len(used.images)} images, {model.dimensions} latents each")
