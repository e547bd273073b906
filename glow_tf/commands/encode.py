"""Maps images to latents, in a file from which `glow-tf decode` makes the images again.

    glow-tf encode --model=digits --dataset=digits --output=latents.npz
    glow-tf encode --model=runs/mine --dataset=folder:PATH
    glow-tf encode --model=cifar10_small --dataset=folder:PATH --image_size=0

The file has the arrays `eps`, float32 [N, D], every latent whitened by its prior; `names`, the files of the
images; `labels`, where there are classes (empty for an image without one); and `condition`, what the model is
given with each, if it is given anything. Images are taken at the middle
of their bins, without noise. With a model of n bits, images come back without their lowest 8 − n bits.
With --image_size, and with presets of any size, such as `photographs`, the file has `sizes`, too, int32 [N,
2], height and width of each image; `eps` then has the latents of one image after those of another, float32
[Σ D].
"""

import collections
import io

import numpy as np
from absl import flags

from glow_tf.commands import input_flags, model_flags


def define(values: flags.FlagValues) -> None:
    model_flags.define_model(values, output="latents.npz")
    model_flags.define_images(values)
    input_flags.define_size(values)


def main(values: flags.FlagValues) -> None:
    path = model_flags.output_path(values, ".npz")
    from glow_tf.use import encode

    own = model_flags.model_of(values)
    columns: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for model, used in input_flags.models_and_images(values, own):
        eps, count = encode(model, used.images, used.condition), len(used.images)
        is_own = input_flags.size_of(values) is None
        columns["eps"].append(eps if is_own else eps.ravel())
        columns["names"].append(np.array(used.names))
        if not is_own:
            columns["sizes"].append(np.tile(np.int32(model.image_shape[:2]), (count, 1)))
        if used.labels is not None:
            columns["labels"].append(np.array([used.class_names[k] if k >= 0 else "" for k in used.labels]))
    arrays = {name: np.concatenate(found) for name, found in columns.items()}
    if used.condition is not None:  # then all have one size
        arrays["condition"] = used.condition
    content = io.BytesIO()
    np.savez(content, **arrays)
    model_flags.write(path, content.getvalue())
    count = len(arrays["names"])
    each = "as many latents as values" if "sizes" in arrays else f"{own.dimensions} latents each"
    print(f"{path}: {count} images, {each}")
