"""Maps images to latents, in a file from which `glow-tf decode` makes the same images.

    glow-tf encode --model=digits --dataset=digits --output=latents.npz
    glow-tf encode --model=runs/mine --dataset=folder:PATH

The file has the arrays `eps`, float32 [N, D], every latent whitened by its prior; `names`, the files of the
images; and `labels`, where there are classes. Images are taken at the middle of their bins, without noise.
"""

from __future__ import annotations

import io
import pathlib

import numpy as np
from absl import flags

from glow_tf.commands import model_flags
from glow_tf.errors import ConfigError


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    model_flags.define_model(values, output="latents.npz")
    model_flags.define_images(values)


def main(values: flags.FlagValues) -> None:
    """Encodes and writes."""
    path = pathlib.Path(values.output)
    if path.suffix != ".npz":
        raise ConfigError(f"output must be a .npz file. Received: output={values.output!r}")
    from glow_tf.run.workdir import write_atomically
    from glow_tf.use import encode

    model = model_flags.model_of(values)
    used = model_flags.images_of(values, model)
    arrays = {"eps": encode(model, used.images), "names": np.array(used.names)}
    if used.labels is not None:
        arrays["labels"] = np.array(used.class_names)[used.labels]
    content = io.BytesIO()
    np.savez(content, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())
    print(f"{path}: {len(used.images)} images, {model.dimensions} latents each")
